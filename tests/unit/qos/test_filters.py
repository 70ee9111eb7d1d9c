"""Frames go to the class of the first selector that fits: the programs against a plain reading of the selectors."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qos_controller.classic_bpf import INSTRUCTION, MAX_INSTRUCTIONS
from qos_controller.filters import FIRST_PREFERENCE, MAX_PROGRAMS, KernelClassifier, UserspaceClassifier, classifier
from qos_controller.tree import NODE_MINOR, Program
from tests.fakes import classicbpf
from xenflow.bandwidth import LENGTH, Match, Queue, Selector
from xenflow.model import pack_prefix
from xenflow_app.classes import CONTROL_MATCHES

NODE_CLASS = 0x10000 | NODE_MINOR
MACS = (bytes.fromhex("020000000001"), bytes.fromhex("020000000002"), bytes.fromhex("02000000ff01"))
NETWORKS = ("10.0.0.0/8", "10.0.1.0/24", "0.0.0.0/0", "2001:db8::/33", "2001:db8::1/128", "::/0")
PREFIXES = tuple(map(pack_prefix, NETWORKS))
ADDRESSES = ("10.0.0.1", "10.0.1.7", "192.0.2.1", "2001:db8::1", "2001:db8:8000::1", "fe80::1")


@dataclass(frozen=True)
class Packet:
    """A frame as fields; `tag` None is untagged, `beside`: the tag is not in the frame but beside it."""

    source_mac: bytes
    tag: int | None
    beside: bool
    source: str
    destination: str
    protocol: int
    dscp: int
    ports: tuple[int, int]
    options: int = 0
    fragment: int = 0  # 0: whole, 1: the first, 2: a later one

    @property
    def is_ipv4(self) -> bool:
        return "." in self.source

    def frame(self) -> bytes:
        tag = b"" if self.tag is None or self.beside else struct.pack("!HH", 0x8100, self.tag)
        packet = self._ipv4() if self.is_ipv4 else self._ipv6()
        kind = struct.pack("!H", 0x0800 if self.is_ipv4 else 0x86DD)
        return bytes(6) + self.source_mac + tag + kind + packet

    def _ipv4(self) -> bytes:
        words = 5 + self.options
        flags = {0: 0, 1: 0x2000, 2: 0x00B9}[self.fragment]
        addresses = ipaddress.ip_address(self.source).packed + ipaddress.ip_address(self.destination).packed
        head = struct.pack("!BBHHHBBH", 0x40 | words, self.dscp << 2, 0, 0, flags, 64, self.protocol, 0)
        return head + addresses + bytes(4 * self.options) + struct.pack("!HH", *self.ports) + bytes(8)

    def _ipv6(self) -> bytes:
        addresses = ipaddress.ip_address(self.source).packed + ipaddress.ip_address(self.destination).packed
        following = 44 if self.fragment else self.protocol
        head = struct.pack("!IHBB", 6 << 28 | self.dscp << 22, 0, following, 64)
        part = struct.pack("!BBHI", self.protocol, 0, 1 if self.fragment == 1 else 8, 0) if self.fragment else b""
        return head + addresses + part + struct.pack("!HH", *self.ports) + bytes(8)

    def class_by(self, programs: tuple[Program, ...]) -> int:
        tag = self.tag if self.beside else None
        found = (classicbpf.run(program.code, self.frame(), tag) for program in programs)
        return next(filter(None, found), 0)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    family = draw(st.sampled_from((ADDRESSES[:3], ADDRESSES[3:])))
    vid, pcp = draw(st.sampled_from((0, 1, 100, 4094))), draw(st.integers(0, 7))
    drop_eligible = draw(st.integers(0, 1))
    return Packet(
        source_mac=draw(st.sampled_from(MACS)),
        tag=draw(st.sampled_from((None, pcp << 13 | drop_eligible << 12 | vid))),
        beside=draw(st.booleans()),
        source=draw(st.sampled_from(family)),
        destination=draw(st.sampled_from(family)),
        protocol=draw(st.sampled_from((1, 6, 17, 58, 132, 89))),
        dscp=draw(st.sampled_from((0, 46, 63))),
        ports=(
            draw(st.sampled_from((0, 5003, 5004, 5100, 135 << 8, 136 << 8, 65535))),
            draw(st.sampled_from((53, 5004, 5101))),
        ),
        options=draw(st.integers(0, 10)),
        fragment=draw(st.integers(0, 2)),
    )


def optional(values: st.SearchStrategy[object], nothing: object) -> st.SearchStrategy[object]:
    return st.one_of(st.just(nothing), values)


MATCHES = st.builds(
    Match,
    dscp=optional(st.sampled_from((0, 46, 63)), -1),
    protocol=optional(st.sampled_from((1, 6, 17, 89)), -1),
    source=optional(st.sampled_from(PREFIXES), b""),
    destination=optional(st.sampled_from(PREFIXES), b""),
    source_ports=optional(st.sampled_from(((5004, 5100), (0, 5003), (65535, 65535))), None),
    destination_ports=optional(st.sampled_from(((53, 53), (5000, 5004))), None),
    icmp6_types=optional(st.sampled_from(((133, 137), (135, 135), (0, 255))), None),
    ethertype=st.sampled_from((-1, -1, -1, 0x0800, 0x0806, 0x86DD, LENGTH)),
)
SELECTORS = st.builds(
    Selector,
    vid=st.sampled_from((0, 1, 100, 4094)),
    mac=optional(st.sampled_from(MACS), b""),
    pcp=optional(st.integers(0, 7), -1),
    match=st.one_of(st.none(), MATCHES),
)
QUEUES = st.lists(st.lists(SELECTORS, max_size=4), max_size=6).map(
    lambda lists: [Queue(number, "r", str(number), 1, selectors=tuple(each)) for number, each in enumerate(lists)]
)


def expected(queues: list[Queue], packet: Packet) -> int:
    for queue in queues:
        if any(fits(selector, packet) for selector in queue.selectors):
            return 0x10000 | queue.id + 1
    return 0


def fits(selector: Selector, packet: Packet) -> bool:
    tag = packet.tag or 0
    if (tag & 0xFFF) != selector.vid or (selector.mac and selector.mac != packet.source_mac):
        return False
    if selector.pcp >= 0 and tag >> 13 != selector.pcp:
        return False
    return selector.match is None or matches(selector.match, packet)


def matches(match: Match, packet: Packet) -> bool:
    if match.ethertype >= 0:
        return match.ethertype == (0x0800 if packet.is_ipv4 else 0x86DD)
    if match.icmp6_types is not None:
        kind = packet.ports[0] >> 8  # the first byte behind the header
        if packet.is_ipv4 or packet.fragment or not match.icmp6_types[0] <= kind <= match.icmp6_types[1]:
            return False
    for prefix, address in ((match.source, packet.source), (match.destination, packet.destination)):
        if prefix and (ipaddress.ip_address(address).version == 4) != (len(prefix) == 5):
            return False
        network = ipaddress.ip_network((prefix[:-1], prefix[-1])) if prefix else None
        if network is not None and ipaddress.ip_address(address) not in network:
            return False
    if match.dscp not in (-1, packet.dscp) or match.protocol not in (-1, packet.protocol):
        return False
    if match.needs_ports and (packet.fragment or packet.protocol not in (6, 17, 132)):
        return False
    ranges = ((match.source_ports, packet.ports[0]), (match.destination_ports, packet.ports[1]))
    return all(ports is None or ports[0] <= port <= ports[1] for ports, port in ranges)


@given(QUEUES, packets())
def test_the_first_selector_that_fits_decides(queues: list[Queue], packet: Packet) -> None:
    assert packet.class_by(UserspaceClassifier().programs(queues)) == expected(queues, packet)


@given(QUEUES, packets(), st.integers(0, 60))
def test_a_short_frame_is_nobodys(queues: list[Queue], packet: Packet, length: int) -> None:
    programs = UserspaceClassifier().programs(queues)
    classes = {0x10000 | queue.id + 1 for queue in queues} | {0, NODE_CLASS}
    for program in programs:
        assert classicbpf.run(program.code, packet.frame()[:length], packet.tag) in classes


BFD = Packet(MACS[0], None, False, "169.254.1.1", "169.254.1.0", 17, 48, (49152, 3784))


@pytest.mark.parametrize("datapath_type", ["", "system", "netdev"])
def test_the_switchs_own_bfd_has_a_class(datapath_type: str) -> None:
    assert BFD.class_by(classifier(datapath_type).programs([])) == NODE_CLASS


def test_bfd_of_a_router_is_its_own() -> None:
    routers = Queue(7, "r", "", 1, selectors=(Selector(100),))
    tagged = Packet(MACS[0], 100, False, "10.0.0.1", "10.0.0.2", 17, 48, (49152, 3784))
    assert tagged.class_by(UserspaceClassifier().programs([routers])) == 0x10008


@pytest.mark.parametrize(
    ("frame", "is_control"),
    [
        (bytes.fromhex("0806000108000604000102000000000100000000") + bytes(28), True),
        (bytes.fromhex("0026fefe0383") + bytes(40), True),  # IS-IS: a length, LLC
        (bytes.fromhex("86dd6000000000203aff") + bytes(32) + b"\x87\x00" + bytes(30), True),  # a neighbor solicitation
        (bytes.fromhex("86dd6000000000203aff") + bytes(32) + b"\x80\x00" + bytes(30), False),  # an echo request
        (bytes.fromhex("88cc0207") + bytes(40), False),
    ],
)
def test_what_keeps_neighbors_known_is_control_without_a_tag(frame: bytes, *, is_control: bool) -> None:
    selectors = tuple(Selector(0, MACS[0], match=match) for match in CONTROL_MATCHES)
    queues = [
        Queue(1, "r1", "control", 1, selectors=selectors),
        Queue(2, "r1", "", 1, selectors=(Selector(0, MACS[0]),)),
    ]
    programs = UserspaceClassifier().programs(queues)
    found = next(filter(None, (classicbpf.run(one.code, bytes(6) + MACS[0] + frame, None) for one in programs)), 0)
    assert found == 0x10000 | (2 if is_control else 3)


def test_the_kernel_datapath_needs_no_selectors() -> None:
    queues = [Queue(1, "r", "", 1, selectors=(Selector(100),))]
    assert KernelClassifier().programs(queues) == KernelClassifier().programs([])


def test_many_vlans_take_several_programs() -> None:
    queues = [Queue(vid, "r", str(vid), 1, selectors=(Selector(vid, MACS[0], 0),) * 3) for vid in range(1, 400)]
    programs = UserspaceClassifier().programs(queues)
    assert [program.preference - FIRST_PREFERENCE for program in programs] == list(range(len(programs)))
    assert 1 < len(programs) <= MAX_PROGRAMS
    assert all(len(program.code) <= MAX_INSTRUCTIONS * INSTRUCTION.size for program in programs)
    for vid in (1, 200, 399):
        assert Packet(MACS[0], vid, False, "10.0.0.1", "10.0.0.2", 6, 0, (1, 2)).class_by(programs) == 0x10001 + vid


def test_more_than_the_kernel_takes_is_said() -> None:
    one = [Queue(1, "r", "", 1, selectors=(Selector(1, MACS[0], 0),) * 1000)]
    with pytest.raises(ValueError, match="VLAN 1: its selectors"):
        UserspaceClassifier().programs(one)
    many = [Queue(vid, "r", str(vid), 1, selectors=(Selector(vid, MACS[0], 0),) * 300) for vid in range(1, 40)]
    with pytest.raises(ValueError, match="programs"):
        UserspaceClassifier().programs(many)
