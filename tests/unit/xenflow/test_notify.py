"""sd_notify as systemd hears it: a real datagram socket, by path and by abstract name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenflow.notify import PULSES, Notifier


@contextlib.contextmanager
def listening(name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        systemd.settimeout(10)
        yield systemd


def test_ready_and_stopping(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with listening(path) as systemd:
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": path})
        notifier.ready("serving")
        notifier.ready("again")
        notifier.stopping()
        assert systemd.recv(4096) == b"READY=1\nSTATUS=serving"
        assert systemd.recv(4096) == b"READY=1\nSTATUS=again"
        assert systemd.recv(4096) == b"STOPPING=1"


def test_an_abstract_socket() -> None:
    name = f"xenflow-test-{os.getpid()}"
    with listening(f"\0{name}") as systemd:
        Notifier.from_environment({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert systemd.recv(4096) == b"STOPPING=1"


def test_the_loop_pings_the_watchdog(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")

    async def run(systemd: socket.socket) -> list[bytes]:
        Notifier(path, watchdog_s=0.03 * PULSES).ready("serving")
        return [await asyncio.to_thread(systemd.recv, 4096) for _ in range(4)]

    with listening(path) as systemd:
        heard = asyncio.run(run(systemd))
    assert heard == [b"READY=1\nSTATUS=serving", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_whose_watchdog_it_is(environment: dict[str, str], watchdog_s: float) -> None:
    environment["PATH"] = "/bin"
    assert Notifier.from_environment(environment).watchdog_s == watchdog_s
    assert environment == {"PATH": "/bin"}, "children do not speak for the daemon"


def test_without_systemd_nothing_happens() -> None:
    Notifier().ready("serving")  # needs no loop, either


def test_a_socket_that_is_gone_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier(str(tmp_path / "gone")).stopping()
    assert "systemd did not take STOPPING=1: No such file or directory" in caplog.text
