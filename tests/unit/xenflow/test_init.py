"""`xenflow init` and the bundles it writes: asked or told, loadable by each program, nothing overwritten unasked."""

from __future__ import annotations

import grp
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenflow.address import Address
from xenflow.bundle import GROUP, KEY_MODE, unpack
from xenflow.cli.main import run
from xenflow.errors import ConfigError
from xenflow.identity import Identity
from xenflow.pki import Authority
from xenflow.settings import load
from xenflow_app.settings import AppSettings
from xenflow_client.main import main as client_main
from xenflow_client.settings import ClientSettings
from xenflow_server.settings import Settings as ServerSettings

Type = Callable[..., Any]


@pytest.fixture
def xenflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command beside an authority; returns what --json printed, the text, or the error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XENFLOW_PKI", str(tmp_path / "pki"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    Authority.create(tmp_path / "pki")

    def type_(*words: str, code: int = 0) -> Any:
        assert run(words) == code
        captured = capsys.readouterr()
        if code:
            assert captured.out == ""
            return captured.err
        return json.loads(captured.out) if "--json" in words else captured.out

    return type_


def test_a_controller(xenflow: Type, tmp_path: Path) -> None:
    made = xenflow("init", "controller", "app", "--nodes", "n1,n2", "--mode", "reactive", "--json")
    assert made["identity"] == "controller/app"
    assert made["install"] == ["xenflow import app.xenflow", "systemctl restart xenflow-controller"]
    xenflow("import", "app.xenflow", "--into", "etc")
    settings = load(tmp_path / "etc/app.toml", AppSettings)
    assert settings.nodes == ("n1", "n2")
    assert settings.mode == "reactive"
    assert settings.tls.credentials().identity() == Identity.from_text("controller/app")


def test_a_node(xenflow: Type, tmp_path: Path) -> None:
    made = xenflow("init", "node", "n1", "--app", "ssl:[2001:db8::1]:6654", "--bridge", "br-data", "--json")
    assert made["files"] == [*(f"node/{name}.pem" for name in ("ca", "crl", "certificate", "key")), "server.toml"]
    assert any("set-controller br-data ssl:[2001:db8::1]:6653" in line for line in made["install"])
    xenflow("import", "n1.xenflow", "--into", "etc")
    settings = load(tmp_path / "etc/server.toml", ServerSettings)
    assert (settings.node, settings.ovs.bridge) == ("n1", "br-data")
    assert settings.app == Address.parse("ssl:[2001:db8::1]:6654")
    assert settings.tls.credentials().identity() == Identity.from_text("node/n1")
    assert stat.S_IMODE((tmp_path / "etc/node/key.pem").stat().st_mode) == 0o600


def test_a_router(xenflow: Type, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = xenflow("init", "router", "r1")
    assert "    xenflow-client --import r1.xenflow\n    systemctl restart xenflow-client\n" in printed
    assert stat.S_IMODE((tmp_path / "r1.xenflow").stat().st_mode) == 0o600
    assert client_main(["--import", "r1.xenflow", "--config", "vm/client.toml"]) == 0
    settings = load(tmp_path / "vm/client.toml", ClientSettings)
    assert settings.router == "r1"
    assert str(settings.server) == "ssl:[fe80::1%xfctl]:6655"
    settings.tls.credentials().client_context()
    assert capsys.readouterr().out.endswith("vm/client.toml\n")


def test_tar_unpacks_it_as_well(xenflow: Type, tmp_path: Path) -> None:
    xenflow("init", "node", "n1", "--app", "ssl:c:6654")
    (tmp_path / "etc").mkdir()
    subprocess.run(["tar", "-xpf", "n1.xenflow", "-C", "etc"], check=True)
    load(tmp_path / "etc/server.toml", ServerSettings).tls.credentials().client_context()


def test_all_roles_on_one_machine(xenflow: Type, tmp_path: Path) -> None:
    xenflow("init", "node", "n1", "--app", "ssl:127.0.0.1:6654")
    xenflow("init", "controller", "app", "--nodes", "n1")
    xenflow("init", "router", "r1")
    for name in ("n1", "app", "r1"):
        xenflow("import", f"{name}.xenflow", "--into", "etc")


def test_the_comments_show_defaults_that_are_valid(xenflow: Type, tmp_path: Path) -> None:
    """What is commented out may be uncommented as it stands, and then means what it meant before."""
    xenflow("init", "controller", "app", "--nodes", "n1")
    xenflow("init", "node", "n1", "--app", "ssl:c:6654")
    xenflow("init", "router", "r1")
    for name, file, kind in (
        ("app", "app.toml", AppSettings),
        ("n1", "server.toml", ServerSettings),
        ("r1", "client.toml", ClientSettings),
    ):
        path = tmp_path / "etc" / file
        xenflow("import", f"{name}.xenflow", "--into", "etc")
        before = load(path, kind)
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line.removeprefix("# ") if _is_setting(line) else line for line in lines))
        after = load(path, kind)
        if isinstance(after, ServerSettings):
            assert after.hypervisor.move == ["/usr/local/sbin/migrate"]  # an example: there is no default
        else:
            assert after == before


