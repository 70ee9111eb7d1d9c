"""The facts that travel from a VM's kernel to the controller, as immutable values.

Place in the flow: the client observes its kernel and reports `Link`, `Address`, `Route` and `Neighbor`; the server
rewrites kernel interface indexes to the numbers of the router's definition and adds `Network`, `Machine`, `Port` and
`TrunkState`; the app plans flows from all of them.

Rules: every fact has a `KIND` (its wire tag) and a `key`; a fact with the same kind and key replaces the older one.
Addresses are packed (4 or 16 bytes, network order), a prefix is a packed address with its length as one more byte
(5 or 17 bytes, host bits zero), MAC addresses are 6 bytes. Strings appear only at the edges (`ipaddress`).
"""

from __future__ import annotations

import enum
import ipaddress
from typing import ClassVar, TypeAlias

import msgspec

from xenflow.bandwidth import PortQueues, TrafficClass
from xenflow.resources import Granted, Resources

Prefix: TypeAlias = bytes
Key: TypeAlias = tuple[int, bytes]
IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPInterface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface

ANNOUNCEMENT_MAC = b"\xaa" * 6
"""Destination of the announcement (paper, section II-C); never a real interface's address."""

RESERVED_VIDS = frozenset({0, 4095})
"""VLAN ids that IEEE 802.1Q keeps for itself."""


class RouteKind(enum.IntEnum):
    """What a route does with a packet (RTN_* of rtnetlink(7), reduced to what forwarding needs)."""

    UNICAST = 1
    BLACKHOLE = 2
    """Silently dropped."""
    SLOW = 3
    """Left to the VM's kernel: unreachable, prohibit, throw, encapsulated or otherwise not for the switch."""


