"""`xenflow status`: is the network as it should be, and if not, what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenflow.answers import LinkStatus, NetworkStatus, NodeStatus, Refusal, RouterBrief, Status
from xenflow.model import Alarm, PortKind, address_text
from xenflow_app.drains import State
from xenflow_app.queries.names import Names, hosts
from xenflow_app.topology import Edge, End

if TYPE_CHECKING:
    from xenflow_app.controller import Controller
    from xenflow_app.node import Node


MAX_TURNED_AWAY = 256
"""Lines that one node may fill."""


def status(controller: Controller) -> Status:
    """Return the state of the whole network."""
    nodes = [controller.nodes[name] for name in sorted(controller.nodes)]
    names = {node.name: Names(controller, node) for node in nodes}
    return Status(
        host=controller.host,
        mode=controller.settings.mode.value,
        settled=controller.fabric.settled,
        awaited=_awaited(controller),
        nodes=[_node(node) for node in nodes],
        links=_links(controller, names),
        networks=[_network(controller, vid, names) for vid in controller.networks.vids()],
        routers=sorted((brief for node in nodes for brief in _routers(node)), key=lambda brief: brief.name),
        refused=[Refusal(text, count) for text, count in sorted(controller.refused.items())],
        ignored=[Refusal(text, count) for text, count in controller.ignored.lines()],
        turned_away=_turned_away(controller),
        contested=_contested(controller),
        alarms=_alarms(nodes),
    )


def _turned_away(controller: Controller) -> list[Refusal]:
    found = [
        Refusal(f"controller, {where}: {fault}", count)
        for where, counts in controller.doors.items()
        for fault, count in sorted(counts.items())
    ]
    for name, node in sorted(controller.nodes.items()):
        kept = sorted(node.turned_away.items())[:MAX_TURNED_AWAY]
        found += [Refusal(f"node {name}, {text}", count) for text, count in kept]
    return found


def _alarms(nodes: list[Node]) -> list[str]:
    return [
        f"node {node.name}: {fact.text}"
        for node in nodes
        for fact in node.inbox.facts.of(Alarm.KIND).values()
        if isinstance(fact, Alarm)
    ]


def _contested(controller: Controller) -> list[str]:
    routers = {router.number: router.name for node in controller.nodes.values() for router in node.routers.values()}
    found = []
    for claims in controller.answering.contested:
        who = " and ".join(sorted(routers.get(claim.router, "a router") for claim in claims))
        where = controller.networks.name(claims[0].vid)
        found.append(f"{address_text(claims[0].address)} in {where}: {who} have it")
    return sorted(found)


def _awaited(controller: Controller) -> list[str]:
    awaited = []
    for name in controller.settings.nodes or sorted(controller.nodes):
        node = controller.nodes.get(name)
        if node is None:
            awaited.append(f"node {name}: neither its server nor its switch has connected yet")
            continue
        if node.peer is None:
            awaited.append(f"node {name}: its server (xenflow-server) is not connected")
        elif not node.known:
            awaited.append(f"node {name}: its server has not told all that it knows")
        if node.switch is None:
            awaited.append(f"node {name}: its switch (Open vSwitch) is not connected")
        elif not node.flows.ready:
            awaited.append(f"node {name}: its switch has not shown its flows yet")
        if node.name in controller.fabric.awaiting:
            awaited.append(f"node {name}: its confirmation that packets follow a change of links")
        awaited += [
            f"router {router.name} on {name}: its VM (xenflow-client) has not told its tables"
            for router in node.routers.values()
            if not router.planned
        ]
    awaited += [
        f"trunk {controller.drains.name(*trunk.ends)}: to be undrained: {lonely}"
        for trunk in controller.drains.trunks()
        if (lonely := controller.drains.cut_off(trunk))
    ]
    return awaited


def _node(node: Node) -> NodeStatus:
    flows = node.flows
    return NodeStatus(
        name=node.name,
        dpid="" if node.dpid is None else f"{node.dpid:016x}",
        server=node.peer is not None,
        switch=node.switch is not None,
        in_sync=node.known,
        routers=sorted(node.routers),
        hosts=hosts(node),
        flows_desired=len(flows.desired),
        flows_actual=len(flows.actual),
        flows_pending=flows.pending,
        flows_held=flows.held,
        flows_refused=len(flows.refused),
        flow_mods_sent=node.datapath.sent_flow_mods,
        flow_mods_confirmed=node.datapath.confirmed_flow_mods,
    )


def _links(controller: Controller, names: dict[str, Names]) -> list[LinkStatus]:
    edges = sorted(controller.fabric.links)
    linked = {end for edge in edges for end in (edge.a, edge.b)}
    links = [_link(controller, edge, _ends(edge, names)) for edge in edges]
    for node in controller.nodes.values():
        for port in sorted(node.ports, key=lambda port: port.number):
            if port.kind is not PortKind.TRUNK or End(node.name, port.number) in linked:
                continue
            if not port.alive:
                why = "the other end is gone (BFD)"
            elif not node.is_up(port):
                why = "down"
            else:
                why = "nothing is heard from the other end"
            drain = _drain(controller, End(node.name, port.number))
            links.append(LinkStatus([f"{node.name}:{port.name}"], up=False, why=why, drain=drain))
    return links


def _link(controller: Controller, edge: Edge, ends: list[str]) -> LinkStatus:
    drain = _drain(controller, edge.a)
    if drain != State.DRAINED:
        return LinkStatus(ends, up=True, drain=drain)
    trunk = controller.drains.find(edge.a)
    lonely = "" if trunk is None else controller.drains.cut_off(trunk)
    return LinkStatus(ends, up=False, why=f"drained; {lonely}" if lonely else "drained, and works", drain=drain)


def _drain(controller: Controller, end: End) -> str:
    trunk = controller.drains.find(end)
    return "" if trunk is None or trunk.state is State.IN_USE else trunk.state


def _ends(edge: Edge, names: dict[str, Names]) -> list[str]:
    return [f"{end.node}:{names[end.node].port_name(end.port)}" for end in (edge.a, edge.b)]


def _network(controller: Controller, vid: int, names: dict[str, Names]) -> NetworkStatus:
    members = controller.fabric.trees.members(vid)
    return NetworkStatus(
        name=controller.networks.name(vid),
        vid=vid,
        members=sorted(f"{node}:{names[node].port_name(member.port)}" for node in members for member in members[node]),
        tree=[_ends(edge, names) for edge in sorted(controller.fabric.trees.tree(vid))],
        macs=sum(1 for known, _ in controller.fabric.ways.locations() if known == vid),
    )


def _routers(node: Node) -> list[RouterBrief]:
    owned = node.flows.count_by_owner()
    return [
        RouterBrief(
            name=router.name,
            node=node.name,
            in_sync=router.planned,
            routes=len(router.rib),
            neighbors=len(router.neighbors),
            flows=owned.get(router.number, 0),
            shed=router.shed,
        )
        for router in node.routers.values()
    ]
