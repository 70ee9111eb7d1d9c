"""How frames leave a node within their network, as flows (pure; docs/design/pipeline.md).

Place in the flow: where each MAC is, trees -> *flows of the tables egress, gate and flood* -> FlowTable. Ways and Trees
decide; a frame leaves by a trunk with its network's tag, by a vif without one, by an access port with the wire's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xenflow_app.flowtable import FABRIC, FlowKey, FlowValue, cookie
from xenflow_app.openflow import actions, fields, nxm
from xenflow_app.openflow.decode import entries
from xenflow_app.pipeline import Flows, Kind, Sheet, Table, goto


def leave_trunk(port: int) -> bytes:
    """Return the actions that send a frame to another node, with its tag."""
    return actions.output(port)


def leave_vif(port: int) -> bytes:
    """Return the actions that deliver a frame to a VM, without a tag."""
    return actions.strip_vlan() + actions.output(port)


def leave_access(port: int, wire: int) -> bytes:
    """Return the actions that deliver a frame to the outside, with the tag of that wire (0: none)."""
    return (actions.set_vlan_vid(wire) if wire else actions.strip_vlan()) + actions.output(port)


@dataclass(frozen=True, slots=True)
class Member:
    """A port of a node in a network; `wire` is the VLAN id on an access port's wire, None at a vif."""

    port: int
    wire: int | None

    def leave(self) -> bytes:
        """Return the actions that send a frame out of the port."""
        return leave_vif(self.port) if self.wire is None else leave_access(self.port, self.wire)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a MAC is: the node, and the port it is behind."""

    node: str
    member: Member


def egress(vid: int, mac: bytes, leave: bytes) -> Flows:
    """Return the flow that sends frames to a known MAC on their way."""
    sheet = Sheet(Kind.EGRESS, FABRIC)
    sheet.add(Table.EGRESS, 100, leave, reg0=vid, dl_dst=mac)
    return sheet.flows


def egress_port(value: FlowValue) -> int:
    """Return the port by which such a flow sends frames on their way."""
    return actions.last_output(value[actions.VALUE_HEAD.size :])


def gate_key(vid: int, port: int) -> FlowKey:
    """Return the key of the flow that lets frames from `port` into the network's tree."""
    return nxm.flow_key(Table.GATE, 100, in_port=port, reg0=vid)


def gate_network(key: FlowKey) -> int:
    """Return the VLAN id in the key of a gate flow."""
    return int.from_bytes(dict(entries(key[3:]))[fields.REG0], "big")


def gate(vid: int, port: int) -> Flows:
    """Return the flow that lets frames from `port` (NO_PORT: routed on this node) into the network's tree."""
    return {gate_key(vid, port): actions.value(cookie(Kind.TREE, FABRIC), goto(Table.FLOOD))}


def flood(vid: int, trunks: Iterable[int], accesses: Sequence[tuple[int, int]], vifs: Iterable[int]) -> Flows:
    """Return the flow that floods a network: tree trunks, access ports (port, id on the wire), vifs.

    The port that a frame came from is left out by the switch itself.
    """
    sheet = Sheet(Kind.TREE, FABRIC)
    retagged = sorted((port, wire) for port, wire in accesses if wire)
    bare = sorted([*vifs, *(port for port, wire in accesses if not wire)])
    acts = b"".join(actions.output(port) for port in sorted(trunks))
    acts += b"".join(leave_access(port, wire) for port, wire in retagged)
    acts += actions.strip_vlan() + b"".join(actions.output(port) for port in bare) if bare else b""
    sheet.add(Table.FLOOD, 100, acts, reg0=vid)
    return sheet.flows
