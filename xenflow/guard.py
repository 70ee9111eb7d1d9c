"""The credentials of a listener while it runs: a context for the next peer, and a verdict on those that are here."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol, TypeVar

from xenflow.address import Address, Scheme
from xenflow.errors import ConfigError
from xenflow.tls import Credentials

_log = logging.getLogger(__name__)


class Certified(Protocol):
    """A connection whose other side showed a certificate (DER); None where there is no TLS."""

    @property
    def certificate(self) -> bytes | None:
        """The other side's certificate."""


C = TypeVar("C", bound=Certified)


class Guard:
    """Keeps `context` equal to what the files say; files that cannot be used leave the last good one in place."""

    def __init__(self, credentials: Credentials) -> None:
        try:
            from xenflow import revocation  # only here: a client does without pyOpenSSL
        except ImportError as error:
            raise ConfigError([f"{error.name} is missing; pip install 'xenflow[server]'"]) from error
        self._recheck = revocation.recheck_all
        self.credentials = Credentials(credentials.ca, credentials.certificate, credentials.key, credentials.crl)
        self.context = self.credentials.server_context()
        self._said = ""

    def refresh(self, channels: Iterable[C]) -> dict[C, str]:
        """Read the files anew; return those of the connections whose peer is no longer good, and why."""
        try:
            self.context = self.credentials.server_context()
            peers = [(channel, channel.certificate) for channel in channels if channel.certificate is not None]
            verdicts = self._recheck([certificate for _, certificate in peers], self.credentials)
        except ConfigError as error:
            if str(error) != self._said:
                self._said = str(error)
                _log.error("credentials not usable, the last good ones stay why=%s", self._said)
            return {}
        self._said = ""
        return {channel: why for (channel, _), why in zip(peers, verdicts, strict=True) if why is not None}


def guard(address: Address, credentials: Credentials | None) -> Guard | None:
    """Return the guard of a listener at `address`, None for a local socket. Raises ConfigError."""
    if address.scheme is Scheme.UNIX:
        return None
    if address.scheme is Scheme.TCP or credentials is None:
        raise ConfigError([f"{address}: plain TCP is not for this; use ssl: with credentials, or unix:"])
    return Guard(credentials)
