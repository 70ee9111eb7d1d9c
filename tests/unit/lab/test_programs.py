"""Settings that the lab writes are settings that the programs take."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qos_controller.config import Settings as QosSettings
from qos_controller.decision import PolicyKind
from tests.unit.lab.topologies import EXAMPLES, RING, parsed
from xenflow import settings
from xenflow.resources import Resources
from xenflow_app.settings import AppSettings
from xenflow_client.settings import ClientSettings
from xenflow_lab import programs, toml, topology
from xenflow_lab.lab import Overrides
from xenflow_lab.paths import Paths
from xenflow_lab.plan import Kind, Plan, plan
from xenflow_lab.topology import Datapath
from xenflow_server import definitions
from xenflow_server.settings import Settings as ServerSettings


@pytest.fixture(params=["ring", *sorted(path.stem for path in EXAMPLES.glob("*.toml"))])
def built(request: pytest.FixtureRequest) -> Plan:
    if request.param == "ring":
        return plan(parsed(RING))
    return plan(topology.load(EXAMPLES / f"{request.param}.toml"))


def test_app_takes_its_settings(built: Plan) -> None:
    text = toml.encode(programs.app_settings(built, Paths("x")))
    taken = settings.parse(text, AppSettings, Path("app.toml"))
    assert list(taken.nodes) == [node.name for node in built.of_kind(Kind.NODE)]


def test_server_takes_its_settings_and_definitions(built: Plan, tmp_path: Path) -> None:
    for node in built.of_kind(Kind.NODE):
        text = toml.encode(programs.server_settings(built, Paths("x"), node.name))
        assert settings.parse(text, ServerSettings, Path("server.toml")).node == node.name
        directory = tmp_path / node.name
        directory.mkdir()
        (directory / "lab.toml").write_text(toml.encode(programs.definitions(built, node.name)))
        taken = definitions.read(directory)
        here = {machine.name for machine in built.of_kind(Kind.ROUTER, Kind.HOST) if machine.node == node.name}
        assert set(taken.machines) == here


def test_client_takes_its_settings(built: Plan) -> None:
    for router in built.of_kind(Kind.ROUTER):
        text = toml.encode(programs.client_settings(Paths("x"), router))
        assert settings.parse(text, ClientSettings, Path("client.toml")).router == router.name


def test_app_table_is_laid_over() -> None:
    over = programs.app_settings(plan(parsed(RING)), Paths("x"))
    assert over["mode"] == "reactive"
    assert over["limits"] == {"max_macs_per_port": 3}


HIRED = """
[lab]
name = "hired"
[[network]]
name = "lan"
vid = 10
rate = "5Mbit"
[[node]]
name = "n1"
[[node]]
name = "n2"
[[trunk]]
between = ["n1", "n2"]
capacity = "100Mbit"
[[access]]
name = "out"
node = "n1"
network = "lan"
capacity = "50Mbit"
[[router]]
name = "r1"
node = "n1"
rate = "20Mbit"
ceiling = "80Mbit"
[[router.interface]]
network = "lan"
capacity = "1Gbit"
[[router.class]]
name = "voice"
rate = "2Mbit"
match = [{dscp = 46}, {protocol = "udp", destination_ports = "5004-5100"}]
[[host]]
name = "h1"
node = "n2"
network = "lan"
addresses = ["10.0.0.2/24"]
capacity = "10Mbit"
[qos]
policy = "paper"
t_med_s = 0.2
"""


def test_qos_controller_takes_its_settings(built: Plan) -> None:
    assert built.topology.has_queues == (built.topology.lab.name == "xen")
    text = toml.encode(programs.qos_settings(plan(parsed(HIRED)), Paths("x"), "n1"))
    taken = settings.parse(text, QosSettings, Path("qos.toml"))
    assert (taken.policy, taken.t_med_s, taken.frame_bytes) == (PolicyKind.PAPER, 0.2, 1522)
    kernel = Overrides(datapath=Datapath.KERNEL).apply(parsed(HIRED))
    text = toml.encode(programs.qos_settings(plan(kernel), Paths("x"), "n1"))
    assert settings.parse(text, QosSettings, Path("qos.toml")).frame_bytes == 0, "segments of the kernel are frames"


def test_definitions_say_what_is_hired_and_what_links_carry(tmp_path: Path) -> None:
    hired = plan(parsed(HIRED))
    assert hired.topology.has_queues
    found = {}
    for node in ("n1", "n2"):
        directory = tmp_path / node
        directory.mkdir()
        (directory / "lab.toml").write_text(toml.encode(programs.definitions(hired, node)))
        found[node] = definitions.read(directory)
    router = found["n1"].machines["r1"]
    assert (router.rate, router.ceiling, router.interfaces[0].capacity) == (20_000_000, 80_000_000, 1_000_000_000)
    assert [(item.name, item.rate, len(item.matches)) for item in router.classes] == [("voice", 2_000_000, 2)]
    assert found["n2"].machines["h1"].interfaces[0].capacity == 10_000_000
    written = programs.definitions(hired, "n1")
    assert {port["name"]: port["capacity"] for port in written["port"]} == {"t-n2": "100Mbit", "acc1": "50Mbit"}  # type: ignore[attr-defined]
    assert written["network"] == [{"name": "lan", "vid": 10, "rate": "5Mbit"}]


def test_definitions_say_what_a_routers_machine_is_to_have(tmp_path: Path) -> None:
    said = "memory_mib = 512\nvcpus = 2\ncpu_weight = 300\ncpu_cap = 0"
    sized = plan(parsed(HIRED.replace('ceiling = "80Mbit"', said)))
    (tmp_path / "lab.toml").write_text(toml.encode(programs.definitions(sized, "n1")))
    assert definitions.read(tmp_path).machines["r1"].resources == Resources(512, 2, 300, 0)
    assert "vcpus" not in toml.encode(programs.definitions(plan(parsed(HIRED)), "n1"))


def test_overlay_merges_tables() -> None:
    base: programs.Settings = {"a": 1, "t": {"x": 1, "y": 2}}
    assert programs.overlay(base, {"t": {"y": 3}, "b": 4}) == {"a": 1, "b": 4, "t": {"x": 1, "y": 3}}
    assert base == {"a": 1, "t": {"x": 1, "y": 2}}


def test_everybody_has_an_identity() -> None:
    assert [str(identity) for identity in programs.identities(plan(parsed(RING)))] == [
        "controller/controller",
        "operator/lab",
        "node/n1",
        "node/n2",
        "router/r1",
    ]


_SCALARS = st.one_of(st.booleans(), st.integers(-(2**62), 2**62), st.text(max_size=20), st.floats(allow_nan=False))
_KEYS = st.text(max_size=8)
_TABLES = st.recursive(
    st.dictionaries(_KEYS, st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3)), max_size=4),
    lambda inner: st.dictionaries(_KEYS, _SCALARS | inner | st.lists(inner, min_size=1, max_size=3), max_size=4),
    max_leaves=8,
)


@given(_TABLES)
def test_toml_comes_back_as_it_was(table: dict[str, object]) -> None:
    assert tomllib.loads(toml.encode(table)) == table


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_lab_notes_its_topology_as_one_can_be_read(path: Path, tmp_path: Path) -> None:
    noted = tmp_path / "topology.toml"
    noted.write_text(toml.encode(msgspec.to_builtins(topology.load(path))))
    assert topology.load(noted) == topology.load(path)
