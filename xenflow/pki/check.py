"""What is wrong with certificates: the checks that a peer would make, and those that only their owner can make."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization

from xenflow.errors import ConfigError
from xenflow.pki.authority import Authority, load_certificate, load_key
from xenflow.pki.certificates import identity_of
from xenflow.pki.index import Entry
from xenflow.revocation import recheck
from xenflow.tls import FORBIDDEN_KEY_MODE, Credentials

SOON: Final = dt.timedelta(days=30)
"""What expires within this time is worth a warning."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for one file: `problems` make it unfit, `warnings` do not yet."""

    path: Path
    subject: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def verify_all(authority: Authority, now: dt.datetime) -> list[Verdict]:
    """Return the verdicts on the CRL and on the newest certificate of each identity."""
    newest = {entry.identity: entry for entry in authority.entries()}
    certificates = [entry for entry in newest.values() if entry.revoked is None]
    return [verify_crl(authority, now), *(_verify_issued(authority, entry, now) for entry in certificates)]


def verify_crl(authority: Authority, now: dt.datetime) -> Verdict:
    """Return the verdict on the CRL."""
    problems, warnings = [], []
    crl = authority.crl()
    if not crl.is_signature_valid(authority.signer.key.public_key()):
        problems.append("was not signed by this authority; `xenflow pki crl` writes a new one")
    missing = [
        e for e in authority.entries() if e.revoked and not crl.get_revoked_certificate_by_serial_number(e.serial)
    ]
    if missing:
        problems.append(f"lacks {len(missing)} revocations of the index; `xenflow pki crl` writes a new one")
    expires = crl.next_update_utc
    if expires is not None and expires <= now:
        problems.append(f"expired on {expires:%Y-%m-%d}; `xenflow pki crl` writes a new one")
    elif expires is not None and expires - now < SOON:
        warnings.append(f"expires on {expires:%Y-%m-%d}; `xenflow pki crl` writes a new one")
    return Verdict(authority.crl_path, "CRL", tuple(problems), tuple(warnings))


def verify_file(authority: Authority, path: Path, now: dt.datetime, key: Path | None = None) -> Verdict:
    """Return the verdict on a certificate file, and on the key that should belong to it."""
    certificate = load_certificate(path)
    problems, warnings = [], []
    der = certificate.public_bytes(serialization.Encoding.DER)
    credentials = Credentials(authority.ca_path, path, key or path, authority.crl_path)
    if reason := recheck(der, credentials, now):
        problems.append(reason)
    try:
        subject = str(identity_of(certificate))
    except ValueError as error:
        subject = certificate.subject.rfc4514_string()
        problems.append(f"names no process: {error}")
    left = certificate.not_valid_after_utc - now
    if dt.timedelta(0) < left < SOON:
        warnings.append(f"expires on {certificate.not_valid_after_utc:%Y-%m-%d}; `xenflow pki renew` writes a new one")
    if key is not None:
        problems += _key_problems(key, certificate.public_key())
    return Verdict(path, subject, tuple(problems), tuple(warnings))


def _verify_issued(authority: Authority, entry: Entry, now: dt.datetime) -> Verdict:
    certificate, key = authority.paths(entry.identity)
    try:
        return verify_file(authority, certificate, now, key)
    except ConfigError as error:
        return Verdict(certificate, str(entry.identity), error.problems, ())


def _key_problems(path: Path, public_key: object) -> list[str]:
    if load_key(path).public_key() != public_key:
        return [f"its key {path} belongs to another certificate"]
    mode = path.stat().st_mode & 0o777
    return [f"others may use its key (mode {mode:04o}); chmod 600 {path}"] if mode & FORBIDDEN_KEY_MODE else []
