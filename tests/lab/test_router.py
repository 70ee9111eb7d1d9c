"""A virtual router is a real router to its neighbors, although its VM sees no transit packet."""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lab import tools
from tests.lab.conftest import TOPOLOGIES, LabFactory
from xenflow_lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

ROUTES = {
    "r1": ["10.0.40.0/24", "fd00:40::/64", "192.0.2.1", "2001:db8::1", "198.51.100.0/24", "2001:db8:2::/48"],
    "r2": ["10.0.1.0/24", "fd00:1::/64", "192.0.2.1", "198.51.100.0/24", "2001:db8:2::/48"],
    "r3": ["10.0.1.0/24", "fd00:1::/64", "192.0.2.1", "2001:db8::1", "198.51.100.0/24"],
    "plain": ["10.0.40.0/24", "fd00:40::/64"],
    "ripper": ["10.0.1.0/24"],
}
HOPS = {
    "10.0.40.10": ["10.0.1.1", "10.0.2[12].2", "10.0.30.3", "10.0.40.10"],
    "fd00:40::10": ["fd00:1::1", "fd00:2[12]::2", "fd00:30::3", "fd00:40::10"],
}


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    lab = make_lab(TOPOLOGIES / "edge.toml", "edge")
    for router, prefixes in ROUTES.items():
        for prefix in prefixes:
            argv = ["ip", "-6" if ":" in prefix else "-4", "route", "show", prefix]
            lab.wait_until(lambda r=router, a=argv: bool(lab.run(r, a).stdout), 60, f"{prefix} in {router}")  # type: ignore[misc]
    lab.wait_settled()
    return lab


def ping(lab: Lab, who: str, *words: str) -> str:
    done = lab.run(who, ["ping", "-n", *words])
    return done.stdout + done.stderr


def sent_and_heard(text: str) -> tuple[int, int]:
    found = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    assert found, text
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("target", HOPS)
def test_ttl_goes_down_by_one_in_each_router(lab: Lab, target: str) -> None:
    assert tools.answers(lab, "h1", [target])[target]
    assert set(re.findall(r"ttl=(\d+)", ping(lab, "h1", "-c3", "-i0.2", target))) == {"61"}


@pytest.mark.parametrize("target", HOPS)
def test_traceroute_shows_each_router(lab: Lab, target: str) -> None:
    text = lab.run("h1", ["traceroute", "-n", "-q1", "-w2", target]).stdout
    seen = re.findall(r"^ *\d+ +(\S+)", text, re.M)
    assert len(seen) == 4, text
    for address, expected in zip(seen, HOPS[target], strict=True):
        assert re.fullmatch(expected, address), text


def test_mtr_sees_no_loss_at_any_hop(lab: Lab) -> None:
    text = lab.run("h1", ["mtr", "-n", "-r", "-c5", "-i0.3", "10.0.40.10"]).stdout
    rows = re.findall(r"\|-- (\S+) +([\d.]+)%", text)
    assert [address for address, _ in rows][-1] == "10.0.40.10", text
    assert {loss for _, loss in rows} == {"0.0"}, text


def test_time_exceeded_and_unreachable_come_from_the_router(lab: Lab) -> None:
    assert "From 10.0.1.1 icmp_seq=1 Time to live exceeded" in ping(lab, "h1", "-c1", "-t1", "10.0.40.10")
    assert re.search(r"From 10\.0\.2[12]\.2 icmp_seq=1 Time to live", ping(lab, "h1", "-c1", "-t2", "10.0.40.10"))
    assert "From fd00:1::1 icmp_seq=1 Time exceeded" in ping(lab, "h1", "-c1", "-t1", "fd00:40::10")
    assert "Destination Net Unreachable" in ping(lab, "h1", "-c3", "-W1", "203.0.113.1")
    assert "Destination unreachable: No route" in ping(lab, "h1", "-c3", "-W1", "2001:db8:ffff::1")


def test_a_neighbor_that_does_not_answer_is_reported_unreachable(lab: Lab) -> None:
    assert "Destination Host Unreachable" in ping(lab, "h1", "-c1", "-W5", "10.0.40.77")


