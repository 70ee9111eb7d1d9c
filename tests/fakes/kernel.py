"""A working model of the kernel's links, addresses, neighbors and routes (table main), which speaks netlink.

It takes commands in the words of ip(8), does what the kernel does (tests/contract/test_client_netlink.py holds it to
that), says what the kernel says, and keeps silent where the kernel does: routes that a link takes with it when it goes
down vanish without a message. Neighbors in `hosts` answer.
"""

from __future__ import annotations

import errno
import ipaddress
from collections import deque
from dataclasses import dataclass, field, replace

from tests.fakes import netlinkbytes as nl
from xenflow.model import Prefix, pack_mac

_TYPES = {"unicast": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8, "throw": 9}


class RefusedError(Exception):
    """What the kernel would refuse."""


@dataclass
class FakeLink:
    index: int
    name: str
    mac: bytes
    up: bool = False
    carrier: bool = True
    loopback: bool = False
    noarp: bool = False
    mtu: int = 1500

    @property
    def flags(self) -> int:
        up = (1 | (1 << 16 if self.carrier else 0)) if self.up else 0
        return up | (1 << 3 if self.loopback else 0) | (1 << 7 if self.noarp else 0)


@dataclass(frozen=True)
class FakeRoute:
    prefix: Prefix
    metric: int
    tos: int
    type: int
    hops: tuple[nl.RawHop, ...]
    protocol: int = 3
    encap: bool = False

    @property
    def ipv6(self) -> bool:
        return len(self.prefix) == 17

    @property
    def order(self) -> tuple[int, int]:
        return (-self.tos, self.metric)

    @property
    def joins(self) -> bool:
        return self.ipv6 and bool(self.hops) and all(hop.gateway for hop in self.hops)


@dataclass
class FakeSocket:
    """What one listener has not read yet."""

    queue: deque[bytes] = field(default_factory=deque)
    overrun: bool = False

    def receive(self) -> bytes | None:
        """Return a datagram; None if there is none. Raises OSError after an overrun."""
        if self.overrun:
            self.overrun = False
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return self.queue.popleft() if self.queue else None

    def lose_events(self) -> None:
        """The buffer overran: what waits is gone."""
        self.queue.clear()
        self.overrun = True


