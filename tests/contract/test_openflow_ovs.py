"""Our encoder and a real Open vSwitch agree: what is installed is what a dump returns, byte for byte."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.private_ovs import PrivateSwitch, SwitchClient, private_switch
from xenflow_app.openflow import actions, fields, messages, nxm, text
from xenflow_app.openflow.fields import Subfield, whole
from xenflow_app.openflow.messages import AggregateStats, Command, ErrorMessage, FlowRemoved, PacketIn, PortStats

pytestmark = [pytest.mark.root, pytest.mark.ovs]

COOKIE = 0x5866 << 48 | 7
MAC_1, MAC_2 = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ANNOUNCEMENT = b"\xaa" * 6
GROUP = b"\x01" + bytes(5)


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


LEARN = actions.learn_drop(0, 65200, 1, COOKIE, [whole(fields.IN_PORT), whole(fields.ETH_DST)])

FLOWS: list[tuple[bytes, bytes, str]] = [
    (
        nxm.match(in_port=1, dl_type=nxm.ETH_IP, dl_src=MAC_1, nw_src=packed("10.0.0.1")),
        actions.load(whole(fields.REG0), 10)
        + actions.move(whole(fields.IN_PORT), Subfield(fields.REG1, 0, 16))
        + actions.set_vlan_vid(10)
        + actions.resubmit(10),
        "ip,in_port=1,dl_src=02:00:00:00:00:01,nw_src=10.0.0.1 "
        "actions=load:0xa->NXM_NX_REG0[],move:NXM_OF_IN_PORT[]->NXM_NX_REG1[0..15],mod_vlan_vid:10,resubmit(,10)",
    ),
    (nxm.match(in_port=1, vlan_tci=(0x1000, 0x1000)), b"", "in_port=1,vlan_tci=0x1000/0x1000 actions=drop"),
    (
        nxm.match(vlan_tci=(0x1000, 0x1000), dl_type=nxm.ETH_VLAN),
        b"",
        "vlan_tci=0x1000/0x1000,dl_type=0x8100 actions=drop",
    ),
    (
        nxm.match(vlan_tci=(0x1000, 0x1000), dl_type=nxm.ETH_QINQ),
        b"",
        "vlan_tci=0x1000/0x1000,dl_type=0x88a8 actions=drop",
    ),
    (
        nxm.match(in_port=11, vlan_tci=(0x100A, 0x1FFF)),
        actions.output(11) + actions.output(12) + actions.strip_vlan() + actions.output(1),
        "in_port=11,dl_vlan=10 actions=output:11,output:12,strip_vlan,output:1",
    ),
    (nxm.match(vlan_tci=(0, 0x1FFF)), actions.drop(), "vlan_tci=0x0000/0x1fff actions=drop"),
    (nxm.match(vlan_tci=0), actions.drop(), "vlan_tci=0x0000 actions=drop"),
    (
        nxm.match(dl_type=nxm.ETH_IPV6, nw_ttl=1),
        actions.strip_vlan() + actions.output(5),
        "ipv6,nw_ttl=1 actions=strip_vlan,output:5",
    ),
    (nxm.match(dl_type=nxm.ETH_IP, nw_ttl=0), actions.output(5), "ip,nw_ttl=0 actions=output:5"),
    (
        nxm.match(reg2=1, dl_type=nxm.ETH_IP, nw_dst=(packed("10.1.0.0"), 16)),
        actions.check_pkt_larger(1518, Subfield(fields.REG5, 0, 1)) + actions.resubmit(45),
        "ip,reg2=0x1,nw_dst=10.1.0.0/16 actions=check_pkt_larger(1518)->NXM_NX_REG5[0],resubmit(,45)",
    ),
    (
        nxm.match(reg2=1, dl_type=nxm.ETH_IPV6, ipv6_dst=(packed("2001:db8::"), 32)),
        actions.load(whole(fields.REG3), 7) + actions.resubmit(40),
        "ipv6,reg2=0x1,ipv6_dst=2001:db8::/32 actions=load:0x7->NXM_NX_REG3[],resubmit(,40)",
    ),
    (
        nxm.match(dl_type=nxm.ETH_IP, reg3=9),
        actions.multipath(64, Subfield(fields.REG3, 0, 16), 50),
        "ip,reg3=0x9 actions=multipath(symmetric_l3,50,hrw,64,0,NXM_NX_REG3[0..15])",
    ),
    (
        nxm.match(reg3=7),
        actions.set_dl_src(MAC_1)
        + actions.set_dl_dst(MAC_2)
        + actions.set_vlan_vid(20)
        + actions.load(whole(fields.REG0), 20)
        + actions.dec_ttl()
        + actions.load(whole(fields.IN_PORT), 0)
        + actions.resubmit(20),
        "reg3=0x7 actions=mod_dl_src:02:00:00:00:00:01,mod_dl_dst:02:00:00:00:00:02,mod_vlan_vid:20,"
        "load:0x14->NXM_NX_REG0[],dec_ttl,load:0->NXM_OF_IN_PORT[],resubmit(,20)",
    ),
    (
        nxm.match(reg0=(4, 0xFF)),
        actions.set_queue(5)
        + actions.move(Subfield(fields.REG7, 0, 3), Subfield(fields.VLAN_TCI, 13, 3))
        + actions.output_reg(whole(fields.REG4)),
        "reg0=0x4/0xff actions=set_queue:5,move:NXM_NX_REG7[0..2]->NXM_OF_VLAN_TCI[13..15],output:NXM_NX_REG4[]",
    ),
    (
        nxm.match(reg0=5),
        actions.set_vlan_pcp(3) + actions.output(actions.IN_PORT) + actions.output_reg(Subfield(fields.REG6, 0, 16)),
        "reg0=0x5 actions=mod_vlan_pcp:3,IN_PORT,output:NXM_NX_REG6[0..15]",
    ),
    (
        nxm.match(
            in_port=1, dl_type=nxm.ETH_ARP, arp_op=2, dl_src=MAC_1, dl_dst=ANNOUNCEMENT, arp_spa=packed("10.0.0.1"),
            arp_sha=MAC_1,
        ),
        actions.controller(),
        "arp,in_port=1,dl_src=02:00:00:00:00:01,dl_dst=aa:aa:aa:aa:aa:aa,arp_spa=10.0.0.1,arp_op=2,"
        "arp_sha=02:00:00:00:00:01 actions=CONTROLLER:65535",
    ),
    (nxm.match(dl_dst=ANNOUNCEMENT), b"", "dl_dst=aa:aa:aa:aa:aa:aa actions=drop"),
    (
        nxm.match(in_port=9),
        LEARN + actions.controller(64),
        f"in_port=9 actions=learn(table=0,hard_timeout=1,priority=65200,cookie={COOKIE:#x},NXM_OF_IN_PORT[],"
        "NXM_OF_ETH_DST[]),CONTROLLER:64",
    ),
    (
        nxm.match(in_port=8),
        actions.controller(0xFFFF, actions.Reason.NO_MATCH),
        "in_port=8 actions=controller(reason=no_match)",
    ),
    (
        nxm.match(in_port=7),
        actions.controller(128, actions.Reason.NO_MATCH, 5),
        "in_port=7 actions=controller(reason=no_match,max_len=128,id=5)",
    ),
    (
        nxm.match(
            dl_type=nxm.ETH_IPV6, nw_proto=nxm.ICMP6, icmp6_type=136, icmp6_code=0, nd_target=packed("fe80::1"),
            nd_tll=MAC_1, in_port=3, reg1=(5, 0xFF), nw_ttl=255,
        ),
        actions.resubmit(2),
        "icmp6,reg1=0x5/0xff,in_port=3,nw_ttl=255,icmp_type=136,icmp_code=0,nd_target=fe80::1,"
        "nd_tll=02:00:00:00:00:01 actions=resubmit(,2)",
    ),
    (
        nxm.match(
            dl_type=nxm.ETH_IPV6, nw_proto=nxm.ICMP6, icmp6_type=135, nd_target=packed("fe80::1"), nd_sll=MAC_1,
            ipv6_src=(packed("fe80::"), 64), ipv6_dst=packed("ff02::1"), nw_tos=184,
            dl_dst=(bytes.fromhex("333300000000"), bytes.fromhex("ffff00000000")),
        ),
        actions.output(3),
        "icmp6,dl_dst=33:33:00:00:00:00/ff:ff:00:00:00:00,ipv6_src=fe80::/64,ipv6_dst=ff02::1,nw_tos=184,"
        "icmp_type=135,nd_target=fe80::1,nd_sll=02:00:00:00:00:01 actions=output:3",
    ),
    (
        nxm.match(
            dl_type=nxm.ETH_ARP, arp_op=1, arp_spa=packed("10.0.0.1"), arp_tpa=(packed("10.0.0.0"), 24), arp_sha=MAC_1,
            arp_tha=MAC_2,
        ),
        b"",
        "arp,arp_spa=10.0.0.1,arp_tpa=10.0.0.0/24,arp_op=1,arp_sha=02:00:00:00:00:01,arp_tha=02:00:00:00:00:02 "
        "actions=drop",
    ),
    (
        nxm.match(dl_type=nxm.ETH_IP, nw_proto=nxm.UDP, ip_frag=(3, 3), nw_src=(packed("10.0.0.0"), 8)),
        b"",
        "udp,nw_src=10.0.0.0/8,nw_frag=later actions=drop",
    ),
    (nxm.match(dl_type=nxm.ETH_IP, ip_frag=(0, 2)), b"", "ip,nw_frag=not_later actions=drop"),
    (nxm.match(dl_type=nxm.ETH_IP, ip_frag=(1, 1)), b"", "ip,nw_frag=yes actions=drop"),
    (nxm.match(dl_type=nxm.ETH_IP, ip_frag=(0, 3)), b"", "ip,nw_frag=no actions=drop"),
    (
        nxm.match(dl_type=nxm.ETH_IP, nw_proto=nxm.TCP, tcp_src=(0x400, 0xFC00), tcp_dst=80),
        actions.load(Subfield(fields.REG7, 0, 3), 5) + actions.load(Subfield(fields.VLAN_TCI, 13, 3), 1),
        "tcp,tp_src=0x400/0xfc00,tp_dst=80 actions=load:0x5->NXM_NX_REG7[0..2],load:0x1->NXM_OF_VLAN_TCI[13..15]",
    ),
    (
        nxm.match(dl_type=nxm.ETH_IPV6, nw_proto=nxm.UDP, udp_dst=53),
        actions.set_queue(12),
        "udp6,tp_dst=53 actions=set_queue:12",
    ),
    (
        nxm.match(dl_type=nxm.ETH_IP, nw_proto=nxm.ICMP, icmp_type=3, icmp_code=4),
        b"",
        "icmp,icmp_type=3,icmp_code=4 actions=drop",
    ),
    (nxm.match(dl_type=nxm.ETH_IP, nw_proto=2), actions.output(6), "ip,nw_proto=2 actions=output:6"),
    (nxm.match(dl_dst=(GROUP, GROUP)), b"", "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00 actions=drop"),
    (nxm.match(dl_type=nxm.ETH_IP, nw_dst=(bytes(4), 0)), actions.output(4), "ip actions=output:4"),
    (nxm.match(), actions.resubmit(1), " actions=resubmit(,1)"),
]  # fmt: skip


@pytest.fixture(scope="module")
def switch() -> Iterator[PrivateSwitch]:
    with private_switch(Path(tempfile.mkdtemp(prefix="xf"))) as started:
        for number in (1, 2):
            started.add_port(f"p{number}", number)
        yield started


@pytest.fixture
def client(switch: PrivateSwitch) -> Iterator[SwitchClient]:
    switch.run("ovs-ofctl", "del-flows", switch.socket)
    connected = SwitchClient(switch)
    yield connected
    connected.close()


def test_every_primitive_comes_back_byte_for_byte(switch: PrivateSwitch, client: SwitchClient) -> None:
    wanted = {nxm.key(30, 1000 + place, flow[0]): actions.value(COOKIE, flow[1]) for place, flow in enumerate(FLOWS)}
    for key, value in wanted.items():
        client.send(messages.flow_mod(Command.ADD, key, value))
    client.barrier()
    assert {flow.key: flow.value for flow in client.dump()} == wanted

    printed = {int(line.split("priority=")[1].split()[0].split(",")[0]): line for line in switch.dump_flows()}
    for place, (_match, _actions, expected) in enumerate(FLOWS):
        comma = "" if expected.startswith(" ") else ","
        line = f"cookie={COOKIE:#x}, table=30, priority={1000 + place}{comma}{expected}"
        assert printed[1000 + place] == line


def test_our_text_is_that_of_ovs_ofctl(switch: PrivateSwitch, client: SwitchClient) -> None:
    for place, (match, acts, _text) in enumerate(FLOWS):
        key = nxm.key(30, 1000 + place, match)
        client.send(messages.flow_mod(Command.ADD, key, actions.value(COOKIE, acts)))
    idle = nxm.flow_key(3, 5, in_port=2)
    client.send(messages.flow_mod(Command.ADD, idle, actions.value(COOKIE, b"", 60)))
    client.barrier()
    assert sorted(text.flow(flow.key, flow.value) for flow in client.dump()) == switch.dump_flows()


def test_modify_and_delete_touch_one_flow(client: SwitchClient) -> None:
    key, other = nxm.flow_key(30, 5, reg2=1), nxm.flow_key(30, 6, reg2=1)
    old, new = actions.value(COOKIE, actions.output(1)), actions.value(COOKIE + 1, actions.output(2))
    client.send(messages.flow_mod(Command.ADD, key, old) + messages.flow_mod(Command.ADD, other, old))
    client.send(messages.flow_mod(Command.MODIFY_STRICT, key, new))
    client.barrier()
    assert {flow.key: flow.value for flow in client.dump()} == {key: new, other: old}
    client.send(messages.flow_mod(Command.DELETE_STRICT, key, old))
    client.barrier()
    assert {flow.key for flow in client.dump()} == {key, other}, "another cookie: not ours, so it stays"
    client.send(messages.flow_mod(Command.DELETE_STRICT, key, new))
    client.send(messages.flow_mod(Command.DELETE_STRICT, other))
    client.barrier()
    assert client.dump() == []


def test_dump_and_sums_by_cookie(switch: PrivateSwitch, client: SwitchClient) -> None:
    ours = {nxm.ipv4_route_key(30, 100, 1, number.to_bytes(4, "big"), 32) for number in range(5000)}
    client.send(b"".join(messages.flow_mod(Command.ADD, key, actions.value(COOKIE, b"")) for key in sorted(ours)))
    client.barrier()
    switch.run("ovs-ofctl", "add-flow", switch.socket, "cookie=0x1,priority=7,actions=drop")
    prefix = (COOKIE, 0xFFFF << 48)
    assert {flow.key for flow in client.dump(prefix)} == ours
    client.send(messages.aggregate_request(client.next_xid(), cookie=prefix))
    assert client.receive(AggregateStats).flows == 5000
    client.send(messages.aggregate_request(client.next_xid()))
    assert client.receive(AggregateStats).flows == 5001


def test_packet_in_has_table_cookie_port_and_registers(client: SwitchClient) -> None:
    loads = actions.load(whole(fields.REG0), 10) + actions.load(whole(fields.REG7), 7)
    first = nxm.flow_key(0, 1, in_port=1), actions.value(1, loads + actions.resubmit(5))
    second = nxm.flow_key(5, 1), actions.value(COOKIE, actions.controller(64, actions.Reason.NO_MATCH))
    for key, value in (first, second):
        client.send(messages.flow_mod(Command.ADD, key, value))
    frame = MAC_2 + MAC_1 + b"\x88\xb5" + bytes(50)
    client.send(messages.packet_out(actions.output(actions.TABLE), frame, in_port=1))
    expected = PacketIn(5, COOKIE, actions.Reason.NO_MATCH, 1, (10, 0, 0, 0, 0, 0, 0, 7), frame, len(frame))
    assert client.receive(PacketIn) == expected


def test_learned_drop_is_seen_with_its_timeout(client: SwitchClient) -> None:
    value = actions.value(COOKIE, LEARN + actions.controller(64))
    client.send(messages.flow_mod(Command.ADD, nxm.flow_key(0, 1, in_port=1), value))
    frame = MAC_2 + MAC_1 + b"\x88\xb5" + bytes(50)
    client.send(messages.packet_out(actions.output(actions.TABLE), frame, in_port=1))
    client.receive(PacketIn)
    learned = [flow for flow in client.dump() if flow.hard_timeout_s]
    assert [flow.key for flow in learned] == [nxm.flow_key(0, 65200, in_port=1, dl_dst=MAC_2)]
    assert learned[0].value == actions.value(COOKIE, b"")


def test_flow_removed_names_the_key(client: SwitchClient) -> None:
    key = nxm.flow_key(30, 9, reg2=1, dl_type=nxm.ETH_IP, nw_dst=(packed("10.1.0.0"), 16))
    client.send(messages.flow_mod(Command.ADD, key, actions.value(COOKIE, b"", 60)))
    client.send(messages.flow_mod(Command.DELETE_STRICT, key))
    assert client.receive(FlowRemoved) == FlowRemoved(key, COOKIE, messages.RemovedReason.DELETE, 0, 0)


def test_port_counters(client: SwitchClient) -> None:
    client.send(messages.port_stats_request(client.next_xid()))
    assert {1, 2, actions.LOCAL} == {port.number for port in client.receive(PortStats).ports}


def test_an_error_names_the_message(client: SwitchClient) -> None:
    wrong = messages.flow_mod(Command.ADD, nxm.flow_key(0, 1), actions.value(1, b"\0\x63\0\x08" + bytes(4)), xid=77)
    client.send(wrong)
    error = client.receive(ErrorMessage)
    assert (error.xid, error.type) == (77, 2)
    assert wrong.startswith(error.data[:16])
