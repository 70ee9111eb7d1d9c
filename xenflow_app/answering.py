"""The switch answers who asks for a router's MAC: ARP requests and neighbor solicitations (pure).

Place in the flow: what routers say of their addresses -> *whose each address is* -> answer flows of every node.

What it keeps true: an address that one router has in a network is answered for at whichever vif or access port the
question enters, and the question goes no further. So there is exactly one answer, wherever the router's VM is, whether
it runs or not, and nothing has to be handed over when it moves. What two routers say to have (VRRP, or by mistake) they
settle themselves: nobody answers for them.

    edge -> REQUEST -+-> ANSWER -+---------------+-> QUEUE -> EGRESS -> RETURN (the request has become its own reply)
                     |           +-> ADVERTISE --+ (IPv6: the option can be written once the type has changed)
                     +-----------+-> CLASS (not a question; not one about a known address)

The kernel's datapath cannot turn a solicitation into an advertisement: there the controller answers (`Arrivals`), and
the question goes on to the VM as well, which answers while no controller does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TypeAlias

from xenflow.bandwidth import CONTROL_CLASS
from xenflow.model import address_text, mac_text
from xenflow_app.flowtable import FABRIC, FlowTable, Owner
from xenflow_app.openflow import actions, fields
from xenflow_app.openflow.fields import whole
from xenflow_app.openflow.nxm import ETH_ARP, ETH_IPV6, ICMP6, MatchFields
from xenflow_app.packets import ROUTER_SOLICITED_OVERRIDE
from xenflow_app.pipeline import ANSWERED, FROM_EDGE, Flows, Kind, Sheet, Table, goto

log = logging.getLogger(__name__)

Where: TypeAlias = tuple[int, bytes]
"""VLAN id of a network, and a packed address in it."""


def answers_of(router: Owner) -> Owner:
    """Return the owner of a router's answers: all nodes have them, while its other flows are where it runs."""
    return router ^ 0xFFFFFFFF


_ON = actions.load(FROM_EDGE, 1) + goto(Table.CLASS)
"""Where frames go on that the switch does not answer."""
_SEND = actions.load(ANSWERED, 1) + actions.set_vlan_pcp(CONTROL_CLASS)
"""An answer is control traffic, and goes back."""
SENT = _SEND + goto(Table.QUEUE)
"""What the controller's own answers go by."""
USERSPACE = "netdev"
"""The `datapath_type` that can rewrite all of a solicitation (ovs-vswitchd.conf.db(5)); the kernel's cannot."""
_SOLICITATION: MatchFields = {"dl_type": ETH_IPV6, "nw_proto": ICMP6, "icmp6_type": 135}
_ADVERTISEMENT: MatchFields = {"dl_type": ETH_IPV6, "nw_proto": ICMP6, "icmp6_type": 136}


@dataclass(frozen=True, slots=True)
class Claim:
    """A router has an address (packed) in a network, at that MAC."""

    vid: int
    address: bytes
    mac: bytes
    router: Owner


class Answering:
    """See the module. `flows` maps each known node to its flows."""

    def __init__(self, flows: Mapping[str, FlowTable]) -> None:
        self._flows = flows
        self._claims: dict[Owner, frozenset[Claim]] = {}
        self._claimants: dict[Where, set[Claim]] = {}
        self._addresses: dict[int, set[bytes]] = {}
        self._vids: dict[str, frozenset[int]] = {}
        self._rewriting: set[str] = set()
        """The nodes whose switches rewrite solicitations."""

    @property
    def contested(self) -> list[list[Claim]]:
        """The addresses that nobody is answered for: the claims of each, in a fixed order."""
        several = [sorted(claims, key=repr) for claims in self._claimants.values() if len(claims) > 1]
        return sorted(several, key=repr)

    def claim(self, router: Owner, claims: Iterable[Claim]) -> None:
        """These are the router's addresses from now on."""
        before, after = self._claims.get(router, frozenset()), frozenset(claims)
        if after == before:
            return
        self._claims[router] = after
        if not after:
            del self._claims[router]
        for claim in before - after:
            self._claimants[claim.vid, claim.address].discard(claim)
        for claim in after - before:
            self._claimants.setdefault((claim.vid, claim.address), set()).add(claim)
        for where in {(claim.vid, claim.address) for claim in before ^ after}:
            self._changed(where)

    def mac_of(self, vid: int, address: bytes) -> bytes | None:
        """Return who is answered for, None if nobody is."""
        claims = self._claimants.get((vid, address), set())
        return next(iter(claims)).mac if len(claims) == 1 else None

    def know(self, node: str, vids: Iterable[int], datapath_type: str = USERSPACE) -> None:
        """These networks may enter at the node, whose bridge has that `datapath_type`."""
        before, after = self._vids.get(node, frozenset()), frozenset(vids)
        self._vids[node] = after
        rewrites = datapath_type == USERSPACE
        changed = before | after if rewrites != (node in self._rewriting) else before ^ after
        (self._rewriting.add if rewrites else self._rewriting.discard)(node)
        for vid in changed:
            for address in self._addresses.get(vid, ()):
                self._plan(node, (vid, address))

    def _changed(self, where: Where) -> None:
        """Plan an address anew on all nodes."""
        vid, address = where
        claims = self._claimants[where]
        if len(claims) > 1:
            said = ", ".join(sorted(mac_text(claim.mac) for claim in claims))
            log.warning("address contested vid=%d address=%s macs=%s", vid, address_text(address), said)
        if claims:
            self._addresses.setdefault(vid, set()).add(address)
        else:
            del self._claimants[where]
            self._addresses[vid].discard(address)
        for node in self._flows:
            self._plan(node, where)

    def _plan(self, node: str, where: Where) -> None:
        claims: Set[Claim] = self._claimants.get(where, frozenset())
        planned: Flows = {}
        if len(claims) == 1 and where[0] in self._vids.get(node, ()):
            (claim,) = claims
            planned = answer(claim, rewrites=node in self._rewriting)
        self._flows[node].want_group(("answer", *where), planned)


