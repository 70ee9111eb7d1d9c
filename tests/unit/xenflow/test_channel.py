"""Channels over local sockets: bulk, back-pressure, deadlines, refusals."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from tests.unit.xenflow.channels import (
    HELLO,
    NODE,
    OPERATOR,
    Program,
    anybody,
    in_jumping_loop,
    in_loop,
    listening,
    local,
    until,
)
from xenflow import wire
from xenflow.channel import Channel, Limits, ListenerLimits, connect, serve
from xenflow.errors import ConfigError, Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.wire import Query, Role


@in_loop
async def test_an_operator_asks_over_a_local_socket(tmp_path: Path) -> None:
    program = Program()
    async with listening(local(tmp_path), None, program) as listener:
        assert stat.S_IMODE((tmp_path / "app.sock").stat().st_mode) == 0o600
        channel = await connect(listener.addresses[0], None, OPERATOR, anybody)
        assert channel.peer == NODE
        await channel.send(Query(1, "status"))
        await until(lambda: program.messages == [Query(1, "status")])
        assert program.hellos == [(OPERATOR, Identity(Role.OPERATOR, "root"))]
        await channel.close("thank you")
        await until(lambda: program.ended == ["thank you"])
        with pytest.raises(ConnectionResetError):
            await channel.send(Query(2, "status"))
    assert not (tmp_path / "app.sock").exists()


@in_loop
async def test_a_local_socket_is_for_operators(tmp_path: Path) -> None:
    async with listening(local(tmp_path), None, Program()) as listener:
        with pytest.raises(RemoteProtocolError, match="for operators"):
            await connect(listener.addresses[0], None, HELLO, anybody)
        await until(lambda: listener.refusals == {Fault.IDENTITY: 1})


@in_loop
async def test_closing_a_listener_says_bye_to_everybody(tmp_path: Path) -> None:
    async with listening(local(tmp_path), None, Program()) as listener:
        channel = await connect(listener.addresses[0], None, OPERATOR, anybody)
        await listener.close("node goes down")
        assert [message async for message in channel] == []
        assert channel.reason == "node goes down"
        assert not channel.is_open


@in_loop
async def test_a_socket_left_behind_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    address = local(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(address.path)
    async with listening(address, None, Program()):
        with pytest.raises(ConfigError, match="another process listens there"):
            await serve(address, None, Program().welcome, Program().serve)
        channel = await connect(address, None, OPERATOR, anybody)
        await channel.close("still there")
    Path(address.path).write_text("somebody's notes")
    with pytest.raises(ConfigError, match="no socket and is left alone"):
        await serve(address, None, Program().welcome, Program().serve)
    assert Path(address.path).read_text() == "somebody's notes"


@in_loop
async def test_silence_in_the_handshake_ends_in_time(tmp_path: Path) -> None:
    limits = ListenerLimits(session=Limits(handshake_s=0.05))
    async with listening(local(tmp_path), None, Program(), limits) as listener:
        reader, writer = await asyncio.open_unix_connection(listener.addresses[0].path)
        farewell = await reader.read()
        assert b"no handshake within 0.05 s" in farewell
        await until(lambda: listener.refusals == {Fault.HANDSHAKE_TIMEOUT: 1})
        writer.close()


@in_loop
async def test_half_a_frame_and_then_silence_ends_in_time(tmp_path: Path) -> None:
    limits = ListenerLimits(session=Limits(frame_s=0.05, keepalive_s=0.01))
    async with listening(local(tmp_path), None, Program(), limits) as listener:
        reader, writer = await asyncio.open_unix_connection(listener.addresses[0].path)
        writer.write(wire.encode(OPERATOR) + b"\0\0")
        assert b"half a frame" in await reader.read()
        await until(lambda: listener.refusals == {Fault.FRAME_TIMEOUT: 1})
        writer.close()


@in_loop
async def test_a_peer_that_says_nothing_is_pinged_and_then_left(tmp_path: Path) -> None:
    limits = ListenerLimits(session=Limits(idle_s=0.1, keepalive_s=0.03))
    async with listening(local(tmp_path), None, Program(), limits) as listener:
        reader, writer = await asyncio.open_unix_connection(listener.addresses[0].path)
        writer.write(wire.encode(OPERATOR))
        received = await reader.read()
        assert wire.encode(wire.Ping(1)) in received
        assert b"silent for" in received
        await until(lambda: listener.refusals == {Fault.IDLE_TIMEOUT: 1})
        writer.close()


@in_jumping_loop
async def test_pings_keep_an_idle_channel_and_a_busy_program_alive(tmp_path: Path) -> None:
    busy = asyncio.Event()
    quick = Limits(idle_s=0.15, keepalive_s=0.02)

    async def slow(channel: Channel) -> None:
        await busy.wait()  # does not read
        async for message in channel:
            await channel.send(wire.Answer(1, error=type(message).__name__))

    program = Program()
    listener = await serve(local(tmp_path), None, program.welcome, slow, ListenerLimits(session=quick))
    channel = await connect(listener.addresses[0], None, OPERATOR, anybody, limits=quick)
    await channel.send(Query(1, "status"))
    reading = asyncio.create_task(channel.receive())
    began = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() > began + 0.5)
    assert channel.is_open
    busy.set()
    assert await reading == [wire.Answer(1, error="Query")]
    await channel.close("done")
    await listener.close()


@in_jumping_loop
async def test_send_waits_for_a_slow_reader_and_gives_up_on_one_that_never_reads(tmp_path: Path) -> None:
    unsent = []

    async def talk(channel: Channel) -> None:
        while True:
            await channel.send(wire.Answer(1, bytes(100_000)))
            unsent.append(channel._writer.transport.get_write_buffer_size())

    limits = ListenerLimits(session=Limits(stalled_s=0.1))
    listener = await serve(local(tmp_path), None, Program().welcome, talk, limits)
    reader, writer = await asyncio.open_unix_connection(listener.addresses[0].path)
    writer.write(wire.encode(OPERATOR))
    await until(lambda: listener.refusals == {Fault.STALLED: 1})
    assert max(unsent) < 2_000_000
    writer.close()
    await listener.close()
    reader.feed_eof()


@in_loop
async def test_a_mistake_in_a_program_surfaces(tmp_path: Path) -> None:
    async def broken(channel: Channel) -> None:
        raise KeyError("a bug")

    listener = await serve(local(tmp_path), None, Program().welcome, broken)
    channel = await connect(listener.addresses[0], None, OPERATOR, anybody)
    with pytest.raises(KeyError):
        await listener.wait()
    assert await channel.receive() == []
    await listener.close()


def test_a_client_needs_neither_pyopenssl_nor_cryptography() -> None:
    code = "import sys, xenflow.channel; print([m for m in ('OpenSSL', 'cryptography') if m in sys.modules])"
    with os.popen(f'"{sys.executable}" -c "{code}"') as process:
        assert process.read().strip() == "[]"
