"""The list of what an authority has issued: text, one certificate a line, fit for grep and for keeping in a vault.

    # xenflow pki index 1: serial, identity, issued, expires, revoked ("-": no)
    5f0c...  router/r1  2024-05-01T10:00:00Z  2025-05-01T10:00:00Z  -

Fields are divided by a tab. A certificate is in the index before it is handed out: whatever exists can be revoked.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from xenflow.identity import Identity
from xenflow.pki.certificates import identity_of

HEADER: Final = '# xenflow pki index 1: serial, identity, issued, expires, revoked ("-": no)'
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


class Status(enum.StrEnum):
    """What a certificate is worth now."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate that was issued; times are in UTC and whole seconds."""

    serial: int
    identity: Identity
    issued: dt.datetime
    expires: dt.datetime
    revoked: dt.datetime | None = None

    @classmethod
    def of(cls, certificate: x509.Certificate, now: dt.datetime) -> Entry:
        """Return the entry of a new certificate."""
        return cls(
            certificate.serial_number,
            identity_of(certificate),
            now.replace(microsecond=0),
            certificate.not_valid_after_utc,
        )

    def status(self, now: dt.datetime) -> Status:
        """Return what the certificate is worth at `now`; revoked comes before expired."""
        if self.revoked is not None:
            return Status.REVOKED
        return Status.VALID if now < self.expires else Status.EXPIRED

    def revoke(self, now: dt.datetime) -> Entry:
        """Return the entry as revoked at `now`."""
        return dataclasses.replace(self, revoked=now.replace(microsecond=0))


def serial_text(serial: int) -> str:
    """Return a serial number as it is shown: hexadecimal."""
    return f"{serial:x}"


def format_index(entries: Iterable[Entry]) -> str:
    """Return the text of an index."""
    return "".join(f"{line}\n" for line in (HEADER, *map(_format_entry, entries)))


def parse_index(text: str) -> list[Entry]:
    """Return the entries of an index. Raises ValueError with the number of the line that is wrong."""
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            entries.append(_parse_entry(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return entries


def _format_entry(entry: Entry) -> str:
    revoked = entry.revoked.strftime(_TIME) if entry.revoked else "-"
    times = (entry.issued.strftime(_TIME), entry.expires.strftime(_TIME), revoked)
    return "\t".join((serial_text(entry.serial), str(entry.identity), *times))


def _parse_entry(line: str) -> Entry:
    fields = line.split("\t")
    if len(fields) != 5:
        raise ValueError(f"5 fields divided by tabs are needed, not {len(fields)}")
    serial, identity, issued, expires, revoked = fields
    return Entry(
        int(serial, 16),
        Identity.from_text(identity),
        _parse_time(issued),
        _parse_time(expires),
        None if revoked == "-" else _parse_time(revoked),
    )


def _parse_time(text: str) -> dt.datetime:
    return dt.datetime.strptime(text, _TIME).replace(tzinfo=dt.UTC)
