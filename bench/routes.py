"""From the router's kernel to the acknowledgement that its client gets: single changes, whole tables, reconnects.

A change is timed from just before the kernel is asked for it until the client has the acknowledgement of the very
update that carried it. By then the flow is in the switch's tables: the app acknowledges after the barrier reply.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

from bench import network
from bench.agent import Agent
from bench.figure import Figure, figure, percentile
from bench.network import OTHER_GATEWAY, RIGHT_ADDRESS
from bench.rtnetlink import prefixes
from bench.watch import ObservedRouter, rss_bytes
from xenflow_lab.lab import Lab

ROUTER, NODE = "r1", "n1"
SMALL, MEDIUM, LARGE = 1_000, 10_000, 100_000
CHANGES = 300
LOADS = 3
RECONNECTS = 5
_PROBE = 200_000
"""Number of the prefix that is added, changed and removed; outside all loads."""
_SERVER_PORT = 6655
_LISTEN = "0A"


class Bench:
    """The router under test: its agent puts routes into the kernel, its client says what is acknowledged."""

    def __init__(self, lab: Lab, agent: Agent, client: ObservedRouter) -> None:
        self.lab = lab
        self._agent = agent
        self._client = client
        self._base = client.until(lambda heard: heard.all_acked and heard.routes > 0, "the first snapshot").routes
        self._now = 0

    def fill(self, count: int) -> float:
        """Make the table hold `count` routes; return seconds from the first one in the kernel to all acknowledged."""
        if count >= self._now:
            began_ns = self._agent.ask("put_routes", count=count - self._now, via=RIGHT_ADDRESS, first=self._now)
        else:
            began_ns = self._agent.ask("drop_routes", count=self._now - count, first=count)
        self._now = count
        heard = self._client.until(
            lambda heard: heard.all_acked and heard.routes == self._base + count, f"{count} routes are acknowledged"
        )
        return (heard.acked_ns - began_ns) / 1e9

    def change_ms(self, count: int = CHANGES) -> list[float]:
        """Add, change and remove a route, again and again; return how long each took until it was acknowledged."""
        pick = random.Random(1)
        ((address, length),) = prefixes(1, _PROBE)
        key = (address + bytes([length])).hex()
        samples = []
        for number in range(count):
            time.sleep(pick.uniform(0.002, 0.02))
            sent_before = self._client.heard.carried.get(key, (0, 0))[0]
            if number % 3 == 2:
                began_ns = self._agent.ask("drop_routes", count=1, first=_PROBE)
            else:
                via = (RIGHT_ADDRESS, OTHER_GATEWAY)[number % 3]
                began_ns = self._agent.ask("put_routes", count=1, first=_PROBE, via=via)
            heard = self._client.until(
                lambda heard, before=sent_before: before < heard.carried.get(key, (0, 0))[0] <= heard.acked_seq,
                "a change is acknowledged",
            )
            samples.append((heard.acked_ns - began_ns) / 1e6)
        return samples

    def reconnect_ms(self) -> float:
        """Kill the server and start it again; return the time from when it listens to all acknowledged."""
        server = self.lab.process("server", NODE)
        end_before = self._client.heard.end_seq
        server.kill()
        server.start()
        listens_ns = _until_listens(server.pid or 0)
        heard = self._client.until(lambda heard: end_before < heard.end_seq <= heard.acked_seq, "in sync again")
        return (heard.acked_ns - listens_ns) / 1e6

    @property
    def client_bytes(self) -> int:
        """Resident memory of the client."""
        return rss_bytes(self._client.pid)

    @property
    def app_bytes(self) -> int:
        """Resident memory of the controller."""
        return rss_bytes(self.lab.process("controller").pid or 0)


def run() -> list[Figure]:
    """Return all figures that need a table of routes in the kernel."""
    with (
        network.one_node() as lab,
        Agent(lab, ROUTER) as agent,
        ObservedRouter(lab, ROUTER) as client,
    ):
        bench = Bench(lab, agent, client)
        app_empty = bench.app_bytes
        bench.fill(SMALL)
        small_ms = bench.change_ms()
        reconnects = [bench.reconnect_ms() for _ in range(RECONNECTS)]
        medium_s = _loads(bench, MEDIUM)
        large_s = _loads(bench, LARGE)
        app_bytes = [(bench.app_bytes - app_empty) / LARGE]
        client_mb = [bench.client_bytes / 1e6]
        large_ms = bench.change_ms()
        _check_switch(lab)
    print(f"    a change: median {statistics.median(small_ms):.2f} ms, at {LARGE} {statistics.median(large_ms):.2f} ms")
    scale = statistics.median(large_ms) / statistics.median(small_ms)
    return [
        figure("route_to_flow_ms_p50", small_ms),
        figure("route_to_flow_ms_p99", small_ms, percentile(small_ms, 0.99)),
        figure("route_to_flow_scale", [large / statistics.median(small_ms) for large in large_ms], scale),
        figure("load_10k_s", medium_s),
        figure("load_100k_s", large_s),
        figure("client_rss_mb", client_mb),
        figure("app_bytes_per_route", app_bytes),
        figure("reconnect_ms", reconnects),
    ]


def _loads(bench: Bench, count: int) -> list[float]:
    """Fill an empty table several times."""
    seconds = []
    for _ in range(LOADS):
        bench.fill(0)
        seconds.append(bench.fill(count))
    return seconds


def _check_switch(lab: Lab) -> None:
    """Raise RuntimeError unless the switch really has the flows of the large table."""
    counted = lab.ofctl(NODE, "dump-aggregate", "table=30")
    flows = int(counted.rpartition("flow_count=")[2].split()[0])
    if flows < LARGE:
        raise RuntimeError(f"the switch has {flows} route flows, not {LARGE}")


def _until_listens(server_pid: int) -> int:
    """Return when the server listens for clients (ns); proc(5) net/tcp6, so that it is not disturbed."""
    table = Path(f"/proc/{server_pid}/net/tcp6")
    port = f":{_SERVER_PORT:04X}"
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            columns = line.split()
            if columns[1].endswith(port) and columns[3] == _LISTEN:
                return time.monotonic_ns()
        time.sleep(0.002)
    raise TimeoutError("the server does not listen")
