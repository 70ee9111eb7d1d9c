"""Where an announcement takes its time: what is made of logs, departures and sockets."""

from __future__ import annotations

import datetime as dt

from bench.announced import Backlog, backlogs, trace

CLIENT = [
    "2026-01-02 03:04:01,000 INFO xenflow_client.announce: announcing epoch=1",
    "2026-01-02 03:04:05,100 INFO xenflow_client.announce: announcing epoch=2",
    "2026-01-02 03:04:05,400 INFO xenflow_client.announce: announced epoch=2 frames=6",
]
CONTROLLER = [
    "2026-01-02 03:04:01,200 INFO xenflow_app.moves: announcement heard router=r1 node=n2 port=old",
    "2026-01-02 03:04:05,105 INFO xenflow_app.moves: announcement heard router=r1 node=n2 port=r1-1",
    "2026-01-02 03:04:05,312 INFO xenflow_app.moves: announcement heard router=r1 node=n2 port=r1-2",
]
SOCKETS = """Netid Recv-Q Send-Q Local Address:Port Peer Address:PortProcess
p_raw 0      0      *:r1-1      *     skmem:(r0,rb212992,t0,tb212992,f0,w0,o0,bl0,d0)
p_raw 819200 0      *:r1-2      *     skmem:(r819200,rb8388608,t0,tb212992,f0,w0,o0,bl0,d12)
"""


def departure(interface: str, after_ms: float) -> str:
    at = dt.datetime(2026, 1, 2, 3, 4, 5, 100_000) + dt.timedelta(milliseconds=after_ms)
    return f"{interface} {int(at.timestamp() * 1000) * 1_000_000}\n"


def test_the_last_announcement_is_told_on_one_clock() -> None:
    departures = [departure("eth1", after) for after in (1, 6, 11, 16, 21, 101)] + [departure("eth0", 1)]
    found = trace(CLIENT, CONTROLLER, departures, SOCKETS)
    assert found.heard == {"r1-1": 5.0, "r1-2": 212.0}
    assert found.tell() == (
        "left: eth0 1 frames at 1, eth1 6 frames at 1 6 11 16 ... 101; heard: r1-1 at 5, r1-2 at 212 (ms); "
        "after the move 800 KiB in the switch's socket of r1-2, the fullest, which has dropped 12"
    )


def test_what_is_not_there_is_not_told() -> None:
    assert trace(CLIENT, [], [], "").tell() == "left: nothing; heard: nothing (ms)"
    assert backlogs(SOCKETS) == [Backlog("r1-1", 0, 0), Backlog("r1-2", 819200, 12)]
