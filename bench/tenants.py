"""Tenants that share a trunk: each has a router on n1, with a sender in one network and a receiver on n2 in another.

    n1: s1 --1a-- v1 --1b-- | trunk | -- d1        s1, v1, d1 are the first tenant's, and so on

Rates are those of frames with header and tag, as HTB counts them; the senders' payload is less.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from bench.agent import SINK_PORT, Agent
from xenflow.qosanswers import QueueStatus
from xenflow_app.queueing import CONTROL_RATE
from xenflow_lab import shares, stations
from xenflow_lab.lab import Lab
from xenflow_lab.topology import Topology
from xenflow_lab.traffic.launch import Tool

NODE, FAR, PORT = "n1", "n2", "t-n2"
DATAPATH = os.environ.get("XENFLOW_DATAPATH", "netdev")
"""`system` in a machine whose kernel has Open vSwitch's datapath (tests/machines)."""
SIZE_BYTES, SMALL_BYTES = 1472, 64
HEADERS_BYTES = 46
"""Ethernet with tag, IPv4 and UDP."""
LONGEST_S = 300
"""After this a sender ends by itself."""


def topology(
    hires: Sequence[float],
    mbps: float,
    qos: Mapping[str, object],
    classes: Sequence[Mapping[str, object]] = (),
    cable_mbps: float = 0,
) -> Topology:
    """Return the network of as many tenants as `hires` (Mbit/s; 0: nothing is hired) on a trunk of `mbps`.

    `classes` are those of the first tenant's router; `cable_mbps` is the speed of the cable itself (0: any).
    """
    numbers = range(1, len(hires) + 1)
    document = {
        "lab": {"name": "tenants", "datapath": DATAPATH},
        "network": [{"name": f"{n}{side}", "vid": 10 * n + place} for n in numbers for place, side in enumerate("ab")],
        "node": [{"name": NODE}, {"name": FAR}],
        "trunk": [{"between": (NODE, FAR), "capacity": rate(mbps), "rate_mbps": cable_mbps}],
        "router": [
            {
                "name": f"v{n}",
                "node": NODE,
                "rate": rate(hired) if hired else "",
                "class": list(classes) if n == 1 else [],
                "interface": [{"network": f"{n}{side}", "addresses": (f"10.{n}.{at}.1/24",)} for at, side in _SIDES],
            }
            for n, hired in zip(numbers, hires, strict=True)
        ],
        "host": [_host(n, *each) for n in numbers for each in (("s", NODE, "a", 1), ("d", FAR, "b", 2))],
        "qos": dict(qos),
    }
    return msgspec.convert(document, Topology)


_SIDES = ((1, "a"), (2, "b"))


def rate(mbps: float) -> str:
    """Return a rate as definitions have it."""
    return f"{round(mbps * 1000)}kbit"


def _host(n: int, kind: str, node: str, side: str, at: int) -> dict[str, object]:
    return {
        "name": f"{kind}{n}",
        "node": node,
        "network": f"{n}{side}",
        "addresses": (f"10.{n}.{at}.10/24",),
        "gateways": (f"10.{n}.{at}.1",),
    }


def target(n: int) -> str:
    """Return the address of a tenant's receiver."""
    return f"10.{n}.2.10"


@dataclass(frozen=True, slots=True)
class Series:
    """What classes have sent, from time to time: queue id -> bytes at each of `times_s`."""

    times_s: list[float]
    sent_bytes: dict[int, list[int]]

    def since(self, begin_s: float) -> Series:
        """Return what comes from a time on."""
        first = next(place for place, at_s in enumerate(self.times_s) if at_s >= begin_s)
        return Series(self.times_s[first:], {queue: each[first:] for queue, each in self.sent_bytes.items()})

    def rates(self, queues: Sequence[int]) -> list[float]:
        """Return the Mbit/s of some queues together, in each interval."""
        sums = [sum(self.sent_bytes[queue][place] for queue in queues) for place in range(len(self.times_s))]
        spans = zip(pairwise(self.times_s), pairwise(sums), strict=True)
        return [(after - before) * 8 / (later - earlier) / 1e6 for (earlier, later), (before, after) in spans]

    def mean(self, queues: Sequence[int]) -> float:
        """Return their Mbit/s over the whole time."""
        ends = Series(
            [self.times_s[0], self.times_s[-1]], {name: [all_[0], all_[-1]] for name, all_ in self.sent_bytes.items()}
        )
        return ends.rates(queues)[0]


