"""The tables of a definitions file, as TOML has them: shape only; `definitions` checks what they mean together."""

from __future__ import annotations

import msgspec


class NetworkTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[network]]``: a virtual network and the VLAN id that carries it between nodes."""

    name: str
    vid: int


class PortTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[port]]``: a port of the bridge that is no vif.

    `kind` is ``trunk`` or ``access``; an access port has an untagged `network`, or `vlans` (id on that wire, as
    TOML's keys are: text -> network), or both.
    """

    name: str
    kind: str
    network: str = ""
    vlans: dict[str, str] = {}


class InterfaceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[router.interface]]`` and ``[[host.interface]]``; the order gives the numbers, from 1."""

    mac: str
    network: str
    addresses: list[str] = []


class RouterTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[router]]``: a virtual router; `max_routes` absent means the server's default, 0 means no cap."""

    name: str
    interface: list[InterfaceTable] = []
    max_routes: int | None = None
    max_flows: int = 0


class HostTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[host]]``: a tenant's machine."""

    name: str
    interface: list[InterfaceTable] = []


class DefinitionsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the definitions directory."""

    network: list[NetworkTable] = []
    port: list[PortTable] = []
    router: list[RouterTable] = []
    host: list[HostTable] = []
