"""A small model of Open vSwitch over our own flows: which of them a frame meets, and what is sent where (pure).

Place in the flow: FlowTable.actual, Frame -> *Walk*. It knows what the pipeline uses, and no more: priorities and
masks, registers, resubmit, load and move, tags, TTL, size check, multipath, learn (nothing happens to the packet),
queues, outputs. The contract test holds it against `ovs-appctl ofproto/trace` of a real switch.

The one thing that it does not compute is the hash of `multipath`: `explore` follows every outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from xenflow_app import pipeline, routing, rules
from xenflow_app.flowtable import FlowKey, FlowValue
from xenflow_app.frame import VLAN_PRESENT, Frame
from xenflow_app.openflow import actions as act
from xenflow_app.openflow import fields
from xenflow_app.rules import Rule

MOST_DEPTH = 64
"""How often Open vSwitch goes back to a lower (or the same) table; beyond that it gives up, and sends nothing."""
MOST_WALKS = 256
"""How many outcomes of hashes are followed at the most."""
_VID, _PCP_SHIFT = 0x0FFF, 13


@dataclass(frozen=True, slots=True)
class Hit:
    """A look-up: the table, the frame as it was, and the flow that matched (None: none did)."""

    table: int
    frame: Frame
    rule: Rule | None


@dataclass(frozen=True, slots=True)
class Sent:
    """An output, by the hit of that index. `back`: not sent, since the frame came in by that port."""

    port: int
    frame: Frame
    hit: int
    queue: int | None = None
    back: bool = False


@dataclass(slots=True)
class Walk:
    """What happened to a frame in one switch.

    `expired`: its TTL ended its actions. `endless`: it was resubmitted too often. `reported`: the controller got it.
    `picked`: for each multipath how many links there were and which was taken. `share`: in how many of all outcomes of
    the hashes this is the result.
    """

    hits: list[Hit] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    expired: bool = False
    endless: bool = False
    reported: bool = False
    picked: list[tuple[int, int]] = field(default_factory=list)
    unknown: list[bytes] = field(default_factory=list)
    share: tuple[int, int] = (1, 1)

    @property
    def outputs(self) -> list[Sent]:
        """What was really sent."""
        return [] if self.endless else [item for item in self.sent if not item.back]


class Tables:
    """The flows of one switch, ready for look-ups.

    Route flows (the bulk) are found by their key, one probe for each prefix length; all others by going through their
    table, highest priority first.
    """

    def __init__(self, flows: Mapping[FlowKey, FlowValue]) -> None:
        self._flows = flows
        self._by_table: dict[int, list[FlowKey]] = {}
        fib, routes = int(pipeline.Table.FIB), routing.ROUTE_PRIORITY
        for key in flows:
            if key[0] != fib or int.from_bytes(key[1:3], "big") < routes:
                self._by_table.setdefault(key[0], []).append(key)
        for keys in self._by_table.values():
            keys.sort(key=lambda key: key[1:3], reverse=True)

    def lookup(self, table: int, frame: Frame) -> Rule | None:
        """Return the flow of highest priority in `table` that takes the frame."""
        if table == pipeline.Table.FIB and frame.is_ip:
            key = self._route(frame)
            if key is not None:
                return Rule(key, self._flows[key])
        for key in self._by_table.get(table, ()):
            if matches(key, frame):
                return Rule(key, self._flows[key])
        return None

    def _route(self, frame: Frame) -> FlowKey | None:
        address, router = frame.destination, frame.get(fields.REG2)
        number, bits = int.from_bytes(address, "big"), len(address) * 8
        for length in range(bits, -1, -1):
            host_bits = bits - length
            prefix = (number >> host_bits << host_bits).to_bytes(len(address), "big") + bytes([length])
            key = routing.route_key(router, prefix)
            if key in self._flows:
                return key
        return None


def matches(key: FlowKey, frame: Frame) -> bool:
    """Tell whether the match in a flow's key takes the frame."""
    return all(frame.get(header) & mask == value for header, (value, mask) in rules.conditions(key))


def explore(tables: Tables, frame: Frame, port: int) -> list[Walk]:
    """Return what can happen to a frame that comes in at `port`: one walk for each different outcome of its hashes."""
    found: dict[tuple[object, ...], Walk] = {}
    picks: list[int] = []
    total = 0
    while total < MOST_WALKS:
        walk = _Walker(tables, picks).walk(frame.enter(port))
        total += 1
        way = tuple((hit.table, hit.rule and hit.rule.value) for hit in walk.hits)
        same = found.setdefault((way, tuple((item.port, item.back) for item in walk.sent)), walk)
        same.share = (same.share[0] + (same is not walk), 1)
        picks = _next_picks(walk.picked)
        if not picks:
            break
    for walk in found.values():
        walk.share = (walk.share[0], total)
    return list(found.values())


