"""What a switch says, decoded: immutable values. Flows are msgspec structs because a dump has a great many of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from xenflow_app.openflow.actions import FlowValue
from xenflow_app.openflow.nxm import FlowKey


class PortReason(enum.IntEnum):
    """Why a port status came (ofp_port_reason)."""

    ADD = 0
    DELETE = 1
    MODIFY = 2


class RemovedReason(enum.IntEnum):
    """Why a flow is gone (ofp_flow_removed_reason)."""

    IDLE_TIMEOUT = 0
    HARD_TIMEOUT = 1
    DELETE = 2
    OTHER = 3
    """Eviction, or whatever later versions of the switch add."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The highest OpenFlow version that the sender speaks (1 is OpenFlow 1.0)."""

    version: int
    xid: int


@dataclass(frozen=True, slots=True)
class Echo:
    """A probe, or (`reply`) the answer to one."""

    xid: int
    data: bytes
    reply: bool


@dataclass(frozen=True, slots=True)
class SwitchPort:
    """A port as the switch describes it. `up`: neither taken down nor without carrier."""

    number: int
    name: str
    mac: bytes
    up: bool


@dataclass(frozen=True, slots=True)
class Features:
    """Who the switch is and which ports it has."""

    dpid: int
    ports: tuple[SwitchPort, ...]
    xid: int = 0


@dataclass(frozen=True, slots=True)
class PacketIn:
    """A packet for the controller; `data` are its first bytes, `total_len` its whole length.

    `in_port`, `regs` (registers 0 to 7, zero where unset) are the flow's when the packet left the pipeline.
    """

    table: int
    cookie: int
    reason: int
    in_port: int
    regs: tuple[int, ...]
    data: bytes
    total_len: int


@dataclass(frozen=True, slots=True)
class FlowRemoved:
    """A flow with an idle timeout is gone."""

    key: FlowKey
    cookie: int
    reason: RemovedReason
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PortStatus:
    """A port came, went or changed."""

    reason: PortReason
    port: SwitchPort

    @property
    def number(self) -> int:
        """The port's OpenFlow number."""
        return self.port.number

    @property
    def name(self) -> str:
        """The port's name."""
        return self.port.name

    @property
    def up(self) -> bool:
        """Whether the port carries packets."""
        return self.port.up


class Flow(msgspec.Struct, frozen=True, gc=False):
    """A flow as dumped; `hard_timeout_s` is only seen at flows that were learned. Ages in seconds."""

    key: FlowKey
    value: FlowValue
    packets: int
    bytes: int
    duration_s: float
    idle_age_s: int
    hard_timeout_s: int


@dataclass(frozen=True, slots=True)
class FlowStats:
    """One part of a flow dump; `more` parts with the same xid follow."""

    xid: int
    flows: tuple[Flow, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class AggregateStats:
    """Sums over the flows that were asked for."""

    xid: int
    packets: int
    bytes: int
    flows: int


class PortCounters(msgspec.Struct, frozen=True, gc=False):
    """What passed a port; a counter that the switch does not have is 2**64 - 1."""

    number: int
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_dropped: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class PortStats:
    """One part of the ports' counters; `more` parts with the same xid follow."""

    xid: int
    ports: tuple[PortCounters, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class BarrierReply:
    """All that was sent before the barrier request of this xid has been taken in by the tables."""

    xid: int


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """The switch refused the message of this xid; `data` is its beginning."""

    xid: int
    type: int
    code: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Unknown:
    """A well-formed message of a type that nobody here asked for."""

    type: int
    xid: int


SwitchMessage: TypeAlias = (
    Hello
    | Echo
    | Features
    | PacketIn
    | FlowRemoved
    | PortStatus
    | FlowStats
    | AggregateStats
    | PortStats
    | BarrierReply
    | ErrorMessage
    | Unknown
)