class Tenants:
    """A lab of tenants that is up, and what is asked of it."""

    def __init__(self, lab: Lab, count: int, agents: Mapping[str, Agent]) -> None:
        self.lab = lab
        self.numbers = range(1, count + 1)
        self.control_mbps = 2 * count * CONTROL_RATE / 1e6
        """What is set aside on the trunk: for each tenant's router, and its network there."""
        self.agents = agents
        self._path = lab.paths.machine(NODE) / "xenflow" / "definitions.d" / "lab.toml"

    # -- who hired what ----------------------------------------------------------------------------------------------

    def hire(self, rates_mbps: Sequence[float]) -> None:
        """Let each tenant's router have hired this; 0: nothing. Return when the trunk is as that wants it."""
        text = re.sub(r'(?m)^rate = ".*"\n', "", self._path.read_text())
        for n, hired in zip(self.numbers, rates_mbps, strict=True):
            if hired:
                text = text.replace(f'name = "v{n}"\n', f'name = "v{n}"\nrate = "{rate(hired)}"\n')
        self._path.write_text(text)
        self.lab.process("server", NODE).signal(signal.SIGHUP)
        wanted = {n: round(hired * 1e6) for n, hired in zip(self.numbers, rates_mbps, strict=True) if hired}
        self.lab.wait_until(lambda: self.hired_bps() == wanted, 20, f"hires of {wanted}")

    def hired_bps(self) -> dict[int, int]:
        """Return what each tenant has hired, as its queues on the trunk have it."""
        return self._sums(lambda queue: queue.hired)

    def guarantees_bps(self) -> dict[int, int]:
        """Return each tenant's guarantee in force, classes together."""
        return self._sums(lambda queue: queue.guarantee)

    def ceilings_bps(self) -> dict[int, int]:
        """Return each tenant's ceiling in force; tenants without classes."""
        return self._sums(lambda queue: queue.ceiling)

    def _sums(self, rate_bps: Callable[[QueueStatus], int]) -> dict[int, int]:
        """Return a rate of each tenant's queues on the trunk, in sum."""
        found: dict[int, int] = {}
        for link in self._links():
            for queue in link.queues:
                if not queue.control and queue.owner.startswith("v"):
                    number = int(queue.owner[1:])
                    found[number] = found.get(number, 0) + rate_bps(queue)
        return found

    def _links(self) -> list[shares.LinkQueues]:
        status = shares.shares(self.lab).nodes.get(NODE)
        return [link for link in status.links if (link.port, link.state) == (PORT, "shaped")] if status else []

    def queues(self) -> dict[int, list[int]]:
        """Return the ids of each tenant's queues on the trunk, without control."""
        ids = shares.queue_ids(self.lab, NODE, PORT)
        return {n: [ids[key] for key in ids if key[0] == f"v{n}" and key[1] != "control"] for n in self.numbers}

    # -- traffic -----------------------------------------------------------------------------------------------------

    @contextmanager
    def sending(self, demands_mbps: Mapping[int, float], size: int = SIZE_BYTES) -> Iterator[None]:
        """Inside the block tenants send UDP at these rates."""
        with ExitStack() as stack:
            for n, mbps in demands_mbps.items():
                stack.enter_context(self.sender(n, mbps, size))
            yield

    def sender(self, n: int, mbps: float, size: int = SIZE_BYTES) -> Tool:
        """Start a tenant's sender at a rate of frames."""
        payload_bps = mbps * 1e6 * size / (size + HEADERS_BYTES)
        plan = ("--rate-bps", f"{payload_bps}", "--size", str(size), "--duration", str(LONGEST_S), "--no-realtime")
        return stations.begin(self.lab, f"s{n}", "send", "--to", f"{target(n)}:{SINK_PORT}", *plan)

    def watch(self, seconds: float, interval_s: float) -> Series:
        """Return what the trunk's classes send from now on."""
        self.begin_watch(seconds, interval_s)
        return self.watched()

    def begin_watch(self, seconds: float, interval_s: float) -> None:
        """Begin what `watched` returns."""
        self.agents[NODE].tell("classes", device=PORT, seconds=seconds, interval_s=interval_s)

    def watched(self) -> Series:
        """Return what was begun."""
        times_s, sent = self.agents[NODE].answer()
        return Series(times_s, {int(queue): each for queue, each in sent.items()})

    def let_flow(self, seconds: float) -> None:
        """Return after some time."""
        end = time.monotonic() + seconds
        self.lab.wait_until(lambda: time.monotonic() >= end, seconds + 5, "the end of a pause")

    def fitness(self, rates: Sequence[float], expected: Sequence[float]) -> list[float]:
        """Return equation (2) of the paper for each."""
        return [1 - abs(1 - got / wanted) for got, wanted in zip(rates, expected, strict=True)]


@contextmanager
def tenants(
    name: str,
    hires: Sequence[float],
    mbps: float,
    qos: Mapping[str, object],
    classes: Sequence[Mapping[str, object]] = (),
    cable_mbps: float = 0,
) -> Iterator[Tenants]:
    """Bring such a network up; inside the block all tenants reach their receivers, which take what comes."""
    with Lab(topology(hires, mbps, qos, classes, cable_mbps), name) as lab, ExitStack() as stack:
        numbers = range(1, len(hires) + 1)
        who = [NODE, *(f"d{n}" for n in numbers)]
        agents = {each: stack.enter_context(Agent(lab, each)) for each in who}
        for n in numbers:
            agents[f"d{n}"].ask("sink")
        made = Tenants(lab, len(hires), agents)
        lab.wait_settled()
        if any(hires):
            lab.wait_until(lambda: len(made.hired_bps()) == sum(map(bool, hires)), 20, "the trunk's queues")
        for n in numbers:
            lab.wait_until(lambda n=n: all(stations.answers(lab, f"s{n}", [target(n)]).values()), 30, "traffic")  # type: ignore[misc]
        yield made
