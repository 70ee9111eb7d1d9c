"""TLS: who is let in, who is refused, and what is said about files that cannot be used; real handshakes in memory."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from xenflow.errors import ConfigError, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.pki import Authority, Lifetimes
from xenflow.pki import certificates as build
from xenflow.revocation import recheck, recheck_all
from xenflow.tls import Credentials, peer_identity

ROUTER = Identity.parse("xenflow:router/r1")
NODE = Identity.parse("xenflow:node/n1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "pki")


def credentials(authority: Authority, identity: Identity) -> Credentials:
    issued = authority.issue(identity, force=True)
    return Credentials(authority.ca_path, issued.certificate, issued.key, authority.crl_path)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return both ends after the handshake; raises what the first of them raises."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up)
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends


def problem_of(files: Credentials) -> str:
    with pytest.raises(ConfigError) as caught:
        files.client_context()
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_both_sides_know_each_other(authority: Authority) -> None:
    router, node = credentials(authority, ROUTER), credentials(authority, NODE)
    server, client = shake_hands(node.server_context(), router.client_context())
    assert peer_identity(server) == ROUTER
    assert peer_identity(client) == NODE
    assert client.version() == "TLSv1.3"
    assert client.compression() is None
    assert router.identity() == ROUTER


def test_no_session_can_be_resumed(authority: Authority) -> None:
    server, client = shake_hands(
        credentials(authority, NODE).server_context(), credentials(authority, ROUTER).client_context()
    )
    server.write(b"x")
    assert client.read(1) == b"x"
    assert client.session is None or not client.session.has_ticket


def plain_client(maximum: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = maximum
    return context


def test_older_versions_are_refused(authority: Authority) -> None:
    with pytest.raises(ssl.SSLError):
        shake_hands(credentials(authority, NODE).server_context(), plain_client(ssl.TLSVersion.TLSv1_2))


def test_a_client_without_certificate_is_refused(authority: Authority) -> None:
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(credentials(authority, NODE).server_context(), plain_client(ssl.TLSVersion.TLSv1_3))


def test_another_authority_is_refused_on_both_sides(authority: Authority, tmp_path: Path) -> None:
    ours = credentials(authority, NODE)
    theirs = credentials(Authority.create(tmp_path / "other"), ROUTER)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(ours.server_context(), theirs.client_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(theirs.server_context(), ours.client_context())


def test_a_revoked_peer_is_refused_by_fresh_contexts_on_both_sides(authority: Authority) -> None:
    router, node = credentials(authority, ROUTER), credentials(authority, NODE)
    old_client = router.client_context()
    shake_hands(node.server_context(), old_client)
    authority.revoke(ROUTER)
    assert node.changed()
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shake_hands(node.server_context(), old_client)

    old_server = node.server_context()
    authority.revoke(NODE)
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shake_hands(old_server, credentials(authority, ROUTER).client_context())


def test_two_revocations_in_one_second_reach_a_context_that_lives(authority: Authority) -> None:
    """lastUpdate grows with each CRL, so that OpenSSL takes the newer one even into the same context."""
    node, router = credentials(authority, NODE).server_context(), credentials(authority, ROUTER).client_context()
    authority.revoke(authority.issue(Identity.parse("xenflow:router/r2")).entry.identity)
    node.load_verify_locations(authority.crl_path)
    shake_hands(node, router)
    authority.revoke(ROUTER)
    node.load_verify_locations(authority.crl_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shake_hands(node, router)


def test_changed_follows_the_files(authority: Authority) -> None:
    files = credentials(authority, ROUTER)
    assert files.changed()
    files.client_context()
    assert not files.changed()
    authority.renew_crl()
    assert files.changed()
    files.server_context()
    assert not files.changed()
    authority.renew(ROUTER)
    assert files.changed()


def test_a_failed_reload_stays_due(authority: Authority) -> None:
    files = credentials(authority, ROUTER)
    files.client_context()
    key = files.key.read_bytes()
    files.key.write_bytes(build.key_pem(build.new_key()))
    assert "does not belong to the certificate" in problem_of(files)
    assert files.changed()
    files.key.write_bytes(key)
    files.client_context()
    assert not files.changed()


@pytest.mark.parametrize("name", ["ca", "certificate", "key", "crl"])
def test_a_missing_file(authority: Authority, name: str) -> None:
    files = credentials(authority, ROUTER)
    getattr(files, name).unlink()
    assert problem_of(files).startswith(f"{getattr(files, name)}: does not exist; see `xenflow pki")


def test_all_missing_files_are_named(tmp_path: Path) -> None:
    files = Credentials(*(tmp_path / name for name in ("ca", "certificate", "key", "crl")))
    with pytest.raises(ConfigError) as caught:
        files.server_context()
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("name", ["ca", "certificate", "key", "crl"])
@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_with_something_else(authority: Authority, name: str, content: bytes) -> None:
    files = credentials(authority, ROUTER)
    getattr(files, name).write_bytes(content)
    assert problem_of(files).startswith(f"{getattr(files, name)}: ")


def test_files_mixed_up(authority: Authority) -> None:
    files = credentials(authority, ROUTER)
    assert "holds no X509 CRL" in problem_of(Credentials(files.ca, files.certificate, files.key, files.ca))
    assert "holds no CERTIFICATE" in problem_of(
        Credentials(authority.crl_path, files.certificate, files.key, files.crl)
    )
    assert problem_of(Credentials(files.ca, files.key, files.key)).startswith(f"{files.key}: holds no CERTIFICATE")


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o666])
def test_a_key_that_others_may_use(authority: Authority, mode: int) -> None:
    files = credentials(authority, ROUTER)
    files.key.chmod(mode)
    assert problem_of(files) == f"{files.key}: others may use this private key (mode {mode:04o}); chmod 600 {files.key}"


def test_a_key_that_a_group_may_read(authority: Authority) -> None:
    files = credentials(authority, ROUTER)
    files.key.chmod(0o640)
    files.client_context()


def test_a_key_with_a_passphrase_never_asks_for_it(authority: Authority) -> None:
    files = credentials(authority, ROUTER)
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    assert "protected by a passphrase" in problem_of(files)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_an_unreadable_key() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own directories are closed to other users
        Path(directory).chmod(0o755)
        files = credentials(Authority.create(Path(directory)), ROUTER)
        os.seteuid(65534)
        try:
            problem = problem_of(files)
        finally:
            os.seteuid(0)
    assert problem == f"{files.key}: cannot be read by user 65534; give it to that user with chown"


def days_ago(days: int) -> Callable[[], dt.datetime]:
    return lambda: dt.datetime.now(dt.UTC) - dt.timedelta(days=days)


def test_an_expired_certificate(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, clock=days_ago(10))
    issued = authority.issue(ROUTER, days=5)
    files = Credentials(authority.ca_path, issued.certificate, issued.key, authority.crl_path)
    assert problem_of(files).startswith(f"{issued.certificate}: has expired")


def test_an_expired_crl(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, Lifetimes(crl_days=5), clock=days_ago(10))
    files = credentials(authority, ROUTER)
    assert problem_of(files) == f"{authority.crl_path}: has expired; `xenflow pki crl` writes a new one"
    Authority.open(tmp_path).renew_crl()
    files.client_context()


def test_a_crl_of_another_authority(authority: Authority, tmp_path: Path) -> None:
    files = credentials(authority, ROUTER)
    shutil.copy(Authority.create(tmp_path / "other").crl_path, authority.crl_path)
    assert problem_of(files).startswith(f"{authority.crl_path}: is not a CRL of the authority in use")


def test_a_certificate_of_another_authority(authority: Authority, tmp_path: Path) -> None:
    files = credentials(authority, ROUTER)
    other = Authority.create(tmp_path / "other")
    assert "was not issued by the authority in use" in problem_of(
        Credentials(other.ca_path, files.certificate, files.key, other.crl_path)
    )


def test_own_revocation_is_said(authority: Authority) -> None:
    files = credentials(authority, ROUTER)
    authority.revoke(ROUTER)
    assert problem_of(files).startswith(f"{files.certificate}: has been revoked")


@pytest.mark.parametrize(
    ("uris", "reason"),
    [
        ([], "has 0 identities"),
        (["xenflow:router/r1", "xenflow:node/n1"], "has 2 identities"),
        (["xenflow:router/R1"], "is malformed"),
        (["https://example.org"], "has 0 identities"),
    ],
)
def test_a_certificate_without_one_identity(authority: Authority, tmp_path: Path, uris: list[str], reason: str) -> None:
    files = foreign_certificate(authority, tmp_path, uris)
    assert reason in problem_of(files)
    # and at the peer, which has not made the check of the one who connects
    node = credentials(authority, NODE).server_context()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(authority.ca_path)
    client.load_cert_chain(files.certificate, files.key)
    server, _ = shake_hands(node, client)
    with pytest.raises(RemoteProtocolError, match=reason):
        peer_identity(server)


def foreign_certificate(authority: Authority, directory: Path, uris: list[str]) -> Credentials:
    """Return credentials whose certificate the authority signed, but with these URIs (and a DNS name)."""
    key, now = build.new_key(), dt.datetime.now(dt.UTC)
    names = [x509.DNSName("xenflow"), *(x509.UniformResourceIdentifier(uri) for uri in uris)]
    signer = authority.signer
    issuer = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "router/r1")]))
        .issuer_name(signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        .sign(signer.key, hashes.SHA256())
    )
    paths = directory / "x.pem", directory / "x.key"
    paths[0].write_bytes(build.certificate_pem(certificate))
    paths[1].write_bytes(build.key_pem(key))
    paths[1].chmod(0o600)
    return Credentials(authority.ca_path, *paths, authority.crl_path)


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_recheck_of_live_peers(authority: Authority, tmp_path: Path) -> None:
    router, node = credentials(authority, ROUTER), credentials(authority, NODE)
    peer = der(router.certificate)
    assert recheck(peer, node) is None
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=366)
    assert recheck(peer, Credentials(node.ca, node.certificate, node.key), later) == (
        "certificate not accepted: certificate has expired"
    )
    assert recheck(peer, node, later) == "CRL not accepted: CRL has expired"
    authority.revoke(ROUTER)
    serial = x509.load_der_x509_certificate(peer).serial_number
    assert recheck_all([peer, der(node.certificate)], node) == [f"certificate revoked (serial {serial:x})", None]
    other = Authority.create(tmp_path / "other")
    assert recheck(peer, Credentials(other.ca_path, node.certificate, node.key, other.crl_path)) == (
        "certificate not accepted: unable to get local issuer certificate"
    )
    assert "cannot be read" in str(recheck(b"garbage", node))


def test_recheck_without_files_is_no_verdict(authority: Authority) -> None:
    router = credentials(authority, ROUTER)
    peer = der(router.certificate)
    authority.crl_path.write_text("garbage")
    with pytest.raises(ConfigError, match="holds no certificate or CRL"):
        recheck(peer, router)
    authority.crl_path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        recheck(peer, router)


@pytest.mark.ovs
def test_open_vswitch_takes_a_node_s_certificate(authority: Authority) -> None:
    """The same certificate serves the node's OpenFlow connection: Open vSwitch connects, both sides verify."""
    controller = credentials(authority, Identity.parse("xenflow:controller/c1")).server_context()
    node = authority.issue(NODE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        target = f"ssl:127.0.0.1:{listener.getsockname()[1]}"
        command = f"ovs-ofctl -O OpenFlow10 -p {node.key} -c {node.certificate} -C {authority.ca_path} show {target}"
        with subprocess.Popen(command.split(), stderr=subprocess.PIPE) as peer:
            connection, _ = listener.accept()
            with controller.wrap_socket(connection, server_side=True) as channel:
                assert channel.version() == "TLSv1.3"
                assert peer_identity(channel) == NODE
                assert channel.recv(4) == b"\x01\x00\x00\x08"  # OpenFlow 1.0 hello, 8 bytes
            peer.communicate(timeout=10)


def test_the_client_needs_the_standard_library_only() -> None:
    program = """
import sys, xenflow.tls, xenflow.settings
print([name for name in ("OpenSSL", "cryptography", "click", "rich") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
