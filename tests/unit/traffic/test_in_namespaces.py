"""The tools on a real link, with losses, duplicates and disorder that are known beforehand."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

import pytest

from tests.unit.traffic.conftest import Pair, run
from xenflow_lab.traffic import frames, launch

pytestmark = pytest.mark.root

TABLE = """
table inet drops {
    chain incoming {
        type filter hook input priority 0
        udp dport 5000 @th,64,16 0x5850 @th,80,16 0 @th,96,32 { %s } drop
    }
}
"""
SEEN = """
table ip seen {
    chain incoming {
        type filter hook input priority 0
        ip daddr 10.9.0.16 udp dport 5000 counter
        ip daddr 10.9.0.31 udp dport 5000 counter
        ip ttl 63 udp dport 5000 counter
    }
}
"""
NOTHING = """
table ip nothing {
    chain incoming {
        type filter hook input priority 0; policy drop
    }
}
"""


@pytest.mark.parametrize("to", ["10.9.0.2:5000", "[fd09::2]:5000"])
def test_every_packet_of_a_clean_link_is_counted(pair: Pair, to: str) -> None:
    with launch.start("receive", "--port", "5000", "--flows", "3", "--idle", "5", prefix=pair.right) as receiver:
        options = ["--to", to, "--ports", "3", "--rate-pps", "10000", "--count", "3000", "--dscp", "46"]
        sent = launch.run("send", *options, prefix=pair.left)
        received = receiver.result()
    assert sent["sent"] == received["received"] == received["expected"] == 3000
    assert [flow["received"] for flow in received["flows"]] == [1000] * 3
    assert received["lost"] == received["duplicated"] == received["reordered"] == received["dropped_by_socket"] == 0
    assert 0 < received["flows"][0]["delay_ns"]["p50"] < 50_000_000
    assert sent["ended_ns"] - sent["started_ns"] > 290_000_000


def test_spread_packets_go_to_all_destinations_and_ports_have_ttls(pair: Pair) -> None:
    run(*pair.right, "ip", "route", "add", "local", "10.9.0.16/28", "dev", "lo")
    run(*pair.right, "nft", "-f", "-", given=SEEN)
    try:
        with launch.start("receive", "--port", "5000", "--flows", "3", "--idle", "5", prefix=pair.right) as receiver:
            options = ["--to", "10.9.0.16-10.9.0.31:5000", "--spread", "--ports", "3", "--ttls", "2", "--count", "1600"]
            sent = launch.run("send", *options, "--rate-pps", "5000", prefix=pair.left)
            received = receiver.result()
        ruleset = run(*pair.right, "nft", "list", "table", "ip", "seen")
    finally:
        run(*pair.right, "nft", "delete", "table", "ip", "seen")
    assert sent["sent"] == received["received"] == received["expected"] == 1600
    assert [flow["received"] for flow in received["flows"]] == [534, 533, 533]
    assert received["lost"] == received["duplicated"] == received["reordered"] == 0
    assert received["gap_ns"]["max"] == max(flow["longest_gap_ns"] for flow in received["flows"])
    ends = 5 * len(received["flows"])
    counts = [int(text.split()[0]) for text in ruleset.split("packets ")[1:]]
    assert all(100 <= count <= 100 + ends for count in counts[:2])
    assert 533 <= counts[2] <= 533 + ends  # the second of three ports; the third has the first's TTL again


def test_dropped_packets_are_the_lost_ones(pair: Pair) -> None:
    """The numbers 100 to 149 and the last one; nftables matches the number in the payload."""
    run(*pair.right, "nft", "-f", "-", given=TABLE % "100-149, 999")
    try:
        with launch.start("receive", "--port", "5000", "--idle", "5", prefix=pair.right) as receiver:
            launch.run("send", "--to", "10.9.0.2:5000", "--rate-pps", "5000", "--count", "1000", prefix=pair.left)
            received = receiver.result()
    finally:
        run(*pair.right, "nft", "delete", "table", "inet", "drops")
    flow = received["flows"][0]
    assert (received["lost"], received["received"], flow["longest_loss"]) == (51, 949, 50)
    assert flow["longest_gap_ns"] >= 9_000_000
    assert (received["duplicated"], received["reordered"]) == (0, 0)


def test_duplicates_and_disorder_are_counted(pair: Pair) -> None:
    with launch.start("receive", "--port", "5000", "--idle", "5", prefix=pair.right) as receiver:
        faults = ["--duplicate-every", "10", "--delay-every", "25", "--extent", "4", "--skip-every", "100"]
        rate = ["--rate-pps", "5000", "--count", "1000"]
        sent = launch.run("send", "--to", "10.9.0.2:5000", *rate, *faults, prefix=pair.left)
        received = receiver.result()
    made = sent["flows"][0]
    assert received["lost"] == made["skipped"] > 0
    assert received["duplicated"] == made["duplicated"] > 0
    assert received["reordered"] == made["delayed"] == received["flows"][0]["reorder_windows"] > 0
    assert received["flows"][0]["reorder_extent_max"] == 4


def test_a_receiver_that_hears_nothing_ends_when_idle(pair: Pair) -> None:
    with launch.start("receive", "--port", "5000", "--idle", "0.2", prefix=pair.right) as receiver:
        assert receiver.result()["flows"] == []


def test_a_port_in_use_is_said(pair: Pair) -> None:
    with (
        launch.start("receive", "--port", "5000", prefix=pair.right),
        pytest.raises(launch.ToolError, match="Address already in use"),
    ):
        launch.start("receive", "--port", "5000", prefix=pair.right)


def test_injected_frames_are_seen_leaving_and_arriving(pair: Pair, tmp_path: Path) -> None:
    pcap = tmp_path / "right.pcap"
    belongs = ["--tenant", "blue", "--prefix", "10.9.0.0/24", "--prefix", "fd09::/64"]
    with (
        launch.start("capture", "--interface", "e0", prefix=pair.left) as leaving,
        launch.start("capture", *belongs, "--pcap", str(pcap), prefix=pair.right) as arriving,
    ):
        basic = ["--interface", "e0", "--count", "5", "--rate-pps", "1000"]
        for options in (
            ["--source-ip", "10.9.0.1", "--tenant", "blue"],
            ["--source-ip", "10.9.0.1", "--vlan", "10/5", "--tenant", "red"],
            ["--source-ip", "10.9.0.1", "--vlan", "0x88a8:10", "--vlan", "20", "--tenant", "red"],
            ["--source-ip", "10.66.0.1", "--kind", "arp-reply", "--source-mac", "02:66:00:00:00:01"],
            ["--source-ip", "fd09::66", "--kind", "nd"],
        ):
            launch.run("inject", *basic, *options, prefix=pair.left)
        sent, seen = leaving.stop(), arriving.stop()
    received = seen["interfaces"]["e0"]["received"]
    assert sent["interfaces"]["e0"]["sent"]["markers"] == {"blue": 5, "red": 10, "intruder": 10}
    assert received["markers"] == {"blue": 5, "red": 10, "intruder": 10}
    assert received["foreign"] == {"marker": 20, "address": 5}
    assert received["vlans"] == {"10": 10}
    assert (received["double_tagged"], seen["foreign"], seen["missed"]) == (5, 20, 0)
    assert struct.pack("!HH", 0x8100, 10 | 5 << 13) in pcap.read_bytes()


def test_a_flood_is_captured_to_the_last_frame(pair: Pair) -> None:
    with launch.start("capture", "--mac", "02:00:00:00:00:01", prefix=pair.right) as capture:
        options = ["--source-ip", "10.9.0.1", "--count", "10000", "--rate-pps", "20000"]
        injected = launch.run("inject", "--interface", "e0", *options, prefix=pair.left)
        seen = capture.stop()
    assert injected["sent"] == 10_000
    assert seen["interfaces"]["e0"]["received"]["markers"] == {"intruder": 10_000}
    assert seen["foreign"] >= 10_000
    assert seen["missed"] == 0


@pytest.mark.parametrize("to", ["10.9.0.2", "fd09::2"])
def test_round_trips_by_icmp_and_udp(pair: Pair, to: str) -> None:
    options = ["--to", to, "--count", "5", "--interval", "0.01"]
    by_icmp = launch.run("rtt", *options, prefix=pair.left)
    with launch.start("rtt", "--serve", "5001", prefix=pair.right) as server:
        by_udp = launch.run("rtt", *options, "--port", "5001", prefix=pair.left)
        assert server.stop() == {"echoed": 5}
    for report in (by_icmp, by_udp):
        assert report["answered"] == report["sent"] == 5
        assert all(0 < trip < 1_000_000_000 for trip in report["rtt_ns"])


def test_an_unanswered_packet_has_no_round_trip(pair: Pair) -> None:
    options = ["--to", "10.9.0.2", "--port", "5002", "--count", "1", "--timeout", "0.1"]
    with launch.start("capture", prefix=pair.right):
        run(
            *pair.right,
            "nft",
            "-f",
            "-",
            given=NOTHING,
        )
        try:
            report = launch.run("rtt", *options, prefix=pair.left)
        finally:
            run(*pair.right, "nft", "delete", "table", "ip", "nothing")
    assert (report["answered"], report["rtt_ns"]) == (0, [None])


def test_a_broken_address_is_one_clear_line(pair: Pair) -> None:
    with pytest.raises(launch.ToolError, match="ADDRESS:PORT expected"):
        launch.run("send", "--to", "10.9.0.2", prefix=pair.left)
    with pytest.raises(launch.ToolError, match="header and marker need"):
        launch.run("send", "--to", "10.9.0.2:5", "--size", "8", prefix=pair.left)


def test_built_packets_reach_a_socket(pair: Pair) -> None:
    """The checksums are right: the kernel hands an injected datagram to the receiver (which knows it is no probe)."""
    mac = run(*pair.right, "cat", "/sys/class/net/e0/address").strip()
    for source, destination in (("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")):
        assert ipaddress.ip_address(source).version == ipaddress.ip_address(destination).version
        with launch.start("rtt", "--serve", "9", prefix=pair.right) as server:
            options = ["--source-ip", source, "--destination-ip", destination, "--destination-mac", mac]
            launch.run("inject", "--interface", "e0", *options, "--count", "3", prefix=pair.left)
            echoed = server.stop()
        assert echoed == {"echoed": 3}
    assert frames.checksum(b"\xff\xff") == 0
