"""A process on a machine of the lab that does small things on command: no start-up time in what is measured.

Commands and answers are JSON, one a line: {"do": NAME, ...arguments} -> {"result": ...} or {"error": TEXT}.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.rtnetlink import Routes, prefixes
from xenflow_lab import shares
from xenflow_lab.lab import Lab
from xenflow_lab.traffic import frames, mmsg, rtt
from xenflow_lab.traffic.command import parse_mac
from xenflow_lab.traffic.timing import Stop

SINK_PORT = 5001
_OSPF, _HELLO = 89, 1


class Agent:
    """The end of the bench: an agent on the machine `who` of a lab."""

    def __init__(self, lab: Lab, who: str) -> None:
        self.who = who
        self._process = lab.popen(who, [sys.executable, "-m", "bench.agent"], stdin=subprocess.PIPE, stderr=None)

    def ask(self, do: str, **arguments: object) -> Any:
        """Have a command done, and return its result. Raises RuntimeError with the agent's words."""
        self.tell(do, **arguments)
        return self.answer()

    def tell(self, do: str, **arguments: object) -> None:
        """Have a command done; `answer` waits for it."""
        stdin = self._process.stdin
        if stdin is None:
            raise RuntimeError("the agent has no standard input")
        stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        stdin.flush()

    def answer(self) -> Any:
        """Return the result of the command that was told."""
        stdout = self._process.stdout
        line = "" if stdout is None else stdout.readline()
        found = json.loads(line) if line else {"error": "it has ended"}
        if "error" in found:
            raise RuntimeError(f"agent on {self.who}: {found['error']}")
        return found["result"]

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Commands:
    """What an agent can do: each public method is a command."""

    def __init__(self) -> None:
        self._stop = Stop()
        self._routes = Routes()
        self._sink: socket.socket | None = None

    def ping(self, to: str, count: int = 1, interval_s: float = 0.1, dscp: int = 0) -> list[int | None]:
        """Return the round-trip times of packets 1..count (ns), None for those without an answer."""
        plan = rtt.RttPlan(to, count=count, interval_s=interval_s, dscp=dscp)
        found: list[int | None] = rtt.run(plan, self._stop)["rtt_ns"]
        return found

    def put_routes(self, count: int, via: str, first: int = 0, length: int = 24) -> int:
        return self._routes.put(prefixes(count, first, length), via)

    def drop_routes(self, count: int, first: int = 0) -> int:
        return self._routes.drop(prefixes(count, first))

    def sink(self) -> bool:
        """Open a port for `blast` that nobody reads: its buffer is full at once, and packets end there."""
        self._sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sink.bind(("0.0.0.0", SINK_PORT))
        return True

    def blast(self, to: str, payload_bytes: int, seconds: float) -> int:
        """Send UDP as fast as this process can; return the number of packets."""
        out = mmsg.Outgoing(bytes(payload_bytes))
        name = mmsg.sockaddr(to, SINK_PORT)
        for slot in range(mmsg.BATCH):
            out.fill(slot, name)
        sent, end = 0, time.monotonic() + seconds
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while time.monotonic() < end:
                for _ in range(16):
                    sent += out.send(sock, 0, mmsg.BATCH)
        return sent

    def received(self, device: str = "eth0") -> tuple[int, int]:
        """Return the packets and bytes that have come in by a device so far."""
        counters = Path(f"/sys/class/net/{device}/statistics")
        return int((counters / "rx_packets").read_text()), int((counters / "rx_bytes").read_text())

    def hellos(self, source: str, seconds: float) -> list[int]:
        """Return when OSPF hellos of a neighbor came in within the next seconds (ns of CLOCK_MONOTONIC; RFC 2328)."""
        seen = []
        end = time.monotonic() + seconds
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, _OSPF) as sock:
            while (left_s := end - time.monotonic()) > 0:
                sock.settimeout(left_s)
                try:
                    packet, (sender, _) = sock.recvfrom(2048)
                except TimeoutError:
                    break
                if sender == source and packet[(packet[0] & 15) * 4 + 1] == _HELLO:
                    seen.append(time.monotonic_ns())
        return seen

    def speak_up(self, interfaces: dict[str, str]) -> bool:
        """Send a gratuitous ARP for each interface's address, as a hypervisor's driver does when a machine resumes."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            for device, address in interfaces.items():
                mac = parse_mac(Path(f"/sys/class/net/{device}/address").read_text(encoding="ascii").strip())
                own = ipaddress.IPv4Address(address)
                request = frames.arp(1, (mac, own), (bytes(6), own))
                frame = frames.ethernet(frames.BROADCAST, mac, (), frames.ETHERTYPE_ARP, request)
                sock.sendto(frame, (device, frames.ETHERTYPE_ARP))
        return True

    def rates(self, devices: list[str], seconds: float, interval_s: float) -> list[list[float]]:
        """Return the packets/s that come in by each device in each interval from now on."""
        counters = [Path(f"/sys/class/net/{device}/statistics/rx_packets") for device in devices]
        began = time.monotonic()
        seen = []
        for number in range(round(seconds / interval_s) + 1):
            time.sleep(max(began + number * interval_s - time.monotonic(), 0))
            seen.append((time.monotonic_ns(), [int(counter.read_text()) for counter in counters]))
        spans = list(pairwise(seen))
        return [
            [(after[place] - before[place]) / (later - earlier) * 1e9 for (earlier, before), (later, after) in spans]
            for place in range(len(devices))
        ]

    def classes(self, device: str, seconds: float, interval_s: float) -> tuple[list[float], dict[int, list[int]]]:
        """Return when the device's HTB classes were read (CLOCK_MONOTONIC) and the bytes each had sent, by queue."""
        began = time.monotonic()
        times_s: list[float] = []
        seen: list[dict[int, shares.Counters]] = []
        for number in range(round(seconds / interval_s) + 1):
            time.sleep(max(began + number * interval_s - time.monotonic(), 0))
            words = ["tc", "-s", "class", "show", "dev", device]
            text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            times_s.append(time.monotonic())
            seen.append(shares.parse(text))
        queues = set(seen[0]).intersection(*seen)
        return times_s, {queue: [each[queue].sent_bytes for each in seen] for queue in queues}


def main() -> None:
    """Serve until standard input ends."""
    commands = _Commands()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"result": getattr(commands, asked.pop("do"))(**asked)}
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
