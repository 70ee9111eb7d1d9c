"""What a person may get wrong: each program says cause and way out in one line each, ends with 2, leaves nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from xenflow.identity import Identity
from xenflow.pki import Authority
from xenflow_lab.paths import Paths, lab_namespaces

NOBODY = 65534
LAB = Path(__file__).parents[2] / "deploy" / "lab" / "simple.toml"
BIN = Path(sys.executable).parent
DEFINITIONS = """
[[network]]
name = "a"
vid = 10
[[router]]
name = "r1"
interface = [{ mac = "02:00:00:00:00:01", network = "a" }]
"""
AGAIN = """
[[network]]
name = "b"
vid = 10
[[router]]
name = "r1"
interface = [{ mac = "02:00:00:00:00:02", network = "a" }]
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="drops rights, so it needs some to begin with")


@dataclass(frozen=True, slots=True)
class Program:
    """One of the three daemons: how it is started, its settings, and the identity in them."""

    argv: tuple[str, ...]
    settings: str
    identity: str


PROGRAMS = {
    "controller": Program(
        ("xenflow-controller", "--config"),
        'nodes = ["n1"]\nlisten = "ssl:127.0.0.1:0"\nopenflow = "tcp:127.0.0.1:0"\nsocket = "{home}/app.sock"\n',
        "controller/app",
    ),
    "server": Program(
        ("xenflow-server", "--check", "--config"),
        'node = "n1"\napp = "ssl:127.0.0.1:6654"\nlisten = "ssl:127.0.0.1:0"\ndefinitions = "{home}/definitions.d"\n',
        "node/n1",
    ),
    "client": Program(("xenflow-client", "--config"), 'router = "r1"\nserver = "ssl:127.0.0.1:6655"\n', "router/r1"),
}


