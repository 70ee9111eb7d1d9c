"""The operators' commands against a controller over its local socket: what they print, and how they end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from tests.unit.app.network import World, mac
from tests.unit.app.test_queries import packed, query_raw, route, small
from xenflow.address import Address, Scheme
from xenflow.channel import Channel, serve
from xenflow.cli.main import run
from xenflow.identity import Identity
from xenflow.model import Alarm, Hop, Machine, NodeLimits, Port, PortKind, mac_text
from xenflow.resources import Granted, Resources
from xenflow.wire import VERSION, Answer, Hello, Query, Role, Welcome


class Served:
    """A network in memory whose controller answers on a socket, in a thread of its own."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.path = path
        self.on_question: Callable[[str], None] = lambda _what: None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        address = Address(Scheme.UNIX, path=str(self.path))
        listener = await serve(address, None, self._welcome, self._on_channel)
        self._ready.set()
        await self._stop.wait()
        await listener.close()

    def _welcome(self, _hello: Hello, _identity: Identity) -> Welcome:
        return Welcome(VERSION, Role.CONTROLLER, "controller")

    async def _on_channel(self, channel: Channel) -> None:
        async for message in channel:
            asked = cast(Query, message)
            self.on_question(asked.what)
            (answer,) = query_raw(self.world, asked.what, **asked.arguments)
            await channel.send(Answer(asked.number, answer.body, answer.error))


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    served = Served(small(), tmp_path / "s")
    outbox = served.world.servers["a"].routers["r1"]
    outbox.put(route("10.1.0.0/16", Hop(1, packed("10.0.1.10")), Hop(2, packed("10.0.9.2"))))
    hired(served.world, "a", "r1", 20_000_000)
    monkeypatch.setenv("XENFLOW_APP", f"unix:{served.path}")
    served.start()
    yield served
    served.stop()


@pytest.fixture
def world(served: Served) -> World:
    return served.world


def hired(world: World, node: str, name: str, rate: int) -> None:
    server = world.servers[node]
    server.node.put(msgspec.structs.replace(server.node.facts.of(Machine.KIND)[name.encode()], rate=rate))
    for port in list(server.node.facts.of(Port.KIND).values()):
        if isinstance(port, Port) and port.kind is PortKind.TRUNK:
            server.node.put(msgspec.structs.replace(port, capacity=100_000_000))
    world.settle()


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert not err if code < 2 else not out
    return out if code < 2 else err


@pytest.mark.usefixtures("world")
def test_every_command_prints_tables_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    for words, shown in (
        (("status",), ("a:t11 - b:t12", "lan", "r1", "proactive")),
        (("routers",), ("eth1", "10.0.1.1/24", mac_text(mac(101)))),
        (("routers", "r2"), ("r2",)),
        (("routes", "r1"), ("10.1.0.0/16", "8 buckets", "switch, over 2 next hops", "installed")),
        (("routes", "r1", "--lookup", "10.0.1.10"), ("r1 has a route to 10.0.1.0/24", "actions=")),
        (("routes", "r1", "--limit", "2"), ("2 more of 4",)),
        (("flows", "a", "--table", "fib"), ("r1: 0.0.0.0/0: via 10.0.9.2 on eth2 (core)",)),
        (("flows", "a", "--raw", "--router", "r1"), ("table=30",)),
        (("trace", "--from", "h1", "--to", "10.0.1.11"), ("delivered to h2 on lan",)),
        (("trace", "--from", "h1", "--to", "10.0.1.11", "--flows"), ("actions=output:11",)),
        (("verify",), ("DIFFERENCES",)),
        (("qos",), ("a:t11", "100 Mbit/s used", "r1", "20 Mbit/s", "control")),
        (("qos", "--link", "a:t11"), ("a:t11",)),
        (("qos", "explain", "a:t11"), ("t11: nothing to write",)),
    ):
        text = said(capsys, *words)
        assert all(part in text for part in shown), text
        assert json.loads(said(capsys, *words, "--json"))


