"""Asks a lab's app what `xenflow status` asks, from outside the lab's namespaces."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from xenflow.address import Address, Scheme
from xenflow.answers import Status
from xenflow.channel import connect
from xenflow.errors import RemoteProtocolError
from xenflow.wire import VERSION, Answer, Hello, Query, Role
from xenflow_lab.command import PATIENCE, LabError

ANSWER_TIMEOUT_S: Final = 15.0


def ask(socket: Path, what: str, arguments: dict[str, str] | None = None, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
    """Return the app's answer to a question, as JSON. Raises LabError if it has none or cannot be reached."""
    try:
        return asyncio.run(asyncio.wait_for(_ask(socket, Query(1, what, arguments or {})), timeout_s * PATIENCE))
    except (OSError, TimeoutError, RemoteProtocolError) as error:
        raise LabError(f"the app at {socket} does not answer: {error or type(error).__name__}") from error


def missing(status: Status, nodes: int, routers: int) -> list[str]:
    """Return what is not yet as it should be in a network of so many nodes and routers; empty if it has settled."""
    awaited = list(status.awaited)
    if not status.settled:
        awaited.append("links and trees are not settled")
    if len(status.nodes) < nodes:
        awaited.append(f"{nodes - len(status.nodes)} nodes are not known")
    if len(status.routers) < routers:
        awaited.append(f"{routers - len(status.routers)} routers are not known")
    awaited += [f"router {router.name} is not in sync" for router in status.routers if not router.in_sync]
    awaited += [f"node {node.name}: {node.flows_pending} flows pending" for node in status.nodes if node.flows_pending]
    return awaited


async def _ask(socket: Path, query: Query) -> bytes:
    hello = Hello(VERSION, Role.OPERATOR, "lab")
    channel = await connect(Address(Scheme.UNIX, path=str(socket)), None, hello, lambda _identity: None)
    try:
        await channel.send(query)
        async for message in channel:
            if isinstance(message, Answer):
                if message.error:
                    raise LabError(f"the app: {message.error}")
                return message.body
    finally:
        await channel.close("answered")
    raise LabError("the app has closed the connection without an answer")
