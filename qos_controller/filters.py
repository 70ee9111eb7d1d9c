"""Which class a frame belongs to, where the datapath does not say so: the selectors of a port as programs (pure).

Place in the flow: *PortQueues* -> `Classifier` of the bridge's datapath type -> programs at our qdisc (`tree.Program`).

- Kernel datapath: `set_queue` puts the class into the packet's priority, and HTB looks there first. What has none is
  classified, too: only the switch's own BFD is told apart.
- Userspace datapath: the queue has no effect, so a classic BPF program at the qdisc picks the class from the frame. It
  is replaced at once, so there is no moment with half of the selectors; it needs only cls_bpf, which every kernel with
  it interprets alike (flower and u32 see a tag only where the network stack put it).

Rules: the first selector that fits decides, in the order of queues; frames that none fits go to the default class. A
tag counts wherever it is: in the frame, as the userspace datapath writes it, or beside it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final, Protocol

from qos_controller.classic_bpf import INSTRUCTION, MAX_INSTRUCTIONS, VLAN_PRESENT, VLAN_TAG, Assembler, Label, Op
from qos_controller.tree import MAJOR, NODE_MINOR, Program
from xenflow.bandwidth import LENGTH, Match, Queue, Selector

KERNEL_DATAPATH: Final = "system"
USERSPACE_DATAPATH: Final = "netdev"
FIRST_PREFERENCE: Final = 0x7860
"""Preference of our first program; those of a port follow each other."""
MAX_PROGRAMS: Final = 16
PROLOGUE_ROOM: Final = 64
"""More instructions than beginning and end of a program have."""
PREFERENCES: Final = range(FIRST_PREFERENCE, FIRST_PREFERENCE + MAX_PROGRAMS)

OWN_BFD: Final = Selector(0, match=Match(protocol=socket.IPPROTO_UDP, destination_ports=(3784, 3784)))
"""What ovs-vswitchd sends to see whether the trunk's far end lives (RFC 5881): without a tag."""

_TCI, _L3, _TYPE = 0, 1, 2  # places in the scratch memory
_IPV4, _IPV6, _VLAN, _SERVICE_VLAN = 0x0800, 0x86DD, 0x8100, 0x88A8
_LEAST_TYPE = 0x0600  # smaller numbers are lengths (IEEE 802.3)
_TCP, _UDP, _SCTP, _FRAGMENT = 6, 17, 132, 44


class Classifier(Protocol):
    """Turns a port's queues into programs. `sends_batches`: frames come by sendmmsg, of all classes in one call."""

    sends_batches: bool

    def programs(self, queues: Iterable[Queue]) -> tuple[Program, ...]:
        """Return what is to classify. Raises ValueError if it is more than the kernel takes."""


class NoClassifier:
    """For a kernel without cls_bpf below the kernel datapath."""

    sends_batches = False

    def programs(self, queues: Iterable[Queue]) -> tuple[Program, ...]:
        """Return nothing."""
        return ()


class KernelClassifier:
    """The kernel datapath: `set_queue` has done it, but for what the switch itself sends."""

    sends_batches = False

    def programs(self, queues: Iterable[Queue]) -> tuple[Program, ...]:
        """Return a program that knows the switch's own BFD."""
        return UserspaceClassifier().programs(())


class UserspaceClassifier:
    """The userspace datapath: one program, several if it is too long; each knows whole VLANs."""

    sends_batches = True

    def programs(self, queues: Iterable[Queue]) -> tuple[Program, ...]:
        """Return the programs in the order of their preference."""
        vlans: dict[int, list[tuple[Selector, int]]] = {0: [(OWN_BFD, MAJOR << 16 | NODE_MINOR)]}
        for queue in queues:
            for selector in queue.selectors:
                vlans.setdefault(selector.vid, []).append((selector, MAJOR << 16 | (queue.id + 1)))
        prologue, end = _prologue(), _end()
        room = MAX_INSTRUCTIONS * INSTRUCTION.size - len(prologue) - len(end)
        bodies = [b""]
        for vid, selectors in vlans.items():
            block = _vlan(vid, selectors)
            if len(bodies[-1]) + len(block) > room:
                bodies.append(b"")
            bodies[-1] += block
        if len(bodies) > MAX_PROGRAMS:
            raise ValueError(f"selectors fill {len(bodies)} programs; a port takes {MAX_PROGRAMS}")
        return tuple(Program(FIRST_PREFERENCE + n, prologue + body + end) for n, body in enumerate(bodies))


