"""A ring of three nodes for the tests of failures and restarts, and what they ask of it.

        n1: r1, h1, b1           left  h1 (n1), h2 (n2), h3 (n3), r1        blue: a tenant with left's addresses
       /  \\                      core  r1, r2
      /    [plain bridge]        right r2, h4 (n3), h5 (n1): 32 IPv4 and 32 IPv6 addresses each, so 128 neighbors of r2
    n2 ---- n3: h3, h4, b3
    r2, h2

What h3 sends to h4 passes all three trunks: n3 -> r1 on n1 -> r2 on n2 -> n3.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

from tests.lab import layout, tools
from xenflow.model import link_local_of
from xenflow_app import flowtable, pipeline
from xenflow_lab.lab import Lab
from xenflow_lab.plan import Kind
from xenflow_lab.traffic.launch import Tool

NODES = ("n1", "n2", "n3")
RIGHT_V4 = {"h4": ("10.0.2.32", "10.0.2.63"), "h5": ("10.0.2.64", "10.0.2.95")}
RIGHT_V6 = {"h4": ("fd00:2::20", "fd00:2::3f"), "h5": ("fd00:2::40", "fd00:2::5f")}
NEIGHBORS = 128
PROBE_PREFIX = "10.99.0.0/16"
PROBE_FLOW_MODS = 4
"""An added and a removed flow for each of the two routers."""
CONTROL_FRAMES_S = 200
"""What the trunks carry besides test traffic in a second, at most: BFD, probes, ARP and ND."""
END_MARKERS_S = 10
"""How long receivers wait for the end markers of senders that have ended."""
LIMIT_COOKIE = f"cookie={flowtable.COOKIE_PREFIX << 8 | pipeline.Kind.LIMIT:#x}"
"""How the cookies of flows begin that the controller does not account for."""

_NETWORKS = {"left": 10, "right": 20, "core": 30, "blue": 40}


def topology() -> str:
    """Return the topology file of the ring."""
    routers = [
        layout.router(
            f"r{n}",
            f"n{n}",
            {own: [f"10.0.{n}.1/24", f"fd00:{n}::1/64"], "core": [f"10.0.255.{n}/24", f"fd00:ff::{n}/64"]},
            routing="static",
        )
        for n, own in ((1, "left"), (2, "right"))
    ]
    hosts = [_host(f"h{n}", f"n{n}", 1, [f"10.0.1.1{n}/24", f"fd00:1::1{n}/64"]) for n in (1, 2, 3)]
    for name, node in (("h4", "n3"), ("h5", "n1")):
        first = int(RIGHT_V4[name][0].rpartition(".")[2])
        numbers = range(first, first + 32)
        addresses = [f"10.0.2.{n}/24" for n in numbers] + [f"fd00:2::{n:x}/64" for n in numbers]
        hosts.append(_host(name, node, 2, addresses))
    hosts += [layout.host(f"b{n}", f"n{n}", "blue", [f"10.0.1.1{n}/24"]) for n in (1, 3)]
    return layout.text("ring", layout.RING, _NETWORKS, plain=[("n3", "n1")], router=routers, host=hosts)


def _host(name: str, node: str, subnet: int, addresses: list[str]) -> layout.Table:
    network = "left" if subnet == 1 else "right"
    return layout.host(name, node, network, addresses, [f"10.0.{subnet}.1", f"fd00:{subnet}::1"])


def settle(lab: Lab) -> None:
    """Give both routers their routes and all their neighbors, 128 to r2; return when all of it is in the switches.

    Link-local neighbors too: they would come as soon as a kernel asks for its router's address once more.
    """
    lab.wait_settled()
    for router, far, gateway in (("r1", 2, 2), ("r2", 1, 1)):
        lab.run(router, ["ip", "route", "add", f"10.0.{far}.0/24", "via", f"10.0.255.{gateway}"], check=True)
        lab.run(router, ["ip", "route", "add", f"fd00:{far}::/64", "via", f"fd00:ff::{gateway}"], check=True)
    for name in ("h4", "h5"):
        for low, high in (RIGHT_V4[name], RIGHT_V6[name]):
            tools.run(lab, "h3", "send", "--to", _range(low, high, 9), "--count", "96", "--rate-pps", "200")
    for who in ("h1", "h2"):
        answered = tools.answers(lab, who, ["10.0.1.13", "fd00:1::13", "10.0.2.32", "fd00:2::20"])
        assert all(answered.values()), (who, answered)
    there = {router: neighbors(lab, router) for router in routers(lab)}
    assert len(there["r2"]) >= NEIGHBORS
    for router, found in there.items():
        answered = tools.answers(lab, router, [where for where in found if "%" in where])
        assert all(answered.values()), (router, answered)
    counts = {router: len(found) for router, found in there.items()}
    lab.wait_until(
        lambda: {router.name: router.neighbors for router in lab.app_status().routers} == counts,
        20,
        f"all neighbors in the app: {counts}",
    )
    wait_quiet(lab)


def neighbors(lab: Lab, router: str) -> list[str]:
    """Return all addresses that share a network with the router; link-local ones with its device."""
    devices = {vif.network: vif.interface.device for vif in lab.plan.vifs if vif.machine == router}
    found = []
    for vif in lab.plan.vifs:
        if vif.network in devices and vif.machine != router:
            link_local = IPv6Address(link_local_of(bytes.fromhex(vif.interface.mac.replace(":", ""))))
            found += [address.split("/")[0] for address in vif.interface.addresses]
            found.append(f"{link_local}%{devices[vif.network]}")
    return found


def probe(lab: Lab) -> None:
    """Return when a route has come from each router's kernel into its switch, and gone again: all parts work.

    What a client has to say after a start goes before that; the route itself makes PROBE_FLOW_MODS flow-mods.
    """
    for change, there in (("add", True), ("del", False)):
        for router, via in (("r1", "10.0.1.11"), ("r2", "10.0.2.32")):
            lab.run(router, ["ip", "route", change, PROBE_PREFIX, "via", via], check=True)
        for node in ("n1", "n2"):
            lab.wait_until(
                lambda n=node, t=there: any(PROBE_PREFIX in text for text in flows(lab, n)) == t,  # type: ignore[misc]
                20,
                f"a new route at {node}",
            )


def wait_quiet(lab: Lab) -> None:
    """Return when everything is settled, all trunks that are up are links, and nothing was sent for half a second."""
    lab.wait_settled()
    last = (-1, time.monotonic())

    def quiet() -> bool:
        nonlocal last
        sent = flow_mods(lab)
        if sent != last[0]:
            last = (sent, time.monotonic())
        return not lab.awaited() and time.monotonic() - last[1] > 0.5

    lab.wait_until(quiet, 20, "a quiet network")


def flow_mods(lab: Lab) -> int:
    """Return how many flow-mods the app that runs now has sent."""
    return sum(node.flow_mods_sent for node in lab.app_status().nodes)


def links(lab: Lab) -> int:
    """Return how many links of the ring are up in the app's eyes."""
    return sum(link.up for link in lab.app_status().links)


