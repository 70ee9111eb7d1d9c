"""A route programmed the way XORP's FEA does it reaches the client, and goes as it came.

The bytes are those of XORP's netlink data plane (fea/data_plane/fibconfig/fibconfig_entry_set_netlink_socket.cc of XORP
1.8): one RTM_NEWROUTE with CREATE, REPLACE and ACK for each route, protocol 14, table main or the one that is
configured, and destination, gateway, interface and priority in this order.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from tests.contract.client_world import BASE, Client, RealWorld, inside, run

pytestmark = pytest.mark.root

RTM_NEWROUTE, RTM_DELROUTE = 24, 25
FLAGS = 0x1 | 0x4 | 0x100 | 0x400
"""NLM_F_REQUEST, ACK, REPLACE, CREATE: XORP uses the same for both."""
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
RTPROT_XORP, RTM_F_NOTIFY, UNICAST, BLACKHOLE, MAIN = 14, 0x100, 1, 6, 254
A0 = 10


class Fea:
    """XORP's forwarding engine abstraction, as far as routes go."""

    def __init__(self, namespace: str, table: int = MAIN) -> None:
        self._table = table
        self._socket = inside(namespace, self._open)
        self._sequence = 0

    @staticmethod
    def _open() -> socket.socket:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        opened.bind((0, 0))
        return opened

    def add(self, prefix: str, gateway: str = "", link: int = 0, metric: int = 1, kind: int = UNICAST) -> None:
        self._send(RTM_NEWROUTE, prefix, kind, gateway, link, metric)

    def delete(self, prefix: str, kind: int = UNICAST) -> None:
        self._send(RTM_DELROUTE, prefix, kind, "", 0, None)

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: int, prefix: str, kind: int, gateway: str, link: int, metric: int | None) -> None:
        net = ip_network(prefix)
        family = socket.AF_INET if net.version == 4 else socket.AF_INET6
        table = self._table if self._table <= 0xFF else 0
        body = struct.pack("=BBBBBBBBI", family, net.prefixlen, 0, 0, table, RTPROT_XORP, 0, kind, RTM_F_NOTIFY)
        body += _attribute(RTA_DST, net.network_address.packed)
        if gateway:
            body += _attribute(RTA_GATEWAY, ip_address(gateway).packed)
        if link:
            body += _attribute(RTA_OIF, struct.pack("=i", link))
        if metric is not None:
            body += _attribute(RTA_PRIORITY, struct.pack("=i", metric))
        if self._table > 0xFF:
            body += _attribute(RTA_TABLE, struct.pack("=I", self._table))
        self._sequence += 1
        self._socket.send(struct.pack("=IHHII", 16 + len(body), message, FLAGS, self._sequence, 0) + body)
        error = struct.unpack_from("=i", self._socket.recv(1 << 14), 16)[0]
        assert error == 0, f"the kernel refuses: errno {-error}"


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


@pytest.fixture
def world() -> Iterator[RealWorld]:
    world = RealWorld()
    try:
        for command in BASE:
            world.ip(command)
        yield world
    finally:
        world.close()


def test_routes_of_xorp_are_reported_replaced_and_withdrawn(world: RealWorld) -> None:
    client, fea = Client(world), Fea(world.near)
    fea.add("10.9.0.0/16", "10.0.1.2", A0)
    fea.add("fd09::/16", "fd00:1::2", A0, metric=65535)
    fea.add("10.8.0.0/16", kind=BLACKHOLE)  # XORP's discard interface
    assert client.has(
        "route 10.9.0.0/16 via 10.0.1.2 dev a0", "route fd09::/16 via fd00:1::2 dev a0", "route 10.8.0.0/16 blackhole"
    )
    run("ip", "netns", "exec", world.near, "sh", "-c", "ip route show proto xorp 10.9.0.0/16 | grep -q a0")
    fea.add("10.9.0.0/16", "10.0.1.3", A0)
    assert client.has("route 10.9.0.0/16 via 10.0.1.3 dev a0")
    assert client.has_not("route 10.9.0.0/16 via 10.0.1.2 dev a0")
    assert Client(world).lines() == client.lines()
    fea.delete("10.9.0.0/16")
    fea.delete("fd09::/16")
    fea.delete("10.8.0.0/16", kind=BLACKHOLE)
    assert client.has_not(
        "route 10.9.0.0/16 via 10.0.1.3 dev a0", "route fd09::/16 via fd00:1::2 dev a0", "route 10.8.0.0/16 blackhole"
    )
    fea.close()


@pytest.mark.parametrize("table", [100, 1000])
def test_another_table_than_main_is_not_reported(world: RealWorld, table: int) -> None:
    client, fea, other = Client(world), Fea(world.near), Fea(world.near, table)
    other.add("10.7.0.0/16", "10.0.1.2", A0)
    fea.add("10.9.0.0/16", "10.0.1.2", A0)
    assert client.has("route 10.9.0.0/16 via 10.0.1.2 dev a0")
    assert not any("10.7.0.0/16" in line for line in client.lines())
    fea.close()
    other.close()
