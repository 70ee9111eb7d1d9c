"""Queues on a network in memory: on which ports, who is admitted, what a move and a failure do to them."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qos_controller.plan import link_plan, problems
from qos_controller.policy import decide
from tests.unit.app.network import World, mac
from tests.unit.app.test_queries import query_raw
from xenflow.answers import Shares
from xenflow.bandwidth import CONTROL_CLASS, Match, PortQueues, Queue, Selector, TrafficClass, malformed_queues
from xenflow.model import Machine, Network, Port
from xenflow.qosanswers import Explanation
from xenflow.wire import Define, Problem, Progress
from xenflow_app import classes
from xenflow_app.disguise import alias
from xenflow_app.migration import State
from xenflow_app.openflow import actions, nxm
from xenflow_app.pipeline import Table
from xenflow_app.queries import ask

CHAIN = (("a", 1, "b", 1), ("b", 2, "c", 1))
RING = (*CHAIN, ("c", 2, "a", 2))
M = 1_000_000
GATEWAY = bytes([10, 0, 0, 9])
VOICE = TrafficClass("voice", 2 * M, 0, (Match(dscp=46),))
BULK = TrafficClass("bulk", 58 * M, 0, (Match(dscp=8),))


def hire(world: World, node: str, name: str, rate: int, **more: object) -> None:
    """The router's definition says what it has hired."""
    server = world.servers[node]
    machine = server.node.facts.of(Machine.KIND)[name.encode()]
    server.node.put(msgspec.structs.replace(machine, rate=rate, **more))
    world.settle()


def limit(world: World, capacity: int) -> None:
    """All trunks carry this."""
    for server in world.servers.values():
        for port in list(server.node.facts.of(Port.KIND).values()):
            if isinstance(port, Port) and port.kind == "trunk":
                server.node.put(msgspec.structs.replace(port, capacity=capacity))


def network(cables: tuple[tuple[str, int, str, int], ...] = CHAIN, capacity: int = 100 * M) -> World:
    """r1 on a, r2 on b, both in the network core; the host h1 on c."""
    world = World("abc", cables)
    limit(world, capacity)
    world.network("core", 30)
    world.network("edge", 40)
    world.router("a", "r1", {"core": "10.0.0.1/24"}, 101)
    world.router("b", "r2", {"core": "10.0.0.2/24"}, 111)
    world.host("c", "h1", "core", GATEWAY, 200)
    return world


def queues(world: World, node: str) -> dict[str, dict[tuple[str, str], Queue]]:
    facts = world.servers[node].queues.facts.of(PortQueues.KIND).values()
    return {
        fact.port: {(queue.owner, queue.name): queue for queue in fact.queues}
        for fact in facts
        if isinstance(fact, PortQueues)
    }


def main(world: World, node: str, owner: str) -> dict[str, int]:
    """What the owner is sure of, by port."""
    return {port: found[owner, ""].hired for port, found in queues(world, node).items() if (owner, "") in found}


def queue_flows(world: World, node: str) -> dict[bytes, bytes]:
    return {key: value for key, value in world.servers[node].switch.flows.items() if key[0] == Table.QUEUE}


def test_nobody_hired_anything_so_there_are_no_queues() -> None:
    world = network()
    world.start()
    assert all(not queues(world, node) for node in "abc")
    assert all(server.queues.in_sync for server in world.servers.values())
    assert all(len(queue_flows(world, node)) == 1 for node in "abc")


def test_a_router_has_queues_where_its_frames_leave_and_nowhere_else() -> None:
    world = network()
    world.start()
    hire(world, "a", "r1", 20 * M)
    assert main(world, "a", "r1") == {"t1": 20 * M}
    assert main(world, "b", "r1") == {"t2": 20 * M}, "on its way through b, not back"
    assert main(world, "c", "r1") == {}
    hire(world, "b", "r2", 40 * M)
    assert main(world, "b", "r2") == {"t1": 40 * M, "t2": 40 * M}
    hire(world, "a", "r1", 0)
    assert main(world, "a", "r1") == main(world, "b", "r1") == {}