def test_own_addresses_answer(lab: Lab) -> None:
    targets = [address for router in ("r1", "r2", "r3") for address in tools.addresses(lab, router)]
    found = tools.answers(lab, "h1", targets)
    assert all(found.values()), found


def test_path_mtu_is_found_to_the_byte(lab: Lab) -> None:
    lab.run("h1", ["ip", "route", "flush", "cache"])
    assert sent_and_heard(ping(lab, "h1", "-c2", "-i0.2", "-Mdo", "-s1372", "10.0.40.10")) == (2, 2)
    text = ping(lab, "h1", "-c1", "-W2", "-Mdo", "-s1373", "10.0.40.10")
    assert re.search(r"From 10\.0\.2[12]\.2 icmp_seq=1 Frag needed and DF set \(mtu = 1400\)", text), text
    assert sent_and_heard(ping(lab, "h1", "-c2", "-i0.2", "-Mdo", "-s1352", "fd00:40::10")) == (2, 2)
    text = ping(lab, "h1", "-c1", "-W2", "-Mdo", "-s1353", "fd00:40::10")
    assert re.search(r"From fd00:2[12]::2 icmp_seq=1 Packet too big: mtu=1400", text), text


def test_large_packets_that_may_be_fragmented_arrive(lab: Lab) -> None:
    assert sent_and_heard(ping(lab, "h1", "-c5", "-i0.2", "-W2", "-Mdont", "-s1472", "10.0.40.10")) == (5, 5)
    assert sent_and_heard(ping(lab, "h1", "-c5", "-i0.2", "-W2", "-Mdont", "-s4000", "10.0.40.10")) == (5, 5)


@pytest.mark.parametrize("target", HOPS)
def test_tcp_passes_the_small_mtu(lab: Lab, target: str) -> None:
    lab.run("h1", ["ip", "route", "flush", "cache"])
    with ExitStack() as stack:
        server = lab.popen("h2", ["iperf3", "-s", "-1"])
        stack.callback(server.wait)
        stack.callback(server.terminate)
        lab.wait_until(lambda: ":5201" in lab.run("h2", ["ss", "-Hltn"]).stdout, 10, "the server's socket")
        done = lab.run("h1", ["iperf3", "-c", target, "-n", "2M", "--connect-timeout", "3000"])
        assert done.returncode == 0, done.stdout + done.stderr


def test_routing_protocols_form_adjacencies_through_the_pipeline(lab: Lab) -> None:
    assert lab.run("r1", ["vtysh", "-c", "show ip ospf neighbor"]).stdout.count("Full") == 2
    assert lab.run("r1", ["vtysh", "-c", "show ipv6 ospf6 neighbor"]).stdout.count("Full") == 2
    assert lab.run("r3", ["birdc", "show ospf neighbors"]).stdout.count("Full") == 2
    assert lab.run("r1", ["vtysh", "-c", "show bgp ipv4 unicast summary json"]).stdout.count('"Established"') == 1
    assert "10.0.60.9" in lab.run("r2", ["vtysh", "-c", "show ip rip status"]).stdout


def test_a_plain_router_outside_exchanges_traffic_with_everybody(lab: Lab) -> None:
    assert all(tools.answers(lab, "h1", ["192.0.2.1", "2001:db8::1"]).values())
    assert all(tools.answers(lab, "h2", ["192.0.2.1", "2001:db8::1"]).values())
    assert tools.answers(lab, "plain", ["10.0.40.10"], "-I", "192.0.2.1")["10.0.40.10"]
    assert tools.answers(lab, "plain", ["fd00:40::10"], "-I", "2001:db8::1")["fd00:40::10"]


@pytest.fixture
def other_mac(lab: Lab) -> Iterator[str]:
    """The outside router gets another MAC address, and says so in the way that ordinary machines do."""
    before = re.search(r"link/ether (\S+)", lab.run("plain", ["ip", "link", "show", "eth0"]).stdout)
    assert before
    lab.run("plain", ["ip", "link", "set", "eth0", "address", "02:00:00:00:99:01"], check=True)
    yield "02:00:00:00:99:01"
    lab.run("plain", ["ip", "link", "set", "eth0", "address", before[1]], check=True)


