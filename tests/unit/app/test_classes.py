"""Which class a router's packet is in, as flows: by DSCP, protocol, prefixes and ports, in the order of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.app.network import mac
from xenflow.bandwidth import Match
from xenflow_app import classes, frame
from xenflow_app.frame import Frame
from xenflow_app.openflow import fields
from xenflow_app.openflow.nxm import ICMP, ICMP6, TCP, UDP
from xenflow_app.pipeline import Table
from xenflow_app.walk import Tables

VID, ROUTER = 30, 7
WHOLE, FIRST, LATER = 0, 1, 3
"""Open vSwitch's ip_frag: no fragment, the first one, another one."""
ENDS = {4: ("10.1.0.5", "10.2.0.5"), 6: ("2001:db8:1::5", "2001:db8:2::5")}
PORTS = {TCP: (fields.TCP_SRC, fields.TCP_DST), UDP: (fields.UDP_SRC, fields.UDP_DST)}


def prefix(text: str) -> bytes:
    address, length = text.split("/")
    return ip_address(address).packed + bytes([int(length)])


@dataclass(frozen=True)
class Packet:
    """An IP packet as a switch sees it: only whole datagrams and first fragments have ports."""

    family: int = 4
    protocol: int = UDP
    ports: tuple[int, int] = (1234, 5004)
    fragment: int = WHOLE
    dscp: int = 0

    def frame(self, vid: int = VID, source: bytes = mac(1)) -> Frame:
        """The packet in a frame of the router, in a network."""
        ends = ENDS[self.family]
        made = frame.ip(
            (source, mac(2)), (ip_address(ends[0]).packed, ip_address(ends[1]).packed), 64, 84, self.protocol
        )
        if self.fragment != LATER:
            for header, port in zip(PORTS.get(self.protocol, ()), self.ports, strict=False):
                made = made.put(header, port)
        return made.put(fields.IP_FRAG, self.fragment).put(fields.IP_TOS, self.dscp << 2).put(fields.REG0, vid)

    def is_in(self, match: Match) -> bool:
        """What the definition of a class says."""
        if match.dscp not in (-1, self.dscp) or match.protocol not in (-1, self.protocol):
            return False
        for wanted, mine in zip((match.source, match.destination), ENDS[self.family], strict=True):
            packed = ip_address(mine).packed
            host_bits = len(packed) * 8 - wanted[-1] if wanted else 0
            if wanted and (
                len(wanted) != len(packed) + 1
                or int.from_bytes(packed, "big") >> host_bits != int.from_bytes(wanted[:-1], "big") >> host_bits
            ):
                return False
        if not match.needs_ports:
            return True
        ranges = zip((match.source_ports, match.destination_ports), self.ports, strict=True)
        return self.fragment == WHOLE and all(wanted is None or wanted[0] <= at <= wanted[1] for wanted, at in ranges)


def chosen(found: Frame, *sets: tuple[Match, ...]) -> int:
    """Return the number of the class that flows put a frame into, 0 for none."""
    flows: dict[bytes, bytes] = {}
    for number, matches in enumerate(sets, 1):
        for match in matches:
            flows |= classes.classed(VID, mac(1), ROUTER, number, match)
    rule = Tables(flows).lookup(Table.CLASS, found)
    return 0 if rule is None else 30000 - int.from_bytes(rule.key[1:3], "big")


VIDEO = Match(protocol=UDP, destination_ports=(5004, 5100))
VOICE = Match(dscp=46)


@pytest.mark.parametrize("family", [4, 6])
def test_all_pieces_of_a_datagram_are_in_one_class(family: int) -> None:
    """The first piece has the ports that the class asks for, and is not in it: the others could not be."""
    assert chosen(Packet(family).frame(), (VIDEO,)) == 1
    assert {chosen(Packet(family, fragment=part).frame(), (VIDEO,)) for part in (FIRST, LATER)} == {0}
    assert {chosen(Packet(family, fragment=part, dscp=46).frame(), (VIDEO,), (VOICE,)) for part in (FIRST, LATER)} == {
        2
    }


def test_a_packet_belongs_to_the_first_class_that_it_fits() -> None:
    both = Packet(dscp=46).frame()
    assert chosen(both, (VOICE,), (VIDEO,)) == chosen(both, (VIDEO,), (VOICE,)) == 1
    assert chosen(Packet(dscp=0).frame(), (VOICE,), (VIDEO,)) == 2
    assert chosen(Packet(protocol=TCP).frame(), (VOICE,), (VIDEO,)) == 0


def test_another_routers_packets_and_other_networks_are_not_its_matter() -> None:
    assert chosen(Packet().frame(vid=31), (VIDEO,)) == chosen(Packet().frame(source=mac(3)), (VIDEO,)) == 0


port_ranges = st.tuples(st.sampled_from([0, 1000, 1234, 5004]), st.sampled_from([1234, 5003, 5004, 65535]))
ranges = st.none() | port_ranges.filter(lambda ports: ports[0] <= ports[1])
sources = st.sampled_from([b"", *map(prefix, ("10.1.0.0/16", "10.9.0.0/16", "0.0.0.0/0", "2001:db8:1::/48"))])
destinations = st.sampled_from([b"", *map(prefix, ("10.2.0.5/32", "10.2.0.4/32", "::/0", "2001:db8:2::5/128"))])


@st.composite
def some_matches(draw: st.DrawFn) -> Match:
    """As the definitions admit them: prefixes of one family, ports with a protocol that has them."""
    source = draw(sources)
    destination = draw(destinations.filter(lambda to: not source or not to or len(to) == len(source)))
    protocol = draw(st.sampled_from([-1, TCP, UDP, ICMP, ICMP6]))
    ports = (draw(ranges), draw(ranges)) if protocol in PORTS else (None, None)
    return Match(draw(st.sampled_from([-1, 0, 46])), protocol, source, destination, *ports)


@st.composite
def some_packets(draw: st.DrawFn) -> Packet:
    family = draw(st.sampled_from([4, 6]))
    protocol = draw(st.sampled_from([TCP, UDP, ICMP if family == 4 else ICMP6]))
    ports = draw(st.tuples(*[st.sampled_from([0, 999, 1234, 5003, 5004, 65535])] * 2))
    fragment, dscp = draw(st.sampled_from([WHOLE, FIRST, LATER])), draw(st.sampled_from([0, 46]))
    return Packet(family, protocol, (ports[0], ports[1]), fragment, dscp)


@given(st.lists(st.lists(some_matches(), min_size=1, max_size=2).map(tuple), min_size=1, max_size=3), some_packets())
@example([(VIDEO,)], Packet(fragment=FIRST))
def test_flows_class_packets_as_the_definition_says(sets: list[tuple[Match, ...]], packet: Packet) -> None:
    fits = (number for number, matches in enumerate(sets, 1) if any(packet.is_in(match) for match in matches))
    assert chosen(packet.frame(), *sets) == next(fits, 0)