class Home:
    """A directory with an authority, good settings of one program, and what becomes of a run."""

    def __init__(self, directory: Path, program: Program) -> None:
        self.directory = directory
        self.program = program
        authority = Authority.create(directory / "pki")
        issued = authority.issue(Identity.from_text(program.identity))
        self.certificate, self.key = issued.certificate, issued.key
        (directory / "definitions.d").mkdir()
        (directory / "definitions.d" / "a.toml").write_text(DEFINITIONS)
        self.tls = (
            f'[tls]\nca = "{authority.ca_path}"\ncertificate = "{issued.certificate}"\n'
            f'key = "{issued.key}"\ncrl = "{authority.crl_path}"\n'
        )

    def run(
        self, extra: str = "", *, tables: str = "", prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run the program with settings of which `extra` comes first and `tables` last."""
        config = self.directory / "settings.toml"
        config.write_text(extra + self.program.settings.format(home=self.directory) + self.tls + tables)
        name, *options = self.program.argv
        return run([*prefix, str(BIN / name), *options, str(config)])


def run(argv: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, env=os.environ | environment)


def assert_refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 2, no stack trace, and a line for each of `parts` that has it (parts of one line joined by ...)."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    for part in parts:
        words = part.split("...")
        assert any(all(word in line for word in words) for line in lines), (part, done.stderr)
    assert len(lines) == len(parts), done.stderr


@pytest.fixture(params=PROGRAMS)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    yield Home(tmp_path, PROGRAMS[request.param])
    assert not (tmp_path / "app.sock").exists(), "something was begun"


@pytest.fixture
def server(tmp_path: Path) -> Home:
    return Home(tmp_path, PROGRAMS["server"])


# The daemons


def test_an_unknown_key_and_a_wrong_type_at_once(home: Home) -> None:
    wrong = {"controller": "probe_interval_s", "server": "node", "client": "max_routes"}
    name = next(name for name, program in PROGRAMS.items() if program is home.program)
    key = wrong[name]
    if key == "node":
        done = home.run("colour = 1\n", tables="[limits]\nmax_routes = true\n")
        key = "limits.max_routes"
    else:
        done = home.run(f"colour = 1\n{key} = true\n")
    assert_refused(done, "settings.toml...colour...unknown key", f"settings.toml...{key}...number...(True)")


def test_a_file_that_is_no_toml_and_one_that_is_not_there(home: Home) -> None:
    assert_refused(home.run("no settings\n"), "settings.toml...line 1")
    name, *options = home.program.argv
    missing = home.directory / "missing.toml"
    assert_refused(run([str(BIN / name), *options, str(missing)]), f"{missing}...")


def test_a_missing_certificate(home: Home) -> None:
    home.certificate.unlink()
    assert_refused(home.run(), f"{home.certificate}...does not exist...xenflow pki issue")


def test_a_certificate_of_somebody_else(home: Home) -> None:
    other = Authority.open(home.directory / "pki").issue(Identity.from_text("operator/eve"))
    home.tls = home.tls.replace(str(home.certificate), str(other.certificate)).replace(str(home.key), str(other.key))
    assert_refused(home.run(), "operator/eve...")


@needs_root
def test_a_key_that_cannot_be_read(home: Home) -> None:
    home.key.chmod(0)
    without = "-dac_override,-dac_read_search"
    done = home.run(prefix=("setpriv", f"--bounding-set={without}", f"--inh-caps={without}"))
    assert_refused(done, f"{home.key}...cannot be read")


def test_a_port_in_use(tmp_path: Path) -> None:
    home = Home(tmp_path, PROGRAMS["controller"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home.program = Program(
            home.program.argv, home.program.settings.replace('"ssl:127.0.0.1:0"', f'"ssl:127.0.0.1:{port}"'), ""
        )
        assert_refused(home.run(), f"127.0.0.1:{port}...in use...ss -ltnp")
    assert not (tmp_path / "app.sock").exists()


def test_a_vlan_id_and_a_router_twice(server: Home) -> None:
    (server.directory / "definitions.d" / "b.toml").write_text(AGAIN)
    assert_refused(server.run(), "vid...10", "router...name...r1")


def test_open_vswitch_does_not_run(server: Home) -> None:
    database = server.directory / "db.sock"
    done = server.run(tables=f'[ovs]\ndatabase = "unix:{database}"\n')
    assert_refused(done, f"{database}...cannot connect...is Open vSwitch running")


# The lab


def lab_up(*prefix: str, **environment: str) -> subprocess.CompletedProcess[str]:
    name = f"bad-{os.getpid()}"
    options = ("--controller", "pox") if environment else ()
    done = run([*prefix, str(BIN / "xenflow"), "lab", "up", str(LAB), "--name", name, *options], **environment)
    assert lab_namespaces(name) == []
    assert not Paths(name).state.exists()
    return done


@needs_root
def test_a_lab_needs_root() -> None:
    # what it may do beyond others is to read: the source may be in somebody's home
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    done = lab_up("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *reading)
    assert_refused(done, "needs root...sudo")


@needs_root
def test_a_lab_needs_namespaces() -> None:
    done = lab_up("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    assert_refused(done, "namespaces are not allowed here...--privileged")


@needs_root
def test_a_lab_on_another_branch_of_pox(tmp_path: Path) -> None:
    (tmp_path / "pox").mkdir()
    (tmp_path / "pox.py").touch()
    (tmp_path / "pox" / "core.py").write_text('version_name = "gar"\n')
    assert_refused(lab_up(POX_HOME=str(tmp_path)), f"POX_HOME={tmp_path}...branch halosaur...git clone")
    assert_refused(lab_up(POX_HOME=str(tmp_path / "none")), "there is no pox.py...git clone")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('name = "right"\nvid = 20', 'name = "right"\nvid = 10', "vid...10"),
        ('name = "h2"', 'name = "r1"', "name...r1"),
        ('routing = "static"', 'routing = "magic"', "routing...magic"),
        ("vid = 20", 'vid = "20"', "vid..."),
        ("vid = 20", "vid = 20\ncolour = 1", "colour...unknown key"),
        ('node = "n1"\nnetwork = "left"', 'node = "n7"\nnetwork = "left"', "n7..."),
    ],
)
@needs_root
def test_a_topology_that_cannot_be(tmp_path: Path, old: str, new: str, problem: str) -> None:
    text = LAB.read_text()
    assert old in text
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace(old, new, 1))
    done = run([str(BIN / "xenflow"), "lab", "up", str(bad), "--name", f"bad-{os.getpid()}"])
    assert_refused(done, f"bad.toml...{problem}")
    assert not Paths(f"bad-{os.getpid()}").state.exists()


# xenflow pki, and asking a controller that is not there


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("issue", "router", "R 1"), "R 1..."),
        (("issue", "wizard", "w1"), "wizard..."),
        (("show", "router", "r9"), "r9..."),
        (("revoke", "router", "r9"), "r9..."),
        (("verify", "nothing.pem"), "nothing.pem..."),
    ],
)
def test_pki(tmp_path: Path, words: tuple[str, ...], part: str) -> None:
    Authority.create(tmp_path / "pki")
    done = run([str(BIN / "xenflow"), "pki", *words], XENFLOW_PKI=str(tmp_path / "pki"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in part.split("..."))


@pytest.mark.parametrize("command", [("status",), ("routers",), ("routes", "r1"), ("flows", "n1")])
def test_a_controller_that_is_not_there(tmp_path: Path, command: tuple[str, ...]) -> None:
    where = f"unix:{tmp_path}/app.sock"
    assert_refused(run([str(BIN / "xenflow"), *command, "--app", where]), f"{where}...")
