"""What `xenflow lab status` shows: machines, processes, and whether the app has everything installed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from xenflow_lab import programs
from xenflow_lab.lab import Lab
from xenflow_lab.processes import is_alive


class ProcessState(msgspec.Struct, frozen=True):
    """A process of the lab."""

    role: str
    pid: int | None
    alive: bool
    log: str


class MachineState(msgspec.Struct, frozen=True):
    """A machine of the lab: `node` is where it is plugged."""

    name: str
    kind: str
    node: str
    namespace: str
    alive: bool
    processes: tuple[ProcessState, ...]


class LabState(msgspec.Struct, frozen=True):
    """A lab. `app` says whether somebody listens at the app's socket, `app_socket`."""

    name: str
    ready: bool
    app: bool
    app_socket: str
    machines: tuple[MachineState, ...]

    @property
    def healthy(self) -> bool:
        """Whether everything that was started still runs."""
        return self.ready and all(
            machine.alive and all(process.alive for process in machine.processes) for machine in self.machines
        )


def observe(lab: Lab) -> LabState:
    """Return the state of a lab that is up."""
    machines = []
    for machine in lab.plan.machines.values():
        processes = tuple(
            ProcessState(process.command.role, process.pid, process.alive, process.command.log)
            for process in lab.processes.values()
            if process.command.who == machine.name
        )
        holder = lab.record.holders.get(machine.name)
        namespace = lab.paths.namespace(machine.name)
        alive = is_alive(holder)
        machines.append(MachineState(machine.name, machine.kind.value, machine.node, namespace, alive, processes))
    answers = lab.with_xenflow and _listens(lab)
    return LabState(lab.name, lab.record.ready, answers, str(lab.app_socket), tuple(machines))


def _listens(lab: Lab) -> bool:
    """Whether the app listens at its socket; asked of the kernel (proc(5), net/unix), not by connecting."""
    pid = lab.process("controller").pid
    if pid is None:
        return False
    sockets = Path(f"/proc/{pid}/net/unix").read_text(encoding="ascii", errors="replace").splitlines()
    return any(line.endswith(f" {programs.APP_SOCKET}") for line in sockets)
