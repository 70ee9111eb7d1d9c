"""The server's own settings: /etc/xenflow/server.toml."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from xenflow.address import Address, Scheme
from xenflow.settings import Name
from xenflow.tls import TlsFiles

DEFAULT_PATH = Path("/etc/xenflow/server.toml")
Count = Annotated[int, msgspec.Meta(ge=0, le=100_000_000, description="a whole number, 0 (no cap) to 100000000")]


class OvsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[ovs]``: `database` as Open vSwitch spells it, `rundir` with ovs-vswitchd's pid file and control socket."""

    database: str = "unix:/run/openvswitch/db.sock"
    rundir: Path = Path("/run/openvswitch")
    bridge: str = "xenbr0"

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what types do not say."""
        if not self.database.startswith(("unix:", "tcp:", "ssl:")):
            yield "database", "must look like unix:/run/openvswitch/db.sock"
        if not 0 < len(self.bridge) <= 15 or any(character.isspace() or character == "/" for character in self.bridge):
            yield "bridge", "must be the name of a bridge: 1 to 15 characters, without space and slash"


class HypervisorTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[hypervisor]``: who is asked what runs here, and how a machine is moved.

    `uri` is libvirt's (``xen:///system``, ``qemu:///system``) or ``xl:``; empty: only Open vSwitch's database is asked.
    `peers` says where the hypervisor of each other node is: libvirt's URI, or ssh:// or tcp:// for ``xl:``; `streams`
    where its libvirt takes the memory, if not at an address that it finds itself. `move` is a command that moves a
    machine instead; router and target node are appended.
    """

    move: list[str] = []
    uri: str = ""
    peers: dict[Name, str] = {}
    streams: dict[Name, str] = {}

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what types do not say."""
        if self.move and not self.move[0]:
            yield "move", "must be a command and its arguments, as a list"
        if self.uri and self.uri != "xl:" and ":///" not in self.uri:
            yield "uri", "must be libvirt's on this machine, like xen:///system or qemu:///system, or xl:"
        if self.peers and not self.uri:
            yield "peers", "must go with `uri`: the hypervisor that is told to move machines there"
        for key, places in (("peers", self.peers), ("streams", self.streams)):
            for node, place in places.items():
                if "://" not in place:
                    yield f"{key}.{node}", "must be a URI"


class LimitsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[limits]``: `max_routes` is the cap of a router whose definition has none, `max_routers` that of the node."""

    max_routes: Count = 0
    max_routers: Count = 0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    node: Name
    app: Address
    tls: TlsFiles
    listen: Address = Address(Scheme.SSL, "fe80::1%xfctl", 6655)
    ovs: OvsTable = OvsTable()
    definitions: Path = Path("/etc/xenflow/definitions.d")
    state: Path = Path("/var/lib/xenflow")
    qos: Address = Address(Scheme.UNIX, path="/run/xenflow/qos.sock")
    hypervisor: HypervisorTable = HypervisorTable()
    limits: LimitsTable = LimitsTable()

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what types do not say."""
        for key, address in (("app", self.app), ("listen", self.listen)):
            if address.scheme is not Scheme.SSL:
                yield key, "must be ssl:HOST:PORT: this connection is always protected"
        if self.qos.scheme is not Scheme.UNIX:
            yield "qos", "must be unix:PATH: the qos-controller is on this machine"
