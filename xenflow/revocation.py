"""Whether a live peer is still good: its certificate checked again, by pyOpenSSL, when authority or CRL change.

Place in the flow: servers and the app keep the certificate of each connected peer (DER, from the handshake) and ask
again when `Credentials.changed()`. A TLS connection by itself never notices a revocation. The client does not import
this module: it reconnects with a fresh context instead.

Scope: one authority without intermediates, which is what `xenflow.pki` makes; a peer's chain beyond its own
certificate is not at hand after the handshake.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from OpenSSL import crypto

from xenflow.errors import ConfigError
from xenflow.tls import Credentials

_REVOKED: Final = 23
_CRL_TROUBLE: Final = frozenset({3, 11, 12})
"""Verify codes that speak of the CRL and not of the certificate (X509_STORE_CTX_get_error(3))."""


def recheck(der: bytes, credentials: Credentials, now: dt.datetime | None = None) -> str | None:
    """Return why the certificate `der` is no longer good for a connection, or None if it is.

    Authority and CRL are read anew; ConfigError if they cannot be (the caller keeps its connections and says so).
    """
    return recheck_all([der], credentials, now)[0]


def recheck_all(
    certificates: Iterable[bytes], credentials: Credentials, now: dt.datetime | None = None
) -> list[str | None]:
    """Return for each certificate (DER) why it is no longer good, or None; reads authority and CRL once."""
    store = _store(credentials, now)
    return [_check(der, store) for der in certificates]


def _check(der: bytes, store: crypto.X509Store) -> str | None:
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        return f"certificate cannot be read: {error}"
    try:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(certificate)).verify_certificate()
    except crypto.X509StoreContextError as error:
        code, _depth, message = error.errors
        if code == _REVOKED:
            return f"certificate revoked (serial {certificate.serial_number:x})"
        subject = "CRL" if code in _CRL_TROUBLE else "certificate"
        return f"{subject} not accepted: {message}"
    return None


def _store(credentials: Credentials, now: dt.datetime | None) -> crypto.X509Store:
    store = crypto.X509Store()
    flags = crypto.X509StoreFlags.X509_STRICT
    try:
        for authority in x509.load_pem_x509_certificates(credentials.ca.read_bytes()):
            store.add_cert(crypto.X509.from_cryptography(authority))
        if credentials.crl is not None:
            store.add_crl(x509.load_pem_x509_crl(credentials.crl.read_bytes()))
            flags |= crypto.X509StoreFlags.CRL_CHECK
    except OSError as error:
        raise ConfigError([f"{error.filename}: cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        files = " or ".join(str(path) for path in (credentials.ca, credentials.crl) if path is not None)
        raise ConfigError([f"{files}: holds no certificate or CRL in PEM form"]) from error
    store.set_flags(flags)
    if now is not None:
        store.set_time(now)
    return store
