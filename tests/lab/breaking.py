"""What may break while a router moves, and when: states that are held for as long as it takes, and their end.

Each hold makes one state last without touching what forwards: who would end the state is stopped (SIGSTOP), or what
would end it is kept away. A state is entered when the controller says so; nothing here waits for a time.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from xenflow.answers import MigrationStatus
from xenflow_lab import operator, places
from xenflow_lab.command import LabError
from xenflow_lab.lab import Lab
from xenflow_lab.move import FROZEN
from xenflow_lab.processes import Process

ROUTER = "r1"
HOLD_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Move:
    """An ordered move, and the node that only looks on."""

    number: int
    source: str
    target: str
    third: str


def migrations(lab: Lab, **which: str) -> list[MigrationStatus]:
    """Return what the controller that runs now knows of migrations; [] while it does not answer."""
    try:
        return msgspec.json.decode(operator.ask(lab.app_socket, "migrations", which), type=list[MigrationStatus])
    except LabError:
        return []


def is_carried(lab: Lab) -> bool:
    """Tell whether the hypervisor has not finished moving the router."""
    place = places.read(lab.paths).get(ROUTER)
    return place is not None and bool(place.other)


def order(lab: Lab, to: str) -> int:
    """Have the router move. Raises LabError with the controller's reason."""
    answer = operator.ask(lab.app_socket, "migrate", {"router": ROUTER, "to": to})
    return msgspec.json.decode(answer, type=MigrationStatus).number


def abort(lab: Lab) -> str:
    """Want the router back; return the controller's reason why not, or nothing."""
    try:
        operator.ask(lab.app_socket, "abort", {"router": ROUTER})
    except LabError as error:
        return str(error)
    return ""


# -- holds -----------------------------------------------------------------------------------------------------------


@contextmanager
def _stopped(process: Process) -> Iterator[None]:
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


@contextmanager
def _unheard(lab: Lab) -> Iterator[None]:
    """No ARP frame leaves the router, announcements neither."""
    devices = [vif.interface.device for vif in lab.plan.vifs if vif.machine == ROUTER]
    words = "egress protocol arp prio 1 u32 match u32 0 0 action mirred egress redirect dev lo"
    for device in devices:
        lab.run(ROUTER, ["tc", "qdisc", "add", "dev", device, "clsact"], check=True)
        lab.run(ROUTER, ["tc", "filter", "add", "dev", device, *words.split()], check=True)
    try:
        yield
    finally:
        for device in devices:
            lab.run(ROUTER, ["tc", "qdisc", "del", "dev", device, "clsact"], check=True)


def hold(lab: Lab, state: str, source: str, target: str, third: str) -> contextlib.AbstractContextManager[None]:
    """Let a move that is ordered inside the block stay in `state` for long enough to break something."""
    match state:
        case "preparing":
            return _stopped(lab.process("server", target))  # does not take the definition
        case "installing":
            return _stopped(lab.process("vswitchd", target))  # does not take the flows
        case "resuming":
            return _stopped(lab.process("client", ROUTER))  # does not report
        case "announcing":
            return _unheard(lab)
        case "re-pointing":
            return _stopped(lab.process("server", third))  # does not confirm
    return contextlib.nullcontext()  # the machine stands still while it moves; draining lasts a second


def await_state(lab: Lab, move: Move, state: str) -> MigrationStatus:
    """Return when the move has come to `state`; in "moving", when the machine stands still."""

    def there() -> bool:
        found = migrations(lab, number=str(move.number))
        assert not found or not found[0].ended, found
        return bool(found) and found[0].state == state and (state != "moving" or found[0].percent >= FROZEN)

    lab.wait_until(there, HOLD_TIMEOUT_S, f"the state {state}")
    return migrations(lab, number=str(move.number))[0]


# -- what breaks -----------------------------------------------------------------------------------------------------


def kill(lab: Lab, move: Move, who: str) -> None:
    """Kill -9 a participant and start it again, as its supervisor would."""
    process = {
        "client": lambda: lab.process("client", ROUTER),
        "source server": lambda: lab.process("server", move.source),
        "target server": lambda: lab.process("server", move.target),
        "controller": lambda: lab.process("controller"),
        "source vswitchd": lambda: lab.process("vswitchd", move.source),
        "target vswitchd": lambda: lab.process("vswitchd", move.target),
    }[who]()
    process.kill()
    process.start()


def verify_neighbors(lab: Lab) -> None:
    """Have the router's kernel ask whom it knows, as it does from time to time: thrice, a second apart."""
    known = json.loads(lab.run(ROUTER, ["ip", "-json", "neigh", "show"], check=True).stdout)
    batch = "".join(f"neigh change {item['dst']} dev {item['dev']} nud probe\n" for item in known if "lladdr" in item)
    lab.run(ROUTER, ["ip", "-batch", "-"], stdin=batch, check=True)


@contextmanager
def cut_off(lab: Lab, node: str) -> Iterator[None]:
    """Inside the block the node has no carrier on its trunks, and nothing to the controller passes."""
    devices = ["mgmt", *(end.port for end in lab.plan.trunk_ends(node))]
    change(lab, node, devices, "down")
    try:
        yield
    finally:
        change(lab, node, devices, "up")


def change(lab: Lab, node: str, devices: list[str], to: str) -> None:
    """Set interfaces of a machine up or down."""
    batch = "".join(f"link set {device} {to}\n" for device in devices)
    lab.run(node, ["ip", "-batch", "-"], stdin=batch, check=True)
