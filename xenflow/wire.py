"""The messages between client, server, app and operator, and their framing.

A frame is a length (four bytes, network order, of what follows) and one message in msgpack. Messages are array-like:
a later version may append fields with defaults. Everything that is decoded has been checked for size and shape;
meaning is checked by who uses it.

Streams. A sender keeps its facts in scopes: a client has one (its router's name), a server has one for itself (`NODE`)
and one for each router that it hosts, the app has one for each server (`QUEUES_SCOPE`). For a scope it sends `Begin`,
the facts in `Update`s, `End`; from then on `Update`s with what changed. The receiver drops, at `End`, what it knew of
the scope and has not seen since `Begin`. `Close` ends a scope: it is gone for good. `Ack` says that everything up to
`seq` is *installed*: in the switches, or as queues in the kernel.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

from xenflow.model import Fact, Machine

VERSION = 1
NODE_SCOPE = ""
"""The scope of a server's own facts: bridge, ports, networks, machines."""
QUEUES_SCOPE = "queues"
"""The scope in which the app tells a node's server, and that its qos-controller, what queues the ports are to have."""
MAX_FRAME_BYTES = 1 << 20
CHUNK_FACTS = 2000
"""Facts in one `Update` at the most; keeps a frame far below MAX_FRAME_BYTES."""


class Role(enum.StrEnum):
    """What a process is; part of its identity."""

    ROUTER = "router"
    NODE = "node"
    CONTROLLER = "controller"
    OPERATOR = "operator"


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """First message of who connects. `epoch` grows each time the sender starts (or comes up on a node)."""

    version: int
    role: Role
    name: str
    epoch: int = 0


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The answer to Hello. `max_routes` caps what a router may report (0: no cap)."""

    version: int
    role: Role
    name: str
    max_routes: int = 0


class Begin(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A snapshot of `scope` follows."""

    scope: str


class Update(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Facts that are new or changed, and (kind, key) of those that are gone; `seq` grows by one in each scope."""

    scope: str
    seq: int
    upserts: list[Fact] = []
    withdrawals: list[tuple[int, bytes]] = []


class End(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The snapshot of `scope` is complete; takes a `seq` of its own, so that it can be acknowledged."""

    scope: str
    seq: int


class Close(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The scope is gone: its router does not run here any more. `moved`: it runs, or will run, on another node."""

    scope: str
    moved: bool = False


class Ack(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """All of `scope` up to `seq` is installed. `shed` counts routes without a flow of their own because of a cap."""

    scope: str
    seq: int
    shed: int = 0


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Are you there? Answered by Pong with the same number."""

    number: int


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Yes."""

    number: int


class Bye(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The sender closes the session, and why."""

    reason: str


class Confirm(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """App to server: say when the node's datapath follows the flows that are installed now (revalidators)."""

    token: int


class Confirmed(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Server to app: it does."""

    token: int


class Query(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Operator to app: a question, such as what="routes" with arguments as text."""

    number: int
    what: str
    arguments: dict[str, str] = {}


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """App to operator: `body` is JSON; `error` is empty, or says cause and way out."""

    number: int
    body: bytes = b""
    error: str = ""


class Problem(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """App to server (and on to a client): something of yours was refused; others go on. Shown and logged once."""

    scope: str
    text: str


class Define(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """App to server: a router may come to this node; this is its definition. The higher `epoch` is the newer one."""

    number: int
    machine: Machine
    max_routes: int
    epoch: int


class Undefine(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """App to server: forget the definition that was handed over, unless it is newer than `epoch`."""

    number: int
    name: str
    epoch: int


class Move(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """App to the source's server: have the hypervisor live-migrate the router's VM to the node `target`."""

    number: int
    name: str
    target: str


class CancelMove(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """App to the source's server: stop the move of that number, if it can still be stopped."""

    number: int


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """Server to app: how the order (Define, Undefine, Move, CancelMove, Drain) of that number goes.

    Sent once it is done, and for a move now and then before. `error` is empty, or says why it failed.
    """

    number: int
    done: bool
    error: str = ""
    percent: int = 0


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=28):
    """Server to app: what it has refused since it started, in words, and how often: connections, facts of routers."""

    counts: dict[str, int]


class Announce(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """App to server to client: send the announcement on each interface, again and again, until `Announced`.

    `key` signs it (announcement.py); `epoch` is the move's.
    """

    name: str
    epoch: int
    key: bytes


class Announced(msgspec.Struct, frozen=True, array_like=True, tag=26):
    """App to server to client: every interface's announcement of that epoch has come; stop."""

    name: str
    epoch: int


class Drain(msgspec.Struct, frozen=True, array_like=True, tag=27):
    """App to server: mark the trunk `port` in Open vSwitch's database as drained, or take the mark off.

    Progress says that the order is taken; that it is carried out is seen in the port's fact.
    """

    number: int
    port: str
    drained: bool


Message: TypeAlias = (
    Hello
    | Welcome
    | Begin
    | Update
    | End
    | Close
    | Ack
    | Ping
    | Pong
    | Bye
    | Confirm
    | Confirmed
    | Query
    | Answer
    | Problem
    | Define
    | Undefine
    | Move
    | CancelMove
    | Progress
    | Announce
    | Announced
    | Refused
    | Drain
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return the frame of `message`."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes | memoryview) -> Message:
    """Return the message in a frame's body. Raises msgspec.DecodeError (or its subclass ValidationError)."""
    try:
        return _decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as error:  # msgspec lets these two through
        raise msgspec.DecodeError(str(error)) from error
