"""Two namespaces joined by a veth: ``left`` 10.9.0.1, fd09::1 and ``right`` 10.9.0.2, fd09::2, interface ``e0``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from xenflow_lab.traffic import launch


@dataclass(frozen=True)
class Pair:
    left: tuple[str, ...]
    right: tuple[str, ...]


def run(*command: str, given: str | None = None) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=given)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    names = [f"traffic-{side}-{os.getpid()}" for side in ("left", "right")]
    try:
        for name in names:
            run("ip", "netns", "add", name)
        run("ip", "link", "add", "e0", "netns", names[0], "type", "veth", "peer", "name", "e0", "netns", names[1])
        for number, name in enumerate(names, 1):
            run("ip", "-n", name, "address", "add", f"10.9.0.{number}/24", "dev", "e0")
            run("ip", "-n", name, "address", "add", f"fd09::{number}/64", "dev", "e0", "nodad")
            run("ip", "-n", name, "link", "set", "e0", "addrgenmode", "none", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        pair = Pair(*(launch.in_namespace(name) for name in names))
        for address in ("10.9.0.2", "fd09::2"):
            run(*pair.left, "ping", "-c", "1", "-W", "10", address)
        yield pair
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
