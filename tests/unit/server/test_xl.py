"""Machines as Xen's own tool shows them: what it prints, and a model of it that is run as a program."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from xenflow.errors import RemoteProtocolError
from xenflow_server.domains import Domain, Lost, Phase, Saying, Snapshot
from xenflow_server.xl import XlWatcher, parse_list

UUID = "0a1b2c3d-0000-4000-8000-000000000001"
MAC = bytes.fromhex("00163e000001")
PATIENCE_S = 20.0


def entry(domid: int, name: str | None, uuid: str = UUID, mac: str = "00:16:3e:00:00:01") -> dict[str, object]:
    created = {"type": "pvh", "name": name, "uuid": uuid, "run_hotplug_scripts": "True"}
    nics = [{"devid": 0, "mac": mac, "bridge": "xenbr0", "script": "vif-xenflow"}]
    return {"domid": domid, "config": {"c_info": created, "b_info": {"max_vcpus": 1}, "nics": nics}}


DOM0 = {"domid": 0, "config": {"c_info": {"type": "pv", "name": "Domain-0"}, "b_info": {}}}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], {}),
        ([DOM0], {}),
        ([DOM0, entry(3, "r1")], {3: Domain(UUID, "r1", frozenset({MAC}))}),
        ([entry(4, "r1--incoming")], {4: Domain(UUID, "r1", frozenset({MAC}), Phase.INCOMING)}),
        ([entry(3, "r1--migratedaway")], {3: Domain(UUID, "r1", frozenset({MAC}), Phase.LEAVING)}),
        ([entry(3, None, mac="")], {3: Domain(UUID, "", frozenset())}),
        ([entry(3, "r1", uuid=""), {"domid": 5}], {}),  # being built
        ([entry(3, "r1", uuid=UUID.upper())], {3: Domain(UUID, "r1", frozenset({MAC}))}),
    ],
)
def test_the_list(entries: list[object], expected: dict[int, Domain]) -> None:
    text = json.dumps(entries).encode()
    assert parse_list(text) == expected
    assert parse_list(b"libxl: warning: something about a device\n" + text) == expected


@pytest.mark.parametrize("text", [b"", b"no", b"[", b'[{"domid": "x"}]', b"[1]", b"{}", b"[\xff]"])
def test_a_list_that_is_none(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="cannot be understood"):
        parse_list(text)


MODEL = """
import sys
print(open(sys.argv[1]).read())
"""
"""`xl list -l`; without a file, it fails."""


class Host:
    """A Xen host as a file; `xl` is a program that shows and changes it."""

    def __init__(self, directory: Path) -> None:
        self._state, program = directory / "state", directory / "xl.py"
        program.write_text(MODEL)
        self.xl = (sys.executable, str(program), str(self._state))

    def has(self, *entries: object) -> None:
        fresh = self._state.with_suffix(".new")
        fresh.write_text(json.dumps(entries))
        fresh.replace(self._state)


def test_what_the_watcher_says(tmp_path: Path) -> None:
    host = Host(tmp_path)
    domain = Domain(UUID, "r1", frozenset({MAC}))
    said: list[Saying] = []

    async def story() -> None:
        heard = asyncio.Event()

        def hear(saying: Saying) -> None:
            said.append(saying)
            heard.set()

        async def until(saying: Saying) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while saying not in said:
                    heard.clear()
                    await heard.wait()

        watch = asyncio.create_task(XlWatcher(host.xl, ("/no/such",), look_s=0.05).run(hear))
        async with asyncio.timeout(PATIENCE_S):
            await heard.wait()
        assert isinstance(said[0], Lost)
        host.has(DOM0)
        await until(Snapshot(()))
        host.has(DOM0, entry(3, "r1"))
        await until(Snapshot((domain,)))
        host.has(DOM0, entry(3, "r1--migratedaway"))
        await until(Snapshot((Domain(UUID, "r1", frozenset({MAC}), Phase.LEAVING),)))
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    asyncio.run(story())


async def tell(news: Path) -> None:
    """Write a line to who reads the pipe, as soon as somebody does, and let that be the end of it."""
    while True:
        try:
            descriptor = os.open(news, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            await asyncio.sleep(0.01)
            continue
        os.write(descriptor, b"@introduceDomain\n")
        os.close(descriptor)
        return


def test_xenstore_watch_is_started_again_when_it_ends(tmp_path: Path) -> None:
    host, news = Host(tmp_path), tmp_path / "news"
    os.mkfifo(news)
    host.has(DOM0)
    said: asyncio.Queue[Saying] = asyncio.Queue()

    async def story() -> None:
        watch = asyncio.create_task(XlWatcher(host.xl, ("cat", str(news)), look_s=1000).run(said.put_nowait))
        async with asyncio.timeout(PATIENCE_S):
            assert await said.get() == Snapshot(())
            for domid in (3, 4):
                host.has(DOM0, entry(domid, f"r{domid}"))
                await tell(news)
                assert await said.get() == Snapshot((Domain(UUID, f"r{domid}", frozenset({MAC})),))
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    asyncio.run(story())


@pytest.mark.parametrize("steps", range(4))
def test_it_ends_even_if_there_is_news_at_that_moment(tmp_path: Path, steps: int) -> None:
    host = Host(tmp_path)
    host.has(DOM0)
    said: asyncio.Queue[Saying] = asyncio.Queue()

    async def story() -> None:
        watcher = XlWatcher(host.xl, ("/no/such",), look_s=1000)
        watch = asyncio.create_task(watcher.run(said.put_nowait))
        await said.get()
        await asyncio.sleep(0.05)  # it waits by now
        watcher._changed.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        watch.cancel()
        assert (await asyncio.wait([watch], timeout=PATIENCE_S))[0] == {watch}

    asyncio.run(story())