def test_gratuitous_arp_and_unsolicited_advertisements_are_followed(lab: Lab, other_mac: str) -> None:
    lab.run("plain", ["arping", "-U", "-c1", "-I", "eth0", "10.0.50.2"])
    link_local = re.search(r"inet6 (fe80\S+)/64", lab.run("plain", ["ip", "-6", "address", "show", "eth0"]).stdout)
    assert link_local
    for address in ("fd00:50::2", link_local[1]):
        claim = ("--kind", "nd", "--source-ip", address, "--source-mac", other_mac, "--sender-mac", other_mac)
        tools.run(lab, "plain", "inject", "--interface", "eth0", "--count", "1", *claim)
    for family, address in (("-4", "10.0.50.2"), ("-6", "fd00:50::2"), ("-6", link_local[1])):
        show = ["ip", family, "neigh", "show", address]
        lab.wait_until(lambda a=show: other_mac in lab.run("r1", a).stdout, 10, f"the new MAC of {address} in r1")  # type: ignore[misc]
    assert all(tools.answers(lab, "h1", ["192.0.2.1", "2001:db8::1"]).values())
    flows = lab.ofctl("n1", "dump-flows", "table=45")
    assert flows.count(f"mod_dl_dst:{other_mac}") >= 3


def into_r2(lab: Lab) -> list[int]:
    """Packets that entered r2's routing tables from mid1 and mid2."""
    counts = []
    for vid in ("0x15", "0x16"):
        text = lab.ofctl("n2", "dump-flows", f"table=10,reg0={vid}")
        counts.append(sum(int(n) for n in re.findall(r"n_packets=(\d+).*?actions=load.*?resubmit\(,20\)", text)))
    return counts


@pytest.fixture
def sinks(lab: Lab) -> Iterator[None]:
    """All of 198.51.100.0/24 is at the outside machine that announces it."""
    route = ["local", "198.51.100.0/24", "dev", "lo"]
    lab.run("ripper", ["ip", "route", "add", *route], check=True)
    yield
    lab.run("ripper", ["ip", "route", "del", *route], check=True)


COUNTERS_S = 1.5
"""How late the switch may bring its counters up to date; it does so twice a second."""
FLOWS = ("--to", "198.51.100.1-198.51.100.200:7200", "--size", "64")


@pytest.mark.usefixtures("sinks")
def test_equal_cost_routes_share_and_a_flow_keeps_to_one_path(lab: Lab) -> None:
    assert tools.answers(lab, "h1", ["198.51.100.1"])["198.51.100.1"]
    before = steady_all(lab)
    with tools.start(lab, "ripper", "receive", "--port", "7200", "--flows", "200") as receiver:
        tools.run(lab, "h1", "send", *FLOWS, "--rate-pps", "2000", "--count", "2000")
        report = receiver.result()
    assert (report["received"], report["lost"], report["duplicated"]) == (2000, 0, 0)
    after = steady_all(lab)
    shares = [end - start for end, start in zip(after, before, strict=True)]
    assert sum(shares) >= 2000
    assert all(0.35 <= share / sum(shares) <= 0.65 for share in shares), shares
    with tools.start(lab, "ripper", "receive", "--port", "7201", "--flows", "1") as receiver:
        tools.run(lab, "h1", "send", "--to", "198.51.100.7:7201", "--rate-pps", "1000", "--count", "1000")
        assert receiver.result()["received"] == 1000
    shares = sorted(end - start for end, start in zip(steady_all(lab), after, strict=True))
    assert shares[0] < 50 < 1000 <= shares[1], shares