def test_alarms_and_resources_are_seen(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    node = world.servers["a"].node
    machine = node.facts.of(Machine.KIND)[b"r1"]
    assert isinstance(machine, Machine)
    node.put(msgspec.structs.replace(machine, resources=Resources(memory_mib=512)))
    node.put(Alarm("two machines with one MAC address"))
    node.put(Granted("r1", Resources(256, 2, 512, None), ("memory_mib = 512: no",)))
    world.settle()
    lines = said(capsys, "status").splitlines()
    assert "ALARM    node a: two machines with one MAC address" in lines[:5]
    table = [line.split() for line in said(capsys, "routers").splitlines() if "memory_mib = 512: no" in line]
    assert table == [["r1", "256", "(of", "512)", "2", "512", "-", "memory_mib", "=", "512:", "no"]]


def test_the_exit_code_says_no(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "trace", "--from", "h1", "--to", "10.0.1.11", "--src", "10.0.1.99", code=1)
    assert "10.0.1.99 is not an address of h1" in text
    world.servers["b"].switch.flows.popitem()
    assert "missing" in said(capsys, "verify", code=1)


@pytest.mark.usefixtures("world")
def test_what_cannot_be_done_is_one_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, why in (
        (("routes", "r9"), "no router 'r9' is known; known: r1, r2"),
        (("trace", "--from", "h1", "--to", "nowhere"), "nowhere"),
        (("status", "--app", f"unix:{tmp_path}/none"), "is xenflow-controller running there?"),
        (("status", "--app", "ssl:127.0.0.1:6654"), "--ca, --certificate, --key"),
        (("status", "--app", "tcp:127.0.0.1:6654"), "plain TCP"),
        (("status", "--app", "somewhere"), "use ssl:HOST:PORT"),
    ):
        text = said(capsys, *words, code=2)
        assert why in text
        assert "Traceback" not in text


@pytest.mark.usefixtures("world")
def test_names_complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words, found in (("xenflow routes ", "r1"), ("xenflow flows ", "b"), ("xenflow trace --from ", "h2")):
        monkeypatch.setenv("_XENFLOW_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
        with pytest.raises(SystemExit):
            run(["complete"])
        assert f"plain,{found}" in capsys.readouterr().out


def fill(world: World, node: str) -> None:
    """No router more may run on the node."""
    world.servers[node].node.put(NodeLimits(1))
    world.settle()


def test_a_node_that_is_full_is_a_reason_before_anything_begins(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(world, "b")
    text = said(capsys, "migrate", "r1", "--to", "b", code=2)
    assert "node b is full: 1 of 1 routers run there or are to come ([limits] max_routers)" in text
    assert not said(capsys, "migrations", "--json").strip(" []\n")


def test_an_evacuation_tells_who_stays_and_why(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(world, "b")
    assert "r1: stays on a: node b is full" in said(capsys, "evacuate", "a", code=1)
    (refused,) = json.loads(said(capsys, "evacuate", "a", "--json", code=1))
    assert (refused["router"], refused["state"], refused["reached"]) == ("r1", "refused", [])
    assert "full" in refused["error"]
    for words, why in (
        (("evacuate", "z"), "no node 'z' is known; known: a, b"),
        (("evacuate", "a", "--to", "z"), "no node 'z' is known"),
        (("evacuate", "a", "--to", "a"), "cannot leave a for a"),
    ):
        assert why in said(capsys, *words, code=2)
    assert not world.controller.moves.under_way


@pytest.mark.parametrize(
    ("words", "told"),
    [(("migrate", "r1", "--to", "b"), "r1 has stayed on a: "), (("evacuate", "a"), "r1 is taken back")],
)
def test_ctrl_c_takes_back_what_is_under_way(
    served: Served, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    asked: list[str] = []

    def interrupt(what: str) -> None:
        asked.append(what)
        if asked.count("migrations") == 1 and what == "migrations":
            os.kill(os.getpid(), signal.SIGINT)  # while the question is under way
        served.world.run(0.1)

    served.on_question = interrupt
    before = signal.getsignal(signal.SIGINT)
    assert run(words) == 1
    out, err = capsys.readouterr()
    assert told in err
    assert "r1 is taken back" in err
    assert "preparing" in out or "r1: has stayed on a: taken back" in out
    assert not served.world.controller.moves.under_way
    assert asked.count("abort") == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_leaves_alone_what_is_under_way(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(what: str) -> None:
        if what in ("migrations", "abort"):
            os.kill(os.getpid(), signal.SIGINT)

    served.on_question = interrupt
    assert run(["migrate", "r1", "--to", "b"]) == 130
    assert "what is under way goes on; to see it: xenflow migrations" in capsys.readouterr().err


def test_a_controller_that_forgot_the_migration(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    def restart(what: str) -> None:
        if what == "migrations":
            served.world.start()

    served.on_question = restart
    assert run(["migrate", "r1", "--to", "b"]) == 2
    assert "started anew and knows nothing of this migration; where r1 runs: xenflow routers r1" in (
        capsys.readouterr().err
    )
