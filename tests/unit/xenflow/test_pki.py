"""The certificate authority: what it writes, what it refuses, and that nothing half-done does harm."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from xenflow.address import Address
from xenflow.errors import ConfigError
from xenflow.files import write_atomically
from xenflow.identity import Identity
from xenflow.pki import Authority, Entry, Lifetimes, Status, write_bundle
from xenflow.pki.authority import load_certificate, load_key
from xenflow.pki.check import verify_all, verify_crl, verify_file
from xenflow.pki.index import format_index, parse_index
from xenflow.settings import parse
from xenflow.tls import Credentials, TlsFiles
from xenflow.wire import Role

ROUTER = Identity.parse("xenflow:router/r1")
START = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


class Clock:
    """A time that tests move."""

    def __init__(self, now: dt.datetime) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.create(tmp_path / "pki", clock=clock)


def refused(call: object, *arguments: object, **options: object) -> str:
    assert callable(call)
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_certificates_say_what_they_are_for(authority: Authority) -> None:
    issued = authority.issue(ROUTER)
    certificate = load_certificate(issued.certificate)
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["xenflow:router/r1"]
    usages = {usage.dotted_string for usage in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value}
    assert usages == {"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"}
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert load_key(issued.key).curve.name == "secp256r1"
    ca = load_certificate(authority.ca_path).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (ca.ca, ca.path_length) == (True, 0)


def test_modes(authority: Authority) -> None:
    issued = authority.issue(ROUTER)
    modes = {path: path.stat().st_mode & 0o777 for path in (authority.directory / "ca.key", issued.key)}
    assert set(modes.values()) == {0o600}
    assert issued.certificate.stat().st_mode & 0o777 == 0o644
    assert not [path for path in authority.directory.rglob(".*") if path.name != ".lock"]


def test_opening_again_gives_the_same(authority: Authority, clock: Clock) -> None:
    entry = authority.issue(ROUTER).entry
    again = Authority.open(authority.directory, clock)
    assert again.entries() == [entry]
    assert again.issued(ROUTER).entry == entry


def test_an_authority_is_not_replaced_by_accident(authority: Authority) -> None:
    before = authority.ca_path.read_bytes()
    assert "--force replaces it" in refused(Authority.create, authority.directory)
    assert authority.ca_path.read_bytes() == before
    Authority.create(authority.directory, force=True)
    assert authority.ca_path.read_bytes() != before


def test_there_is_no_authority(tmp_path: Path) -> None:
    assert "holds no authority; make one with `xenflow pki init" in refused(Authority.open, tmp_path / "none")


def test_the_authority_s_key_is_another(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")
    (authority.directory / "ca.key").write_bytes((other.directory / "ca.key").read_bytes())
    assert "is not the key of" in refused(Authority.open, authority.directory)


def test_one_valid_certificate_for_each(authority: Authority) -> None:
    first = authority.issue(ROUTER)
    key = first.key.read_bytes()
    assert "has a certificate until 2031-01-01" in refused(authority.issue, ROUTER)
    assert first.key.read_bytes() == key
    second = authority.issue(ROUTER, force=True)
    assert second.key.read_bytes() != key
    assert [entry.status(START) for entry in authority.entries()] == [Status.REVOKED, Status.VALID]
    assert authority.crl().get_revoked_certificate_by_serial_number(first.entry.serial) is not None


def test_a_key_is_never_overwritten_without_force(authority: Authority) -> None:
    key = authority.paths(ROUTER)[1]
    key.parent.mkdir()
    key.write_text("precious")
    assert "is not overwritten" in refused(authority.issue, ROUTER)
    assert key.read_text() == "precious"
    assert authority.entries() == []


def test_renewal_keeps_the_key_and_the_old_certificate(authority: Authority, clock: Clock) -> None:
    first = authority.issue(ROUTER, days=10)
    key = first.key.read_bytes()
    clock.now += dt.timedelta(days=9)
    second = authority.renew(ROUTER, days=10)
    assert second.key.read_bytes() == key
    assert second.entry.expires == first.entry.expires + dt.timedelta(days=9)
    assert {entry.status(clock.now) for entry in authority.entries()} == {Status.VALID}
    third = authority.renew(ROUTER, new_key=True)
    assert third.key.read_bytes() != key
    assert load_certificate(third.certificate).public_key() == load_key(third.key).public_key()
    assert len(authority.revoke(ROUTER)) == 3


def test_renewal_is_refused(authority: Authority) -> None:
    assert "has no certificate of this authority" in refused(authority.renew, ROUTER)
    authority.issue(ROUTER)
    authority.revoke(ROUTER)
    assert "was revoked" in refused(authority.renew, ROUTER)


def test_revocation(authority: Authority) -> None:
    assert "has no certificate of this authority" in refused(authority.revoke, ROUTER)
    entry = authority.issue(ROUTER).entry
    assert [e.serial for e in authority.revoke(ROUTER)] == [entry.serial]
    assert "has no valid certificate" in refused(authority.revoke, ROUTER)
    assert "is revoked already" in refused(authority.revoke_serial, entry.serial)
    assert "no such serial number" in refused(authority.revoke_serial, 1)
    renewed = authority.issue(ROUTER, force=True).entry
    assert authority.revoke_serial(renewed.serial)[0].identity == ROUTER
    assert len(authority.crl()) == 2


def test_each_crl_is_newer_even_within_a_second(authority: Authority, clock: Clock) -> None:
    crls = [authority.crl(), *(authority.renew_crl() for _ in range(5))]
    updates = [crl.last_update_utc for crl in crls]
    assert updates == sorted(set(updates))
    assert updates[-1] <= clock.now
    numbers = [crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for crl in crls]
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_nothing_outlives_the_authority(tmp_path: Path, clock: Clock) -> None:
    authority = Authority.create(tmp_path, Lifetimes(ca_days=100), clock=clock)
    assert authority.issue(ROUTER, days=365).entry.expires == START + dt.timedelta(days=100)
    clock.now += dt.timedelta(days=101)
    assert "the authority has expired" in refused(authority.issue, ROUTER, force=True)
    assert authority.entries()[0].revoked is None


@pytest.mark.parametrize("days", [0, -1, 36501])
def test_lifetimes_have_bounds(authority: Authority, days: int) -> None:
    assert "a lifetime is from 1 to 36500 days" in refused(authority.issue, ROUTER, days)
    assert "a lifetime is from 1 to 36500 days" in refused(authority.renew_crl, days)


def test_verdicts(authority: Authority, clock: Clock, tmp_path: Path) -> None:
    issued = authority.issue(ROUTER, days=100)
    assert not any(verdict.problems or verdict.warnings for verdict in verify_all(authority, clock.now))
    soon = clock.now + dt.timedelta(days=80)
    assert verify_file(authority, issued.certificate, soon).warnings == (
        "expires on 2030-04-11; `xenflow pki renew` writes a new one",
    )
    late = clock.now + dt.timedelta(days=364)
    assert "expires on" in verify_crl(authority, late).warnings[0]
    assert "expired on" in verify_crl(authority, late + dt.timedelta(days=2)).problems[0]
    assert "has expired" in verify_file(authority, issued.certificate, late).problems[0]
    issued.key.chmod(0o644)
    assert "others may use its key" in verify_all(authority, clock.now)[1].problems[0]
    other = Authority.create(tmp_path / "other", clock=clock).issue(ROUTER)
    assert "belongs to another certificate" in str(
        verify_file(authority, issued.certificate, clock.now, other.key).problems
    )
    assert "unable to get local issuer" in verify_file(authority, other.certificate, clock.now).problems[0]
    issued.key.unlink()
    assert "cannot be read" in verify_all(authority, clock.now)[1].problems[0]


def test_a_revocation_that_was_cut_short_is_seen_and_mended(authority: Authority, clock: Clock) -> None:
    """Killed between index and CRL: the index knows more."""
    authority.issue(ROUTER)
    crl = authority.crl_path.read_bytes()
    authority.revoke(ROUTER)
    write_atomically(authority.crl_path, crl)
    assert "lacks 1 revocations of the index" in verify_crl(authority, clock.now).problems[0]
    authority.renew_crl()
    assert verify_crl(authority, clock.now).problems == ()


def _issue(directory: Path, number: int) -> None:
    Authority.open(directory).issue(Identity(Role.ROUTER, f"r{number}"))


def test_many_at_once(tmp_path: Path) -> None:
    Authority.create(tmp_path)
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        pool.starmap(_issue, [(tmp_path, number) for number in range(9)])
    assert sorted(entry.identity.name for entry in Authority.open(tmp_path).entries()) == [f"r{n}" for n in range(9)]


def test_a_bundle_works_wherever_it_is_unpacked(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "pki")
    authority.issue(ROUTER)
    path = tmp_path / "r1.tar"
    write_bundle(authority, ROUTER, path, Address.parse("ssl:[fe80::1%eth0]:7000"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert "is not overwritten" in refused(write_bundle, authority, ROUTER, path)
    write_bundle(authority, ROUTER, path, force=True)
    target = tmp_path / "vm"
    target.mkdir()
    subprocess.run(["tar", "-xpf", path, "-C", target], check=True)
    assert (target / "key.pem").stat().st_mode & 0o777 == 0o600
    files = Credentials(target / "ca.pem", target / "certificate.pem", target / "key.pem", target / "crl.pem")
    files.client_context()
    assert files.identity() == ROUTER
    text = (target / "client.toml").read_text()
    assert 'router = "r1"\nserver = "ssl:[fe80::1%xfctl]:6655"' in text
    tls = parse(text.split("[tls]")[1], TlsFiles, target / "client.toml")
    assert tls == TlsFiles(files.ca, files.certificate, files.key, files.crl)


def test_no_bundle_without_a_certificate(authority: Authority, tmp_path: Path) -> None:
    assert "has no certificate" in refused(write_bundle, authority, ROUTER, tmp_path / "x.tar")
    authority.issue(ROUTER)
    authority.revoke(ROUTER)
    assert "was revoked" in refused(write_bundle, authority, ROUTER, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


times = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2900, 1, 1)).map(
    lambda when: when.replace(microsecond=0, tzinfo=dt.UTC)
)
identities = st.builds(Identity, st.sampled_from(Role), st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True))
entries = st.builds(Entry, st.integers(1, 1 << 159), identities, times, times, st.none() | times)


@given(st.lists(entries, max_size=5))
def test_index_format_then_parse_gives_the_same(index: list[Entry]) -> None:
    assert parse_index(format_index(index)) == index


@given(st.text(max_size=200) | st.text(alphabet="0123456789abcdef\trouter/-TZ:\n#", max_size=200))
def test_any_index_is_taken_or_refused(text: str) -> None:
    try:
        index = parse_index(text)
    except ValueError:
        return
    assert parse_index(format_index(index)) == index


def test_a_damaged_index_is_said(authority: Authority) -> None:
    (authority.directory / "index.txt").write_text("# x\nnonsense\n")
    assert "line 2: 5 fields divided by tabs are needed, not 1" in refused(authority.entries)
