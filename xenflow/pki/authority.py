"""The authority as a directory, and everything that changes it.

    ca.pem  ca.key  crl.pem  index.txt        ca.key 0600; the rest may be read by all
    ROLE/NAME.pem  ROLE/NAME.key              the newest certificate of each identity, its key 0600

Rules: one change at a time (a lock); a private key is never overwritten unless told so; a certificate is in the index
before it is written; the index knows of a revocation before the CRL does, so that `crl` mends what was cut short.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from xenflow.errors import ConfigError
from xenflow.files import PRIVATE, locked, make_directory, read, write_atomically
from xenflow.identity import Identity
from xenflow.pki import certificates as build
from xenflow.pki.certificates import Key, Lifetimes, Revocation, Signer
from xenflow.pki.index import Entry, Status, format_index, parse_index, serial_text

MAX_DAYS: Final = 36500


@dataclass(frozen=True, slots=True)
class Issued:
    """Where a certificate and its key were written."""

    entry: Entry
    certificate: Path
    key: Path


def utc_now() -> dt.datetime:
    """Return the time."""
    return dt.datetime.now(dt.UTC)


class Authority:
    """A certificate authority in `directory`; `create` or `open` it."""

    def __init__(self, directory: Path, signer: Signer, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self.directory = directory
        self.signer = signer
        self._clock = clock

    @classmethod
    def create(
        cls,
        directory: Path,
        lifetimes: Lifetimes = Lifetimes(),  # noqa: B008 - immutable
        *,
        force: bool = False,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> Authority:
        """Make a new authority with an empty index and CRL.

        Raises ConfigError where there is one already; `force` replaces it, and all its certificates end with it.
        """
        _check_days(lifetimes)
        make_directory(directory)
        with locked(directory):
            if (directory / "ca.key").exists() and not force:
                raise ConfigError([f"{directory / 'ca.key'}: there is an authority here; --force replaces it"])
            key = build.new_key()
            certificate = build.build_ca(key, f"CA {secrets.token_hex(4)}", clock(), lifetimes.ca_days)
            authority = cls(directory, Signer(certificate, key), clock)
            write_atomically(directory / "ca.key", build.key_pem(key), PRIVATE, replace=force)
            write_atomically(directory / "index.txt", format_index([]).encode())
            authority._write_crl([], None, lifetimes.crl_days)
            write_atomically(directory / "ca.pem", build.certificate_pem(certificate))
        return authority

    @classmethod
    def open(cls, directory: Path, clock: Callable[[], dt.datetime] = utc_now) -> Authority:
        """Return the authority in `directory`. Raises ConfigError where there is none, or it is damaged."""
        if not (directory / "ca.pem").exists():
            raise ConfigError([f"{directory}: holds no authority; make one with `xenflow pki init {directory}`"])
        key = load_key(directory / "ca.key")
        certificate = load_certificate(directory / "ca.pem")
        if certificate.public_key() != key.public_key():
            raise ConfigError([f"{directory / 'ca.key'}: is not the key of {directory / 'ca.pem'}"])
        return cls(directory, Signer(certificate, key), clock)

    @property
    def ca_path(self) -> Path:
        """The authority's certificate, which every process needs."""
        return self.directory / "ca.pem"

    @property
    def crl_path(self) -> Path:
        """The CRL, which every process needs."""
        return self.directory / "crl.pem"

    def paths(self, identity: Identity) -> tuple[Path, Path]:
        """Return where the certificate and the key of `identity` are (or would be)."""
        stem = self.directory / identity.role.value / identity.name
        return stem.with_name(f"{identity.name}.pem"), stem.with_name(f"{identity.name}.key")

    def entries(self) -> list[Entry]:
        """Return all that was ever issued, oldest first."""
        path = self.directory / "index.txt"
        try:
            return parse_index(read(path, "the index of the authority").decode())
        except ValueError as error:
            raise ConfigError([f"{path}: {error}; put back the copy from your backup"]) from error

    def issued(self, identity: Identity) -> Issued:
        """Return the newest certificate of `identity`. Raises ConfigError if it was never issued."""
        entries = [entry for entry in self.entries() if entry.identity == identity]
        if not entries:
            raise ConfigError([f"{identity}: has no certificate of this authority; `xenflow pki list` shows all"])
        return Issued(entries[-1], *self.paths(identity))

    def issue(self, identity: Identity, days: int = Lifetimes().certificate_days, *, force: bool = False) -> Issued:
        """Write a new key and certificate for `identity`.

        Raises ConfigError if it has a valid one or a key file; with `force` those are revoked and replaced.
        """
        _check_days(Lifetimes(certificate_days=days))
        self._check_alive()
        with locked(self.directory):
            valid = [entry for entry in self.entries() if entry.identity == identity and self._is_valid(entry)]
            if valid and not force:
                raise ConfigError(
                    [
                        f"{identity}: has a certificate until {valid[-1].expires:%Y-%m-%d}; "
                        "renew or revoke it, or revoke and replace it with --force"
                    ]
                )
            key_path = self.paths(identity)[1]
            make_directory(key_path.parent)
            key = build.new_key()
            write_atomically(key_path, build.key_pem(key), PRIVATE, replace=force)
            if valid:
                self._revoke({entry.serial for entry in valid})
            return self._sign(identity, key, days)

    def renew(self, identity: Identity, days: int = Lifetimes().certificate_days, *, new_key: bool = False) -> Issued:
        """Write a new certificate for `identity`, with the key that it has or a new one.

        The old certificate stays good until it expires, so that the process can change over when it suits. Raises
        ConfigError if there is none, or the last one was revoked.
        """
        _check_days(Lifetimes(certificate_days=days))
        self._check_alive()
        with locked(self.directory):
            last = self.issued(identity)
            if last.entry.revoked is not None:
                raise ConfigError([f"{identity}: was revoked; `xenflow pki issue` gives it a new certificate"])
            key = build.new_key() if new_key else load_key(last.key)
            if new_key:
                write_atomically(last.key, build.key_pem(key), PRIVATE)
            return self._sign(identity, key, days)

    def revoke(self, identity: Identity, crl_days: int = Lifetimes().crl_days) -> list[Entry]:
        """Revoke every valid certificate of `identity`, write a new CRL, and return the entries as revoked."""
        _check_days(Lifetimes(crl_days=crl_days))
        with locked(self.directory):
            self.issued(identity)
            serials = {e.serial for e in self.entries() if e.identity == identity and self._is_valid(e)}
            if not serials:
                raise ConfigError([f"{identity}: has no valid certificate; `xenflow pki list` shows all"])
            return self._revoke(serials, crl_days)

    def revoke_serial(self, serial: int, crl_days: int = Lifetimes().crl_days) -> list[Entry]:
        """Revoke one certificate by its serial number, write a new CRL, and return the entry as revoked."""
        _check_days(Lifetimes(crl_days=crl_days))
        with locked(self.directory):
            found = [entry for entry in self.entries() if entry.serial == serial]
            if not found:
                raise ConfigError([f"{serial_text(serial)}: no such serial number; `xenflow pki list` shows all"])
            if found[0].revoked is not None:
                raise ConfigError([f"{serial_text(serial)}: is revoked already ({found[0].identity})"])
            return self._revoke({serial}, crl_days)

    def renew_crl(self, days: int = Lifetimes().crl_days) -> x509.CertificateRevocationList:
        """Write a new CRL from the index and return it."""
        _check_days(Lifetimes(crl_days=days))
        with locked(self.directory):
            return self._write_crl(self.entries(), self._previous_crl(), days)

    def crl(self) -> x509.CertificateRevocationList:
        """Return the CRL as it is. Raises ConfigError if it cannot be read."""
        return load_crl(self.crl_path)

    def _is_valid(self, entry: Entry) -> bool:
        return entry.status(self._clock()) is Status.VALID

    def _check_alive(self) -> None:
        if self._clock() >= self.signer.certificate.not_valid_after_utc:
            raise ConfigError([f"{self.ca_path}: the authority has expired; make a new one with `xenflow pki init`"])

    def _sign(self, identity: Identity, key: Key, days: int) -> Issued:
        now = self._clock()
        certificate = build.build_certificate(self.signer, key.public_key(), identity, now, days)
        entry = Entry.of(certificate, now)
        self._write_index([*self.entries(), entry])
        certificate_path, key_path = self.paths(identity)
        write_atomically(certificate_path, build.certificate_pem(certificate))
        return Issued(entry, certificate_path, key_path)

    def _revoke(self, serials: set[int], crl_days: int = Lifetimes().crl_days) -> list[Entry]:
        now = self._clock()
        entries = [entry.revoke(now) if entry.serial in serials else entry for entry in self.entries()]
        previous = self._previous_crl()
        self._write_index(entries)
        self._write_crl(entries, previous, crl_days)
        return [entry for entry in entries if entry.serial in serials]

    def _previous_crl(self) -> x509.CertificateRevocationList | None:
        return self.crl() if self.crl_path.exists() else None

    def _write_index(self, entries: Sequence[Entry]) -> None:
        write_atomically(self.directory / "index.txt", format_index(entries).encode())

    def _write_crl(
        self, entries: Sequence[Entry], previous: x509.CertificateRevocationList | None, days: int
    ) -> x509.CertificateRevocationList:
        now = self._clock()
        revocations = [Revocation(e.serial, e.revoked) for e in entries if e.revoked is not None]
        crl = build.build_crl(self.signer, revocations, previous, now, days)
        write_atomically(self.crl_path, build.certificate_pem(crl))
        return crl


