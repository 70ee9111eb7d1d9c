"""The daemon's own settings: /etc/xenflow/qos.toml."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from qos_controller.settings import Sharing
from xenflow.address import Address, Scheme

DEFAULT_PATH = Path("/etc/xenflow/qos.toml")
FrameBytes = Annotated[
    int, msgspec.Meta(ge=0, le=1 << 17, description="bytes of the largest frame, 0 to 131072 (0: ask the device)")
]


class OvsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[ovs]``: `database` as Open vSwitch spells it, and the bridge whose ports are shaped."""

    database: str = "unix:/run/openvswitch/db.sock"
    bridge: str = "xenbr0"

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what types do not say."""
        if not self.database.startswith(("unix:", "tcp:", "ssl:")):
            yield "database", "must look like unix:/run/openvswitch/db.sock"
        if not 0 < len(self.bridge) <= 15 or any(character.isspace() or character == "/" for character in self.bridge):
            yield "bridge", "must be the name of a bridge: 1 to 15 characters, without space and slash"


class Settings(Sharing, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file: how links are shared (`Sharing`), and what the daemon works with.

    `frame_bytes` is the largest frame that really comes, if that is less than the devices could carry: the smallest
    quantum has to hold one.
    """

    ovs: OvsTable = OvsTable()
    socket: Address = Address(Scheme.UNIX, path="/run/xenflow/qos.sock")
    state: Path = Path("/var/lib/xenflow/qos")
    frame_bytes: FrameBytes = 0

    def problems(self) -> Iterable[tuple[str, str]]:
        """Yield what types do not say."""
        yield from Sharing.problems(self)
        if self.socket.scheme is not Scheme.UNIX:
            yield "socket", "must be unix:PATH: only this machine's server and operators are heard"
