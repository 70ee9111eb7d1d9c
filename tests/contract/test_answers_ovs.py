"""What a real Open vSwitch answers to ARP requests and neighbor solicitations, byte for byte, with right checksums."""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.contract.test_walk_ovs import ACCESS, HOST, PARALLEL, R1, R2, TRUNK, packed, plan
from tests.private_ovs import PrivateSwitch, SwitchClient, private_switch
from tests.unit.app.network import mac
from xenflow_app.openflow import messages
from xenflow_app.openflow.messages import Command

pytestmark = [pytest.mark.root, pytest.mark.ovs]

CONTROL = 7 << 13
"""An answer's priority code point, where it has a tag."""
ASK = """
import select, socket, struct, sys
ports = {name: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) for name in sys.argv[2:]}
for name, sock in ports.items():
    sock.bind((name, 0))
    sock.setsockopt(263, 8, 1)  # PACKET_AUXDATA: there the kernel puts the tag
ports[sys.argv[1]].send(bytes.fromhex(sys.stdin.read()))
while ready := select.select(list(ports.values()), [], [], 0.3)[0]:
    for name, sock in ports.items():
        if sock in ready:
            frame, told, _, (_, _, kind, _, _) = sock.recvmsg(2048, 256)
            status, _, _, _, _, tci, _ = struct.unpack_from("=IIIHHHH", told[0][2])
            if status & 0x10:
                frame = frame[:12] + struct.pack(">HH", 0x8100, tci) + frame[12:]
            if kind != socket.PACKET_OUTGOING:
                print(name, frame.hex())
"""
"""Sends a frame as from behind one port; prints what comes out of that one and of others."""
ASKER, GROUP = mac(HOST), bytes.fromhex("3333ff000001")
OWN, ASKED = packed("2001:db8:1::10"), packed("2001:db8:1::1")


@pytest.fixture(scope="module")
def switch() -> Iterator[PrivateSwitch]:
    flows = dict(plan().servers["a"].switch.flows)
    with private_switch(Path(tempfile.mkdtemp(prefix="xf"))) as made:
        for number in (TRUNK, PARALLEL, HOST, ACCESS, R1, R1 + 1, R2, R2 + 1):
            made.add_port(f"p{number}", number)
            made.run("sysctl", "-qw", f"net.ipv6.conf.p{number}.disable_ipv6=1")
            made.run("ip", "link", "set", f"p{number}", "up")
        client = SwitchClient(made)
        client.send(b"".join(messages.flow_mod(Command.ADD, key, value) for key, value in flows.items()))
        client.barrier()
        client.close()
        yield made


def ask(switch: PrivateSwitch, port: int, frame: bytes) -> dict[int, list[bytes]]:
    """Return what comes out of the ports by port, until there is silence."""
    names = [f"p{number}" for number in (HOST, R1, TRUNK, ACCESS, R2)]
    said = switch.run(sys.executable, "-c", ASK, f"p{port}", *names, text=frame.hex())
    found: dict[int, list[bytes]] = {}
    for line in said.splitlines():
        name, text = line.split()
        found.setdefault(int(name[1:]), []).append(bytes.fromhex(text))
    return found


def arp(macs: tuple[bytes, bytes], tag: int, operation: int, sender: tuple[bytes, bytes], target: bytes) -> bytes:
    """Return an ARP packet in a frame from the first MAC to the second; `target` is MAC and address."""
    dot1q = struct.pack(">HH", 0x8100, tag | CONTROL if operation == 2 else tag) if tag else b""
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    return macs[1] + macs[0] + dot1q + b"\x08\x06" + head + b"".join(sender) + target


def icmp6(macs: tuple[bytes, bytes], ends: tuple[bytes, bytes], body: bytes, hop_limit: int = 255) -> bytes:
    """Return an ICMPv6 packet with its checksum (RFC 4443, section 2.3) in a frame."""
    pseudo = b"".join(ends) + struct.pack(">II", len(body), 58)
    words = struct.unpack(f">{(len(pseudo) + len(body)) // 2}H", pseudo + body)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    head = struct.pack(">IHBB", 6 << 28, len(body), 58, hop_limit)
    return (
        macs[1]
        + macs[0]
        + b"\x86\xdd"
        + head
        + b"".join(ends)
        + body[:2]
        + struct.pack(">H", ~total & 0xFFFF)
        + body[4:]
    )


