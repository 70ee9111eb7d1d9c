"""`xenflow pki` as it is typed: what it prints, and exit codes 0, 1 and 2 with one clear message."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from xenflow.cli import main as main_module
from xenflow.cli.main import run
from xenflow.errors import ConfigError, DataplaneError
from xenflow.pki import Authority, Lifetimes
from xenflow.pki.authority import utc_now

Type = Callable[..., Any]


@pytest.fixture
def xenflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command in a directory with an authority; returns what --json printed, or the text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XENFLOW_PKI", str(tmp_path / "pki"))
    Authority.create(tmp_path / "pki")

    def type_(*words: str, code: int = 0) -> Any:
        assert run(words) == code
        captured = capsys.readouterr()
        if code == 2:
            assert captured.out == ""
            assert "Traceback" not in captured.err
            return captured.err
        assert captured.err == ""
        return json.loads(captured.out) if "--json" in words else captured.out

    return type_


def test_the_whole_life(xenflow: Type, tmp_path: Path) -> None:
    issued = xenflow("pki", "issue", "router", "r1", "--json")
    assert issued["uri"] == "xenflow:router/r1"
    assert Path(issued["key"]).exists()
    assert xenflow("pki", "verify", "--json")[1]["problems"] == []
    renewed = xenflow("pki", "renew", "router", "r1", "--days", "10", "--json")
    assert renewed["serial"] != issued["serial"]
    bundle = xenflow("pki", "bundle", "router", "r1", "--server", "ssl:10.0.0.1:7000", "--json")
    assert bundle == {"bundle": "r1.tar", "files": ["ca.pem", "crl.pem", "certificate.pem", "key.pem", "client.toml"]}
    with tarfile.open(tmp_path / "r1.tar") as archive:
        settings = archive.extractfile("client.toml")
        assert settings is not None
        assert b'server = "ssl:10.0.0.1:7000"' in settings.read()
    assert xenflow("pki", "show", "router", "r1", "--json")["status"] == "valid"
    assert len(xenflow("pki", "revoke", "router", "r1", "--json")["revoked"]) == 2
    assert [entry["status"] for entry in xenflow("pki", "list", "--json")] == ["revoked", "revoked"]
    assert xenflow("pki", "crl", "--json")["revoked"] == 2
    assert "certificate revoked" in xenflow("pki", "verify", "pki/router/r1.pem", code=1)
    assert xenflow("pki", "show", "--json")["crl_number"] == 3


def test_text(xenflow: Type) -> None:
    assert xenflow("pki", "list") == "nothing has been issued yet\n"
    assert "identity     node/n1\n" in xenflow("pki", "issue", "node", "n1")
    assert xenflow("pki", "list").splitlines()[1].startswith("node/n1   valid   ")
    assert "good" in xenflow("pki", "verify")
    assert "crl number   1\n" in xenflow("pki", "show")
    assert "tar -xpf n1.tar -C /etc/xenflow" in xenflow("pki", "bundle", "node", "n1")
    assert "revoked node/n1" in xenflow("pki", "revoke", "node", "n1")
    assert "crl number   3\n" in xenflow("pki", "crl")


def test_one_certificate_by_serial(xenflow: Type) -> None:
    first = xenflow("pki", "issue", "router", "r1", "--json")["serial"]
    xenflow("pki", "renew", "router", "r1")
    assert xenflow("pki", "revoke", "--serial", first, "--json")["revoked"][0]["serial"] == first
    assert xenflow("pki", "verify", "--json")[1]["problems"] == []


def test_init(xenflow: Type, tmp_path: Path) -> None:
    made = xenflow("pki", "init", "elsewhere", "--json")
    assert made["certificate"] == "elsewhere/ca.pem"
    assert (
        xenflow("pki", "issue", "operator", "me", "--dir", "elsewhere", "--json")["key"] == "elsewhere/operator/me.key"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("init", "there is an authority here; --force replaces it"),
        ("issue router r1 -d none", "none: holds no authority; make one with `xenflow pki init none`"),
        ("issue router R1", "NAME: a name is 1 to 63 of a-z"),
        ("issue router ../x", "NAME: a name is 1 to 63 of a-z"),
        ("issue king k1", "'king' is not one of 'router', 'node', 'controller', 'operator'"),
        ("issue router", "Missing argument 'NAME'"),
        ("issue router r1 --days 0", "0 is not in the range 1<=x<=36500"),
        ("issue node n1", "node/n1: has a certificate until"),
        ("renew router r9", "router/r9: has no certificate of this authority; `xenflow pki list` shows all"),
        ("revoke router r9", "router/r9: has no certificate of this authority"),
        ("revoke", "name what to revoke: either ROLE NAME or --serial"),
        ("revoke router", "name what to revoke: either ROLE NAME or --serial"),
        ("revoke router r1 --serial 12", "name what to revoke: either ROLE NAME or --serial"),
        ("revoke --serial xyz", "--serial: must be hexadecimal"),
        ("revoke --serial 12", "12: no such serial number"),
        ("show router", "name the certificate: ROLE NAME"),
        ("show router r9", "router/r9: has no certificate of this authority"),
        ("verify nothing.pem", "nothing.pem: the certificate cannot be read: No such file or directory"),
        ("verify pki/crl.pem", "pki/crl.pem: holds no certificate in PEM form"),
        ("bundle router r9", "router/r9: has no certificate of this authority"),
        ("bundle node n1 --server 10.0.0.1", "Invalid value for '--server': use ssl:HOST:PORT"),
        ("bundle node n1 -o none/n1.tar", "none/n1.tar: cannot be written: No such file or directory"),
        ("frobnicate", "No such command 'frobnicate'"),
    ],
)
def test_bad_input(xenflow: Type, words: str, message: str) -> None:
    xenflow("pki", "issue", "node", "n1")
    assert message in xenflow("pki", *words.split(), code=2)


def test_a_bundle_is_not_overwritten(xenflow: Type) -> None:
    xenflow("pki", "issue", "node", "n1")
    xenflow("pki", "bundle", "node", "n1")
    assert "n1.tar: exists already and is not overwritten; --force replaces it" in xenflow(
        "pki", "bundle", "node", "n1", code=2
    )
    xenflow("pki", "bundle", "node", "n1", "--force")


def test_an_expired_crl_is_no_success(xenflow: Type, tmp_path: Path) -> None:
    past = utc_now() - dt.timedelta(days=10)
    Authority.create(tmp_path / "old", Lifetimes(crl_days=1), clock=lambda: past)
    assert "expired on" in xenflow("pki", "verify", "-d", "old", code=1)


def test_completion_offers_names_of_the_role(xenflow: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    for role, name in (("router", "r1"), ("router", "r2"), ("node", "n1")):
        xenflow("pki", "issue", role, name)
    script = Path(sys.executable).with_name("xenflow")
    answer = subprocess.run(
        [script],
        env={"_XENFLOW_COMPLETE": "bash_complete", "COMP_WORDS": "xenflow pki revoke router ", "COMP_CWORD": "4"}
        | {"XENFLOW_PKI": str(Path.cwd() / "pki"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == ["plain,r1", "plain,r2"]


class TestMain:
    """The group itself: where commands come from, and what becomes of errors."""

    @pytest.fixture
    def entries(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        entries: dict[str, str] = {}
        monkeypatch.setattr(
            main_module,
            "entry_points",
            lambda group: [importlib.metadata.EntryPoint(name, where, group) for name, where in entries.items()],
        )
        return entries

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["--version"]) == 0
        assert capsys.readouterr().out.startswith("xenflow, version ")

    def test_a_command_from_another_package(self, entries: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
        entries["hello"] = f"{__name__}:hello"
        assert run(["hello"]) == 0
        assert capsys.readouterr().out == "hello\n"

    def test_a_command_that_cannot_be_imported(
        self, entries: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        entries["broken"] = "no_such_package:command"
        assert run(["broken", "--anything", "x"]) == 2
        assert "xenflow broken: cannot be loaded: No module named 'no_such_package'" in capsys.readouterr().err
        assert run(["--help"]) == 0
        assert "pki" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (ConfigError(["a: b", "c: d"]), "xenflow: a: b\nxenflow: c: d\n"),
            (DataplaneError("Open vSwitch is not running"), "xenflow: Open vSwitch is not running\n"),
        ],
    )
    def test_errors_are_messages(
        self, entries: dict[str, str], capsys: pytest.CaptureFixture[str], error: Exception, text: str
    ) -> None:
        entries["fail"] = f"{__name__}:fail"
        global _failure
        _failure = error
        assert run(["fail"]) == 2
        assert capsys.readouterr().err == text


_failure: Exception = ConfigError([])


@click.command()
def hello() -> None:
    """Say hello."""
    click.echo("hello")


@click.command()
def fail() -> None:
    """Fail as told."""
    raise _failure
