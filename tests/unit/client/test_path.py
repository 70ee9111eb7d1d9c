"""Out of reach is not the same as busy."""

from __future__ import annotations

import asyncio
import socket

from xenflow_client.path import LOST_AFTER_S, Path, unacknowledged


def judge(*observed: tuple[float, int, float]) -> bool:
    path = Path()
    return [path.lost(now, unacked, ago) for now, unacked, ago in observed][-1]


def test_lost_when_nothing_is_acknowledged_for_a_while() -> None:
    assert not judge((0.0, 1, 9.0), (LOST_AFTER_S - 0.01, 1, 9.0))
    assert judge((0.0, 1, 9.0), (LOST_AFTER_S, 2, 9.0 + LOST_AFTER_S))


def test_an_acknowledgement_or_nothing_to_acknowledge_begins_anew() -> None:
    assert not judge((0.0, 1, 9.0), (0.5, 3, 0.1), (0.9, 3, 0.5))
    assert judge((0.0, 1, 9.0), (0.5, 3, 0.1), (1.1, 3, 0.7))
    assert not judge((0.0, 1, 9.0), (0.5, 0, 9.5), (0.9, 1, 9.9))


def test_a_machine_that_stood_still_has_lost_what_it_had_sent_before() -> None:
    assert judge((0.0, 1, 0.1), (20.0, 1, 20.1))


def test_an_end_that_does_not_read_is_not_lost() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as ours:
            ours.connect(listener.getsockname())
            ours.setblocking(False)
            path = Path()
            sent = 0
            began = loop.time()
            while loop.time() < began + 2 * LOST_AFTER_S:
                try:
                    sent += ours.send(bytes(65536))
                except BlockingIOError:
                    await asyncio.sleep(0.05)
                assert not path.lost(loop.time(), *unacknowledged(ours))
            assert sent > 0

    asyncio.run(run())