def tagged(frame: bytes) -> bytes:
    """Return a question as it is on a trunk: of priority 7, network control."""
    return frame[:12] + struct.pack(">HH", 0x8100, 0xE000 | 10) + frame[12:]


def solicit(to: bytes, option: bytes) -> bytes:
    destination = ASKED if to == mac(R1) else packed("ff02::1:ff00:1")
    return icmp6((ASKER, to), (OWN, destination), struct.pack(">BBHI", 135, 0, 0, 0) + ASKED + option)


@pytest.mark.parametrize("padding", [0, 18], ids=["bare", "padded"])
@pytest.mark.parametrize(
    ("port", "tag", "asker", "own", "asked", "router"),
    [
        (HOST, 0, mac(HOST), "10.0.1.10", "10.0.1.1", mac(R1)),
        (ACCESS, 5, mac(500), "10.0.9.77", "10.0.9.1", mac(R1 + 1)),
        (ACCESS, 5, mac(501), "0.0.0.0", "10.0.9.2", mac(R2)),
        (ACCESS, 0, mac(500), "10.0.2.77", "10.0.2.1", mac(R2 + 1)),
        (R2, 0, mac(R2), "10.0.9.2", "10.0.9.1", mac(R1 + 1)),
    ],
)
def test_an_arp_request_is_answered_where_it_comes_in(
    switch: PrivateSwitch, port: int, tag: int, asker: bytes, own: str, asked: str, router: bytes, padding: int
) -> None:
    for to in (b"\xff" * 6, router):
        request = arp((asker, to), tag, 1, (asker, packed(own)), bytes(6) + packed(asked)) + bytes(padding)
        reply = arp((router, asker), tag, 2, (router, packed(asked)), asker + packed(own)) + bytes(padding)
        assert ask(switch, port, request) == {port: [reply]}


@pytest.mark.parametrize("to", [GROUP, mac(R1)], ids=["multicast", "unicast"])
@pytest.mark.parametrize("more", [b"", b"\x0e\x01" + bytes(6)], ids=["alone", "with a nonce"])
def test_a_solicitation_is_answered_where_it_comes_in(switch: PrivateSwitch, to: bytes, more: bytes) -> None:
    advertised = struct.pack(">BBHI", 136, 0, 0, 0xE0000000) + ASKED + b"\x02\x01" + mac(R1) + more
    reply = icmp6((mac(R1), ASKER), (ASKED, OWN), advertised)
    assert ask(switch, HOST, solicit(to, b"\x01\x01" + ASKER + more)) == {HOST: [reply]}


def test_a_probe_without_the_askers_mac_is_answered_without_an_option(switch: PrivateSwitch) -> None:
    reply = icmp6((mac(R1), ASKER), (ASKED, OWN), struct.pack(">BBHI", 136, 0, 0, 0xE0000000) + ASKED)
    assert ask(switch, HOST, solicit(mac(R1), b"")) == {HOST: [reply]}


def test_what_nobody_can_be_told_floods_as_ever(switch: PrivateSwitch) -> None:
    detection = struct.pack(">BBHI", 135, 0, 0, 0) + ASKED
    ends = bytes(16), packed("ff02::1:ff00:1")
    for asked in (solicit(GROUP, b""), icmp6((ASKER, GROUP), ends, detection)):
        seen = ask(switch, HOST, asked)
        assert seen == {R1: [asked], TRUNK: [tagged(asked)]}


def test_what_the_router_asks_about_its_own_address_goes_on(switch: PrivateSwitch) -> None:
    for own in ("10.0.1.1", "0.0.0.0"):
        request = arp((mac(R1), b"\xff" * 6), 0, 1, (mac(R1), packed(own)), bytes(6) + ip_address("10.0.1.1").packed)
        seen = ask(switch, R1, request)
        assert seen == {HOST: [request], TRUNK: [tagged(request)]}


def test_who_is_not_a_router_is_asked_for_as_ever(switch: PrivateSwitch) -> None:
    request = arp((ASKER, b"\xff" * 6), 0, 1, (ASKER, packed("10.0.1.10")), bytes(6) + packed("10.0.1.11"))
    assert ask(switch, HOST, request) == {R1: [request], TRUNK: [tagged(request)]}
