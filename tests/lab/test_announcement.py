"""Announcements of a moved router on real wires: lost ones are repeated, forged ones harm nobody.

n1 ---- n2        r1 moves to and fro; h1 sends numbered packets to h2 through it; h3, b1 and x1, on n2, forge
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.lab import ring, tools
from tests.lab.conftest import LabFactory
from xenflow.announcement import LENGTH_BYTES, claimed_epoch
from xenflow.answers import MigrationStatus, Refusal
from xenflow_app.announcements import Reason
from xenflow_lab import operator, stations
from xenflow_lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

RESERVED = "aa:aa:aa:aa:aa:aa"
PORT = 5000
RATE_PPS = 500
FORGED_PPS = 1000
SILENCE_S = 10.0
"""After so long a move goes on without an announcement."""
OURS = "cookie=0xbad"
"""The mark of a flow that this test adds to a switch, as somebody else might."""


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    """r1 is on n1."""
    made = make_lab(Path(__file__).with_name("announcement.toml"), "ann")
    made.wait_settled()
    assert all(tools.answers(made, "h1", ["10.0.2.10", "10.0.1.12"]).values())
    ring.wait_quiet(made)
    return made


@pytest.fixture(scope="module")
def old_announcement(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A frame that r1 itself has sent on its way to n2, where it is now."""
    pcap = tmp_path_factory.mktemp("pcap") / "announcements.pcap"
    capture = lab.popen("r1", ["tcpdump", "-i", "eth0", "-U", "-w", str(pcap), "ether", "dst", RESERVED])
    try:
        lab.wait_until(lambda: pcap.exists() and pcap.stat().st_size >= 24, 10, "tcpdump")
        ended(lab, begin(lab, "n2"))
        lab.wait_until(lambda: pcap.stat().st_size >= 40 + LENGTH_BYTES, 10, "a recorded announcement")
    finally:
        capture.terminate()
        capture.communicate(timeout=10)
    data = pcap.read_bytes()
    (length,) = struct.unpack_from("<I", data, 32)
    frame = data[40 : 40 + length]
    assert claimed_epoch(frame)
    return frame


@contextmanager
def traffic(lab: Lab) -> Iterator[None]:
    """Send numbered packets through r1 while the block runs: none is lost, none comes twice."""
    sending = ("send", "--to", f"10.0.2.10:{PORT}", "--rate-pps", str(RATE_PPS), "--size", "64")
    with tools.start(lab, "h2", "receive", "--port", str(PORT)) as receiver:
        with tools.begin(lab, "h1", *sending) as sender:
            ring.pause(lab, 0.3)
            yield
            ring.pause(lab, 0.3)
            sent = sender.stop()["sent"]
        report = receiver.end(10)
    counted = (report["lost"], report["duplicated"], report["dropped_by_socket"])
    print(f"{sent} packets: lost, doubled, dropped by the socket: {counted}")
    assert (report["expected"], *counted) == (sent, 0, 0, 0)


@contextmanager
def forgeries(lab: Lab, forged: dict[str, tuple[str, list[str]]]) -> Iterator[None]:
    """Let machines send forged frames while the block runs, a thousand a second of each kind."""
    rate = ["--count", "0", "--rate-pps", str(FORGED_PPS)]
    with ExitStack() as stack:
        running = [
            (name, stack.enter_context(tools.begin(lab, who, "inject", *words, *rate)))
            for name, (who, words) in forged.items()
        ]
        ring.pause(lab, 0.5)
        yield
        for name, tool in running:
            print(f"{name}: {tool.stop()['sent']} frames")


def begin(lab: Lab, to: str) -> int:
    answer = operator.ask(lab.app_socket, "migrate", {"router": "r1", "to": to})
    return msgspec.json.decode(answer, type=MigrationStatus).number


def migration(lab: Lab, number: int) -> MigrationStatus:
    answer = operator.ask(lab.app_socket, "migrations", {"number": str(number)})
    return msgspec.json.decode(answer, type=list[MigrationStatus])[0]


def ended(lab: Lab, number: int) -> MigrationStatus:
    """Return a migration that has ended well, and by an announcement: not because none came."""
    lab.wait_until(lambda: migration(lab, number).ended, 40, "the end of a migration")
    found = migration(lab, number)
    assert (found.state, found.error, lab.plan.machines["r1"].node) == ("done", "", found.target)
    assert waited_s(found) < SILENCE_S
    return found


def waited_s(status: MigrationStatus) -> float:
    """Return how long the announcement was waited for."""
    after = {item.state: item.after_s for item in status.reached}
    return after["re-pointing"] - after["announcing"]


def ignored(lab: Lab) -> dict[str, int]:
    return {item.text: item.count for item in lab.app_status().ignored}


def dropped(lab: Lab, node: str, way: str) -> int:
    """Return how many frames "to" or "from" the reserved address a node has dropped, as operators see it."""
    return ignored(lab).get(f"{node}: frames {way} {RESERVED}, dropped by the switch", 0)


def turned_away(lab: Lab) -> list[Refusal]:
    return [item for item in lab.app_status().turned_away if "announcement's MAC" in item.text]


def lines(lab: Lab, word: str, role: str = "controller", who: str = "controller") -> list[str]:
    log = Path(lab.process(role, who).command.log).read_text(encoding="utf-8")
    return [line for line in log.splitlines() if word in line]


@contextmanager
def lossy(lab: Lab, node: str, match: str) -> Iterator[None]:
    """Drop announcements at a node as long as the block runs."""
    lab.ofctl(node, "add-flow", f"{OURS},table=0,priority=65200,dl_dst={RESERVED}{match},actions=drop")
    try:
        yield
    finally:
        lab.ofctl(node, "del-flows", f"{OURS}/-1")