def _is_setting(line: str) -> bool:
    try:
        return line.startswith("# ") and bool(tomllib.loads(line[2:]))
    except tomllib.TOMLDecodeError:
        return False


def test_nothing_is_overwritten_unasked(xenflow: Type, tmp_path: Path) -> None:
    xenflow("init", "router", "r1")
    before = (tmp_path / "r1.xenflow").read_bytes()
    assert "is not overwritten; --force" in xenflow("init", "router", "r1", code=2)
    assert "has a certificate until" in xenflow("init", "router", "r1", "-o", "other", code=2)
    assert (tmp_path / "r1.xenflow").read_bytes() == before
    assert not (tmp_path / "other").exists()
    xenflow("import", "r1.xenflow", "--into", "etc")
    xenflow("import", "r1.xenflow", "--into", "etc")  # the same again is no obstacle
    xenflow("init", "router", "r1", "--force")
    key = (tmp_path / "etc/key.pem").read_bytes()
    assert "etc/key.pem: exists already" in xenflow("import", "r1.xenflow", "--into", "etc", code=2)
    assert (tmp_path / "etc/key.pem").read_bytes() == key
    xenflow("import", "r1.xenflow", "--into", "etc", "--force")
    assert load(tmp_path / "etc/client.toml", ClientSettings).tls.credentials().client_context()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("node", "n1"), "--app: is missing, and there is no terminal to ask at"),
        (("controller", "app"), "--nodes: is missing"),
        (("controller", "app", "--nodes", ","), "--nodes: names no node"),
        (("controller", "app", "--nodes", "n1,N2"), "--nodes: 'N2' is no name"),
        (("controller", "app", "--nodes", "n1 n1"), "--nodes: has a name twice"),
        (("node", "n1", "--app", "tcp:10.0.0.1:6654"), "--app: must be ssl:HOST:PORT"),
        (("node", "n1", "--app", "10.0.0.1"), "--app: use ssl:HOST:PORT"),
        (("node", "n1", "--app", "ssl:c:1", "--bridge", "a b"), "--bridge: must be"),
        (("router", "R1"), "NAME: a name is 1 to 63"),
        (("router", "r1", "--dir", "elsewhere"), "elsewhere: holds no authority; make one with `xenflow pki init"),
    ],
)
def test_what_cannot_be(xenflow: Type, tmp_path: Path, words: tuple[str, ...], problem: str) -> None:
    assert problem in xenflow("init", *words, code=2)
    assert not list(tmp_path.glob("*.xenflow"))
    assert Authority.open(tmp_path / "pki").entries() == []


def test_at_a_terminal_it_asks(tmp_path: Path) -> None:
    script = f"""
import sys
sys.argv = ["xenflow", "init", "node", "n1", "--dir", "{tmp_path}/pki", "-o", "{tmp_path}/n1.xenflow"]
from xenflow.cli.main import run
sys.exit(run())
"""
    done = _at_a_terminal([sys.executable, "-c", script], "ssl:10.0.0.1:6654\ny\n")
    assert "Address of the controller" in done
    assert "holds no authority. Make one?" in done
    assert (tmp_path / "n1.xenflow").exists()


def _at_a_terminal(argv: list[str], typed: str) -> str:
    """Run a program with a terminal as its standard input, and return what it wrote to both outputs."""
    master, terminal = os.openpty()
    try:
        os.write(master, typed.encode())
        done = subprocess.run(argv, stdin=terminal, capture_output=True, text=True, timeout=60, check=False)
    finally:
        os.close(terminal)
        os.close(master)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def bundle_of(path: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "node/../../key.pem", "server.toml/x", "other/key.pem"])
def test_a_bundle_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    bundle = bundle_of(tmp_path / "b", {"key.pem": b"k", name: b"x"})
    with pytest.raises(ConfigError, match="is no bundle: it has"):
        unpack(bundle, tmp_path / "etc", force=True)
    assert not (tmp_path / "etc").exists()


def test_what_is_no_bundle(tmp_path: Path) -> None:
    for path, problem in (
        (bundle_of(tmp_path / "link", {"key.pem": b""}, tarfile.SYMTYPE), "it has 'key.pem'"),
        (bundle_of(tmp_path / "keyless", {"ca.pem": b"x"}), "it has no key"),
        (bundle_of(tmp_path / "big", {"key.pem": bytes((4 << 20) + 1)}), "has more than"),
        (tmp_path / "absent", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=problem):
            unpack(path, tmp_path / "etc")
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(ConfigError, match="is no bundle"):
        unpack(tmp_path / "text", tmp_path / "etc")


@pytest.mark.root
def test_the_daemons_group_may_read_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    existing = grp.getgrgid(1)
    monkeypatch.setattr("xenflow.bundle.grp.getgrnam", lambda name: {GROUP: existing}[name])
    unpack(bundle_of(tmp_path / "b", {"key.pem": b"k", "node/key.pem": b"k"}), tmp_path / "etc")
    shared, own = (tmp_path / "etc/key.pem").stat(), (tmp_path / "etc/node/key.pem").stat()
    assert (shared.st_gid, stat.S_IMODE(shared.st_mode)) == (1, KEY_MODE)
    assert (own.st_gid, stat.S_IMODE(own.st_mode)) == (os.getgid(), 0o600)
