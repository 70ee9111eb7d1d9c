"""`xenflow-client --print`: what would be reported, as text or JSON lines; with --follow also what changes."""

from __future__ import annotations

import json
from collections.abc import Callable

from xenflow.model import (
    Address,
    Fact,
    Hop,
    Key,
    Link,
    Neighbor,
    Route,
    RouteKind,
    ShedRoutes,
    address_text,
    mac_text,
    prefix_text,
)


class Shown:
    """A sink that keeps the facts and prints them: all at once (`show`), then each change."""

    def __init__(self, write: Callable[[str], object], as_json: bool) -> None:
        self.facts: dict[Key, Fact] = {}
        self._write = write
        self._render = json_line if as_json else text_line
        self._following = False

    def put(self, fact: Fact) -> None:
        """Add or replace a fact."""
        key = (fact.KIND, fact.key)
        if self.facts.get(key) == fact:
            return
        self.facts[key] = fact
        if self._following:
            self._write(self._render(fact, "+", self._name))

    def drop(self, kind: int, key: bytes) -> None:
        """Remove a fact."""
        fact = self.facts.pop((kind, key), None)
        if fact is not None and self._following:
            self._write(self._render(fact, "-", self._name))

    def show(self, follow: bool = False) -> None:
        """Print all facts in order; from now on also what changes, if asked to `follow`."""
        for key in sorted(self.facts):
            self._write(self._render(self.facts[key], "", self._name))
        self._following = follow

    def _name(self, index: int) -> str:
        link = self.facts.get((Link.KIND, index.to_bytes(4, "big")))
        return link.name if isinstance(link, Link) else str(index)


def text_line(fact: Fact, change: str, name: Callable[[int], str]) -> str:
    """Return a fact as a line in the manner of ip(8)."""
    match fact:
        case Link():
            line = f"link {fact.name} index {fact.index} mac {mac_text(fact.mac)} mtu {fact.mtu} {_state(fact.up)}"
        case Address():
            line = f"address {prefix_text(fact.address)} dev {name(fact.link)}"
        case Route():
            line = f"route {prefix_text(fact.prefix)} {_way(fact, name)}"
        case Neighbor():
            line = f"neighbor {address_text(fact.address)} dev {name(fact.link)} mac {mac_text(fact.mac)}"
        case ShedRoutes():
            line = f"shed {fact.count}"
        case _:
            line = repr(fact)
    return f"{change} {line}" if change else line


def json_line(fact: Fact, change: str, name: Callable[[int], str]) -> str:
    """Return a fact as one JSON object; `change` is "+" or "-" where one is followed."""
    body: dict[str, object] = {"fact": type(fact).__name__.lower()}
    match fact:
        case Link():
            body |= {"index": fact.index, "name": fact.name, "mac": mac_text(fact.mac), "mtu": fact.mtu, "up": fact.up}
        case Address():
            body |= {"address": prefix_text(fact.address), "link": name(fact.link)}
        case Route():
            hops = [
                {"link": name(hop.link), "gateway": address_text(hop.gateway), "weight": hop.weight}
                for hop in fact.hops
            ]
            body |= {"prefix": prefix_text(fact.prefix), "kind": fact.kind.name.lower(), "hops": hops}
        case Neighbor():
            body |= {"address": address_text(fact.address), "link": name(fact.link), "mac": mac_text(fact.mac)}
        case ShedRoutes():
            body |= {"count": fact.count}
    if change:
        body["change"] = change
    return json.dumps(body)


def _state(up: bool) -> str:
    return "up" if up else "down"


def _way(route: Route, name: Callable[[int], str]) -> str:
    if route.kind is not RouteKind.UNICAST:
        return {RouteKind.BLACKHOLE: "blackhole", RouteKind.SLOW: "slow (left to the router itself)"}[route.kind]
    return " ".join(_hop(hop, name, several=len(route.hops) > 1) for hop in route.hops)


def _hop(hop: Hop, name: Callable[[int], str], several: bool) -> str:
    via = f"via {address_text(hop.gateway)} " if hop.gateway else ""
    return f"{'nexthop ' if several else ''}{via}dev {name(hop.link)}{f' weight {hop.weight}' if several else ''}"