def test_frames_are_told_by_network_source_and_class() -> None:
    world = network()
    world.start()
    hire(world, "a", "r1", 20 * M, classes=(VOICE,), ceiling=50 * M)
    found = queues(world, "b")["t2"]
    default, voice, control = (found["r1", name] for name in ("", "voice", "control"))
    assert (default.hired, voice.hired, control.control) == (18 * M, 2 * M, True)
    assert (default.ceiling, voice.ceiling) == (50 * M, 50 * M)
    moving = alias(world.controller.nodes["a"].routers["r1"].number)
    assert default.selectors == (Selector(30, mac(101)), Selector(30, moving))
    assert voice.selectors == (Selector(30, mac(101), 1), Selector(30, moving, 1))
    assert control.selectors == (Selector(30, mac(101), CONTROL_CLASS), Selector(30, moving, CONTROL_CLASS))
    flows = queue_flows(world, "b")
    key = nxm.flow_key(Table.QUEUE, 120, reg0=30, dl_src=mac(101), vlan_tci=(0x1000 | 1 << 13, 0xF000))
    assert flows[key][12:] == actions.set_queue(voice.id) + actions.resubmit(Table.EGRESS)
    chosen = nxm.flow_key(Table.CLASS, 29999, reg0=30, dl_src=mac(101), dl_type=nxm.ETH_IPV6, nw_tos=46 << 2)
    assert world.servers["a"].switch.flows[chosen][12:] == actions.set_vlan_pcp(1) + actions.resubmit(Table.LINK)


def test_control_borrows_a_little_and_never_the_link() -> None:
    """It is served before all others: what looks like a routing protocol must not get what is idle."""
    world = network()
    world.start()
    hire(world, "a", "r1", 20 * M)
    for owner in ("r1", "r2", "core"):
        control = queues(world, "b")["t2"][owner, "control"]
        assert (control.hired, control.ceiling) == (128_000, 8 * 128_000)
    assert not malformed_queues(PortQueues("t2", 100 * M, tuple(queues(world, "b")["t2"].values())))


def test_a_vif_with_a_capacity_has_queues_told_without_tags() -> None:
    world = network()
    world.start()
    hire(world, "a", "r1", 20 * M, classes=(VOICE,))
    server = world.servers["c"]
    machine = server.node.facts.of(Machine.KIND)[b"h1"]
    assert isinstance(machine, Machine)
    interface = msgspec.structs.replace(machine.interfaces[0], capacity=50 * M)
    server.node.put(msgspec.structs.replace(machine, interfaces=(interface,)))
    world.settle()
    found = queues(world, "c")["h1"]
    assert found["r1", ""].selectors[0] == Selector(0, mac(101))
    assert found["r1", "voice"].selectors[0] == Selector(0, mac(101), -1, Match(dscp=46))
    assert Selector(0, mac(101), -1, Match(protocol=89)) in found["r1", "control"].selectors


def test_an_access_port_has_queues_told_by_its_own_tags() -> None:
    world = network()
    world.access("c", 7, {77: "core", 78: "edge"})
    world.access("c", 8, {0: "core"})
    for name in (b"x7", b"x8"):
        port = world.servers["c"].node.facts.of(Port.KIND)[name]
        world.servers["c"].node.put(msgspec.structs.replace(port, capacity=50 * M))
    world.start()
    hire(world, "a", "r1", 20 * M, classes=(VOICE,))
    found = queues(world, "c")
    assert found["x7"]["r1", ""].selectors[0] == Selector(77, mac(101))
    assert found["x7"]["r1", "voice"].selectors[0] == Selector(77, mac(101), 1)
    assert found["x8"]["r1", "voice"].selectors[0] == Selector(0, mac(101), -1, Match(dscp=46))


def test_bridged_traffic_of_a_network_has_its_queue() -> None:
    world = network()
    for server in world.servers.values():
        server.node.put(Network("core", 30, 5 * M))
    world.start()
    assert main(world, "b", "core") == {"t1": 5 * M, "t2": 5 * M}
    assert queues(world, "b")["t1"]["core", ""].selectors == (Selector(30),)
    assert queues(world, "b")["t2"]["r1", "control"].control, "who hired nothing keeps its adjacencies"


def test_who_does_not_fit_is_refused_and_the_others_stay() -> None:
    world = network()
    world.start()
    hire(world, "a", "r1", 70 * M)
    before = queues(world, "b")["t2"]["r1", ""]
    hire(world, "b", "r2", 40 * M)
    assert queues(world, "b")["t2"]["r1", ""] == before
    assert main(world, "b", "r2") == {}
    assert "70 Mbit/s of 100 Mbit/s are hired already" in world.controller.queues.admission.refused["router r2"]
    problems = [item.text for item in world.servers["b"].told if isinstance(item, Problem)]
    assert any("40 Mbit/s do not fit link b:t2" in text for text in problems)
    hire(world, "a", "r1", 60 * M)
    assert main(world, "b", "r2") == {}, "control has the rest"
    hire(world, "a", "r1", 59 * M)
    assert main(world, "b", "r2") == {"t1": 40 * M, "t2": 40 * M}, "there is room now"


