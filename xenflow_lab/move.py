"""A live migration, as a hypervisor does it: the machine stands still, its cables change the node, it goes on.

What a guest is made of stays where it is: namespace, processes, interfaces, so that nothing of it changes, not even the
carrier. Only the wires between its interfaces and the ports of a node are joined anew (see the picture in `plan`).

    prepare   ports on the target: with their numbers, but nobody's yet; their wires are cut
    freeze    processes stopped, then the source's wires cut both ways: what answers ARP and ping and forwards without
              any process is the kernel, and nothing reaches or leaves it now
    hand over the source's ports get the mark that the machine has moved, then the target's ports get its ids
    ---------- the place is written: before, everything goes back to the source; from here, on to the target
    resume    wires joined to the target, processes go on
    clear     the source's ports go

No frame passes by two nodes, since the ends of a wire at the guest are joined to one port at most, and the target's not
before they have ids. Going back and going on are the same steps with the roles exchanged (`settle`), each harmless when
repeated, so that a move whose process was killed is finished by whoever moves the machine next; `down` needs none
of this. All machines are entered by their holders' pids: a move can be started inside a node as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from xenflow.errors import ConfigError
from xenflow_lab import fabric, openvswitch, places, silence, stopping
from xenflow_lab.command import LabError, run
from xenflow_lab.openvswitch import BridgePort
from xenflow_lab.places import Place, Side
from xenflow_lab.plan import WIRES, Kind

if TYPE_CHECKING:
    from xenflow_lab.lab import Lab

OnProgress = Callable[[int], None]
"""Takes how much of a move is done, in percent."""
Cancelled = Callable[[float], bool]
"""Waits at most so many seconds; returns True at once when the move is to be cancelled."""

PREPARED: Final = 30
FROZEN: Final = 40
HANDED_OVER: Final = 80
RESUMED: Final = 90
DONE: Final = 100
MAX_FREEZE_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that is done. From `cut_at_s` to `joined_at_s` (time.monotonic()) the machine was silent."""

    machine: str
    source: str
    target: str
    cut_at_s: float
    joined_at_s: float


def _never(wait_s: float) -> bool:
    time.sleep(wait_s)
    return False


@dataclass(frozen=True, slots=True)
class Way:
    """How to move: the length of the freeze, who hears of progress, who may cancel."""

    freeze_s: float = 0.2
    on_progress: OnProgress = lambda _percent: None
    cancelled: Cancelled = _never


def move(lab: Lab, machine: str, target: str, way: Way) -> Moved:
    """Move a machine that runs to the node `target`.

    Raises ConfigError for what cannot be asked, LabError if it failed or was cancelled: the machine is where it was.
    """
    with places.locked(lab.paths, machine):
        there = _target(lab, machine, target, way)
        here = places.side(lab.built, machine, _recover(lab, machine).node)
        if here.node == target:
            raise ConfigError([f"{machine!r} is on node {target!r} already"])
        space = stopping.namespace_of_machine(lab.holder_pid(machine))
        way.on_progress(0)
        places.write(lab.paths, machine, Place(here.node, other=target))
        stopped: list[int] | None = None
        try:
            _prepare(lab, there)
            _go_on(way, PREPARED)
            silence.keep_neighbors(lab, here)
            stopped = stopping.stop(space)
            _wires(lab, fabric.cut_all(here))
            cut_at_s = time.monotonic()
            _freeze(way, cut_at_s)
            _say_moved(lab, here, target)
            _say_active(lab, there)
        except BaseException:
            settle(lab, here, there, stopped)
            raise
        places.write(lab.paths, machine, Place(target, other=here.node))
        _wires(lab, fabric.join_all(there))
        joined_at_s = time.monotonic()
        stopping.resume(space, stopped)
        way.on_progress(RESUMED)
        _clear(lab, there, here)
        way.on_progress(DONE)
        return Moved(machine, here.node, target, cut_at_s, joined_at_s)


def settle(lab: Lab, here: Side, gone: Side, stopped: list[int] | None = None) -> None:
    """Make a machine run at `here` and nowhere else, whatever step a move has come to.

    What can be done at `here` is done even if the other node does not answer; then LabError is raised, and the next
    call does the rest. `stopped` are the processes to go on (default: all).
    """
    failed = None
    try:
        _say_moved(lab, gone, here.node)
    except LabError as error:
        failed = error
    _say_active(lab, here)
    _wires(lab, fabric.join_all(here))
    stopping.resume(stopping.namespace_of_machine(lab.holder_pid(here.machine)), stopped)
    if failed:
        raise failed
    _clear(lab, here, gone)


@contextmanager
def paused(lab: Lab, machine: str) -> Iterator[None]:
    """Let a machine stand still where it is while the block runs, as a hypervisor's own pause does.

    Its ports stay. Raises ConfigError, LabError.
    """
    with places.locked(lab.paths, machine):
        here = places.side(lab.built, machine, _recover(lab, machine).node)
        space = stopping.namespace_of_machine(lab.holder_pid(machine))
        stopped: list[int] | None = None
        try:
            silence.keep_neighbors(lab, here)
            stopped = stopping.stop(space)
            _wires(lab, fabric.cut_all(here))
            yield
        finally:
            _wires(lab, fabric.join_all(here))
            stopping.resume(space, stopped)
            silence.forget_neighbors(lab, here)


