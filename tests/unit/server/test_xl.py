"""Xen's own tool: what it prints, what it is told, and a model of it that is run as a program."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path

import pytest

from xenflow.errors import DataplaneError, RemoteProtocolError
from xenflow_server.domains import Domain, Lost, Phase, Saying, Snapshot
from xenflow_server.migrate import CANCELLED, follow
from xenflow_server.xl import XlMove, XlWatcher, migrate_argv, parse_list, percent_of

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


@pytest.mark.parametrize(
    ("target", "argv"),
    [
        ("ssh://n2", ["xl", "migrate", "3", "n2"]),
        ("ssh://root@n2.example", ["xl", "migrate", "3", "root@n2.example"]),
        ("ssh://root@10.0.0.2:2222/", ["xl", "migrate", "-s", "ssh -p 2222", "3", "root@10.0.0.2"]),
        ("tcp://10.0.0.2:8002", ["xl", "migrate", "-s", "", "3", "socat - TCP:10.0.0.2:8002"]),
        ("tcp://[fd00::2]:8002", ["xl", "migrate", "-s", "", "3", "socat - TCP:[fd00::2]:8002"]),
    ],
)
def test_what_xl_is_told(target: str, argv: list[str]) -> None:
    assert migrate_argv(3, target) == argv


@pytest.mark.parametrize(
    "target",
    [
        "n2",
        "ssh://n2;reboot",
        "ssh://-oProxyCommand=x",
        "ssh://$(x)",
        "tcp://n2",
        "tcp://a@n2:1",
        "ssh://n2/x y",
        "http://n2",
    ],
)
def test_a_place_that_a_shell_could_misread(target: str) -> None:
    with pytest.raises(RemoteProtocolError, match="must look like"):
        migrate_argv(3, target)


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("xc: progress: Memory: 1024/65536    1%", 1),
        ("xc: Saving memory: iter 0 (last sent 0 skipped 0): 0/32768    0%", 0),
        ("100%", 99),
        ("migration target: Ready to receive domain.", None),
    ],
)
def test_progress(line: str, percent: int | None) -> None:
    assert percent_of(line) == percent


MODEL = """
import json, os, signal, sys, time
state = sys.argv[1]
def load(): return json.load(open(state))
if sys.argv[2:] == ["list", "-l"]:
    print(json.dumps(load()))
elif sys.argv[2] == "migrate":
    domid, host = sys.argv[-2:]
    print("migration target: Ready to receive domain.", file=sys.stderr)
    print("xc: progress: 50/100    50%", file=sys.stderr, end="\\r", flush=True)
    if host == "slow":
        signal.pause()
    if host != "n2":
        sys.exit("migration sender: Target reported startup failure")
    entries = [entry for entry in load() if str(entry["domid"]) != domid]
    with open(state + ".new", "w") as file: json.dump(entries, file)
    os.replace(state + ".new", state)
    print("Migration successful.", file=sys.stderr)
"""


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


@pytest.mark.parametrize(
    ("target", "cancel", "error"),
    [
        ("ssh://n2", False, ""),
        ("ssh://n3", False, "migration sender: Target reported startup failure"),
        ("ssh://slow", True, CANCELLED),
    ],
)
def test_a_move(tmp_path: Path, target: str, cancel: bool, error: str) -> None:
    host = Host(tmp_path)
    host.has(DOM0, entry(3, "r1"))
    cancelled, said = threading.Event(), []

    def say(line: str) -> None:
        said.append(line)
        if cancel:
            cancelled.set()

    assert follow(XlMove(UUID, target, host.xl), cancelled, say) == error
    assert said in (["50%"], []) if not cancel else said == ["50%"]
    assert (UUID.encode() in host._state.read_bytes()) == bool(error)


def test_a_machine_that_is_not_here(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.has(DOM0)
    with pytest.raises(DataplaneError, match="no machine with uuid"):
        XlMove(UUID, "ssh://n2", host.xl).run()
