"""Announcements that are forged, replayed or not asked for: ignored, counted, logged now and then; the move goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
import pytest

from tests.unit.app.moving import (
    announce,
    answer,
    begin,
    carry,
    finish,
    machine,
    number_of,
    state,
    told,
    way,
    world,
)
from tests.unit.app.network import World, mac
from xenflow.announcement import Announcement, build
from xenflow.answers import Status
from xenflow.errors import Fault
from xenflow.model import ANNOUNCEMENT_MAC
from xenflow.wire import Announce, Refused
from xenflow_app.announcements import READ_S, Reason, why_not
from xenflow_app.flowtable import cookie
from xenflow_app.migration import State
from xenflow_app.openflow import actions, nxm
from xenflow_app.openflow.values import FlowRemoved, PacketIn, RemovedReason
from xenflow_app.pipeline import RESERVED_PRIORITY, Kind, Table
from xenflow_app.queries import answer as ask
from xenflow_app.queries.status import MAX_TURNED_AWAY

OLD_EPOCH, OTHER_KEY = 5, bytes(32)
VIF, SECOND_VIF = 301, 302
HOST, TRUNK, ACCESS = 200, 1, 60


@pytest.fixture
def net() -> World:
    """r1 has come from a to b, and b waits for its announcement; on b there is an access port, on c a host."""
    made = world()
    made.access("b", ACCESS, {0: "core"})
    made.settle()
    answer(made, "b", begin(made))
    made.report("b", carry(made))
    assert state(made) == State.ANNOUNCING
    return made


def order(net: World) -> Announce:
    asked = told(net, "b", Announce)[-1]
    assert isinstance(asked, Announce)
    return asked


def say(net: World, node: str, port: int, frame: bytes, table: int = Table.ADMISSION, times: int = 1) -> None:
    for _ in range(times):
        net.say(node, PacketIn(table, 0, 1, port, (0,) * 8, frame, len(frame)))


def frame(net: World, address: bytes = mac(101), *, key: bytes = b"", epoch: int = 0) -> bytes:
    asked = order(net)
    return build(Announcement(address, bytes([10, 0, 0, 1]), epoch or asked.epoch), key or asked.key)


def bare(net: World) -> bytes:
    return frame(net)[:42] + bytes(18)


def status(net: World) -> Status:
    body, error = ask(net.controller, "status", {})
    assert not error
    return msgspec.json.decode(body, type=Status)


FORGERIES: dict[str, tuple[str, int, Callable[[World], bytes], Reason]] = {
    "bare": ("b", VIF, bare, Reason.UNPROVEN),
    "another key": ("b", VIF, lambda net: frame(net, key=OTHER_KEY), Reason.WRONG),
    "old epoch": ("b", VIF, lambda net: frame(net, key=OTHER_KEY, epoch=OLD_EPOCH), Reason.EPOCH),
    "old epoch, the move's key": ("b", VIF, lambda net: frame(net, epoch=OLD_EPOCH), Reason.EPOCH),
    "the other interface's": ("b", VIF, lambda net: frame(net, mac(102)), Reason.WRONG),
    "somebody's MAC": ("b", VIF, lambda net: frame(net, mac(200)), Reason.WRONG),
    "host's vif": ("c", HOST, frame, Reason.NOT_AWAITED),
    "trunk of the target": ("b", TRUNK, frame, Reason.NOT_AWAITED),
    "access port of the target": ("b", ACCESS, frame, Reason.NOT_AWAITED),
    "the source": ("a", 101, frame, Reason.NOT_AWAITED),
    "a port that is not known": ("b", 999, frame, Reason.NOT_AWAITED),
    "half a frame": ("b", VIF, lambda net: frame(net)[:50], Reason.UNPROVEN),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_thousand_of_each_change_nothing_and_the_move_completes(
    net: World, forgery: str, caplog: pytest.LogCaptureFixture
) -> None:
    node, port, make, reason = FORGERIES[forgery]
    ways = [way(net, name) for name in "abc"]
    flow_mods = [server.switch.flow_mods for server in net.servers.values()]
    with caplog.at_level(logging.WARNING):
        say(net, node, port, make(net), times=1000)
    assert state(net) == State.ANNOUNCING
    assert [way(net, name) for name in "abc"] == ways
    assert [server.switch.flow_mods for server in net.servers.values()] == flow_mods
    assert len(caplog.records) == 1
    (refusal,) = status(net).ignored
    assert (refusal.count, str(reason) in refusal.text, refusal.text.startswith(f"{node}:")) == (1000, True, True)
    announce(net)
    finish(net)
    assert (state(net), way(net, "c")) == (State.DONE, actions.output(1))


def test_first_packets_and_flows_that_age_while_a_move_waits_change_only_exact_flows() -> None:
    net = world(reactive=True)
    answer(net, "b", begin(net))
    net.report("b", carry(net))
    assert state(net) == State.ANNOUNCING
    table = net.servers["b"].switch.flows
    before = dict(table)
    regs = (40, 2, number_of(net), 0, 0, 0, 0, 0)
    for last in range(50):
        header = bytes.fromhex("4500001c0000000040110000") + bytes([10, 0, 1, 9, 10, 9, 0, last])
        packet = mac(102) + mac(201) + bytes.fromhex("0800") + header + bytes(8)
        net.say("b", PacketIn(Table.EXACT, 0, 0, HOST, regs, packet, len(packet)))
    made = table.keys() - before.keys()
    assert (len(made), len(net.servers["b"].switch.packets)) == (50, 50)
    for key in made:
        del table[key]
        of_r1 = cookie(Kind.EXACT, number_of(net))
        net.say("b", FlowRemoved(key, of_r1, RemovedReason.IDLE_TIMEOUT, 1, 1))
    assert (table, state(net)) == (before, State.ANNOUNCING)
    exact = net.controller.nodes["b"].routers["r1"].exact
    assert exact is not None
    assert exact.count == 0
    announce(net)
    finish(net)
    assert (state(net), way(net, "c")) == (State.DONE, actions.output(1))


def test_without_a_move_an_announcement_does_nothing() -> None:
    net = world()
    before = [way(net, name) for name in "abc"]
    say(net, "a", 101, build(Announcement(mac(101), bytes([10, 0, 0, 1]), 7), OTHER_KEY), times=10)
    assert [way(net, name) for name in "abc"] == before
    assert [(item.text, item.count) for item in status(net).ignored] == [(f"a:r1-1: {Reason.NOT_AWAITED}", 10)]
    assert not net.controller.moves.under_way


def test_what_was_announced_in_one_move_is_nothing_in_the_next(net: World) -> None:
    """Each frame of the first move is replayed while the next one waits for its own."""
    old = [frame(net), frame(net, mac(102))]
    announce(net)
    finish(net)
    assert net.controller.moves.start("r1", "a") == ""
    net.controller.tick(net.now)
    net.settle()
    definition = machine(net)
    outbox = net.unplug("b", "r1", moved=True)
    net.plug("a", definition, 101)
    net.report("a", outbox)
    for port, replayed in zip((101, 102), old, strict=True):
        say(net, "a", port, replayed, times=100)
    assert state(net) == State.ANNOUNCING
    assert status(net).ignored[0].text == f"a:r1-1: {Reason.EPOCH}"
    fresh = told(net, "a", Announce)[-1]
    assert isinstance(fresh, Announce)
    for port, address in ((101, mac(101)), (102, mac(102))):
        say(net, "a", port, build(Announcement(address, bytes(4), fresh.epoch), fresh.key))
    finish(net)
    assert state(net) == State.DONE


def test_what_is_heard_again_counts_once_and_is_not_ignored(net: World) -> None:
    say(net, "b", VIF, frame(net), times=5)
    assert state(net) == State.ANNOUNCING  # the other interface is still silent
    say(net, "b", SECOND_VIF, frame(net, mac(102)))
    assert state(net) != State.ANNOUNCING
    assert net.controller.ignored.total == 0


def test_nobody_learns_the_reserved_address(net: World) -> None:
    """Admission drops such frames; even a switch that reported one would not be believed."""
    forged = mac(1) + ANNOUNCEMENT_MAC + bytes(50)
    regs = (30, 0, 0, 0, 0, 0, 0, 0)
    net.say("b", PacketIn(Table.LEARN_LIMIT, 0, 0, ACCESS, regs, forged, len(forged)))
    assert net.controller.fabric.ways.location(30, ANNOUNCEMENT_MAC) is None
    assert not net.controller.nodes["b"].learned
    good = mac(1) + mac(700) + bytes(50)
    net.say("b", PacketIn(Table.LEARN_LIMIT, 0, 0, ACCESS, regs, good, len(good)))
    assert net.controller.fabric.ways.location(30, mac(700)) is not None


def test_what_switches_drop_is_read_and_counted_since_we_know_them(
    net: World, caplog: pytest.LogCaptureFixture
) -> None:
    to = nxm.flow_key(Table.ADMISSION, RESERVED_PRIORITY, dl_dst=ANNOUNCEMENT_MAC)
    by = nxm.flow_key(Table.ADMISSION, RESERVED_PRIORITY, dl_src=ANNOUNCEMENT_MAC)
    counters = net.servers["c"].switch.counters
    assert {to, by} <= net.servers["c"].switch.flows.keys()
    counters[to] = 500
    net.run(READ_S + 1)
    assert status(net).ignored[-1].count == 500
    with caplog.at_level(logging.WARNING, "xenflow.tally"):
        for _ in range(3):
            counters[to] += 1000
            counters[by] = counters.get(by, 0) + 10
            net.run(READ_S + 1)
    found = {item.text: item.count for item in status(net).ignored}
    assert found == {
        "c: frames from aa:aa:aa:aa:aa:aa, dropped by the switch": 30,
        "c: frames to aa:aa:aa:aa:aa:aa, dropped by the switch": 3500,
    }
    assert len(caplog.records) == 2
    counters[to] = 7  # the switch has been started anew
    net.run(READ_S + 1)
    assert found | {"c: frames to aa:aa:aa:aa:aa:aa, dropped by the switch": 3507} == {
        item.text: item.count for item in status(net).ignored
    }


def test_what_others_have_turned_away_is_shown(net: World) -> None:
    peer = net.servers["c"].peer
    assert peer is not None
    net.controller.watch_door("ssl:app", {Fault.CERTIFICATE: 2})
    net.controller.peer_message(peer, Refused({f"kind {number:04}": 1 for number in range(5000)}), net.now)
    shown = status(net).turned_away
    assert (shown[0].text, shown[0].count) == ("controller, ssl:app: certificate", 2)
    assert (shown[1].text, len(shown)) == ("node c, kind 0000", 1 + MAX_TURNED_AWAY)
    net.controller.peer_message(peer, Refused({"router r1: the announcement's MAC address": 9}), net.now)
    assert [item.text for item in status(net).turned_away[1:]] == ["node c, router r1: the announcement's MAC address"]


def test_an_announcement_counts_for_its_interface_key_and_epoch_only() -> None:
    key, said = b"k" * 32, Announcement(mac(1), bytes(4), 9)
    assert why_not(build(said, key), mac(1), key, 9) is None
    assert why_not(build(said, key), mac(2), key, 9) == Reason.WRONG
    assert why_not(build(said, key), mac(1), b"l" * 32, 9) == Reason.WRONG
    assert why_not(build(said, key), mac(1), key, 10) == Reason.EPOCH
    assert why_not(b"", mac(1), key, 9) == Reason.UNPROVEN