class Hop(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One way on: out of `link`, to `gateway` (packed address, empty for a connected route), with a relative weight."""

    link: int
    gateway: bytes = b""
    weight: int = 1


class Link(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """An interface of the router. `index` is the kernel's at the client, the definition's number behind the server."""

    KIND: ClassVar[int] = 1
    index: int
    name: str
    mac: bytes
    mtu: int
    up: bool

    @property
    def key(self) -> bytes:
        """Key among links: the index, four bytes."""
        return self.index.to_bytes(4, "big")


class Address(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """An address of an interface: the packed address (host bits kept) and its prefix length as the last byte."""

    KIND: ClassVar[int] = 2
    link: int
    address: bytes

    @property
    def key(self) -> bytes:
        """Key among addresses: link index (four bytes) and address."""
        return self.link.to_bytes(4, "big") + self.address


class Route(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """The best route to a prefix; `hops` is sorted, and empty unless `kind` is UNICAST."""

    KIND: ClassVar[int] = 3
    prefix: Prefix
    kind: RouteKind
    hops: tuple[Hop, ...] = ()

    @property
    def key(self) -> bytes:
        """Key among routes: the prefix."""
        return self.prefix


class Neighbor(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """A resolved neighbor (ARP or ND alike): address on a link and its MAC address."""

    KIND: ClassVar[int] = 4
    link: int
    address: bytes
    mac: bytes

    @property
    def key(self) -> bytes:
        """Key among neighbors: link index (four bytes) and address."""
        return neighbor_key(self.link, self.address)


class ShedRoutes(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """How many routes the sender knows but keeps back because of a cap; always the shortest prefixes."""

    KIND: ClassVar[int] = 5
    count: int

    @property
    def key(self) -> bytes:
        """There is one such fact for a router."""
        return b""


class Network(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """A virtual network and the VLAN id that carries it between nodes; `rate` is hired for what it bridges (bit/s)."""

    KIND: ClassVar[int] = 10
    name: str
    vid: int
    rate: int = 0

    @property
    def key(self) -> bytes:
        """Key among networks: the name."""
        return self.name.encode()


def link_local_of(mac: bytes) -> bytes:
    """Return the packed link-local address that a kernel makes of a MAC address (RFC 4291, appendix A)."""
    return bytes.fromhex("fe80000000000000") + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


class Interface(msgspec.Struct, frozen=True, array_like=True):
    """An interface as its machine's definition has it.

    `number` is its place in the definition (from 1). `addresses` are packed addresses (no length) that it may claim
    in ARP, ND and, for a host, as IP source; empty for a router means: those that it reports. `capacity` is that of
    its vif toward it in bit/s, 0 for no limit.
    """

    number: int
    network: str
    mac: bytes
    addresses: tuple[bytes, ...] = ()
    capacity: int = 0

    @property
    def own(self) -> tuple[bytes, ...]:
        """The addresses, and the link-local one that belongs to the MAC address: kernels ask for neighbors from it."""
        link_local = link_local_of(self.mac)
        return self.addresses if link_local in self.addresses else (*self.addresses, link_local)


class MachineKind(enum.StrEnum):
    """Who sits behind a vif."""

    ROUTER = "router"
    HOST = "host"


class Machine(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The definition of a virtual router or of a tenant's host; only machines that run on the node are sent.

    `max_flows` caps the route flows that the app installs for a router, `max_routes` those that it reports (0: no cap).
    `rate` is what a router has hired on each link in its way, `ceiling` what it may use at most (bit/s, 0: none).
    `resources` are the processor and memory of its VM.
    """

    KIND: ClassVar[int] = 11
    name: str
    kind: MachineKind
    interfaces: tuple[Interface, ...]
    max_flows: int = 0
    max_routes: int = 0
    rate: int = 0
    ceiling: int = 0
    classes: tuple[TrafficClass, ...] = ()
    resources: Resources = Resources()

    @property
    def key(self) -> bytes:
        """Key among machines: the name."""
        return self.name.encode()


class PortKind(enum.StrEnum):
    """What a port of the bridge leads to."""

    VIF = "vif"
    ACCESS = "access"
    TRUNK = "trunk"


class Attachment(msgspec.Struct, frozen=True, array_like=True):
    """One network on an access port: `vlan` is its id on that wire, 0 for untagged."""

    vlan: int
    network: str


class Port(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """A port of the node's bridge.

    `number` is the OpenFlow 1.0 port number. A vif names its machine and the number of that machine's interface; an
    access port has attachments; a trunk has neither. `alive` is False while BFD says that a trunk's far end is gone.
    `capacity` is the link's in bit/s, 0 if it is not known. `drained`: an operator wants nothing to use the trunk.
    """

    KIND: ClassVar[int] = 12
    name: str
    number: int
    kind: PortKind
    machine: str = ""
    interface: int = 0
    attachments: tuple[Attachment, ...] = ()
    alive: bool = True
    capacity: int = 0
    drained: bool = False

    @property
    def key(self) -> bytes:
        """Key among ports: the name."""
        return self.name.encode()


class Bridge(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The data bridge of a node."""

    KIND: ClassVar[int] = 13
    name: str
    dpid: int
    datapath_type: str = ""

    @property
    def key(self) -> bytes:
        """A node has one data bridge."""
        return b""


class Handed(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """A node has the definition of the router `name` from the app; `epoch` is the order's that handed it over."""

    KIND: ClassVar[int] = 14
    name: str
    epoch: int

    @property
    def key(self) -> bytes:
        """Key among definitions that were handed over: the router's name."""
        return self.name.encode()


class NodeLimits(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """What a node takes at most; sent only if it has a limit. `max_routers`: how many routers may run there."""

    KIND: ClassVar[int] = 15
    max_routers: int

    @property
    def key(self) -> bytes:
        """There is one such fact for a node."""
        return b""


class Alarm(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """Something on a node that a person should mend, in words, for as long as it is so (an alarm of RFC 8632)."""

    KIND: ClassVar[int] = 17
    text: str

    @property
    def key(self) -> bytes:
        """Key among alarms: the text."""
        return self.text.encode()


Fact: TypeAlias = (
    Link
    | Address
    | Route
    | Neighbor
    | ShedRoutes
    | Network
    | Machine
    | Port
    | Bridge
    | Handed
    | NodeLimits
    | Granted
    | Alarm
    | PortQueues
)


def neighbor_key(link: int, address: bytes) -> bytes:
    """Return the key of the neighbor `address` (packed) on `link`."""
    return link.to_bytes(4, "big") + address


def pack_prefix(text: str) -> Prefix:
    """Return the packed prefix of a network such as ``10.0.0.0/8``.

    Raises ValueError for text that is no network or has host bits set.
    """
    network = ipaddress.ip_network(text)
    return network.network_address.packed + bytes([network.prefixlen])


def prefix_text(prefix: Prefix) -> str:
    """Return a packed prefix (or address with length) as text."""
    return f"{ipaddress.ip_address(prefix[:-1])}/{prefix[-1]}"


def address_text(address: bytes) -> str:
    """Return a packed address as text; empty for no address."""
    return str(ipaddress.ip_address(address)) if address else ""


def mac_text(mac: bytes) -> str:
    """Return a MAC address as text."""
    return mac.hex(":")


def pack_mac(text: str) -> bytes:
    """Return the six bytes of a MAC address such as ``02:00:00:00:00:01``.

    Raises ValueError for anything else.
    """
    mac = bytes.fromhex(text.replace(":", ""))
    if len(mac) != 6 or len(text) != 17:
        raise ValueError(f"not a MAC address: {text!r}")
    return mac