def lost(lab: Lab, node: str) -> int:
    found = re.search(r"n_packets=(\d+)", lab.ofctl(node, "dump-flows", f"{OURS}/-1"))
    return int(found[1]) if found else 0


def test_a_move_completes_when_the_first_announcements_are_lost(lab: Lab, old_announcement: bytes) -> None:
    with traffic(lab):
        with lossy(lab, "n1", ""):
            number = begin(lab, "n1")
            lab.wait_until(lambda: lost(lab, "n1") >= 2 * 3, 20, "the first three announcements of two interfaces")
            took = lost(lab, "n1")
            assert migration(lab, number).state == "announcing"
        status = ended(lab, number)
    print(f"{took} announcements were dropped; the move waited for {waited_s(status):.2f} s")


def test_others_cannot_speak_for_a_router_that_moves(lab: Lab, old_announcement: bytes) -> None:
    """From another vif, another network, an access port and a trunk; with AA:AA:AA:AA:AA:AA as a source, too."""
    mac = stations.mac(lab, "r1", "left")
    trunk = next(end.port for end in lab.plan.trunks[0].ends if end.node == "n1")
    bare = ["--kind", "arp-reply", "--destination-mac", RESERVED, "--source-ip", "10.0.1.1"]
    replay = ["--frame", old_announcement.hex()]
    eth0 = ["--interface", "eth0"]
    forged = {
        "another vif": ("h3", [*eth0, *bare]),
        "another vif, r1's MAC": ("h3", [*eth0, *bare, "--source-mac", mac]),
        "another network": ("b1", [*eth0, *replay]),
        "an access port": ("x1", [*eth0, *replay]),
        "a trunk": ("n1", ["--interface", trunk, *bare, "--source-mac", mac, "--vlan", "10"]),
        "from the reserved address": ("x1", [*eth0, "--source-mac", RESERVED, "--source-ip", "10.0.1.12"]),
        "ARP for the reserved address": (
            "h3", [*eth0, "--kind", "arp-reply", "--sender-mac", RESERVED, "--source-ip", "10.0.1.11"],
        ),
    }  # fmt: skip
    to, by = dropped(lab, "n2", "to"), dropped(lab, "n2", "from")
    with traffic(lab), forgeries(lab, forged):
        number = begin(lab, "n2")
        status = ended(lab, number)
    print(f"the move waited for {waited_s(status):.2f} s")
    lab.wait_until(lambda: dropped(lab, "n2", "to") > to + 2000, 20, "the count of frames to the reserved address")
    lab.wait_until(lambda: dropped(lab, "n2", "from") > by + 500, 20, "the count of frames from it")
    assert not [text for text in ignored(lab) if not text.endswith("dropped by the switch")]
    assert len(lines(lab, "ignored at=")) <= 2 * len(ignored(lab))
    for who in ("h1", "h2", "r1"):
        assert RESERVED not in lab.run(who, ["ip", "neighbor"], check=True).stdout


def test_without_proof_a_router_cannot_speak_for_itself(lab: Lab, old_announcement: bytes) -> None:
    """Bare announcements and those of an earlier move from r1's own vif, while its true ones are lost."""
    bare = ["--kind", "arp-reply", "--destination-mac", RESERVED, "--source-ip", "10.0.1.1"]
    forged = {
        "bare": ("r1", ["--interface", "eth0", *bare]),
        "of an earlier move": ("r1", ["--interface", "eth0", "--frame", old_announcement.hex()]),
    }

    def seen(reason: Reason) -> int:
        return sum(count for text, count in ignored(lab).items() if text.startswith("n1:") and str(reason) in text)

    with traffic(lab), forgeries(lab, forged):
        with lossy(lab, "n1", f",dl_src={stations.mac(lab, 'r1', 'right')}"):
            number = begin(lab, "n1")
            both = (Reason.UNPROVEN, Reason.EPOCH)
            lab.wait_until(lambda: all(seen(reason) > 200 for reason in both), 20, "ignored announcements")
            assert migration(lab, number).state == "announcing"
        status = ended(lab, number)
    print(f"ignored: {[seen(reason) for reason in both]}; the move waited for {waited_s(status):.2f} s")
    assert len(lines(lab, "announcement")) < 20


def test_a_neighbor_with_the_reserved_address_is_refused_and_nothing_else(lab: Lab) -> None:
    """x1 tells r1 such an address of itself; the node's server does not pass it on. r1 soon asks x1 again."""
    assert all(tools.answers(lab, "r1", ["10.0.1.12"]).values())
    words = ["--kind", "arp-reply", "--sender-mac", RESERVED, "--source-ip", "10.0.1.12"]
    to = ["--destination-ip", "10.0.1.1", "--destination-mac", stations.mac(lab, "r1", "left")]
    forged = {"a neighbor": ("x1", ["--interface", "eth0", *words, *to])}
    with traffic(lab), forgeries(lab, forged):  # a kernel takes another address for a neighbor after a second
        lab.wait_until(lambda: bool(turned_away(lab)), 20, "the refusal")
        assert len(lines(lab, "router r1: refused: ", "server", "n1")) == 1
        lab.run("r1", ["ip", "route", "add", "10.9.0.0/16", "via", "10.0.1.10"], check=True)
        lab.wait_until(lambda: "10.9.0.0/16" in lab.ofctl("n1", "dump-flows"), 20, "a route after the refusal")
    print([(item.text, item.count) for item in turned_away(lab)])
    assert all(tools.answers(lab, "h1", ["10.0.2.10", "10.0.1.1", "10.0.1.12"]).values())