def _next_picks(picked: Sequence[tuple[int, int]]) -> list[int]:
    """Return the next combination of links, as one counts; empty when there is none."""
    for place in range(len(picked) - 1, -1, -1):
        links, taken = picked[place]
        if taken + 1 < links:
            return [earlier for _, earlier in picked[:place]] + [taken + 1]
    return []


class _Walker:
    """One walk; `picks` are the links that the first multipaths take, later ones take link 0."""

    def __init__(self, tables: Tables, picks: Sequence[int]) -> None:
        self._tables = tables
        self._picks = picks
        self._walk = Walk()
        self._frame = Frame()
        self._queue: int | None = None

    def walk(self, frame: Frame) -> Walk:
        """Take a frame through the pipeline, from table 0."""
        self._frame = frame
        self._lookup(0, 0)
        return self._walk

    def _lookup(self, table: int, depth: int) -> None:
        walk = self._walk
        if depth >= MOST_DEPTH:
            walk.endless = True
            return
        rule = self._tables.lookup(table, self._frame)
        place = len(walk.hits)
        walk.hits.append(Hit(table, self._frame, rule))
        for action in rule.actions if rule is not None else ():
            if isinstance(action, rules.DecTtl) and self._expires():
                break
            if isinstance(action, rules.Resubmit):
                self._lookup(action.table, depth + (action.table <= table))
            else:
                self._do(action, place)

    def _expires(self) -> bool:
        """Decrement the TTL; True where it ends the actions at hand."""
        if not self._frame.is_ip:
            return False
        ttl = self._frame.get(fields.IP_TTL)
        if ttl <= 1:
            self._walk.expired = True
            return True
        self._frame = self._frame.put(fields.IP_TTL, ttl - 1)
        return False

    def _do(self, action: rules.Action, place: int) -> None:
        change = _CHANGES.get(type(action))
        if change is not None:
            self._frame = change(self._frame, action)
            return
        match action:
            case rules.Output(port):
                self._output(port, place)
            case rules.OutputReg(source):
                self._output(self._frame.read(source), place)
            case rules.SetQueue(queue):
                self._queue = queue
            case rules.Multipath(links, target):
                done = len(self._walk.picked)
                pick = self._picks[done] if done < len(self._picks) else 0
                self._walk.picked.append((links, pick))
                self._frame = self._frame.write(target, pick)
            case rules.ToController():
                self._walk.reported = True
            case rules.Unknown(raw):
                self._walk.unknown.append(raw)
            case _:
                pass

    def _output(self, port: int, place: int) -> None:
        came_by = self._frame.get(fields.IN_PORT)
        target = came_by if port == act.IN_PORT else port
        back = port == came_by
        self._walk.sent.append(Sent(target, self._frame, place, self._queue, back))


def _load(frame: Frame, action: rules.Action) -> Frame:
    assert isinstance(action, rules.Load)
    return frame.write(action.target, action.number)


def _move(frame: Frame, action: rules.Action) -> Frame:
    assert isinstance(action, rules.Move)
    return frame.write(action.target, frame.read(action.source))


def _set_vid(frame: Frame, action: rules.Action) -> Frame:
    assert isinstance(action, rules.SetVid)
    return frame.put(fields.VLAN_TCI, frame.get(fields.VLAN_TCI) & ~_VID | VLAN_PRESENT | action.vid)


def _set_pcp(frame: Frame, action: rules.Action) -> Frame:
    assert isinstance(action, rules.SetPcp)
    kept = frame.get(fields.VLAN_TCI) & _VID
    return frame.put(fields.VLAN_TCI, kept | VLAN_PRESENT | action.pcp << _PCP_SHIFT)


def _strip(frame: Frame, _action: rules.Action) -> Frame:
    return frame.put(fields.VLAN_TCI, 0)


def _set_mac(frame: Frame, action: rules.Action) -> Frame:
    assert isinstance(action, rules.SetMac)
    return frame.put(action.header, int.from_bytes(action.mac, "big"))


def _check_larger(frame: Frame, action: rules.Action) -> Frame:
    assert isinstance(action, rules.CheckLarger)
    return frame.write(action.target, int(frame.size_bytes > action.size_bytes))


_CHANGES: dict[type, Callable[[Frame, rules.Action], Frame]] = {
    rules.Load: _load,
    rules.Move: _move,
    rules.SetVid: _set_vid,
    rules.SetPcp: _set_pcp,
    rules.StripVlan: _strip,
    rules.SetMac: _set_mac,
    rules.CheckLarger: _check_larger,
}