def destroy(lab: Lab, machine: str) -> None:
    """Destroy a machine: its processes are killed and its ports go, with no word of a move. Its namespace stays."""
    with places.locked(lab.paths, machine):
        here = places.side(lab.built, machine, _recover(lab, machine).node)
        _wires(lab, fabric.cut_all(here))
        places.write(lab.paths, machine, Place("", other=here.node))
        lab.kill_all(machine)
        _remove(lab, here)
        places.write(lab.paths, machine, Place(""))


def _target(lab: Lab, machine: str, target: str, way: Way) -> Side:
    places.home(lab.built, machine)
    nodes = [node.name for node in lab.built.of_kind(Kind.NODE)]
    if target not in nodes:
        raise ConfigError([f"lab {lab.name!r} has no node {target!r}; it has: {', '.join(nodes)}"])
    if not 0 <= way.freeze_s <= MAX_FREEZE_S:
        raise ConfigError([f"the freeze must last 0 to {MAX_FREEZE_S:g} s, not {way.freeze_s:g}"])
    return places.side(lab.built, machine, target)


def _recover(lab: Lab, machine: str) -> Place:
    """Finish what a move that was killed has left, and return where the machine is. Raises ConfigError if nowhere."""
    place = places.read(lab.paths).get(machine) or places.home(lab.built, machine)
    if not place.node:
        if place.other:
            _remove(lab, places.side(lab.built, machine, place.other))
            places.write(lab.paths, machine, Place(""))
        raise ConfigError([f"{machine!r} was destroyed"])
    if place.other:
        settle(lab, places.side(lab.built, machine, place.node), places.side(lab.built, machine, place.other))
    return Place(place.node)


def _go_on(way: Way, percent: int, wait_s: float = 0.0) -> None:
    way.on_progress(percent)
    if way.cancelled(wait_s):
        raise LabError("the move was cancelled")


def _freeze(way: Way, began_s: float) -> None:
    """Wait until the freeze has lasted; every quarter of it is progress."""
    for quarter in range(4):
        percent = FROZEN + (HANDED_OVER - FROZEN) * quarter // 4
        _go_on(way, percent, max(0.0, began_s + way.freeze_s * (quarter + 1) / 4 - time.monotonic()))
    way.on_progress(HANDED_OVER)


def _prepare(lab: Lab, there: Side) -> None:
    """Make the target's ports and wires, nobody's and cut."""
    _wires_links(lab, fabric.new_wires(there, lab.holder_pid(there.node)))
    _wires(lab, fabric.new_wire_filters(there))
    run(lab.enter_argv(there.node, ["ip", "-batch", "-"]), stdin=fabric.new_ports(there))
    ports = [BridgePort(vif.port, vif.ofport) for vif in there.vifs]
    lab.vsctl(there.node, *(word for port in ports for word in openvswitch.add_port(port)))
    openvswitch.check_ports(lab.paths.ovs(there.node), ports)


def _say_moved(lab: Lab, gone: Side, to: str) -> None:
    """Mark the ports of the side that goes; those that are not there (any more) are no error."""
    lab.vsctl(gone.node, *(word for vif in gone.vifs for word in openvswitch.mark_moved(vif.port, to)), wait=False)


def _say_active(lab: Lab, here: Side) -> None:
    """Make the ports the vifs of a machine that runs here, as Xen and libvirt do."""
    ports = (openvswitch.vif_port(vif) for vif in here.vifs)
    lab.vsctl(here.node, *(word for port in ports for word in openvswitch.set_ids(port)), wait=False)


def _clear(lab: Lab, here: Side, gone: Side) -> None:
    """Remove the other side, and what was changed for the time of the move."""
    _remove(lab, gone)
    silence.forget_neighbors(lab, here)
    places.write(lab.paths, here.machine, Place(here.node))


def _remove(lab: Lab, gone: Side) -> None:
    """Remove ports and wires of a side, as far as they are there. A switch that runs has let them go by then."""
    waiting = lab.process("vswitchd", gone.node).alive
    lab.vsctl(gone.node, *(word for vif in gone.vifs for word in openvswitch.del_port(vif.port)), wait=waiting)
    there = run(lab.enter_argv(WIRES, ["ls", "/sys/class/net"])).split()
    _wires_links(lab, "".join(f"link del {wire}\n" for _, wire in gone.wires if wire in there))


def _wires(lab: Lab, batch: str) -> None:
    run(lab.enter_argv(WIRES, ["tc", "-batch", "-"]), stdin=batch)


def _wires_links(lab: Lab, batch: str) -> None:
    run(lab.enter_argv(WIRES, ["ip", "-batch", "-"]), stdin=batch)
