"""Where a process listens or connects: `ssl:HOST:PORT`, `tcp:HOST:PORT` or `unix:PATH`, spelled as Open vSwitch does.

An IPv6 address stands in brackets and may have a zone: `ssl:[fe80::1%xfctl]:6655`. Values are canonical: parsing what
was formatted gives an equal value.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass
from typing import Final

MAX_UNIX_PATH_BYTES: Final = 107
"""sun_path of unix(7) without its closing zero."""

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_ZONE = re.compile(r"[A-Za-z0-9._-]{1,15}")
_FORMS: Final = "use ssl:HOST:PORT, tcp:HOST:PORT or unix:PATH, an IPv6 address in brackets"


class Scheme(enum.StrEnum):
    """What is spoken at an address."""

    SSL = "ssl"
    """TLS 1.3, both sides verified."""
    TCP = "tcp"
    """Plain TCP; only for loopback."""
    UNIX = "unix"
    """A local socket; its file mode is its protection."""


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen at or to connect to: `path` for unix, `host` (without brackets) and `port` for the others.

    Port 0 asks for any free port and is of use for listening only.
    """

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that `text` spells. Raises ValueError with the reason."""
        scheme, colon, rest = text.partition(":")
        if not colon or scheme not in _SCHEMES:
            raise ValueError(_FORMS)
        if scheme == Scheme.UNIX:
            return cls(Scheme.UNIX, path=_parse_path(rest))
        host, colon, port = rest.rpartition(":")
        if not colon:
            raise ValueError(_FORMS)
        return cls(Scheme(scheme), host=_parse_host(host), port=_parse_port(port))

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent here cannot leave the machine; a host name never counts, whatever it resolves to."""
        if self.scheme is Scheme.UNIX:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.scheme is Scheme.UNIX:
            return f"{self.scheme.value}:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme.value}:{host}:{self.port}"


_SCHEMES = frozenset(scheme.value for scheme in Scheme)


def _parse_path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("unix: needs the path of a socket")
    size = len(text.encode(errors="surrogateescape"))
    if size > MAX_UNIX_PATH_BYTES:
        raise ValueError(f"the path of a socket has at most {MAX_UNIX_PATH_BYTES} bytes, this one {size}")
    return text


def _parse_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise ValueError("a port is a number from 0 to 65535")
    return int(text)


def _parse_host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        address, percent, zone = text[1:-1].partition("%")
        if percent and not _ZONE.fullmatch(zone):
            raise ValueError("what follows % is not the name of a network interface")
        return f"{_parse_ipv6(address)}{percent}{zone}"
    if ":" in text:
        raise ValueError("an IPv6 address stands in brackets, such as ssl:[::1]:6654")
    if re.fullmatch(r"[0-9.]*", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError as error:
            raise ValueError(f"no host address: {error}") from error
    if len(text) > 253 or not _HOST_NAME.fullmatch(text):
        raise ValueError("what stands before the port is neither an address nor a host name")
    return text.lower()


def _parse_ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError as error:
        raise ValueError(f"no IPv6 address in the brackets: {error}") from error
