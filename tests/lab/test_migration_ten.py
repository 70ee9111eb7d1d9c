"""Ten routers leave a node together, each with a numbered flow of its own; the two others take five each, and no more.

ha (n2) --near-- v0 ... v9 (n1) --out-- hb (n3), which has all of 198.18.0.0/16; 198.18.N.0/24 leads through vN
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter

import pytest

from tests.lab import layout, moving, ring, tools
from tests.lab.conftest import LabFactory
from tests.lab.test_lab_itself import XENFLOW
from xenflow_lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

ROUTERS = 10
RATE_PPS = 1000


def topology() -> str:
    near, out = ([f"10.{net}.0.{number + 1}" for number in range(ROUTERS)] for net in (1, 2))
    routers = [
        layout.router(
            f"v{number}",
            "n1",
            {"near": [f"{near[number]}/24"], "out": [f"{out[number]}/24"]},
            {f"198.18.{number}.0/24": "10.2.0.100"},
        )
        for number in range(ROUTERS)
    ]
    to = {f"198.18.{number}.0/24": near[number] for number in range(ROUTERS)}
    hosts = [
        layout.host("hb", "n3", "out", ["10.2.0.100/24"]),
        layout.host("ha", "n2", "near", ["10.1.0.100/24"], routes=to),
    ]
    limits = {"limits": {"max_routers": 5}}
    vids = {"near": 10, "out": 20}
    return layout.text("ten", layout.RING, vids, plain=[("n3", "n1")], router=routers, host=hosts, server=limits)


@pytest.fixture(scope="module")
def lab(make_lab: LabFactory) -> Lab:
    made = make_lab(topology(), "ten")
    made.run("hb", ["ip", "route", "add", "local", "198.18.0.0/16", "dev", "lo"], check=True)
    made.wait_settled()
    for number in range(ROUTERS):
        answered = tools.answers(made, f"v{number}", ["10.1.0.100", "10.2.0.100"])
        assert all(answered.values()), answered
    ring.wait_quiet(made)
    return made


def xenflow(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*XENFLOW, *words, "--app", f"unix:{lab.app_socket}"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


def test_ten_routers_leave_a_node_together(lab: Lab) -> None:
    to = tuple(f"198.18.{number}.1:7000" for number in range(ROUTERS))
    with moving.numbered(lab, ring.Stream("all", "ha", to, ("hb",), ROUTERS), rate_pps=RATE_PPS) as reports:
        done = xenflow(lab, "evacuate", "n1", "--at-once", str(ROUTERS), "--json")
        assert done.returncode == 0, done.stdout + done.stderr
    ended = json.loads(done.stdout)
    longest_s = max(item["elapsed_s"] for item in ended)
    print(f"{len(ended)} routers have left, the last after {longest_s:.1f} s; {ring.figures(reports)}")
    assert [item["state"] for item in ended] == ["done"] * ROUTERS
    places = Counter(moving.node_of(lab, f"v{number}") for number in range(ROUTERS))
    assert places == {"n2": 5, "n3": 5}
    moving.assert_complete(reports)
    moving.assert_as_wanted(lab)


def test_a_node_that_is_full_takes_no_more(lab: Lab) -> None:
    """That is said before anything begins; an evacuation leaves the routers where they are."""
    before = len(moving.migrations(lab))
    router = next(name for name in (f"v{n}" for n in range(ROUTERS)) if moving.node_of(lab, name) == "n2")
    why = "node n3 is full: 5 of 5 routers run there or are to come ([limits] max_routers)"
    alone, all_of_them = xenflow(lab, "migrate", router, "--to", "n3"), xenflow(lab, "evacuate", "n2", "--to", "n3")
    assert (alone.returncode, alone.stderr) == (2, f"xenflow: {why}\n")
    assert all_of_them.returncode == 1, all_of_them.stderr
    assert sorted(all_of_them.stdout.splitlines()) == [
        f"v{n}: stays on n2: {why}" for n in range(ROUTERS) if moving.node_of(lab, f"v{n}") == "n2"
    ]
    assert len(moving.migrations(lab)) == before
