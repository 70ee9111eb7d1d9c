"""A small core for tests of the hosts: a fixed set of flows on each switch, differences only, and an answer.

`python demo_core.py --config FILE` runs it under the stand-alone host; tests/pox has the same for POX.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec

from xenflow.errors import Fault, RemoteProtocolError
from xenflow.identity import Identity
from xenflow.wire import VERSION, Answer, Hello, Message, Query, Role, Welcome
from xenflow_app.effects import Effect, ToPeer, ToSwitch
from xenflow_app.openflow import actions, fields, messages, nxm
from xenflow_app.openflow.fields import Subfield, whole
from xenflow_app.openflow.messages import (
    BarrierReply,
    Command,
    ErrorMessage,
    Features,
    FlowStats,
    PacketIn,
    PortStatus,
    SwitchMessage,
)
from xenflow_app.settings import AppSettings

COOKIE = 0x5866 << 48
MAC = bytes.fromhex("020000000001")


def demo_flows(routes: int) -> dict[bytes, bytes]:
    """Flows with every kind of action that POX knows nothing about, and some routes."""
    flows = {
        nxm.flow_key(0, 1): actions.value(COOKIE, actions.controller(0xFFFF, actions.Reason.NO_MATCH)),
        nxm.flow_key(0, 9, in_port=1): actions.value(COOKIE, actions.load(whole(fields.REG0), 7) + actions.resubmit(5)),
        nxm.flow_key(5, 1): actions.value(COOKIE | 5, actions.controller()),
        nxm.flow_key(30, 2, dl_type=nxm.ETH_IP): actions.value(
            COOKIE,
            actions.check_pkt_larger(1518, Subfield(fields.REG5, 0, 1))
            + actions.multipath(8, Subfield(fields.REG3, 0, 16))
            + actions.set_dl_src(MAC)
            + actions.dec_ttl()
            + actions.set_queue(3)
            + actions.output_reg(whole(fields.REG4)),
        ),
        nxm.flow_key(30, 3, in_port=2): actions.value(
            COOKIE, actions.learn_drop(0, 65200, 1, COOKIE, [whole(fields.IN_PORT)]) + actions.controller(64)
        ),
    }
    value = actions.value(COOKIE, actions.load(whole(fields.REG3), 1) + actions.resubmit(40))
    for number in range(routes):
        flows[nxm.ipv4_route_key(30, 100, 1, (0x0A000000 + number).to_bytes(4, "big"), 32)] = value
    return flows


class DemoCore:
    """One fixed plan for all switches; `Query` is answered with what has happened so far."""

    def __init__(self, settings: AppSettings) -> None:
        self._nodes = settings.nodes
        self._effects: list[Effect] = []
        self._dumps: dict[int, dict[bytes, bytes]] = {}
        self._events: list[str] = []
        self._sent = 0
        self._ticks = 0
        self._deadline = 0.0

    def watch_door(self, where: str, refused: Mapping[Fault, int]) -> None:
        self._events.append(f"door {where}")

    def peer_opened(self, peer: int, identity: Identity, hello: Hello, now: float) -> Welcome:
        if identity.role not in (Role.NODE, Role.OPERATOR):
            raise RemoteProtocolError(f"{identity} is not wanted here", Fault.IDENTITY)
        self._events.append(f"peer {identity}")
        return Welcome(VERSION, Role.CONTROLLER, "demo")

    def peer_message(self, peer: int, message: Message, now: float) -> None:
        if not isinstance(message, Query):
            raise RemoteProtocolError("only queries", Fault.SEQUENCE)
        if message.what == "fail":
            raise ZeroDivisionError("a fault of ours")
        state = {"events": self._events, "sent": self._sent, "ticks": self._ticks}
        self._effects.append(ToPeer(peer, Answer(message.number, msgspec.json.encode(state))))

    def peer_closed(self, peer: int, now: float) -> None:
        self._events.append("peer closed")

    def switch_opened(self, switch: int, features: Features, node: str | None, now: float) -> None:
        if node is not None and node not in self._nodes:
            raise RemoteProtocolError(f"node {node} is not among the nodes", Fault.IDENTITY)
        names = " ".join(sorted(port.name for port in features.ports))
        self._events.append(f"switch {features.dpid:x} node={node} ports={names}")
        self._dumps[switch] = {}
        self._effects.append(ToSwitch(switch, messages.flow_dump_request(1)))

    def switch_message(self, switch: int, message: SwitchMessage, now: float) -> None:
        match message:
            case FlowStats(flows=flows, more=more):
                self._dumps[switch].update({flow.key: flow.value for flow in flows})
                if not more:
                    self._sync(switch)
            case BarrierReply(xid=xid):
                self._events.append(f"barrier {xid}")
            case PacketIn():
                self._events.append(f"packet-in table={message.table} port={message.in_port} reg0={message.regs[0]}")
            case PortStatus():
                self._events.append(f"port {message.name} {message.reason.name} up={message.up}")
            case ErrorMessage():
                self._events.append(f"error {message}")

    def _sync(self, switch: int) -> None:
        wanted, found = demo_flows(3000), self._dumps[switch]
        mods = [messages.flow_mod(Command.DELETE_STRICT, key) for key in found.keys() - wanted.keys()]
        mods += [messages.flow_mod(Command.ADD, key, value) for key, value in wanted.items() if found.get(key) != value]
        self._sent += len(mods)
        self._effects.append(ToSwitch(switch, b"".join(mods) + messages.barrier_request(2)))

    def switch_closed(self, switch: int, now: float) -> None:
        self._events.append("switch closed")

    def tick(self, now: float) -> None:
        self._ticks += 1
        self._deadline = now + 0.05

    def next_deadline(self) -> float:
        return self._deadline

    def effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects


if __name__ == "__main__":
    from xenflow_app.standalone import run

    sys.exit(run(DemoCore))
