"""The client's core on a kernel, real or the model of it, driven by hand; for the contract tests.

A World is a kernel that can be changed with the words of ip(8); a Client watches it and shows the facts as text.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Protocol

from tests.fakes.kernel import FakeKernel, RefusedError
from xenflow.model import Link
from xenflow_client.neighbors import Upkeep
from xenflow_client.netlink import open_socket
from xenflow_client.observer import Observer
from xenflow_client.resync import Resync
from xenflow_client.show import Shown, text_line

PATIENCE_S = 15.0
BASE = (
    "link add a0 index 10 address 02:00:00:00:00:0a",
    "link add b0 index 11 address 02:00:00:00:00:0b",
    "link add c0 index 12 address 02:00:00:00:00:0c",
    "link set lo up",
    "link set a0 up",
    "link set b0 up",
    "link set c0 up",
    "addr add 10.0.1.1/24 dev a0",
    "addr add 10.0.2.1/24 dev b0",
    "-6 addr add fd00:1::1/64 dev a0",
    "-6 addr add fd00:2::1/64 dev b0",
)


class Connection(Protocol):
    """A netlink socket."""

    def receive(self, timeout_s: float) -> bytes | None:
        """Return a datagram; None if there is none. Raises OSError after an overrun."""

    def send(self, request: bytes) -> None: ...
    def lose_events(self) -> None: ...


class World(Protocol):
    """A kernel that can be changed and watched."""

    def ip(self, command: str) -> None:
        """Do what `ip COMMAND` does; raises RefusedError."""

    def connect(self) -> Connection: ...
    def answer(self, address: str, mac: str, link: str) -> None:
        """Let somebody be there who answers for an address."""

    def close(self) -> None: ...


class ModelConnection:
    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.socket = kernel.connect()

    def receive(self, timeout_s: float) -> bytes | None:
        if timeout_s and not self.socket.queue:
            select.select([], [], [], min(timeout_s, 0.005))
        return self.socket.receive()

    def send(self, request: bytes) -> None:
        self.kernel.request(request, self.socket)

    def lose_events(self) -> None:
        self.socket.lose_events()


class ModelWorld:
    def __init__(self) -> None:
        self.kernel = FakeKernel()

    def ip(self, command: str) -> None:
        self.kernel.ip(command)

    def connect(self) -> Connection:
        return ModelConnection(self.kernel)

    def answer(self, address: str, mac: str, link: str) -> None:
        self.kernel.hosts[socket.inet_pton(socket.AF_INET, address)] = bytes.fromhex(mac.replace(":", ""))

    def close(self) -> None:
        pass


class RealConnection:
    def __init__(self, world: RealWorld, connected: socket.socket) -> None:
        self.world, self.socket = world, connected

    def receive(self, timeout_s: float) -> bytes | None:
        if not select.select([self.socket], [], [], timeout_s)[0]:
            return None
        return self.socket.recv(1 << 16)

    def send(self, request: bytes) -> None:
        self.socket.send(request)

    def lose_events(self) -> None:
        """Make a burst that a buffer of the smallest size cannot hold."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        batch = "".join(f"route add 10.200.{i // 250}.{i % 250} via 10.0.1.2\n" for i in range(1000))
        run("ip", "-n", self.world.near, "-batch", "-", given=batch)
        run("ip", "-n", self.world.near, "-batch", "-", given=batch.replace("add", "del"))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)


class RealWorld:
    """Two namespaces: the router's, and the far ends of its links, which give them a carrier."""

    def __init__(self) -> None:
        self.near, self.far = f"xfclient-{os.getpid()}", f"xfclient-{os.getpid()}-far"
        for name in (self.near, self.far):
            run("ip", "netns", "add", name)
            for setting in ("all", "default"):
                run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{setting}.accept_dad=0")
                run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{setting}.addr_gen_mode=1")
        self.sockets: list[socket.socket] = []

    def ip(self, command: str) -> None:
        words = command.split()
        match words:
            case ["link", "add", name, *_]:
                run("ip", "-n", self.near, *words, "type", "veth", "peer", "name", name, "netns", self.far)
                run("ip", "-n", self.far, "link", "set", name, "up")
                return
            case ["link", "set", name, "carrier", state]:
                words = ["link", "set", name, "up" if state == "on" else "down"]
                run("ip", "-n", self.far, *words)
                return
        run("ip", "-n", self.near, *words)

    def connect(self) -> Connection:
        self.sockets.append(inside(self.near, open_socket))
        return RealConnection(self, self.sockets[-1])

    def answer(self, address: str, mac: str, link: str) -> None:
        run("ip", "-n", self.far, "link", "set", link, "address", mac)
        run("ip", "-n", self.far, "addr", "add", f"{address}/24", "dev", link)

    def close(self) -> None:
        for one in self.sockets:
            one.close()
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def run(*command: str, given: str | None = None) -> None:
    result = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RefusedError(f"{' '.join(command)}: {result.stderr.strip()}")


def inside(namespace: str, action: Callable[[], socket.socket]) -> socket.socket:
    """Return what `action` returns in a network namespace; a thread of its own enters it and ends there."""
    result: list[socket.socket] = []

    def enter() -> None:
        with open(f"/run/netns/{namespace}") as there:
            if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), 0x40000000) != 0:
                return
        result.append(action())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return result[0]


class Client:
    """The client's core, driven by hand: facts as text."""

    def __init__(self, world: World, upkeep: Upkeep | None = None) -> None:
        self.connection = world.connect()
        self.shown = Shown(lambda line: None, as_json=False)
        self.resync = Resync()
        self.observer = Observer(self.shown, upkeep or Upkeep(resolve=False), self.resync)
        self.wait(lambda: self.observer.ready)

    def step(self, timeout_s: float = 0.02) -> None:
        for request in self.observer.tick(time.monotonic()):
            self.connection.send(request)
        try:
            data = self.connection.receive(timeout_s)
            while data is not None:
                self.observer.receive(data, time.monotonic())
                data = self.connection.receive(0)
        except OSError:
            self.observer.lost(time.monotonic())
        self.observer.settle(time.monotonic())

    def wait(self, reached: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
        """Go on until `reached`, or until patience ends; return whether it was."""
        end = time.monotonic() + patience_s
        while not reached():
            if time.monotonic() > end:
                return False
            self.step()
        return True

    def lines(self, *kinds: type) -> set[str]:
        names = {fact.index: fact.name for fact in self.shown.facts.values() if isinstance(fact, Link)}
        facts = [fact for fact in self.shown.facts.values() if not kinds or isinstance(fact, kinds)]
        return {text_line(fact, "", lambda index: names.get(index, str(index))) for fact in facts}

    def has(self, *lines: str) -> bool:
        """Return whether all `lines` are reported within time."""
        return self.wait(lambda: set(lines) <= self.lines())

    def has_not(self, *lines: str) -> bool:
        """Return whether none of `lines` is reported any more within time."""
        return self.wait(lambda: not set(lines) & self.lines())
