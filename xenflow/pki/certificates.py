"""Builds certificates and CRLs (RFC 5280) for identities: pure, the time is an argument.

Keys are ECDSA on P-256, which everything that speaks TLS 1.3 accepts, Open vSwitch included. One certificate serves
both directions (serverAuth and clientAuth): a node accepts routers and connects to the controller, with its daemon and
with Open vSwitch's OpenFlow connection alike.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from xenflow.identity import SCHEME, Identity

CLOCK_SKEW: Final = dt.timedelta(minutes=5)
"""Everything is valid from this long ago, for machines whose clock is late."""

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long what is signed stays valid, in days."""

    ca_days: int = 3650
    certificate_days: int = 365
    crl_days: int = 365


@dataclass(frozen=True, slots=True)
class Signer:
    """The authority's certificate and key."""

    certificate: x509.Certificate
    key: Key


@dataclass(frozen=True, slots=True)
class Revocation:
    """A line of the CRL."""

    serial: int
    when: dt.datetime


def new_key() -> Key:
    """Return a fresh private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """Return a private key as PEM (PKCS #8), without a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """Return a certificate or a CRL as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def build_ca(key: Key, name: str, now: dt.datetime, days: int) -> x509.Certificate:
    """Return the self-signed certificate of an authority that signs leaves only (path length 0)."""
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "XenFlow"), _common_name(name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def build_certificate(
    signer: Signer, public_key: ec.EllipticCurvePublicKey, identity: Identity, now: dt.datetime, days: int
) -> x509.Certificate:
    """Return a certificate for `identity`; it never outlives the authority."""
    issuer = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    role = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, identity.role.value)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([role, _common_name(identity.name)]))
        .issuer_name(signer.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - CLOCK_SKEW, signer.certificate.not_valid_before_utc))
        .not_valid_after(min(now + dt.timedelta(days=days), signer.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        .sign(signer.key, hashes.SHA256())
    )


def build_crl(
    signer: Signer,
    revocations: Sequence[Revocation],
    previous: x509.CertificateRevocationList | None,
    now: dt.datetime,
    days: int,
) -> x509.CertificateRevocationList:
    """Return a CRL that is newer than `previous`: both its number and its lastUpdate are higher.

    A verifier that keeps one context takes a CRL over an older one only for a later lastUpdate, which counts whole
    seconds: two revocations in one second would look alike if lastUpdate were simply the time. It starts CLOCK_SKEW
    ago, so there is room for one more second each time.
    """
    issuer = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    updated, number = now - CLOCK_SKEW, 1
    if previous is not None:
        updated = max(updated, previous.last_update_utc + dt.timedelta(seconds=1))
        number = previous.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(updated)
        .next_update(max(now, updated) + dt.timedelta(days=days))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
    )
    for revocation in revocations:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(revocation.serial).revocation_date(revocation.when).build()
        )
    return builder.sign(signer.key, hashes.SHA256())


def identity_of(certificate: x509.Certificate) -> Identity:
    """Return the identity in a certificate. Raises ValueError unless there is exactly one."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("it has no subjectAltName") from None
    uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(SCHEME)]
    if len(uris) != 1:
        raise ValueError(f"it has {len(uris)} identities, not one")
    return Identity.parse(uris[0])


def _common_name(text: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, text)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