def classifier(datapath_type: str) -> Classifier:
    """Return the one for a bridge's datapath type; empty is Open vSwitch's default, the kernel's."""
    return UserspaceClassifier() if datapath_type == USERSPACE_DATAPATH else KernelClassifier()


def _prologue() -> bytes:
    """Keep the tag (0: none), where the layer-3 header begins and its Ethernet type. Blocks of VLANs follow."""
    asm, inside, tagged, done = Assembler(), Label(), Label(), Label()
    asm.do(Op.LOAD_WORD, VLAN_PRESENT)
    asm.reject(Op.EQUAL, 0, inside)
    asm.do(Op.LOAD_WORD, VLAN_TAG)
    asm.do(Op.KEEP, _TCI)
    asm.do(Op.LOAD_HALF, 12)
    asm.do(Op.X_CONSTANT, 14)
    asm.jump(done)
    asm.here(inside)
    asm.do(Op.LOAD_HALF, 12)
    asm.reject(Op.EQUAL, _VLAN, tagged)
    asm.reject(Op.EQUAL, _SERVICE_VLAN, tagged)
    asm.do(Op.LOAD_CONSTANT, 0)
    asm.do(Op.KEEP, _TCI)
    asm.do(Op.LOAD_HALF, 12)
    asm.do(Op.X_CONSTANT, 14)
    asm.jump(done)
    asm.here(tagged)
    asm.do(Op.LOAD_HALF, 14)
    asm.do(Op.KEEP, _TCI)
    asm.do(Op.LOAD_HALF, 16)
    asm.do(Op.X_CONSTANT, 18)
    asm.here(done)
    asm.do(Op.KEEP, _TYPE)
    asm.do(Op.KEEP_X, _L3)
    return asm.code()


def _end() -> bytes:
    """No selector fits: 0 leaves the frame to the next program, then to the default class."""
    asm = Assembler()
    asm.do(Op.RETURN, 0)
    return asm.code()


def _vlan(vid: int, selectors: Iterable[tuple[Selector, int]]) -> bytes:
    """Return the block for frames with this VLAN id (0: untagged); others go past it. It can stand anywhere."""
    asm, here, past = Assembler(), Label(), Label()
    asm.do(Op.LOAD_KEPT, _TCI)
    asm.do(Op.AND, 0xFFF)
    asm.reject(Op.EQUAL, vid, here)
    asm.jump(past)
    asm.here(here)
    for selector, class_id in selectors:
        other = Label()
        if selector.pcp >= 0:
            asm.do(Op.LOAD_KEPT, _TCI)
            asm.do(Op.SHIFT_RIGHT, 13)
            asm.need(Op.EQUAL, selector.pcp, other)
        if selector.mac:
            asm.do(Op.LOAD_WORD, 6)
            asm.need(Op.EQUAL, int.from_bytes(selector.mac[:4], "big"), other)
            asm.do(Op.LOAD_HALF, 10)
            asm.need(Op.EQUAL, int.from_bytes(selector.mac[4:], "big"), other)
        if selector.match is not None:
            _match(asm, selector.match, other)
        asm.do(Op.RETURN, class_id)
        asm.here(other)
    asm.here(past)
    if len(asm) > MAX_INSTRUCTIONS - PROLOGUE_ROOM:
        raise ValueError(f"VLAN {vid}: its selectors are more than a program can hold")
    return asm.code()


def _match(asm: Assembler, match: Match, other: Label) -> None:
    """Go on if the packet has all of `match`, IPv4 or IPv6; or the Ethernet type that it asks for."""
    if match.ethertype >= 0:
        asm.do(Op.LOAD_KEPT, _TYPE)
        if match.ethertype == LENGTH:
            asm.reject(Op.AT_LEAST, _LEAST_TYPE, other)
        else:
            asm.need(Op.EQUAL, match.ethertype, other)
        return
    prefixes = [prefix for prefix in (match.source, match.destination) if prefix]
    families = {len(prefix) for prefix in prefixes} or ({5, 17} if match.icmp6_types is None else {17})
    fits, not_ipv4 = Label(), Label()
    if len(families) > 1 and prefixes:  # an IPv4 source and an IPv6 destination: no packet has both
        asm.jump(other)
        return
    asm.do(Op.X_KEPT, _L3)
    asm.do(Op.LOAD_KEPT, _TYPE)
    if 5 in families and match.icmp6_types is None:
        asm.need(Op.EQUAL, _IPV4, not_ipv4)
        _ipv4(asm, match, other)
        asm.jump(fits)
    asm.here(not_ipv4)
    if 17 in families:
        asm.need(Op.EQUAL, _IPV6, other)
        _ipv6(asm, match, other)
    else:
        asm.jump(other)
    asm.here(fits)


