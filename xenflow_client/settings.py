"""The client's settings, as /etc/xenflow/client.toml holds them (deploy/client.toml.example)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from xenflow.address import Address, Scheme
from xenflow.settings import Name
from xenflow.tls import TlsFiles


class ClientSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client needs to know. `max_routes` caps what is reported (0: only the server's cap counts).

    `refresh_s`: stale neighbors are verified within this time, `resync_s`: all tables are read again without a reason.
    """

    router: Name
    server: Address
    tls: TlsFiles
    max_routes: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    refresh_s: Annotated[float, msgspec.Meta(ge=1, le=25)] = 20.0
    resync_s: Annotated[float, msgspec.Meta(ge=10, le=86_400)] = 300.0

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what types cannot say."""
        if self.server.scheme is not Scheme.SSL:
            yield "server", "must be ssl:HOST:PORT"