# -- flows ------------------------------------------------------------------------------------------------------------


def static() -> Flows:
    """Return which frames ask for a MAC, and what all answers have in common.

    Others do not meet ANSWER: its matches would narrow the switch's cached flows. Who asks from no address (duplicate
    detection), or in public without a link-layer option (RFC 4861, section 4.3), is not answered here.
    """
    sheet = Sheet(Kind.STATIC, FABRIC)
    sheet.add(Table.REQUEST, 100, goto(Table.ANSWER), dl_type=ETH_ARP, arp_op=1)
    sheet.add(Table.REQUEST, 100, goto(Table.ANSWER), _SOLICITATION, icmp6_code=0)
    sheet.add(Table.REQUEST, 0, _ON)
    sheet.add(Table.ANSWER, 300, _ON, _SOLICITATION, ipv6_src=bytes(16))
    group = (b"\x01" + bytes(5), b"\x01" + bytes(5))
    sheet.add(Table.ANSWER, 300, _ON, _SOLICITATION, nd_sll=bytes(6), dl_dst=group)
    sheet.add(Table.ANSWER, 0, _ON)
    option = actions.move(whole(fields.ETH_SRC), whole(fields.ND_TLL))
    sheet.add(Table.ADVERTISE, 100, option + goto(Table.QUEUE), _ADVERTISEMENT)
    sheet.add(Table.EGRESS, 200, goto(Table.RETURN), reg7=(2, 2))
    sheet.add(Table.RETURN, 0, actions.strip_vlan() + actions.output(actions.IN_PORT))
    return sheet.flows


def answer(claim: Claim, *, rewrites: bool = True) -> Flows:
    """Return the flows that answer for an address: the question goes back to where it came from, as the answer.

    `rewrites`: whether the switch can make a solicitation its own advertisement; else the controller gets it, too. What
    the router itself asks about its own address goes on (gratuitous ARP, its own duplicate detection).
    """
    sheet = Sheet(Kind.ANSWER, answers_of(claim.router))
    if len(claim.address) == 16:
        acts = _advertisement(claim.mac) + _SEND + goto(Table.ADVERTISE) if rewrites else actions.controller() + _ON
        sheet.add(Table.ANSWER, 100, acts, _SOLICITATION, reg0=claim.vid, nd_target=claim.address, nw_ttl=255)
        return sheet.flows
    asked: MatchFields = {"reg0": claim.vid, "dl_type": ETH_ARP, "arp_op": 1, "arp_tpa": claim.address}
    sheet.add(Table.ANSWER, 200, _ON, asked, dl_src=claim.mac)
    sheet.add(Table.ANSWER, 100, _reply(claim) + _SEND + goto(Table.QUEUE), asked)
    return sheet.flows


def _reply(claim: Claim) -> bytes:
    """Make an ARP request its own reply (RFC 826)."""
    return (
        actions.move(whole(fields.ETH_SRC), whole(fields.ETH_DST))
        + actions.set_dl_src(claim.mac)
        + actions.load(whole(fields.ARP_OP), 2)
        + actions.move(whole(fields.ARP_SHA), whole(fields.ARP_THA))
        + actions.move(whole(fields.ARP_SPA), whole(fields.ARP_TPA))
        + actions.load(whole(fields.ARP_SHA), int.from_bytes(claim.mac, "big"))
        + actions.load(whole(fields.ARP_SPA), int.from_bytes(claim.address, "big"))
    )


def _advertisement(mac: bytes) -> bytes:
    """Make a solicitation its own advertisement (RFC 4861, section 7.2.4), but for the address in its option."""
    return (
        actions.move(whole(fields.ETH_SRC), whole(fields.ETH_DST))
        + actions.set_dl_src(mac)
        + actions.move(whole(fields.IPV6_SRC), whole(fields.IPV6_DST))
        + actions.move(whole(fields.ND_TARGET), whole(fields.IPV6_SRC))
        + actions.load(whole(fields.ND_OPTIONS_TYPE), 2)
        + actions.load(whole(fields.ND_RESERVED), ROUTER_SOLICITED_OVERRIDE)
        + actions.load(whole(fields.ICMP6_TYPE), 136)
    )
