"""HTB's classes of a lab's ports, as the kernel counts them; which queue is whose is asked of the app."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import msgspec

from xenflow.answers import Shares
from xenflow.qosanswers import LinkQueues
from xenflow_lab.lab import Lab

__all__ = ["Counters", "LinkQueues", "Reading", "parse", "queue_ids", "read", "shares"]

_CLASS = re.compile(
    r"^class htb 1:([0-9a-f]+) .*?\n Sent (\d+) bytes (\d+) pkt \(dropped (\d+),.*?\n backlog \S+ (\d+)p", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Counters:
    """What a class has sent since it was made: bytes of frames, packets; packets dropped, and waiting now."""

    sent_bytes: int
    packets: int
    dropped: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Reading:
    """All queues of a port by id, at one time (CLOCK_MONOTONIC, seconds)."""

    at_s: float
    queues: dict[int, Counters]

    def mbps_since(self, before: Reading, queue: int) -> float:
        """Return the rate of a queue since an earlier reading, in Mbit/s of frames."""
        sent = self.queues[queue].sent_bytes - before.queues[queue].sent_bytes
        return sent * 8 / (self.at_s - before.at_s) / 1e6


def read(lab: Lab, node: str, port: str) -> Reading:
    """Read a port's classes. Raises CalledProcessError if the port is not there."""
    text = lab.run(node, ["tc", "-s", "class", "show", "dev", port], check=True).stdout
    return Reading(time.monotonic(), parse(text))


def parse(text: str) -> dict[int, Counters]:
    """Return the counters of each queue in what `tc -s class show` prints."""
    return {int(minor, 16) - 1: Counters(*map(int, numbers)) for minor, *numbers in _CLASS.findall(text)}


def shares(lab: Lab) -> Shares:
    """Return what `xenflow qos` shows. Raises LabError."""
    return msgspec.json.decode(lab.ask("qos"), type=Shares)


def queue_ids(lab: Lab, node: str, port: str) -> dict[tuple[str, str], int]:
    """Return the queues of a port: (owner, class) -> id; the class of what is not classified is "", and "control".

    Empty while the node does not answer, or the port is not shaped. Raises LabError.
    """
    status = shares(lab).nodes.get(node)
    links = [link for link in status.links if (link.port, link.state) == (port, "shaped")] if status else []
    return {(queue.owner, queue.name): queue.id for link in links for queue in link.queues}
