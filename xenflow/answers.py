"""What the controller answers to operators, as values: the commands and the controller share their shape.

Place in the flow: operator's Query -> app -> *answer as JSON* -> command, which prints it. With --json an answer is
printed as it is, so these names are what scripts rely on: fields may be added, none renamed.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from xenflow.qosanswers import QosStatus

Row = TypeVar("Row")


class Page(msgspec.Struct, Generic[Row], frozen=True):
    """Some of many rows. `next` asks for what follows (as the argument `after`), empty at the end; `total` of all."""

    rows: list[Row]
    total: int
    next: str = ""


class NodeStatus(msgspec.Struct, frozen=True):
    """One node. Flows: wanted, installed, with a flow-mod due, kept for an owner not in sync, refused by the switch."""

    name: str
    dpid: str
    server: bool
    switch: bool
    in_sync: bool
    routers: list[str]
    hosts: list[str]
    flows_desired: int
    flows_actual: int
    flows_pending: int
    flows_held: int
    flows_refused: int
    flow_mods_sent: int
    flow_mods_confirmed: int


class LinkStatus(msgspec.Struct, frozen=True):
    """A trunk: its ends as NODE:PORT (one, if the other is not known), whether it carries packets, or why not.

    `drain` is where it is between being used (empty) and drained: marking, draining, drained, unmarking, undraining.
    """

    ends: list[str]
    up: bool
    why: str = ""
    drain: str = ""


class NetworkStatus(msgspec.Struct, frozen=True):
    """A network: the ports in it, and the links that its broadcasts take, as NODE:PORT."""

    name: str
    vid: int
    members: list[str]
    tree: list[list[str]]
    macs: int


class RouterBrief(msgspec.Struct, frozen=True):
    """A router in one line."""

    name: str
    node: str
    in_sync: bool
    routes: int
    neighbors: int
    flows: int
    shed: int


class Refusal(msgspec.Struct, frozen=True):
    """Something that was refused, and how often."""

    text: str
    count: int


class Status(msgspec.Struct, frozen=True):
    """The whole. `host` runs the controller's core: stand-alone or pox.

    `awaited` says what is waited for while the network is not settled or a change is under way. `ignored` are
    announcements that no move waits for or that prove nothing, and frames that misuse the announcement's address.
    `contested` are addresses that several routers of a network have: the switches answer for none of them.
    `alarms` are what a person should mend on a node: two machines with one MAC address, a port that is left out, …
    `turned_away` are connections that listeners refused, the controller's and the nodes', and facts of routers that
    the nodes refused.
    """

    host: str
    mode: str
    settled: bool
    awaited: list[str]
    nodes: list[NodeStatus]
    links: list[LinkStatus]
    networks: list[NetworkStatus]
    routers: list[RouterBrief]
    refused: list[Refusal]
    ignored: list[Refusal] = []
    turned_away: list[Refusal] = []
    contested: list[str] = []
    alarms: list[str] = []


class ResourcesStatus(msgspec.Struct, frozen=True):
    """Processor and memory of a VM; null: not said, or not known.

    `cpu_weight` is relative to others' (256 if nothing is said), `cpu_cap` in percent of one processor (0: no cap).
    """

    memory_mib: int | None = None
    vcpus: int | None = None
    cpu_weight: int | None = None
    cpu_cap: int | None = None


class InterfaceStatus(msgspec.Struct, frozen=True):
    """A router's interface. `slow_packets`: handed to the VM on it by the switch, None while the switch is away."""

    number: int
    name: str
    network: str
    vid: int
    port: str
    mac: str
    addresses: list[str]
    mtu: int
    up: bool
    slow_packets: int | None = None


class RouterStatus(msgspec.Struct, frozen=True):
    """A router. `shed_reported` routes are kept back by client or server, `shed_here` have no flow because of a cap.

    `wildcard_packets` had no flow of their own and went to the VM by the wildcard flow. `defined` is what its VM is to
    have, `has` what the hypervisor says that it has (null: not asked), `resource_problems` why that differs.
    """

    name: str
    node: str
    in_sync: bool
    interfaces: list[InterfaceStatus]
    routes: int
    neighbors: int
    flows: int
    shed_reported: int
    shed_here: int
    max_flows: int
    wildcard_packets: int | None = None
    defined: ResourcesStatus = ResourcesStatus()
    has: ResourcesStatus | None = None
    resource_problems: list[str] = []


