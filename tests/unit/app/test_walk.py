"""The model of a switch: look-ups, what actions do, where frames go; tests/contract holds it against the real one."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from xenflow_app import frame, routing
from xenflow_app.frame import Frame
from xenflow_app.openflow import actions, fields, nxm
from xenflow_app.openflow.fields import Subfield, whole
from xenflow_app.walk import MOST_WALKS, Tables, Walk, explore, matches

A, B, C = (b"\x02\0\0\0\0" + bytes([number]) for number in (1, 2, 3))
ROUTER = 7
Flows = dict[bytes, bytes]


def packed(text: str) -> bytes:
    return ip_address(text).packed


def packet(to: str = "10.0.0.2", *, ttl: int = 64, size: int = 84) -> Frame:
    return frame.ip((A, B), (packed("10.0.0.1"), packed(to)), ttl, size)


def flow(table: int, priority: int, acts: bytes, **matched: object) -> Flows:
    return {nxm.flow_key(table, priority, **matched): actions.value(0x5846 << 48, acts)}  # type: ignore[arg-type]


def walk(flows: Flows, start: Frame | None = None, port: int = 1) -> Walk:
    (only,) = explore(Tables(flows), start or packet(), port)
    return only


prefixes = st.tuples(st.binary(min_size=4, max_size=4), st.integers(0, 32))


@given(st.sets(prefixes, max_size=12), st.binary(min_size=4, max_size=4), st.booleans())
def test_a_look_up_is_the_highest_priority_that_matches(
    chosen: set[tuple[bytes, int]], address: bytes, mine: bool
) -> None:
    flows: Flows = dict(routing.wildcard(ROUTER, reactive=False)) | flow(30, 0, b"")
    for bits, length in chosen:
        masked = (int.from_bytes(bits, "big") >> 32 - length << 32 - length).to_bytes(4, "big")
        router = ROUTER if mine else ROUTER + 1
        flows[routing.route_key(router, masked + bytes([length]))] = routing.via_hop(router, length + 1)
    sent = packet(str(ip_address(address))).put(fields.REG2, ROUTER)
    best = max((key for key in flows if matches(key, sent)), key=lambda key: key[1:3])
    found = Tables(flows).lookup(30, sent)
    assert found is not None
    assert found.key == best


def test_a_frame_that_no_flow_takes_goes_nowhere() -> None:
    missed = walk(flow(0, 5, actions.output(2), in_port=3))
    assert [(hit.table, hit.rule) for hit in missed.hits] == [(0, None)]
    assert not missed.outputs


def test_actions_change_the_frame_and_later_outputs_see_it() -> None:
    register, pcp = whole(fields.REG4), Subfield(fields.VLAN_TCI, 13, 3)
    acts = (
        actions.output(2)
        + actions.set_vlan_vid(20)
        + actions.set_dl_src(B)
        + actions.set_dl_dst(C)
        + actions.dec_ttl()
        + actions.load(Subfield(fields.REG7, 0, 3), 5)
        + actions.move(Subfield(fields.REG7, 0, 3), pcp)
        + actions.set_queue(9)
        + actions.load(register, 3)
        + actions.output_reg(register)
        + actions.set_vlan_pcp(1)
        + actions.strip_vlan()
        + actions.output(4)
    )
    found = walk(flow(0, 1, acts)).outputs
    assert [(item.port, item.queue, item.frame.vid) for item in found] == [(2, None, None), (3, 9, 20), (4, 9, None)]
    sent = found[1].frame
    assert (sent.packed(fields.ETH_SRC), sent.packed(fields.ETH_DST), sent.get(fields.IP_TTL)) == (B, C, 63)
    assert sent.read(pcp) == 5


def test_a_frame_does_not_go_back_to_its_port_unless_told_so() -> None:
    acts = actions.output(1) + actions.output(2) + actions.output(actions.IN_PORT)
    found = walk(flow(0, 1, acts))
    assert [(item.port, item.back) for item in found.sent] == [(1, True), (2, False), (1, False)]
    acts = actions.load(whole(fields.IN_PORT), 0) + actions.output(1)
    assert [item.port for item in walk(flow(0, 1, acts)).outputs] == [1]


def test_an_expired_ttl_ends_the_actions_at_hand_only() -> None:
    flows = flow(0, 1, actions.resubmit(1) + actions.output(5)) | flow(1, 1, actions.dec_ttl() + actions.output(4))
    assert [item.port for item in walk(flows, packet(ttl=2)).outputs] == [4, 5]
    ended = walk(flows, packet(ttl=1))
    assert ended.expired
    assert [item.port for item in ended.outputs] == [5]
    arp = frame.arp_request(A, (packed("10.0.0.1"), packed("10.0.0.2")))
    assert [item.port for item in walk(flows, arp).outputs] == [4, 5]


def test_the_size_check_counts_header_and_tag() -> None:
    check = actions.check_pkt_larger(1518, Subfield(fields.REG5, 0, 1)) + actions.resubmit(1)
    flows = flow(0, 1, actions.set_vlan_vid(10) + check)
    flows |= flow(1, 2, actions.output(2), reg5=(1, 1)) | flow(1, 1, actions.output(3))
    assert [item.port for item in walk(flows, packet(size=1500)).outputs] == [3]
    assert [item.port for item in walk(flows, packet(size=1501)).outputs] == [2]


def test_every_outcome_of_a_hash_is_followed_once() -> None:
    flows = flow(0, 1, actions.multipath(8, whole(fields.REG3)) + actions.resubmit(1))
    for bucket in range(8):
        flows |= flow(1, 1, actions.output(2 if bucket < 3 else 3), reg3=bucket)
    walks = explore(Tables(flows), packet(), 1)
    assert [([item.port for item in each.outputs], each.share) for each in walks] == [([2], (3, 8)), ([3], (5, 8))]


def test_many_hashes_in_a_row_are_bounded() -> None:
    acts = actions.multipath(16, whole(fields.REG3))
    walks = explore(Tables(flow(0, 1, acts * 4 + actions.output(2))), packet(), 1)
    assert [each.share for each in walks] == [(MOST_WALKS, MOST_WALKS)]


def test_flows_in_a_circle_send_nothing() -> None:
    endless = walk(flow(0, 1, actions.output(2) + actions.resubmit(0)))
    assert endless.endless
    assert endless.outputs == []


def test_what_is_reported_learned_or_unknown_is_told() -> None:
    learn = actions.learn_drop(6, 100, 1, 1, [whole(fields.IN_PORT)])
    strange = bytes.fromhex("000a000800000000")
    found = walk(flow(0, 1, learn + actions.controller(64) + strange + actions.output(2)))
    assert found.reported
    assert found.unknown == [strange]
    assert [item.port for item in found.outputs] == [2]


def test_registers_are_empty_where_a_frame_enters() -> None:
    found = walk(flow(0, 1, actions.output(2), reg3=0), packet().put(fields.REG3, 5))
    assert len(found.outputs) == 1


def test_frames_as_text() -> None:
    tagged = frame.tagged(packet(), 20)
    assert str(tagged) == ("ICMP 10.0.0.1 > 10.0.0.2, TTL 64, 84 bytes, 02:00:00:00:00:01 > 02:00:00:00:00:02, VLAN 20")
    arp = frame.arp_request(A, (packed("10.0.0.1"), packed("10.0.0.2")))
    assert str(arp) == "ARP 10.0.0.1 > 10.0.0.2, 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff"
    assert str(Frame(frame.ethernet(A, B, 0x88CC))) == "type 0x88cc, 02:00:00:00:00:01 > 02:00:00:00:00:02"
