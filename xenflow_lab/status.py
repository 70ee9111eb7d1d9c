"""What `xenflow lab status` shows: machines, processes, and whether the app has everything installed."""

from __future__ import annotations

import msgspec

from xenflow_lab.lab import Lab


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
    """A lab. `awaited` says what keeps it from having settled, as the app sees it."""

    name: str
    ready: bool
    app_socket: str
    awaited: tuple[str, ...]
    machines: tuple[MachineState, ...]

    @property
    def healthy(self) -> bool:
        """Whether everything that was started still runs."""
        return self.ready and all(
            machine.alive and all(process.alive for process in machine.processes) for machine in self.machines
        )


def observe(lab: Lab) -> LabState:
    """Return the state of a lab that is up."""
    machines, cabled = [], lab.cabled.machines
    for machine in lab.plan.machines.values():
        processes = tuple(
            ProcessState(process.command.role, process.pid, process.alive, process.command.log)
            for process in lab.processes.values()
            if process.command.who == machine.name
        )
        namespace = lab.paths.namespace(machine.name) if machine.name in cabled else ""
        alive = lab.is_up(machine.name)
        machines.append(MachineState(machine.name, machine.kind.value, machine.node, namespace, alive, processes))
    awaited = tuple(lab.awaited()) if lab.with_xenflow else ()
    return LabState(lab.name, lab.record.ready, str(lab.app_socket), awaited, tuple(machines))
