"""Two nodes and a router that the lab's own hypervisor moves between them: how it is moved, and what is looked at."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO

from tests.lab import layout
from tests.lab.test_lab_itself import XENFLOW
from xenflow_lab import teardown
from xenflow_lab.lab import Lab
from xenflow_lab.move import FROZEN, HANDED_OVER, Moved
from xenflow_lab.plan import WIRES

_SIDES = {"left": 1, "right": 2}
_ENDS = [{"network": net, "addresses": [f"10.0.{n}.1/24", f"fd00:{n}::1/64"]} for net, n in _SIDES.items()]
_ROUTER = {"name": "r1", "node": "n1", "routing": "bird", "interface": [_ENDS[0] | {"rate_mbps": 500}, _ENDS[1]]}
_HOSTS = [
    layout.host(f"h{n}", f"n{n}", net, [f"10.0.{n}.10/24", f"fd00:{n}::10/64"], [f"10.0.{n}.1", f"fd00:{n}::1"])
    for net, n in _SIDES.items()
]
TWO_NODES = layout.text("move", [("n1", "n2")], {"left": 10, "right": 20}, router=[_ROUTER], host=_HOSTS)


def learning(lab: Lab) -> Lab:
    for node in ("n1", "n2"):
        lab.ofctl(node, "add-flow", "actions=NORMAL")
    return lab


def be_heard(lab: Lab) -> None:
    """Let the router send on both sides, so that learning switches know where it is now."""
    for far in ("10.0.1.10", "10.0.2.10"):
        lab.wait_until(lambda far=far: answers(lab, "r1", far), 10.0, f"{far} from the router")  # type: ignore[misc]


def answers(lab: Lab, who: str, target: str) -> bool:
    return lab.run(who, ["ping", "-n", "-c2", "-i0.1", "-W0.3", target]).returncode == 0


def move(lab: Lab, to: str, freeze_s: float = 0.05) -> Moved:
    moved = lab.move("r1", to, freeze_s)
    be_heard(lab)
    return moved


def elsewhere(lab: Lab) -> str:
    return "n1" if lab.plan.machines["r1"].node == "n2" else "n2"


def everything(lab: Lab) -> dict[str, object]:
    """Whatever a move touches on wires and nodes: interfaces, ports with numbers and ids, filters' targets."""
    found: dict[str, object] = {"filters": lab.run(WIRES, ["tc", "filter", "show", "dev", "w1", "ingress"]).stdout}
    for who in (WIRES, "n1", "n2"):
        found[who] = sorted(lab.run(who, ["ls", "/sys/class/net"]).stdout.split())
    for node in ("n1", "n2"):
        columns = ("--format=json", "--columns=name,ofport,external_ids", "list", "Interface")
        found[f"{node} ports"] = sorted(json.loads(lab.vsctl(node, *columns))["data"])
        found[f"{node} numbers"] = re.findall(r"^ *\d+\([^)]*\)", lab.ofctl(node, "show"), re.MULTILINE)
        found[f"{node} control"] = lab.run(node, ["ls", "/sys/class/net/xfctl/brif"]).stdout.split()
    found["neighbors"] = lab.run("r1", ["cat", "/proc/sys/net/ipv4/neigh/eth0/ucast_solicit"]).stdout
    found["filters"] = re.sub(r"ifindex \d+|index \d+|Sent.*|\(rule.*|installed.*|used.*", "", str(found["filters"]))
    return found


def guest(lab: Lab) -> str:
    """What the guest sees of its interfaces, addresses and routes, without counters."""
    words = ("ip -o link; ip -o address; ip route; ip -6 route", "cat /sys/class/net/*/carrier_changes")
    return lab.run("r1", ["sh", "-c", "; ".join(words)], check=True).stdout


def pids(lab: Lab) -> list[int]:
    return teardown.inside([space]) if (space := teardown.namespace_of(lab.holder_pid("r1"))) else []


@contextmanager
def frozen(lab: Lab, to: str, freeze_s: float) -> Iterator[Future[Moved]]:
    """Run the block while the router is frozen; fails if it is not frozen for the whole block."""
    stands, goes = threading.Event(), threading.Event()

    def watch(percent: int) -> None:
        if percent >= FROZEN:
            stands.set()
        if percent >= HANDED_OVER:
            goes.set()

    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(lab.move, "r1", to, freeze_s, watch)
        assert stands.wait(20.0)
        yield moving
        assert not goes.is_set(), "the freeze was over before the test was"
        moving.result(freeze_s + 30)


def ends_at(percent: int) -> Callable[[int], None]:
    """Progress that dies there, as a move does whose process is killed."""

    def end(now: int) -> None:
        if now == percent:
            raise RuntimeError("ended here")

    return end


def started(lab: Lab, to: str, freeze_s: float) -> subprocess.Popen[str]:
    """The command as a person gives it, with a pipe for its progress."""
    argv = [*XENFLOW, "lab", "move", "r1", "--to", to, "--freeze", str(freeze_s), "--name", lab.name]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(stream: IO[str], word: str) -> str:
    """Return the next line with `word` in it."""
    for line in stream:
        if word in line:
            return line
    raise AssertionError(f"no {word!r}")