class HopStatus(msgspec.Struct, frozen=True):
    """A next hop, and how frames to it leave: `out` names the port, or the router on the same node.

    `problem` says why the switch cannot use it (the VM forwards then), empty if it can.
    """

    interface: str
    network: str
    gateway: str
    weight: int
    mac: str = ""
    vid: int = 0
    out: str = ""
    buckets: int = 0
    problem: str = ""


class RouteStatus(msgspec.Struct, frozen=True):
    """A route: what it does (`forwarding`), in words, and whether its flow is installed (`state`)."""

    prefix: str
    kind: str
    hops: list[HopStatus]
    forwarding: str
    state: str
    flow: str = ""


class Lookup(msgspec.Struct, frozen=True):
    """What a router does with packets to an address; `route` is the longest match, None if there is none."""

    address: str
    words: str
    route: RouteStatus | None


class FlowStatus(msgspec.Struct, frozen=True):
    """A flow: `text` as `ovs-ofctl dump-flows` prints it, `words` what it is for, `owner` a router's name or empty."""

    table: int
    table_name: str
    priority: int
    kind: str
    owner: str
    words: str
    text: str
    state: str


class Step(msgspec.Struct, frozen=True):
    """One flow that the packet met: what it decided, in words, and the flow itself (empty: no flow matched)."""

    table: int
    table_name: str
    words: str
    flow: str


class Visit(msgspec.Struct, frozen=True):
    """A packet's way through one node. `parent` is the visit that it came from (-1: none), `depth` how many before."""

    number: int
    parent: int
    depth: int
    node: str
    port: str
    packet: str
    condition: str
    steps: list[Step]


class Outcome(msgspec.Struct, frozen=True):
    """How a packet, or one copy of it, ends.

    `kind`: delivered; slow (a VM forwards it); answered (a VM tells the sender why not); replied (by the
    switch, to who asks for a router's MAC address); copied (flooded); left (by an access port); dropped; controller
    (reactive: it decides); unknown.
    `condition` says when this happens, if it depends on something (an ECMP hash).
    """

    visit: int
    kind: str
    where: str
    words: str
    condition: str = ""


class Trace(msgspec.Struct, frozen=True):
    """Why a packet is forwarded or not. `forwarded` tells whether it gets on."""

    packet: str
    notes: list[str]
    visits: list[Visit]
    outcomes: list[Outcome]
    forwarded: bool


class Difference(msgspec.Struct, frozen=True):
    """A flow that is not as it should be: `problem` is missing, differs, extra or unexpected."""

    problem: str
    flow: str
    words: str
    wanted: str = ""


class Verified(msgspec.Struct, frozen=True):
    """A node's flows, freshly read and compared with what is wanted; `why` says why they could not be read."""

    node: str
    flows: int
    differences: list[Difference]
    more: int = 0
    why: str = ""


class Reached(msgspec.Struct, frozen=True):
    """A state that a migration came to, and after how many seconds."""

    state: str
    after_s: float


class MigrationStatus(msgspec.Struct, frozen=True):
    """One migration. `planned`: ordered by an operator, not found under way. `percent` is the hypervisor's."""

    number: int
    router: str
    source: str
    target: str
    planned: bool
    state: str
    ended: bool
    awaited: str
    percent: int
    error: str
    elapsed_s: float
    reached: list[Reached]


class DrainStatus(msgspec.Struct, frozen=True):
    """A trunk that is drained, or on its way to or from that; `ends` as NODE:PORT.

    So many `addresses` are sent to on it by some node, and so many `networks` flood on it. `error` says why the last
    order could not be carried out.
    """

    ends: list[str]
    state: str
    ended: bool
    awaited: str
    addresses: int
    networks: int
    error: str
    elapsed_s: float


class BrokenPromise(msgspec.Struct, frozen=True):
    """A link (NODE:PORT) on which more is hired than it has beside what control has of it; rates in bit/s.

    `owners` hired it: ``router NAME`` or ``network NAME``.
    """

    link: str
    hired: int
    capacity: int
    control: int
    owners: list[str]


class Shares(msgspec.Struct, frozen=True):
    """The queues of the nodes that were asked for, by node.

    `refused` are owners whose rate is not guaranteed, `silent` nodes that gave no answer, both with the reason.
    `broken` are links that cannot keep what was promised to those who were admitted.
    """

    nodes: dict[str, QosStatus]
    refused: dict[str, str] = {}
    silent: dict[str, str] = {}
    broken: list[BrokenPromise] = []
