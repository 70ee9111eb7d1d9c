"""The class of a frame on the kernel datapath: what `set_queue` says, whatever the tag; no filter but for BFD."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qos_controller.tree import DEFAULT_MINOR, NODE_MINOR
from tests.private_qos import BRIDGE, DATAPATH, QosClient, QosNode, wait_until
from xenflow.bandwidth import Match, PortQueues, Queue, Selector

pytestmark = [pytest.mark.root, pytest.mark.ovs]
M = 10**6
RED, BLUE, VOICE = 8, 16, 17
PLAN = PortQueues(
    "p1",
    50 * M,
    (
        Queue(RED, "red", "", 10 * M, selectors=(Selector(100),)),
        Queue(BLUE, "blue", "bulk", 10 * M, selectors=(Selector(200),)),
        Queue(VOICE, "blue", "voice", 10 * M, selectors=(Selector(200, match=Match(protocol=socket.IPPROTO_UDP)),)),
    ),
)
COUNT, LENGTH = 50, 500
SEND = """
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((sys.argv[1], 0))
frame = bytes.fromhex(sys.argv[2])
for _ in range(int(sys.argv[3])):
    link.send(frame)
"""


@pytest.fixture
def node() -> Iterator[QosNode]:
    with tempfile.TemporaryDirectory(prefix="xq", ignore_cleanup_errors=True) as directory:
        made = QosNode(Path(directory))
        try:
            made.start()
            made.start_daemon()
            carry_out(made, PLAN)
            yield made
        finally:
            made.stop()


def carry_out(node: QosNode, *facts: PortQueues) -> None:
    async def scene() -> None:
        client = await QosClient.to(node)
        await client.plan(*facts)
        await client.close()

    asyncio.run(scene())


def frame(vid: int | None, protocol: int = socket.IPPROTO_TCP, port: int = 9) -> bytes:
    tag = b"" if vid is None else struct.pack("!HH", 0x8100, vid)
    ports = struct.pack("!HH", port, port)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, LENGTH - 14, 0, 0, 64, protocol, 0, bytes(4), bytes(4))
    return (b"\x02" + bytes(5) + b"\x06" + bytes(5) + tag + b"\x08\x00" + header + ports).ljust(LENGTH, b"\0")


def flow(node: QosNode, match: str, actions: str) -> None:
    node.run("ovs-ofctl", "add-flow", f"unix:{node.directory}/{BRIDGE}.mgmt", f"in_port=p2,{match}actions={actions}")


def sent(node: QosNode, minor: int) -> int:
    """Return how many packets a class of p1 has sent."""
    shown = node.run("tc", "-s", "class", "show", "dev", "p1")
    return sum(map(int, re.findall(rf"^class htb 1:{minor:x} .*\n Sent \d+ bytes (\d+) pkt", shown, re.MULTILINE)))


def passes(node: QosNode, minor: int, data: bytes) -> bool:
    """Return whether all copies of a frame that comes in at p2 go out at p1 by the class `minor`."""
    before = sent(node, minor)
    node.run("python3", "-c", SEND, "p2-far", data.hex(), str(COUNT))
    wait_until(lambda: sent(node, minor) >= before + COUNT, f"{COUNT} frames in class 1:{minor:x}")
    return sent(node, minor) < before + COUNT + 10


@pytest.mark.skipif(DATAPATH != "system", reason="on the userspace datapath set_queue has no effect")
def test_set_queue_is_the_class(node: QosNode) -> None:
    """One frame, queue after queue: the tag and what is in it say nothing."""
    for queue in (RED, BLUE, VOICE):
        flow(node, "", f"set_queue:{queue},output:p1")
        assert passes(node, queue + 1, frame(100))
        assert passes(node, queue + 1, frame(None, socket.IPPROTO_UDP))
    flow(node, "", f"enqueue:p1:{RED}")
    assert passes(node, RED + 1, frame(200))


def test_without_a_queue_it_is_the_default_class(node: QosNode) -> None:
    flow(node, "", "output:p1")
    assert passes(node, DEFAULT_MINOR, frame(100))


def test_the_switchs_own_bfd_has_its_class(node: QosNode) -> None:
    before = sent(node, NODE_MINOR)
    node.vsctl("set", "Interface", "p1", "bfd:enable=true", "bfd:min_tx=100")
    wait_until(lambda: sent(node, NODE_MINOR) >= before + 5, "BFD in the class of the switch itself")


def test_a_class_is_made_anew_under_the_same_number(node: QosNode) -> None:
    """A port that goes and comes has another device; the flow says the same as before."""
    flow(node, "", f"set_queue:{BLUE},output:p1")
    assert passes(node, BLUE + 1, frame(100))
    node.vsctl("del-port", BRIDGE, "p1")
    node.run("ip", "link", "del", "p1")
    node.add_device("p1")
    node.vsctl("add-port", BRIDGE, "p1")
    flow(node, "", f"set_queue:{BLUE},output:p1")
    wait_until(lambda: f"1:{BLUE + 1:x}" in node.classes(), "classes on the new device")
    assert passes(node, BLUE + 1, frame(100))


def test_no_filter_picks_classes(node: QosNode) -> None:
    """One program, that of BFD, and what it knows is not VLANs."""
    shown = node.run("tc", "filter", "show", "dev", "p1")
    assert len(re.findall(r"\bbytecode\b", shown)) <= 1, shown
    carry_out(node, PortQueues("p1", 50 * M, PLAN.queues[:1]))
    assert node.run("tc", "filter", "show", "dev", "p1") == shown