@dataclass
class FakeKernel:
    links: dict[int, FakeLink] = field(default_factory=dict)
    addresses: list[tuple[int, bytes]] = field(default_factory=list)
    neighbors: dict[tuple[int, bytes], tuple[bytes, int]] = field(default_factory=dict)
    routes: dict[Prefix, list[FakeRoute]] = field(default_factory=dict)
    hosts: dict[bytes, bytes] = field(default_factory=dict)  # who answers: address -> MAC
    asked: list[tuple[bytes, int, int]] = field(default_factory=list)  # address, state, flags of each request
    sockets: list[FakeSocket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.links[1] = FakeLink(1, "lo", bytes(6), loopback=True, mtu=65536)

    # -- as ip(8) -----------------------------------------------------------------------------------------------

    def ip(self, command: str) -> None:
        """Do what `ip COMMAND` does. Raises RefusedError."""
        words = command.replace("-6 ", "").split()
        thing, verb, *rest = words
        match thing:
            case "link":
                self._ip_link(verb, rest)
            case "addr":
                self._ip_address(verb, rest)
            case "neigh":
                self._ip_neighbor(verb, rest)
            case "route":
                self._ip_route(verb, rest)
            case _:
                raise ValueError(f"the model does not know: ip {command}")

    def _ip_link(self, verb: str, words: list[str]) -> None:
        if verb == "add":
            named = dict(zip(words[1::2], words[2::2], strict=False))
            link = FakeLink(int(named["index"]), words[0], pack_mac(named["address"]))
            self.links[link.index] = link
            return self._tell(nl.link(link))
        link = self._named(words[0])
        match verb, words[1:]:
            case "del", _:
                self._take_down(link)
                for index, address in [one for one in self.addresses if one[0] == link.index]:
                    self._remove_address(index, address)
                del self.links[link.index]
                return self._tell(nl.link(link, gone=True))
            case "set", ["up"]:
                self._bring_up(link)
            case "set", ["down"]:
                self._take_down(link)
            case "set", ["carrier", state]:
                link.carrier = state == "on"
            case "set", ["arp", "off"]:
                link.noarp = True
            case "set", ["mtu", mtu]:
                link.mtu = int(mtu)
            case _:
                raise ValueError(f"the model does not know: ip link {verb} {words}")
        return self._tell(nl.link(link))

    def _bring_up(self, link: FakeLink) -> None:
        link.up = True
        for index, address in self.addresses:
            if index == link.index:
                self._connect(index, address)

    def _take_down(self, link: FakeLink) -> None:
        """Flush what depends on the link: neighbors and addresses with messages, routes without."""
        link.up = False
        self._tell(nl.link(link))
        for prefix, routes in list(self.routes.items()):
            self.routes[prefix] = [one for one in routes if not one.hops or any(self._alive(h) for h in one.hops)]
        for key in [key for key in self.neighbors if key[0] == link.index]:
            self._forget_neighbor(key)
        for index, address in list(self.addresses):
            if index == link.index and len(address) == 17:
                self._remove_address(index, address)

    def _alive(self, hop: nl.RawHop) -> bool:
        return hop.link in self.links and self.links[hop.link].up

    def _ip_address(self, verb: str, words: list[str]) -> None:
        link = self._named(words[words.index("dev") + 1])
        interface = ipaddress.ip_interface(words[0])
        address = interface.packed + bytes([interface.network.prefixlen])
        if (verb == "del") != ((link.index, address) in self.addresses):
            raise RefusedError("no such address" if verb == "del" else "exists")
        if verb == "del":
            return self._remove_address(link.index, address)
        self.addresses.append((link.index, address))
        self._tell(nl.address(link.index, address))
        if link.up and not link.loopback:
            self._connect(link.index, address)
        return None

    def _connected(self, index: int, address: bytes) -> FakeRoute | None:
        interface = ipaddress.ip_interface((address[:-1], address[-1]))
        network = interface.network
        if network.prefixlen == network.max_prefixlen and network.version == 4:
            return None
        prefix = network.network_address.packed + bytes([network.prefixlen])
        return FakeRoute(prefix, 0 if network.version == 4 else 256, 0, 1, (nl.RawHop(index),), protocol=2)

    def _connect(self, index: int, address: bytes) -> None:
        route = self._connected(index, address)
        if route is not None and route not in self.routes.get(route.prefix, []):
            self._add_route(route, nl.NLM_F_CREATE | nl.NLM_F_APPEND)

    def _remove_address(self, index: int, address: bytes) -> None:
        self.addresses.remove((index, address))
        self._tell(nl.address(index, address, gone=True))
        route = self._connected(index, address)
        if route is not None and route in self.routes.get(route.prefix, []):
            self._delete_route(route)
        if len(address) == 5 and not any(len(other) == 5 for link, other in self.addresses if link == index):
            self._flush_ipv4(index)

    def _flush_ipv4(self, index: int) -> None:
        """The last IPv4 address goes: IPv4 is disabled on the link, its routes vanish silently (fib_disable_ip)."""
        for prefix, routes in self.routes.items():
            if len(prefix) == 5:
                routes[:] = [one for one in routes if not one.hops or any(hop.link != index for hop in one.hops)]

    def _ip_neighbor(self, verb: str, words: list[str]) -> None:
        link = self._named(words[words.index("dev") + 1])
        key = (link.index, ipaddress.ip_address(words[0]).packed)
        if verb == "del":
            if key not in self.neighbors:
                raise RefusedError("no such neighbor")
            return self._forget_neighbor(key)
        if not link.up:
            raise RefusedError("network is down")
        state = {"permanent": 0x80, "reachable": 0x02, "stale": 0x04, "failed": 0x20}[
            words[words.index("nud") + 1] if "nud" in words else "permanent"
        ]
        return self._set_neighbor(key, pack_mac(words[words.index("lladdr") + 1]), state)

    def _set_neighbor(self, key: tuple[int, bytes], mac: bytes, state: int) -> None:
        self.neighbors[key] = (mac, state)
        self._tell(nl.neighbor(*key, mac, state))

    def _forget_neighbor(self, key: tuple[int, bytes]) -> None:
        mac, _ = self.neighbors.pop(key)
        self._tell(nl.neighbor(*key, mac, 0x20, gone=True))

    def age(self) -> None:
        """Time passes without traffic: what was reachable goes stale."""
        for key, (mac, state) in list(self.neighbors.items()):
            if state == 0x02:
                self._set_neighbor(key, mac, 0x04)

    # -- routes -------------------------------------------------------------------------------------------------

    def _ip_route(self, verb: str, words: list[str]) -> None:
        route, table = self._parse_route(words, exact=verb != "del")
        if table != 254:
            return
        if verb == "del":
            matching = [one for one in self.routes.get(route.prefix, []) if self._selects(route, one)]
            if not matching:
                raise RefusedError("no such route")
            found = matching[0]
            self._delete_route(replace(found, hops=route.hops) if found.joins and route.hops else found)
            return
        flags = {
            "add": nl.NLM_F_CREATE | nl.NLM_F_EXCL,
            "append": nl.NLM_F_CREATE | nl.NLM_F_APPEND,
            "prepend": nl.NLM_F_CREATE,
            "replace": nl.NLM_F_CREATE | nl.NLM_F_REPLACE,
        }[verb]
        self._add_route(route, flags)

    def _selects(self, wanted: FakeRoute, one: FakeRoute) -> bool:
        hops = not wanted.hops or wanted.hops == one.hops or (one.joins and set(wanted.hops) <= set(one.hops))
        return one.tos == wanted.tos and hops and wanted.metric in (0, 1024, one.metric) and one.type == wanted.type

    def _parse_route(self, words: list[str], exact: bool) -> tuple[FakeRoute, int]:
        kind = _TYPES[words.pop(0)] if words[0] in _TYPES else 1
        text = words.pop(0)
        if text == "default":
            text = "::/0" if any(":" in word for word in words) else "0.0.0.0/0"
        ipv6 = ":" in text
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        prefix = network.network_address.packed + bytes([network.prefixlen])
        base, *hop_words = _split(words, "nexthop")
        named = _named_words(base)
        metric = int(named.get("metric", "1024" if ipv6 else "0"))
        hops = tuple(self._hop(_named_words(one)) for one in hop_words)
        if not hops and kind == 1 and (exact or "via" in named or "dev" in named):
            hops = (self._hop(named),)
        encap = "encap" in base
        route = FakeRoute(prefix, metric, int(named.get("tos", "0"), 16), kind, hops, encap=encap)
        return route, int(named.get("table", "254"))

    def _hop(self, named: dict[str, str]) -> nl.RawHop:
        gateway = ipaddress.ip_address(named["via"]).packed if "via" in named else b""
        link = self._named(named["dev"]).index if "dev" in named else self._towards(gateway)
        if not self.links[link].up:
            raise RefusedError("network is down")
        return nl.RawHop(link, gateway, int(named.get("weight", "1")))

    def _towards(self, gateway: bytes) -> int:
        for index, address in self.addresses:
            network = ipaddress.ip_interface((address[:-1], address[-1])).network
            if ipaddress.ip_address(gateway) in network and self.links[index].up:
                return index
        raise RefusedError("gateway unreachable")

    def _add_route(self, route: FakeRoute, flags: int) -> None:
        routes = self.routes.setdefault(route.prefix, [])
        same = [one for one in routes if one.order == route.order]
        twin = next((one for one in same if (one.type, one.hops) == (route.type, route.hops)), None)
        peer = next((one for one in same if one.joins and route.joins), None)
        if same and flags & nl.NLM_F_EXCL:
            raise RefusedError("exists")
        if flags & nl.NLM_F_REPLACE and same:
            if not route.ipv6 and twin is not None:
                return self._replace_by_itself(twin is same[0])
            old = next((one for one in same if one.joins == route.joins), same[0])
            routes[:] = [route if one is old else one for one in routes if one is old or one is not twin]
        elif twin is not None or (peer is not None and set(route.hops) & set(peer.hops)):
            raise RefusedError("exists")
        elif peer is not None:
            merged = replace(peer, hops=peer.hops + route.hops)
            routes[routes.index(peer)] = merged
            route = merged
        else:
            before = [one for one in routes if one.order < route.order]
            middle = [*same, route] if flags & nl.NLM_F_APPEND or route.ipv6 else [route, *same]
            routes[:] = before + middle + [one for one in routes if one.order > route.order]
        self._tell(nl.route(route, flags & ~nl.NLM_F_EXCL))
        return None

    def _replace_by_itself(self, is_first: bool) -> None:
        """Replacing the first by what it is changes nothing; what stands behind it cannot be put before it."""
        if not is_first:
            raise RefusedError("exists")

    def _delete_route(self, route: FakeRoute) -> None:
        routes = self.routes[route.prefix]
        if route in routes:
            routes.remove(route)
        else:
            whole = next(one for one in routes if one.joins and one.order == route.order)
            left = tuple(hop for hop in whole.hops if hop not in route.hops)
            routes[routes.index(whole)] = replace(whole, hops=left)
        self._tell(nl.route(route, 0, gone=True))

    # -- as a socket ----------------------------------------------------------------------------------------------

    def connect(self) -> FakeSocket:
        """Return a socket that gets all that happens from now on."""
        self.sockets.append(FakeSocket())
        return self.sockets[-1]

    def _tell(self, message: bytes) -> None:
        for one in self.sockets:
            one.queue.append(message)

    def request(self, data: bytes, by: FakeSocket) -> None:
        """Take a request, as sendto() does; a dump is answered to who asked."""
        kind, seq, body = nl.parse_request(data)
        if kind == nl.RTM_NEWNEIGH:
            return self._neighbor_request(body)
        family = body[0]
        match kind:
            case nl.RTM_GETLINK:
                items = [nl.link(link) for link in self.links.values()]
            case nl.RTM_GETADDR:
                items = [nl.address(*one) for one in self.addresses]
            case nl.RTM_GETNEIGH:
                items = [nl.neighbor(*key, *value) for key, value in self.neighbors.items()]
            case _:
                size = 5 if family == 2 else 17
                chosen = sorted(prefix for prefix in self.routes if len(prefix) == size)
                items = [nl.route(one, 0) for prefix in chosen for one in self.routes[prefix]]
        by.queue.extend(nl.as_dump(item, seq) for item in items)
        by.queue.append(nl.done(seq))
        return None

    def _neighbor_request(self, body: bytes) -> None:
        link, address, state, flags = nl.parse_neighbor_request(body)
        self.asked.append((address, state, flags))
        key = (link, address)
        answer = self.hosts.get(address)
        known = self.neighbors.get(key, (b"", 0))[0]
        if state == 0x10 and known:
            self._set_neighbor(key, known, 0x10)
        if answer is not None:
            self._set_neighbor(key, answer, 0x02)
        else:
            self._set_neighbor(key, b"", 0x20)

    def _named(self, name: str) -> FakeLink:
        for link in self.links.values():
            if link.name == name:
                return link
        raise RefusedError(f"no link {name}")


def _split(words: list[str], at: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == at:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _named_words(words: list[str]) -> dict[str, str]:
    plain = [word for word in words if word not in ("onlink", "inet6")]
    return dict(zip(plain[::2], plain[1::2], strict=False))
