"""The Debian packages as apt and systemd take them: built here, judged by Debian's own tools.

With XENFLOW_TEST_INSTALL=1 they are also installed, upgraded, removed and purged by apt in a clean Debian: some
minutes, and it needs the network.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.private_ovs import private_switch

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "deploy" / "deb" / "build.py"
UNITS = sorted((ROOT / "deploy" / "units").glob("*.service"))
MOST_EXPOSED = 2.5
CLIENT_KIB = 4096
MIRROR = "http://deb.debian.org/debian"

pytestmark = pytest.mark.deb


def run(*command: object, code: int = 0) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def build(output: Path, *options: str) -> dict[str, Path]:
    lines = run(sys.executable, BUILD, "--output", output, "--compression", "gzip", *options).splitlines()
    return {Path(line).name.partition("_")[0]: Path(line) for line in lines}


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Package -> file."""
    return build(tmp_path_factory.mktemp("debs"))


@pytest.fixture(scope="module")
def unpacked(debs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of all packages."""
    root = tmp_path_factory.mktemp("root")
    for path in debs.values():
        run("dpkg-deb", "-x", path, root)
    return root


def test_lintian_finds_no_error(debs: dict[str, Path]) -> None:
    run("lintian", "--allow-root", "--fail-on", "error", *debs.values())


def test_a_client_is_small(debs: dict[str, Path], tmp_path: Path) -> None:
    """With the bytecode that the installation makes, and without a compiler or anything that Debian does not have."""
    for package in ("xenflow-common", "xenflow-client"):
        run("dpkg-deb", "-x", debs[package], tmp_path)
    run("/usr/bin/python3", "-m", "compileall", "-q", tmp_path)
    assert int(run("du", "-sk", tmp_path).split()[0]) <= CLIENT_KIB
    for package, needed in (
        ("xenflow-common", {"python3", "adduser", "libc6"}),
        ("xenflow-client", {"python3", "xenflow-common", "init-system-helpers"}),
    ):
        fields = run("dpkg-deb", "-f", debs[package], "Depends")
        assert {entry.split()[0] for entry in fields.split(",")} == needed


def test_the_client_runs_on_python_alone(debs: dict[str, Path], tmp_path: Path) -> None:
    for package in ("xenflow-common", "xenflow-client"):
        run("dpkg-deb", "-x", debs[package], tmp_path)
    library = tmp_path / "usr/lib/xenflow"
    text = (tmp_path / "usr/bin/xenflow-client").read_text()
    assert text.startswith("#!/usr/bin/python3 -I\n")
    assert '"/usr/lib/xenflow"' in text
    program = tmp_path / "xenflow-client"
    program.write_text(text.replace("/usr/lib/xenflow", str(library)))
    assert run("/usr/bin/python3", "-I", "-S", program, "--version").startswith("xenflow-client ")
    head = program.read_text().partition("from xenflow")[0]
    program.write_text(head + "os.execv(sys.executable, [sys.executable, '-m', 'xenflow_client.main', '--version'])")
    assert run("/usr/bin/python3", "-I", "-S", program).startswith("xenflow-client "), "modules of ours can be started"


def test_every_program_has_a_page_and_every_unit_its_program(unpacked: Path) -> None:
    programs = {path.name for path in (unpacked / "usr/bin").iterdir()}
    assert programs == {"xenflow", "xenflow-client", "xenflow-server", "xenflow-controller", "qos-controller"}
    assert {path.name.partition(".")[0] for path in (unpacked / "usr/share/man").rglob("*.gz")} == programs
    installed = {path.name for path in (unpacked / "lib/systemd/system").iterdir()}
    assert installed == {path.name for path in UNITS}
    for unit in UNITS:
        words = re.findall(r"^ExecStart=(\S+)", unit.read_text(), re.MULTILINE)
        assert [Path(word).name for word in words if Path(word).name in {*programs, "python3"}] == [
            Path(word).name for word in words
        ]


def test_settings_are_conffiles_or_examples(debs: dict[str, Path], unpacked: Path) -> None:
    names = {path.relative_to(unpacked / "etc/xenflow") for path in (unpacked / "etc/xenflow").rglob("*.toml")}
    assert names == {Path("qos.toml")}
    listed = run("dpkg-deb", "-I", debs["xenflow-server"], "conffiles").split()
    assert listed == ["/etc/xenflow/qos.toml", "/etc/xen/scripts/vif-xenflow"]
    assert os.access(unpacked / "etc/xen/scripts/vif-xenflow", os.X_OK)
    assert os.access(unpacked / "usr/lib/xenflow/remove-dead-vifs", os.X_OK)
    examples = {path.name for path in (unpacked / "usr/share/doc").rglob("examples/*")}
    assert {"xl.conf.example", "xenflow-dom0.service"} <= examples
    assert {"client.toml.example", "server.toml.example", "app.toml.example", "definitions.example.toml"} <= examples


def with_xl(directory: Path) -> Path:
    """Return the server's unit with the drop-in for xl."""
    unit, addition = (ROOT / "deploy/units" / name for name in ("xenflow-server.service", "xl.conf.example"))
    path = directory / unit.name
    path.write_text(unit.read_text().replace("[Install]", addition.read_text() + "\n[Install]"))
    return path


@pytest.mark.parametrize("unit", [*UNITS, None], ids=lambda unit: unit.stem if unit else "xenflow-server-with-xl")
def test_units_have_few_privileges(unit: Path | None, tmp_path: Path) -> None:
    unit = unit or with_xl(tmp_path)
    shown = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    exposure = re.search(r"Overall exposure level for .*: ([0-9.]+)", shown)
    assert exposure is not None
    assert float(exposure[1]) <= MOST_EXPOSED, shown


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_what_systemd_understands(unit: Path, tmp_path: Path) -> None:
    """`verify` looks for the programs, which are not installed here: it gets others."""
    text = re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE)
    (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / unit.name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []
    for line in ("Type=notify", "WatchdogSec=", "Restart=on-failure", "RestartPreventExitStatus=2"):
        assert f"\n{line}" in text


def test_the_unit_for_dom0_is_what_systemd_understands() -> None:
    run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", ROOT / "deploy/node/xenflow-dom0.service")


def test_daemons_on_the_way_of_a_route_come_before_other_services() -> None:
    first = {unit.stem for unit in UNITS if "\nCPUWeight=500\n" in unit.read_text()}
    assert first == {"xenflow-server", "qos-controller", "xenflow-controller", "xenflow-pox"}


@pytest.mark.root
@pytest.mark.ovs
def test_a_purge_takes_flows_and_queues_of_ours_alone(tmp_path: Path) -> None:
    text = (ROOT / "deploy/deb/scripts/xenflow-server.purge").read_text()
    for place in ("/etc/xenflow", "/var/lib/xenflow", "/run/xenflow"):
        there = tmp_path / place.strip("/")
        (there / "node").mkdir(parents=True)
        text = text.replace(place, str(there))
    (tmp_path / "etc/xenflow/server.toml").write_text('[ovs]\nbridge = "br0"       # the data bridge\n')
    with private_switch(Path(tempfile.mkdtemp(prefix="xfp-"))) as switch:
        for number, (port, mark) in enumerate((("p1", "xenflow-qos=br0"), ("p2", "theirs=yes")), 1):
            switch.add_port(port, number)
            row = ["create", "QoS", "type=linux-noop", f"external_ids:{mark}"]
            switch.vsctl("set", "Port", port, "qos=@q", "--", "--id=@q", *row)
        switch.run("ovs-ofctl", "add-flow", switch.socket, "in_port=1,actions=output:2")
        for _ in range(2):
            switch.run("sh", "-ec", text)
            assert switch.dump_flows() == []
            assert switch.vsctl("--bare", "--columns=name", "find", "Port", "qos!=[]").split() == ["p2"]
    assert not (tmp_path / "etc/xenflow/node").exists()
    assert not (tmp_path / "var/lib/xenflow").exists()


class Machine:
    """A clean Debian in a directory, where apt installs but starts no daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        run("debootstrap", "--variant=minbase", "bookworm", root, MIRROR)
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)

    def type(self, command: str, code: int = 0) -> str:
        """Run a line of shell in there."""
        return run(
            "chroot", self.root, "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "sh", "-c", command, code=code
        )

    def install(self, *debs: Path) -> None:
        for deb in debs:
            (self.root / "root" / deb.name).write_bytes(deb.read_bytes())
        names = " ".join(f"/root/{deb.name}" for deb in debs)
        self.type(f"apt-get -qq update && apt-get -y -qq --no-install-recommends install {names}")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if os.environ.get("XENFLOW_TEST_INSTALL") != "1":
        pytest.skip("installs a whole Debian: set XENFLOW_TEST_INSTALL=1")
    machine = Machine(tmp_path / "debian")
    yield machine
    run("rm", "-rf", "--one-file-system", machine.root)


@pytest.mark.root
def test_install_upgrade_remove_purge(debs: dict[str, Path], machine: Machine, tmp_path: Path) -> None:
    machine.install(debs["xenflow-common"], debs["xenflow-client"])
    machine.type("id xenflow && xenflow-client --version && xenflow-client --print")
    machine.install(*debs.values())
    machine.type(
        "cd /root && xenflow pki init && xenflow init router r1 && xenflow init controller app --nodes n1"
        " && xenflow init node n1 --app ssl:127.0.0.1:6654 && xenflow-client --import r1.xenflow"
        " && xenflow import n1.xenflow && xenflow import app.xenflow && qos-controller --check"
    )
    assert machine.type("stat -c '%U:%G %a' /etc/xenflow/key.pem") == "root:xenflow 640\n"
    assert machine.type("stat -c '%U:%G %a' /etc/xenflow/node/key.pem") == "root:root 600\n"
    assert "is Open vSwitch running" in machine.type("xenflow-server --check 2>&1", code=2)
    machine.type("echo '# mine' >> /etc/xenflow/qos.toml")
    sums = "find /etc/xenflow -type f | sort | xargs sha256sum"
    mine = machine.type(sums)
    machine.install(*build(tmp_path / "newer", "--version", "1000.0").values())
    assert "1000.0" in machine.type("dpkg-query -W -f '${Version}' xenflow-server")
    assert machine.type(sums) == mine
    machine.type("apt-get -y -qq remove xenflow-common")
    assert machine.type(sums) == mine
    assert machine.type("find /usr/lib/xenflow", code=1) == ""
    machine.type("apt-get -y -qq purge xenflow-common xenflow-client xenflow xenflow-server xenflow-app")
    assert machine.type("ls /etc/xenflow") == "pki\n", "who has the authority decides what becomes of it"