@pytest.mark.usefixtures("sinks")
def test_when_a_next_hop_fails_the_other_carries_all_a_second_after_the_kernel_knows(lab: Lab) -> None:
    """Not a second after the failure: ospfd alone lets one pass before it computes external routes like this again."""
    assert tools.answers(lab, "h1", ["198.51.100.1"])["198.51.100.1"]
    before = into_r2(lab)
    with ExitStack() as stack:
        receiver = stack.enter_context(tools.start(lab, "ripper", "receive", "--port", "7200", "--flows", "200"))
        sender = stack.enter_context(tools.begin(lab, "h1", "send", *FLOWS, "--rate-pps", "2000", "--duration", "8"))
        under_way = [count + 100 for count in before]
        lab.wait_until(lambda: all(map(operator.gt, into_r2(lab), under_way)), 15, "packets on both paths")
        failed_s = time.monotonic()
        lab.run("r2", ["ip", "link", "set", "eth1", "down"], check=True)
        stack.callback(lab.run, "r2", ["ip", "link", "set", "eth1", "up"])
        lab.wait_until(lambda: "10.0.22.2" not in shown_route(lab), 5, "one next hop in r1's kernel")
        limit_s = time.monotonic() - failed_s + 1
        sender.result()
        report = receiver.result()
    assert report["duplicated"] == 0
    # packets of one flow are 0.1 s apart
    assert max(flow["longest_gap_ns"] for flow in report["flows"]) <= (limit_s + 0.1) * 1e9
    assert 0 < report["lost"] <= 2000 * 0.65 * limit_s


@pytest.mark.usefixtures("sinks")
def test_when_the_link_to_a_next_hop_fails_the_other_carries_all_within_a_second(lab: Lab) -> None:
    assert tools.answers(lab, "h1", ["198.51.100.1"])["198.51.100.1"]
    lab.wait_until(lambda: "10.0.22.2" in shown_route(lab), 30, "both next hops in r1's kernel")
    before = into_r2(lab)
    with ExitStack() as stack:
        receiver = stack.enter_context(tools.start(lab, "ripper", "receive", "--port", "7200", "--flows", "200"))
        sender = stack.enter_context(tools.begin(lab, "h1", "send", *FLOWS, "--rate-pps", "2000", "--duration", "8"))
        under_way = [count + 100 for count in before]
        lab.wait_until(lambda: all(map(operator.gt, into_r2(lab), under_way)), 15, "packets on both paths")
        lab.run("r1", ["ip", "link", "set", "eth2", "down"], check=True)
        stack.callback(lab.run, "r1", ["ip", "link", "set", "eth2", "up"])
        _, other = steady_in(lab, 1)
        sender.result()
        report = receiver.result()
        assert into_r2(lab)[1] == other
    assert report["duplicated"] == 0
    # packets of one flow are 0.1 s apart
    assert max(flow["longest_gap_ns"] for flow in report["flows"]) <= 1_100_000_000
    assert report["lost"] <= 2000 * 0.65


def steady_all(lab: Lab) -> list[int]:
    """The same once both stand still: the switch brings its counters up to date twice a second."""
    steady_in(lab, 0)
    return steady_in(lab, 1)


def steady_in(lab: Lab, path: int) -> list[int]:
    """Packets that entered r2 by each path, once the counter of one path stands still (others may go on)."""
    last, since = into_r2(lab), time.monotonic()

    def stands_still() -> bool:
        nonlocal last, since
        counts = into_r2(lab)
        if counts[path] != last[path]:
            since = time.monotonic()
        last = counts
        return time.monotonic() - since > COUNTERS_S

    lab.wait_until(stands_still, 15, "a path that carries nothing any more")
    return last


def shown_route(lab: Lab) -> str:
    """r1's route to the outside machine's prefix, by both next hops as long as both are there."""
    return lab.run("r1", ["ip", "route", "show", "198.51.100.0/24"]).stdout


def test_machines_outside_are_learned_and_found_from_both_nodes(lab: Lab) -> None:
    assert tools.answers(lab, "ripper", ["10.0.60.2"])["10.0.60.2"]
    status = lab.app_status()
    assert status.settled
    mac = re.search(r"link/ether (\S+)", lab.run("ripper", ["ip", "link", "show", "eth0"]).stdout)
    assert mac
    for node in ("n1", "n2"):
        assert f"dl_dst={mac[1]}" in lab.ofctl(node, "dump-flows", "table=50")