def _ipv4(asm: Assembler, match: Match, other: Label) -> None:
    """RFC 791; X is where the header begins."""
    if match.dscp >= 0:
        asm.do(Op.LOAD_BYTE_X, 1)
        asm.do(Op.SHIFT_RIGHT, 2)
        asm.need(Op.EQUAL, match.dscp, other)
    for prefix, offset in ((match.source, 12), (match.destination, 16)):
        if prefix:
            _word(asm, offset, prefix[:4], prefix[4], other)
    asm.do(Op.LOAD_BYTE_X, 9)
    _protocol(asm, match, other)
    if match.needs_ports:
        asm.do(Op.LOAD_HALF_X, 6)
        asm.reject(Op.ANY_BIT, 0x3FFF, other)  # a fragment, the first one too
        asm.do(Op.LOAD_BYTE_X, 0)
        asm.do(Op.AND, 0xF)
        asm.do(Op.SHIFT_LEFT, 2)
        asm.do(Op.ADD_X)
        asm.do(Op.A_TO_X)
        _ports(asm, match, 0, other)


def _ipv6(asm: Assembler, match: Match, other: Label) -> None:
    """RFC 8200; a fragment header may come first. Behind other extension headers no protocol is looked for."""
    if match.dscp >= 0:
        asm.do(Op.LOAD_HALF_X, 0)
        asm.do(Op.SHIFT_RIGHT, 6)
        asm.do(Op.AND, 0x3F)
        asm.need(Op.EQUAL, match.dscp, other)
    for prefix, offset in ((match.source, 8), (match.destination, 24)):
        for word in range(0, 16, 4) if prefix else ():
            length = min(max(prefix[16] - word * 8, 0), 32)
            _word(asm, offset + word, prefix[word : word + 4], length, other)
    whole = Label()
    asm.do(Op.LOAD_BYTE_X, 6)
    if match.needs_ports or match.icmp6_types is not None:
        asm.reject(Op.EQUAL, _FRAGMENT, other)
    else:
        asm.need(Op.EQUAL, _FRAGMENT, whole)
        asm.do(Op.LOAD_BYTE_X, 40)
        asm.here(whole)
    _protocol(asm, match, other)
    if match.needs_ports:
        _ports(asm, match, 40, other)
    if match.icmp6_types is not None:
        asm.do(Op.LOAD_BYTE_X, 40)
        asm.need(Op.AT_LEAST, match.icmp6_types[0], other)
        asm.reject(Op.GREATER, match.icmp6_types[1], other)


def _word(asm: Assembler, offset: int, word: bytes, length: int, other: Label) -> None:
    """Go on if the 32 bits at X + offset begin with the first `length` bits of `word`."""
    if length:
        mask = 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF
        asm.do(Op.LOAD_WORD_X, offset)
        asm.do(Op.AND, mask)
        asm.need(Op.EQUAL, int.from_bytes(word, "big") & mask, other)


def _protocol(asm: Assembler, match: Match, other: Label) -> None:
    """Go on if A is the protocol, or with ports one that has them."""
    if match.protocol >= 0:
        asm.need(Op.EQUAL, match.protocol, other)
    if match.needs_ports:
        has_ports = Label()
        asm.reject(Op.EQUAL, _TCP, has_ports)
        asm.reject(Op.EQUAL, _UDP, has_ports)
        asm.need(Op.EQUAL, _SCTP, other)
        asm.here(has_ports)


def _ports(asm: Assembler, match: Match, offset: int, other: Label) -> None:
    """Go on if the ports at X + offset are in their ranges."""
    for ports, place in ((match.source_ports, offset), (match.destination_ports, offset + 2)):
        if ports is not None:
            asm.do(Op.LOAD_HALF_X, place)
            asm.need(Op.AT_LEAST, ports[0], other)
            asm.reject(Op.GREATER, ports[1], other)
