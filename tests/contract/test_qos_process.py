"""qos-controller as a process, with a real switch: plans, rows, kills, restarts of either side, bad input."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.private_qos import BRIDGE, DATAPATH, QosClient, QosNode, wait_until
from xenflow.bandwidth import PortQueues, Queue, Selector
from xenflow.qosanswers import Explanation
from xenflow.wire import Problem

pytestmark = [pytest.mark.root, pytest.mark.ovs]
M = 10**6


@pytest.fixture
def node() -> Iterator[QosNode]:
    with tempfile.TemporaryDirectory(prefix="xq", ignore_cleanup_errors=True) as directory:
        made = QosNode(Path(directory))
        try:
            made.start()
            yield made
        finally:
            made.stop()


def plan(port: str = "p1", first: int = 20, second: int = 40) -> PortQueues:
    queues = (
        Queue(15, "red", "control", M // 10, control=True, selectors=(Selector(100, pcp=7),)),
        Queue(8, "red", "", first * M, selectors=(Selector(100),)),
        Queue(16, "blue", "", second * M, 90 * M, selectors=(Selector(200),)),
    )
    return PortQueues(port, 100 * M, queues)


def talk(node: QosNode, scene: Callable[[QosClient], Awaitable[None]]) -> None:
    async def inside() -> None:
        client = await QosClient.to(node)
        try:
            await scene(client)
        finally:
            await client.close()

    asyncio.run(inside())


def shaped(node: QosNode, *facts: PortQueues) -> dict[str, str]:
    """Have a plan carried out and return the classes."""

    async def scene(client: QosClient) -> None:
        await client.plan(*facts)

    talk(node, scene)
    return node.classes()


def quantum(words: str) -> int:
    parts = words.split()
    return int(parts[parts.index("quantum") + 1])


def queue_rows(node: QosNode) -> list[dict[str, str]]:
    table = json.loads(node.vsctl("--format=json", "--columns=external_ids,other_config", "list", "queue"))
    return [dict(ids[1]) | dict(config[1]) for ids, config in table["data"]]


def test_a_plan_is_in_the_kernel_and_in_the_database_when_it_is_acknowledged(node: QosNode) -> None:
    node.start_daemon()
    classes = shaped(node, plan())
    assert {"1:9", "1:10", "1:11", "1:fffe", "1:ffff", "1:fffd"} == classes.keys()
    assert quantum(classes["1:11"]) == 2 * quantum(classes["1:9"])
    rows = queue_rows(node)
    assert {row["owner"] + row.get("class", ""): row["min-rate"] for row in rows} == {
        "red": "20000000",
        "redcontrol": "100000",
        "blue": "40000000",
    }
    assert {row["xenflow-qos"] for row in rows} == {BRIDGE}
    assert stat.S_IMODE(node.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE((node.directory / "state").stat().st_mode) == 0o700


def test_who_asks_hears_rates_and_why(node: QosNode) -> None:
    node.start_daemon()

    async def scene(client: QosClient) -> None:
        await client.plan(plan())
        status = await client.status()
        (link,) = status.links
        assert (link.port, link.state, link.capacity, link.hired) == ("p1", "shaped", 100 * M, 60 * M)
        assert {queue.id: queue.hired for queue in link.queues} == {15: M // 10, 8: 20 * M, 16: 40 * M}
        assert all(queue.guarantee >= queue.hired for queue in link.queues)
        answer = await client.ask("qos explain", port="p1")
        explained = msgspec.json.decode(answer.body, type=Explanation)
        assert any("blue" in line for line in explained.lines)
        assert "no link 'p9'" in (await client.ask("qos explain", port="p9")).error
        assert "does not know" in (await client.ask("weather")).error

    talk(node, scene)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_plan_outlives_the_daemon(node: QosNode, number: signal.Signals) -> None:
    node.start_daemon()
    classes = shaped(node, plan())
    code = node.stop_daemon(number)
    assert code == (0 if number is signal.SIGTERM else -number)
    assert node.classes() == classes
    node.run("tc", "class", "del", "dev", "p1", "classid", "1:11")
    node.start_daemon()
    wait_until(lambda: node.classes() == classes, "as before, without any server")


def test_nothing_is_made_anew_by_a_restart(node: QosNode) -> None:
    node.start_daemon()
    shaped(node, plan())
    leaves = node.run("tc", "qdisc", "show", "dev", "p1")
    node.stop_daemon(signal.SIGKILL)
    node.start_daemon()

    async def scene(client: QosClient) -> None:
        await client.plan(plan())

    talk(node, scene)
    assert node.run("tc", "qdisc", "show", "dev", "p1") == leaves


def test_quanta_hold_when_the_switch_starts_anew(node: QosNode) -> None:
    node.start_daemon()
    classes = shaped(node, plan())
    node.stop_ovs("ovs-vswitchd", signal.SIGKILL)
    assert node.classes() == classes
    node.start_switch()
    node.vsctl("add-port", BRIDGE, "late", "--", "set", "interface", "late", "type=internal")
    assert node.classes() == classes


def test_a_port_that_goes_and_comes_is_shaped_anew(node: QosNode) -> None:
    node.start_daemon()
    classes = shaped(node, plan(), plan("p2"))
    node.vsctl("del-port", BRIDGE, "p1")
    wait_until(lambda: len(queue_rows(node)) == 3, "rows of the port that went are collected")
    node.run("ip", "link", "del", "p1")
    node.add_device("p1")
    node.vsctl("add-port", BRIDGE, "p1")
    wait_until(lambda: node.classes() == classes, "shaped anew")
    assert len(queue_rows(node)) == 6


def test_classes_that_somebody_changes_are_put_right(node: QosNode) -> None:
    node.start_daemon()
    classes = shaped(node, plan())
    node.run("tc", "class", "change", "dev", "p1", "parent", "1:fffe", "classid", "1:9", "htb", "rate", "1mbit")
    wait_until(lambda: node.classes() == classes, "put right")


def test_the_database_may_be_away(node: QosNode) -> None:
    node.start_daemon()
    classes = shaped(node, plan())
    node.stop_ovs("ovsdb-server", signal.SIGKILL)
    node.run("tc", "class", "del", "dev", "p1", "classid", "1:11")
    wait_until(lambda: node.classes() == classes, "kept without the database")
    node.start_database()
    other = shaped(node, plan(first=30))
    assert quantum(other["1:11"]) * 3 == pytest.approx(quantum(other["1:9"]) * 4, abs=8)


def test_what_is_no_longer_planned_leaves_nothing(node: QosNode) -> None:
    node.start_daemon()
    shaped(node, plan(), plan("p2"))
    shaped(node)
    wait_until(lambda: "htb" not in node.qdisc("p1") + node.qdisc("p2"), "no qdisc of ours")
    wait_until(lambda: not queue_rows(node), "no row of ours")
    assert not node.vsctl("--bare", "--columns=_uuid", "list", "qos").strip()


def test_orphans_of_a_killed_daemon_are_collected(node: QosNode) -> None:
    node.start_daemon()
    shaped(node, plan(), plan("p2"))
    node.stop_daemon(signal.SIGKILL)
    (node.directory / "state" / "qos.json").unlink()
    node.start_daemon()
    shaped(node, plan("p2"))
    wait_until(lambda: "htb" not in node.qdisc("p1"), "the orphan is gone")
    wait_until(lambda: len(queue_rows(node)) == 3, "its rows are gone")
    assert "htb" in node.qdisc("p2")


def test_what_is_foreign_stays(node: QosNode) -> None:
    qos = ["--", "--id=@q", "create", "qos", "type=linux-htb", "other-config:max-rate=1000000", "queues:0=@u"]
    node.vsctl("set", "port", "p1", "qos=@q", *qos, "--", "--id=@u", "create", "queue", "other-config:min-rate=1000")
    bucket = ["rate", "1mbit", "burst", "9k", "limit", "9k"]
    node.run("tc", "qdisc", "add", "dev", "p2", "root", "handle", "5:", "tbf", *bucket)
    wait_until(lambda: "1:1" in node.classes(), "the foreign row is carried out")
    foreign, rows = node.qdisc("p1") + node.qdisc("p2"), node.vsctl("list", "qos")
    node.start_daemon()

    async def scene(client: QosClient) -> None:
        await client.plan(plan(), plan("p2"))
        links = {link.port: link for link in (await client.status()).links}
        assert {port: link.state for port, link in links.items()} == {"p1": "refused", "p2": "refused"}
        told = [message.text for message in client.heard if isinstance(message, Problem)]
        assert any("p1" in text and "linux-htb" in text for text in told)
        assert any("tc qdisc del dev p2 root" in text for text in told)

    talk(node, scene)
    assert node.qdisc("p1") + node.qdisc("p2") == foreign
    assert rows.strip() in node.vsctl("list", "qos")


@pytest.mark.skipif(DATAPATH == "system", reason="with the kernel's datapath the switch picks the queue: no filters")
def test_a_plan_that_cannot_be_leaves_the_other_links_alone(node: QosNode) -> None:
    node.start_daemon()
    classes = shaped(node, plan())

    async def scene(client: QosClient) -> None:
        selectors = tuple(Selector(100, number.to_bytes(6, "big"), 3) for number in range(2000))
        too_many = PortQueues("p2", 100 * M, (Queue(8, "red", "", M, selectors=selectors),))
        await client.plan(plan(), too_many)
        (told,) = [message.text for message in client.heard if isinstance(message, Problem)]
        assert told.startswith("p2")
        assert "selectors are more than" in told

    talk(node, scene)
    assert node.classes() == classes
    assert "htb" not in node.qdisc("p2")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("t_med_s = 0", "t_med_s"),
        ("t_med_s = nan", "t_med_s"),
        ("k_med = 0", "k_med"),
        ('policy = "generous"', "policy"),
        ('socket = "ssl:[::1]:1"', "socket"),
        ('[ovs]\nbridge = "a/b"', "bridge"),
        ("unknown = 1", "unknown"),
    ],
)
def test_bad_settings_are_told(tmp_path: Path, text: str, complaint: str) -> None:
    config = tmp_path / "qos.toml"
    config.write_text(text)
    command = [sys.executable, "-m", "qos_controller.main", "--check", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_the_example_is_good() -> None:
    example = Path(__file__).parents[2] / "deploy" / "qos.toml.example"
    command = [sys.executable, "-m", "qos_controller.main", "--check", "--config", str(example)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_after_any_kills_all_is_as_planned(node: QosNode, seed: int) -> None:
    """Guarantees stand at every moment: only what is killed is ever away; classes stay in the kernel, rates and all."""
    choice = random.Random(seed)
    node.start_daemon()
    classes = shaped(node, plan(), plan("p2"))
    for _ in range(8):
        match choice.choice(["daemon", "switch", "database", "all"]):
            case "daemon":
                node.stop_daemon(signal.SIGKILL)
                assert node.classes() == classes
                node.start_daemon()
            case "switch":
                node.stop_ovs("ovs-vswitchd", signal.SIGKILL)
                node.start_switch()
            case "database":
                node.stop_ovs("ovsdb-server", signal.SIGKILL)
                node.start_database()
            case "all":
                node.stop_daemon(signal.SIGKILL)
                node.stop_ovs("ovs-vswitchd", signal.SIGKILL)
                node.stop_ovs("ovsdb-server", signal.SIGKILL)
                node.start_daemon()
                assert node.classes() == classes
                node.start_database()
                node.start_switch()
        assert node.classes() == classes
    assert shaped(node, plan(), plan("p2")) == classes
    assert len(queue_rows(node)) == 6
    assert len(node.vsctl("--bare", "--columns=_uuid", "list", "qos").split()) == 2
    filters = node.run("tc", "filter", "show", "dev", "p1", "parent", "1:")
    assert filters.count("bytecode") == 1
