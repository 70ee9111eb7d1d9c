"""The errors of all XenFlow's processes: whose fault something is, and what a person can do about it.

Rules: our own misuse of an interface is a `LocalProtocolError` (a bug); what the other side did is a
`RemoteProtocolError` (the session ends, the process goes on); what a person wrote or set up is a `ConfigError` (exit
code 2; 1 for what may come by itself); what the switch refused is a `DataplaneError` (that item stays pending).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence


class XenflowError(Exception):
    """Root of the errors that XenFlow raises on purpose."""


class ConfigError(XenflowError):
    """What a person wrote or set up cannot be used; each problem names its place, the cause and the way out."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class UnavailableError(ConfigError):
    """Something that may come without anybody's doing, such as an address that its interface does not have yet."""


class LocalProtocolError(XenflowError):
    """We asked a session for something that its state or its limits forbid."""


class Fault(enum.StrEnum):
    """What kind of fault the other side is refused for; refusals are counted by it."""

    VERSION = "version"
    """Another protocol version."""
    IDENTITY = "identity"
    """Says to be someone else than its certificate, or is nobody who may connect here."""
    CERTIFICATE = "certificate"
    """Wrong authority, expired, revoked, or without an identity."""
    TLS = "tls"
    """No TLS 1.3 handshake."""
    OVERSIZED = "oversized"
    """A frame longer than allowed."""
    GARBAGE = "garbage"
    """Bytes that are no message."""
    SEQUENCE = "sequence"
    """A message that may not come now, or not from this role."""
    CONTENT = "content"
    """A well-formed message whose facts cannot be."""
    HANDSHAKE_TIMEOUT = "handshake-timeout"
    FRAME_TIMEOUT = "frame-timeout"
    IDLE_TIMEOUT = "idle-timeout"
    STALLED = "stalled"
    """Does not read what we send."""
    TOO_MANY = "too-many"
    """More connections than allowed."""
    TOO_OFTEN = "too-often"
    """Connects more often than allowed."""
    REFUSED = "refused"
    """The other side refused us, or the program at hand refused the other side."""


class RemoteProtocolError(XenflowError):
    """The other side broke the protocol, or may not do what it tries to do; its session ends."""

    def __init__(self, reason: str, fault: Fault = Fault.REFUSED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault = fault


class DataplaneError(XenflowError):
    """The switch, its database or the kernel refused an item, or cannot be reached."""