def _range(low: str, high: str, port: int) -> str:
    return f"[{low}]-[{high}]:{port}" if ":" in low else f"{low}-{high}:{port}"


def trunk_frames(lab: Lab) -> int:
    """Return how many frames the nodes have sent on trunks: two for each broadcast, millions in a storm."""
    counters = [
        lab.run(
            node, ["cat", *(f"/sys/class/net/{end.port}/statistics/tx_packets" for end in lab.plan.trunk_ends(node))]
        )
        for node in NODES
    ]
    return sum(int(word) for done in counters for word in done.stdout.split())


# -- flows -----------------------------------------------------------------------------------------------------------


def flows(lab: Lab, node: str) -> dict[str, float]:
    """Return the flows of a node as text without counters, and how long each has been there, in seconds.

    Limits are no part of the tables: the switch learns and forgets them by itself, or its server's nudge left them.
    """
    found = {}
    for line in lab.ofctl(node, "dump-flows").splitlines():
        duration = re.search(r"duration=([\d.]+)s, ", line)
        if duration is not None and LIMIT_COOKIE not in line:
            text = re.sub(r"(duration|n_packets|n_bytes|idle_age|hard_age)=[\d.]+s?, ?", "", line).strip()
            found[text] = float(duration[1])
    return found


class Flows:
    """The flows of all nodes as they are now, to compare with later ones."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._taken = time.monotonic()
        self._flows = {node: flows(lab, node) for node in NODES}

    def difference(self) -> tuple[set[str], set[str], list[str]]:
        """Return the flows that are new, gone, and those that are the same but were sent again."""
        new, gone, again = set(), set(), []
        for node, before in self._flows.items():
            after = flows(self._lab, node)
            new |= {f"{node}: {text}" for text in after.keys() - before.keys()}
            gone |= {f"{node}: {text}" for text in before.keys() - after.keys()}
            again += [f"{node}: {t}" for t in after.keys() & before.keys() if after[t] < before[t]]
        return new, gone, again


# -- traffic ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stream:
    """Numbered packets from one machine to others; `to` holds what `send` takes."""

    name: str
    source: str
    to: tuple[str, ...]
    receivers: tuple[str, ...]
    flows: int = 1
    words: tuple[str, ...] = ()
    tenant: str = "left"


def unicast(port: int = 6001) -> Stream:
    """Routed by r1 and r2, over all three trunks."""
    return Stream("unicast", "h3", (f"10.0.2.32:{port}",), ("h4",))


def unicast_v6(port: int = 6002) -> Stream:
    """The same in IPv6."""
    return Stream("unicast-v6", "h3", (f"[fd00:2::20]:{port}",), ("h4",))


def broadcast(source: str = "h1", port: int = 6003) -> Stream:
    """To all machines of the network left."""
    return Stream(f"broadcast-{source}", source, (f"10.0.1.255:{port}",), _others(source))


def multicast(source: str = "h3", port: int = 6004) -> Stream:
    """To all machines of the network left, in IPv6."""
    own = f"fd00:1::1{source[1:]}"
    return Stream(f"multicast-{source}", source, (f"[ff02::1%eth0]:{port}",), _others(source), words=("--source", own))


def blue(port: int = 6006) -> Stream:
    """Another tenant's broadcast, from and to the same addresses."""
    return Stream("blue", "b1", (f"10.0.1.255:{port}",), ("b3",), tenant="blue")


