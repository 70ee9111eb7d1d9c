"""TLS for every connection: 1.3 only, both sides verified, revocation checked; the standard library's ssl alone.

Place in the flow: `xenflow.channel` takes its contexts from `Credentials` and the peer's identity from
`peer_identity`. There is no anonymous or unverified mode.

Before a context is handed out, the files have been tried: the process shakes hands with itself in memory, through the
very contexts that it will use. So an expired certificate, a CRL out of date or files of two different authorities
show up at start as a `ConfigError`, and not as a handshake that fails at the other end.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

import msgspec

from xenflow.errors import ConfigError, Fault, RemoteProtocolError
from xenflow.identity import SCHEME, Identity

FORBIDDEN_KEY_MODE: Final = 0o027
"""Permissions that a private key's file must not have: any for others, writing for the group."""

_Stamp = tuple[int, int, int] | None


class TlsFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[tls]` table of every settings file; PEM all of them. Without `crl` revocation is not checked."""

    ca: Path
    certificate: Path
    key: Path
    crl: Path | None = None

    def credentials(self) -> Credentials:
        """Return the credentials in these files; they are read when a context is made."""
        return Credentials(self.ca, self.certificate, self.key, self.crl)


class Credentials:
    """Certificate, key, authority and CRL of this process, as files that may be replaced while it runs.

    Each call of `server_context` and `client_context` reads the files anew, so that a fresh context always means what
    the files say; OpenSSL would take a CRL into a living context only if its lastUpdate is later than that of the one
    before. `changed()` says that it is time for fresh contexts. If reading fails then (files are replaced one by one),
    the contexts at hand stay good, `changed()` stays true, and the next attempt counts.
    """

    def __init__(self, ca: Path, certificate: Path, key: Path, crl: Path | None = None) -> None:
        self.ca = ca
        self.certificate = certificate
        self.key = key
        self.crl = crl
        self._seen: tuple[_Stamp, ...] | None = None
        self._identity: Identity | None = None

    def server_context(self) -> ssl.SSLContext:
        """Return a context for accepting. Raises ConfigError."""
        return self._load()[0]

    def client_context(self) -> ssl.SSLContext:
        """Return a context for connecting; the caller checks the peer's identity. Raises ConfigError."""
        return self._load()[1]

    def identity(self) -> Identity:
        """Return the identity in the certificate, read when it was last loaded. Raises ConfigError."""
        if self._identity is None:
            self._load()
        assert self._identity is not None  # _load sets it or raises
        return self._identity

    def changed(self) -> bool:
        """Return whether a file differs (or has come or gone) since contexts were last made; True before the first."""
        return self._stamps() != self._seen

    def _stamps(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(path) for path in (self.ca, self.certificate, self.key, self.crl) if path is not None)

    def _load(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        stamps = self._stamps()  # before reading: a file replaced meanwhile counts as changed
        problems = [problem for path in self._files() if (problem := _readable(path))]
        if problems or (problems := _key_mode(self.key)):
            raise ConfigError(problems)
        server = self._context(ssl.PROTOCOL_TLS_SERVER)
        client = self._context(ssl.PROTOCOL_TLS_CLIENT)
        try:
            self._identity = _shake_hands(server, client)
        except (ssl.SSLError, RemoteProtocolError) as error:
            raise ConfigError([self._explain(error)]) from error
        self._seen = stamps
        return server, client

    def _files(self) -> list[Path]:
        return [path for path in (self.ca, self.certificate, self.key, self.crl) if path is not None]

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.options |= ssl.OP_NO_COMPRESSION
        context.check_hostname = False  # identities are URIs, not host names: peer_identity
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # no resumption: each connection verifies the certificate again
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (ssl.SSLError, _EncryptedKeyError) as error:
            raise ConfigError([self._explain_pair(error)]) from error
        _load_trust(context, self.ca, "CERTIFICATE", "the certificate of the authority, ca.pem of `xenflow pki init`")
        if self.crl is not None:
            _load_trust(context, self.crl, "X509 CRL", "a CRL of the authority; `xenflow pki crl` writes a new one")
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context

    def _explain_pair(self, error: Exception) -> str:
        if isinstance(error, _EncryptedKeyError):
            return f"{self.key}: the key is protected by a passphrase; decrypt it: openssl pkey -in {self.key} -out NEW"
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            return (
                f"{self.key}: does not belong to the certificate {self.certificate}; take both from one bundle, "
                "or issue again with `xenflow pki renew`"
            )
        for path, word in ((self.certificate, "CERTIFICATE"), (self.key, "PRIVATE KEY")):
            if not _has_pem(path, word):
                return f"{path}: holds no {word} in PEM form; take the file that `xenflow pki issue` wrote"
        return f"{self.certificate}: OpenSSL refuses it or its key {self.key}: {_reason(error)}"

    def _explain(self, error: Exception) -> str:
        if isinstance(error, RemoteProtocolError):
            return f"{self.certificate}: {error}; take a certificate from `xenflow pki issue`"
        code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
        file, cause = _CAUSES.get(code, ("certificate", ""))
        path = getattr(self, file)
        return f"{path}: {cause or 'verification failed: ' + _reason(error)}"


def peer_identity(connection: ssl.SSLObject | ssl.SSLSocket) -> Identity:
    """Return the identity of a verified peer after the handshake.

    Raises RemoteProtocolError unless its certificate has exactly one identity.
    """
    certificate = connection.getpeercert() or {}
    names = certificate.get("subjectAltName", ())
    uris = [str(entry[1]) for entry in names if entry[0] == "URI" and str(entry[1]).startswith(SCHEME)]
    if len(uris) != 1:
        raise RemoteProtocolError(
            f"the certificate has {len(uris)} identities ({SCHEME}ROLE/NAME), not one", Fault.CERTIFICATE
        )
    try:
        return Identity.parse(uris[0])
    except ValueError as error:
        raise RemoteProtocolError(f"the certificate's identity is malformed: {error}", Fault.CERTIFICATE) from error


# verify codes of OpenSSL (X509_STORE_CTX_get_error(3)): the file to look at, and cause with way out
_CAUSES: Final[dict[int, tuple[str, str]]] = {
    3: ("crl", "is not a CRL of the authority in use; take crl.pem and ca.pem from one bundle"),
    9: ("certificate", "is not valid yet; check this machine's clock"),
    10: ("certificate", "has expired (or the authority has); `xenflow pki renew` writes a new one"),
    11: ("crl", "is not valid yet; check this machine's clock"),
    12: ("crl", "has expired; `xenflow pki crl` writes a new one"),
    18: ("certificate", "is self-signed; take one from `xenflow pki issue`"),
    19: ("certificate", "was not issued by the authority in use; take it and ca.pem from one bundle"),
    20: ("certificate", "was not issued by the authority in use; take it and ca.pem from one bundle"),
    23: ("certificate", "has been revoked; `xenflow pki issue` gives a new one"),
    26: ("certificate", "must be fit for both server and client (extendedKeyUsage); take one from `xenflow pki issue`"),
}


class _EncryptedKeyError(Exception):
    """OpenSSL asked for a passphrase."""


def _no_password() -> str:
    raise _EncryptedKeyError


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _readable(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError:
        return f"{path}: does not exist; see `xenflow pki issue` and `xenflow pki bundle`"
    except PermissionError:
        return f"{path}: cannot be read by user {os.geteuid()}; give it to that user with chown"
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return ""


def _key_mode(path: Path) -> list[str]:
    mode = path.stat().st_mode & 0o777
    if mode & FORBIDDEN_KEY_MODE:
        return [f"{path}: others may use this private key (mode {mode:04o}); chmod 600 {path}"]
    return []


def _has_pem(path: Path, word: str) -> bool:
    return any(line.startswith(b"-----BEGIN ") and word.encode() in line for line in path.read_bytes().splitlines())


def _load_trust(context: ssl.SSLContext, path: Path, word: str, wanted: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError([f"{path}: OpenSSL cannot read it ({_reason(error)}); it must be {wanted}"]) from error
    if not _has_pem(path, word):
        raise ConfigError([f"{path}: holds no {word} in PEM form; it must be {wanted}"])


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(getattr(error, "reason", "") or error).replace("_", " ").lower()


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> Identity:
    """Connect the two contexts to each other in memory and return the identity; raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepting = server.wrap_bio(up, down, server_side=True)
    connecting = client.wrap_bio(down, up)
    waiting = [connecting, accepting]
    for _ in range(8):  # three flights are enough
        for end in tuple(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    if waiting:
        raise ssl.SSLError("the handshake did not end")
    return peer_identity(connecting)