def load_key(path: Path) -> Key:
    """Return the private key in a PEM file. Raises ConfigError."""
    try:
        key = serialization.load_pem_private_key(read(path, "the private key"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError([f"{path}: holds no private key in PEM form without passphrase"]) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError([f"{path}: is no elliptic-curve key"])
    return key


def load_certificate(path: Path) -> x509.Certificate:
    """Return the (first) certificate in a PEM file. Raises ConfigError."""
    try:
        return x509.load_pem_x509_certificate(read(path, "the certificate"))
    except ValueError as error:
        raise ConfigError([f"{path}: holds no certificate in PEM form"]) from error


def load_crl(path: Path) -> x509.CertificateRevocationList:
    """Return the CRL in a PEM file. Raises ConfigError."""
    try:
        return x509.load_pem_x509_crl(read(path, "the CRL"))
    except ValueError as error:
        raise ConfigError([f"{path}: holds no CRL in PEM form"]) from error


def _check_days(lifetimes: Lifetimes) -> None:
    problems = [
        f"{days} days: a lifetime is from 1 to {MAX_DAYS} days"
        for days in (lifetimes.ca_days, lifetimes.certificate_days, lifetimes.crl_days)
        if not 1 <= days <= MAX_DAYS
    ]
    if problems:
        raise ConfigError(problems)
