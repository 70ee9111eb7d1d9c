"""The controller's settings, /etc/xenflow/app.toml, as `xenflow.settings.load` takes them (deploy/app.toml.example)."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import msgspec

from xenflow.address import Address, Scheme
from xenflow.settings import Name, duplicates
from xenflow.tls import TlsFiles

DEFAULT_PATH: Final = Path("/etc/xenflow/app.toml")


class Mode(enum.StrEnum):
    """When route flows are installed."""

    PROACTIVE = "proactive"
    """All of them, before the first packet."""
    REACTIVE = "reactive"
    """An exact flow at the first packet, as in the paper."""


class Reactive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What counts in reactive mode only."""

    idle_timeout_s: Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)] = 60
    max_flows: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 10000
    """Exact flows of a router whose definition has no `max_flows`: anybody can make up new pairs of addresses."""


class AppLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on what others can make the controller keep."""

    max_macs_per_port: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 1024
    """Addresses learned behind one network of an access port."""
    mac_age_s: Annotated[int, msgspec.Meta(ge=10, le=86400)] = 300
    max_switches: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 256
    """OpenFlow connections at once."""


class Pox(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What counts under POX only."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 6633
    """POX's own OpenFlow listener, on 127.0.0.1, behind the verified one."""


class AppSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of app.toml."""

    tls: TlsFiles
    nodes: tuple[Name, ...]
    """Nodes that may connect, as servers and as switches."""
    listen: Address = Address(Scheme.SSL, "0.0.0.0", 6654)
    """For servers and operators."""
    openflow: Address = Address(Scheme.SSL, "0.0.0.0", 6653)
    """For switches; `tcp:` only on loopback."""
    socket: Path = Path("/run/xenflow/app.sock")
    """For operators on this machine."""
    mode: Mode = Mode.PROACTIVE
    probe_interval_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 1.0
    """How often the links between nodes are probed."""
    hold_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 60.0
    """How long a router whose VM has left a node, and has not arrived anywhere, is forwarded for."""
    reactive: Reactive = Reactive()
    limits: AppLimits = AppLimits()
    pox: Pox = Pox()

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield (key, reason) for what is wrong beyond types."""
        yield from duplicates(self.nodes, lambda number: f"nodes[{number}]")
        if self.listen.scheme is not Scheme.SSL:
            yield "listen", "servers and operators are verified: it must be ssl:HOST:PORT"
        if self.openflow.scheme is Scheme.UNIX:
            yield "openflow", "switches connect by ssl:HOST:PORT, or tcp:127.0.0.1:PORT on this machine"
        if self.openflow.scheme is Scheme.TCP and not self.openflow.is_loopback:
            yield "openflow", "plain TCP is for loopback only; use ssl:HOST:PORT"
        if self.listen.port and self.listen.port == self.openflow.port:
            yield "openflow", f"has the same port as listen ({self.listen.port})"
        if self.openflow.scheme is Scheme.SSL and self.pox.port in (self.listen.port, self.openflow.port):
            yield "pox.port", "is taken by listen or openflow"