def everybody(port: int = 6010) -> list[Stream]:
    """To each of r2's 128 neighbors, in both families."""
    return [
        Stream(f"{name}-{family}", "h3", (_range(low, high, port + number),), (name,), 32)
        for number, (family, name, (low, high)) in enumerate(
            [("v4", name, ends) for name, ends in RIGHT_V4.items()]
            + [("v6", name, ends) for name, ends in RIGHT_V6.items()]
        )
    ]


def _others(source: str) -> tuple[str, ...]:
    return tuple(name for name in ("h1", "h2", "h3") if name != source)


class Traffic:
    """Streams that run while the block does; `reports` ends them and returns what each receiver counted.

    A receiver is asked to end when no end marker has come in time: an outage may have swallowed them all.
    """

    def __init__(self, lab: Lab, streams: list[Stream], rate_pps: int = 500) -> None:
        self._lab, self._streams, self._rate = lab, streams, str(rate_pps)
        self._stack = ExitStack()
        self._senders: list[Tool] = []
        self._receivers: dict[tuple[str, str], Tool] = {}

    def __enter__(self) -> Traffic:
        for stream in self._streams:
            port = stream.to[0].rpartition(":")[2]
            for who in stream.receivers:
                words = ("--port", port, "--flows", str(stream.flows))
                self._receivers[stream.name, who] = self._stack.enter_context(
                    tools.start(self._lab, who, "receive", *words)
                )
        for stream in self._streams:
            to = [word for target in stream.to for word in ("--to", target)]
            words = (*to, "--rate-pps", self._rate, "--size", "64", "--tenant", stream.tenant, *stream.words)
            self._senders.append(self._stack.enter_context(tools.begin(self._lab, stream.source, "send", *words)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def reports(self) -> dict[str, dict[str, Any]]:
        """Return by stream and receiver what was counted; what counts as lost is by the sender's number of packets."""
        sent = {stream.name: sender.stop()["sent"] for stream, sender in zip(self._streams, self._senders, strict=True)}
        assert all(sent.values())
        found = {}
        for (name, who), tool in self._receivers.items():
            report = tool.end(END_MARKERS_S)
            lost = sent[name] - report["received"]  # also of a flow that was never heard of, or whose end was not
            found[f"{name}>{who}"] = report | {"expected": sent[name], "lost": lost}
        return found


def figures(reports: dict[str, dict[str, Any]]) -> str:
    """Return the figures of streams on one line."""
    return "; ".join(
        f"{name} {report['received']}/{report['expected']} lost {report['lost']} doubled {report['duplicated']}"
        f" gap {report['longest_gap_ns'] / 1e6:.0f} ms"
        for name, report in reports.items()
    )


def pause(lab: Lab, seconds: float) -> None:
    """Let packets flow for a while: the time is what is tested."""
    end = time.monotonic() + seconds
    lab.wait_until(lambda: time.monotonic() >= end, seconds + 5, "the end of the pause")


def since(start: float, condition: Callable[[], bool], lab: Lab, what: str, timeout_s: float = 20) -> float:
    """Return how many seconds after `start` the condition came true."""
    lab.wait_until(condition, timeout_s, what)
    return time.monotonic() - start


def routers(lab: Lab) -> list[str]:
    """Return the names of the routers."""
    return [machine.name for machine in lab.plan.of_kind(Kind.ROUTER)]
