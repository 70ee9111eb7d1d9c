"""Topology files put together of tables: a test says only what is special of its network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from xenflow_lab import toml

Table = dict[str, object]
Pair = tuple[str, str]

RING: Sequence[Pair] = (("n1", "n2"), ("n2", "n3"), ("n3", "n1"))
"""Trunks between three nodes."""


def text(
    name: str, trunks: Iterable[Pair], vids: Mapping[str, int], *, plain: Collection[Pair] = (), **more: object
) -> str:
    """Return a topology file: nodes are those that `trunks` join, `vids` the networks.

    Trunks in `plain` have an ordinary learning bridge in the cable; `more` are further tables, by name.
    """
    trunks = list(trunks)
    nodes = dict.fromkeys(node for pair in trunks for node in pair)
    document = {
        "lab": {"name": name},
        "node": [{"name": node} for node in nodes],
        "trunk": [{"between": pair, "bridge": pair in plain} for pair in trunks],
        "network": [{"name": network, "vid": vid} for network, vid in vids.items()],
    }
    return toml.encode(document | more)


def router(
    name: str,
    node: str,
    ends: Mapping[str, Sequence[str]],
    routes: Mapping[str, str] | None = None,
    passive: Collection[str] = (),
    **more: object,
) -> Table:
    """Return a router: `ends` are its addresses by network, of which OSPF only announces those in `passive`."""
    interfaces = [
        {"network": network, "addresses": addresses} | ({"passive": True} if network in passive else {})
        for network, addresses in ends.items()
    ]
    return {"name": name, "node": node, "interface": interfaces} | _routes(routes) | more


def host(
    name: str,
    node: str,
    network: str,
    addresses: Sequence[str],
    gateways: Sequence[str] = (),
    routes: Mapping[str, str] | None = None,
) -> Table:
    """Return a host."""
    found: Table = {"name": name, "node": node, "network": network, "addresses": addresses, "gateways": gateways}
    return found | _routes(routes)


def _routes(routes: Mapping[str, str] | None) -> Table:
    return {"route": [{"to": to, "via": via} for to, via in routes.items()]} if routes else {}