@pytest.mark.parametrize(
    ("rates", "sets"),
    [
        ((60 * M, 40 * M), ()),
        ((60 * M, 39_616_000), ()),
        ((60 * M, 39_616_001), ()),
        ((60 * M, 39_616_000), (VOICE, BULK)),
    ],
)
def test_what_is_admitted_is_kept_by_who_shapes(rates: tuple[int, int], sets: tuple[TrafficClass, ...]) -> None:
    """The links have 100 Mbit/s, of which the control queues of r1, r2 and the network have three times 128 kbit/s."""
    world = network()
    world.start()
    for (node, name), rate in zip((("a", "r1"), ("b", "r2")), rates, strict=True):
        hire(world, node, name, rate, classes=sets if name == "r1" else ())
    admission = world.controller.queues.admission
    assert admission.admitted == {"router r1"} | ({"router r2"} if sum(rates) <= 99_616_000 and not sets else set())
    assert not admission.broken
    for fact in world.servers["b"].queues.facts.of(PortQueues.KIND).values():
        assert isinstance(fact, PortQueues)
        assert not list(problems(link_plan(fact)))
        assert decide(link_plan(fact), {}, {}).kept == 1


def test_control_of_many_leaves_most_of_a_small_link_to_those_who_hired() -> None:
    world = network(capacity=M // 2)
    for number in range(5):
        world.router("a", f"x{number}", {"core": f"10.0.0.{10 + number}/24"}, 300 + number)
    world.start()
    hire(world, "a", "r1", 3 * M // 8)
    found = queues(world, "a")["t1"]
    assert sum(queue.hired for queue in found.values() if queue.control) <= M // 8
    assert not malformed_queues(PortQueues("t1", M // 2, tuple(found.values())))
    assert main(world, "a", "r1") == {"t1": 3 * M // 8}


def test_a_router_that_comes_where_nothing_is_left_breaks_a_promise(caplog: pytest.LogCaptureFixture) -> None:
    """Its control queue is not refused, and who is admitted stays so; it is said."""
    world = network()
    world.start()
    hire(world, "a", "r1", 60 * M)
    hire(world, "b", "r2", 39_616_000)
    world.router("b", "r3", {"core": "10.0.0.3/24"}, 121)
    world.run(1.0)
    assert {item.place for item in world.controller.queues.admission.broken} == {("b", "t2")}
    assert "512 kbit/s of that control" in caplog.text


def test_a_link_that_fails_breaks_a_promise_loudly_and_takes_nothing_away(caplog: pytest.LogCaptureFixture) -> None:
    world = network(RING)
    world.start()
    hire(world, "a", "r1", 60 * M)
    hire(world, "b", "r2", 60 * M)
    assert not world.controller.queues.admission.broken
    trunk = world.servers["a"].node.facts.of(Port.KIND)[b"t2"]
    world.servers["a"].node.put(msgspec.structs.replace(trunk, alive=False))
    world.run(1.0)
    (broken,) = [item for item in world.controller.queues.admission.broken if item.place == ("b", "t2")]
    assert broken.hired == 120 * M
    assert "promise broken link=b:t2" in caplog.text
    assert main(world, "b", "r1")["t2"] == main(world, "b", "r2")["t2"] == 60 * M


def test_a_controller_that_starts_keeps_who_was_admitted() -> None:
    world = network()
    world.start()
    hire(world, "b", "r2", 70 * M)
    hire(world, "a", "r1", 40 * M)
    before = {node: queues(world, node) for node in "abc"}
    flows = {node: dict(world.servers[node].switch.flows) for node in "abc"}
    assert "router r1" in world.controller.queues.admission.refused
    world.start()
    assert {node: queues(world, node) for node in "abc"} == before
    assert {node: dict(world.servers[node].switch.flows) for node in "abc"} == flows
    assert "router r1" in world.controller.queues.admission.refused


def test_a_server_that_comes_back_is_told_everything() -> None:
    world = network()
    world.start()
    hire(world, "a", "r1", 20 * M)
    world.disconnect("a")
    hire(world, "b", "r2", 30 * M)
    world.connect("a")
    world.run(1.0)
    assert world.servers["a"].queues.in_sync
    assert world.controller.queues.applied("a")
    world.servers["b"].shapes = False
    hire(world, "b", "r2", 31 * M)
    assert not world.controller.queues.applied("b")


def order(world: World) -> int:
    """Order r1 to b, where the server takes its definition; return the order's number."""
    assert world.controller.moves.start("r1", "b") == ""
    world.settle()
    define = next(item for item in world.servers["b"].told if isinstance(item, Define))
    peer = world.servers["b"].peer
    assert peer is not None
    world.controller.peer_message(peer, Progress(define.number, True), world.now)
    return define.number


def test_a_move_has_its_queues_before_it_and_none_behind_it() -> None:
    world = network(RING)
    world.start()
    hire(world, "a", "r1", 20 * M)
    before = {node: main(world, node, "r1") for node in "abc"}
    number = order(world)
    world.settle()
    assert main(world, "b", "r1") == {"t1": 20 * M, "t2": 20 * M}
    assert main(world, "a", "r1"), "it is still there"
    assert world.controller.moves.abort("r1") == ""
    source = world.servers["a"].peer
    assert source is not None
    world.controller.peer_message(source, Progress(number, True, "cancelled"), world.now)
    world.run(1.0)
    assert "r1" not in world.controller.moves.under_way
    assert {node: main(world, node, "r1") for node in "abc"} == before


def test_a_move_that_goes_on_without_its_queues_says_so(caplog: pytest.LogCaptureFixture) -> None:
    world = network(RING)
    world.start()
    hire(world, "a", "r1", 20 * M)
    world.servers["b"].shapes = False
    order(world)
    world.run(2.5)
    assert world.controller.moves.under_way["r1"].state is State.INSTALLING
    world.run(1.0)
    assert world.controller.moves.under_way["r1"].state is State.MOVING
    (said,) = [record.getMessage() for record in caplog.records if "without its queues" in record.getMessage()]
    assert said.endswith("not confirmed within 3 s by the servers of nodes b")


def test_a_move_to_where_its_rate_does_not_fit_is_refused() -> None:
    world = network(RING)
    world.start()
    hire(world, "a", "r1", 20 * M)
    hire(world, "b", "r2", 90 * M)
    assert "router r1" not in world.controller.queues.admission.refused
    assert "20 Mbit/s do not fit link b:t" in world.controller.queues.why_not("r1", "b")
    assert "20 Mbit/s do not fit link b:t" in world.controller.moves.start("r1", "b")


def asked(world: World, **arguments: str) -> Shares:
    (found,) = query_raw(world, "qos", **arguments)
    assert not found.error, found.error
    return msgspec.json.decode(found.body, type=Shares)


def test_operators_see_all_queues() -> None:
    world = network()
    world.start()
    hire(world, "a", "r1", 70 * M)
    hire(world, "b", "r2", 40 * M)
    answer = asked(world)
    links = {node: [link.port for link in status.links] for node, status in answer.nodes.items()}
    assert links == {"a": ["t1"], "b": ["t2"]}
    assert [(queue.owner, queue.name, queue.hired) for queue in answer.nodes["a"].links[0].queues][:2] == [
        ("r1", "control", 128_000),
        ("r1", "", 70 * M),
    ]
    assert list(answer.refused) == ["router r2"]
    assert list(asked(world, link="b:t2").nodes) == ["b"]
    (explained,) = query_raw(world, "qos explain", link="b:t2")
    assert msgspec.json.decode(explained.body, type=Explanation).lines == ["t2: nothing to write"]
    (refused,) = query_raw(world, "qos", link="b:t9")
    assert refused.error == "link b:t9 has no queues; on node b these have: b:t2"


def test_a_node_that_does_not_answer_is_named() -> None:
    world = network()
    world.start()
    hire(world, "a", "r1", 20 * M)
    world.servers["b"].shapes = False
    found: list[Shares] = []
    controller = world.controller
    ask(controller, "qos", {}, lambda body, error: found.append(msgspec.json.decode(body, type=Shares)))
    world.settle()
    assert not found
    world.run(2.5)
    (answer,) = found
    assert answer.silent == {"b": "no answer within 2 s"}
    assert list(answer.nodes) == ["a"]


@given(st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted))
def test_blocks_of_ports(ports: list[int]) -> None:
    first, last = ports
    found = list(classes.blocks(first, last))
    covered = [(value, value + 0xFFFF - mask) for value, mask in found]
    assert covered[0][0] == first
    assert covered[-1][1] == last
    assert all(end + 1 == start for (_, end), (start, _) in itertools.pairwise(covered))
    assert all(value & mask == value for value, mask in found)
    assert len(found) <= 30
