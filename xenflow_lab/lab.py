"""A lab as a Python object: what tests and benchmarks use, and the `xenflow lab` command.

with Lab(Path("deploy/lab/demo.toml"), name="t1") as lab:
    lab.run("red-h1", ["ping", "-c1", "10.0.2.10"], check=True)
    lab.process("server", "n1").kill(9)
    lab.process("server", "n1").start()
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import msgspec

from xenflow.answers import Status
from xenflow.errors import ConfigError
from xenflow_lab import build, checks, host, openvswitch, operator, places, programs, spaces, stopping, teardown, toml
from xenflow_lab import move as moves
from xenflow_lab import record as records
from xenflow_lab import topology as topologies
from xenflow_lab.command import PATIENCE, LabError, environment, run, wait_until
from xenflow_lab.paths import Paths, lab_names, lab_namespaces
from xenflow_lab.plan import BRIDGE, CONTROLLER, Kind, Plan, plan
from xenflow_lab.processes import Command, Process, Record, Started, is_alive
from xenflow_lab.routers import Namespaces, Routers
from xenflow_lab.topology import Controller, Datapath, Topology
from xenflow_lab.vms import machines

Say = Callable[[str], None]
"""Takes one line of progress."""

SETTLING_INTERVAL_S: Final = 0.2
"""How often the app is asked: each question is a connection, and a line in its log."""


def silent(line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What is to differ from the file: who controls the lab, and how; which datapath forwards."""

    controller: Controller | None = None
    mode: str = ""
    datapath: Datapath | None = None

    def apply(self, topology: Topology) -> Topology:
        """Return the topology with these differences."""
        table = topology.lab
        changed = msgspec.structs.replace(
            table,
            controller=self.controller or table.controller,
            mode=self.mode or table.mode,
            datapath=self.datapath or table.datapath,
        )
        return msgspec.structs.replace(topology, lab=changed)


class Lab:
    """A lab, up or not. As a context manager it is up inside the block, and nothing is left behind it."""

    def __init__(
        self,
        topology: Path | Topology,
        name: str = "",
        *,
        overrides: Overrides = Overrides(),
        with_xenflow: bool = True,
        vms: bool = False,
        say: Say = silent,
    ) -> None:
        """Plan a lab under `name` (default: the file's); nothing is created yet. Raises ConfigError.

        `vms`: its routers are virtual machines.
        """
        if isinstance(topology, Path):
            topology = topologies.load(topology)
        if name and (problem := checks.lab_name_problem(name)):
            raise ConfigError([problem])
        topology = overrides.apply(topology)
        self.built: Plan = plan(topology, name)
        """The plan of the file, which does not follow the machines that move; `plan` does."""
        if vms:
            self.built = machines.planned(self.built)
        self.name = self.built.name
        self.paths = Paths(self.name)
        self.with_xenflow = with_xenflow
        self.routers: Routers = self._routers(vms)
        self.say = say
        self.on_failure: Callable[[], None] = lambda: None
        """Called when the lab does not come up, before everything of it goes: whoever keeps its logs sets it."""
        self.processes: dict[str, Process] = {}
        self.record = records.LabRecord(self.name, with_xenflow=with_xenflow, vms=vms)

    @property
    def plan(self) -> Plan:
        """The lab as it is now: a machine that has moved is on its new node, whoever has moved it."""
        return places.placed(self.built, {**places.read(self.paths), **self.routers.places()})

    @property
    def cabled(self) -> Plan:
        """What of the lab is made of namespaces and wires, as it is now."""
        return self.routers.cabled(self.plan)

    @classmethod
    def attach(cls, name: str, *, say: Say = silent) -> Self:
        """Return the lab `name` that is up already, built by another process. Raises ConfigError if there is none."""
        paths = Paths(name)
        kept = records.read(paths.record)
        lab = cls(paths.topology, name, with_xenflow=kept.with_xenflow, vms=kept.vms, say=say)
        lab.record = kept
        lab.processes = {
            key: Process(entry.command, lab._keeper(), entry.started) for key, entry in kept.processes.items()
        }
        return lab

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Build the lab; on return all its processes run. A failure takes everything down again.

        Raises ConfigError for what a person can put right, LabError for what failed underneath.
        """
        found = host.problems(self.built.topology) + self.routers.problems()
        if found:
            raise ConfigError(found)
        self.routers.prepare()
        with self._claim():
            try:
                host.raise_settings(self.name, self.say)
                self._build()
                self.record.ready = True
                self._save()
            except BaseException:
                try:
                    self._failed()
                finally:
                    teardown.down(self.name, self.say)
                raise

    def _routers(self, vms: bool) -> Routers:
        """Return what makes the routers."""
        return machines.Machines(self) if vms else Namespaces(self)

    def _failed(self) -> None:
        """It has not come up, and goes."""
        self.on_failure()

    def _build(self) -> None:
        """Bring up everything; the state directory is there."""
        build.build(self)

    def down(self) -> None:
        """Remove everything of the lab; no error if nothing is there."""
        teardown.down(self.name, self.say)
        self.processes.clear()

    @contextmanager
    def _claim(self) -> Iterator[None]:
        """Take the name: the directory can be made only once."""
        if lab_namespaces(self.name) and not self.paths.state.exists():
            raise ConfigError([f"lab {self.name!r}: namespaces are left over: xenflow lab down {self.name}"])
        try:
            host.make_state(self.paths.state)
        except FileExistsError as error:
            way_out = f"xenflow lab down {self.name}, or another --name"
            raise ConfigError([f"lab {self.name!r} is up already (or left over): {way_out}"]) from error
        with open(self.paths.lock, "w", encoding="ascii") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            document = msgspec.to_builtins(self.plan.topology)
            self.paths.topology.write_text(toml.encode(document), encoding="utf-8")
            self._save()
            yield

    def _save(self) -> None:
        records.write(self.paths.record, self.record)

    def _keeper(self) -> Record:
        return Record(self.holder_pid, self._note)

    def _note(self, command: Command, started: Started | None) -> None:
        self.record.note(command, started)
        self._save()

    def note_holder(self, who: str, holder: Started) -> None:
        """Keep the process that holds a machine's namespaces."""
        self.record.holders[who] = holder
        self._save()

    def holder_pid(self, who: str) -> int:
        """Return the process that holds the namespaces of `who`. Raises ConfigError if there is no such machine."""
        holder = self.record.holders.get(who)
        if holder is None:
            known = ", ".join(self.plan.machines)
            raise ConfigError([f"lab {self.name!r} has no machine {who!r}; it has: {known}"])
        if not is_alive(holder):
            raise ConfigError([f"machine {who!r} of lab {self.name!r} is gone: xenflow lab down {self.name}"])
        return holder.pid

    def launch(self, role: str, who: str, argv: Sequence[str]) -> Process:
        """Start a process of the lab on a machine, on record under its role."""
        log = str(self.paths.log(who, role))
        process = Process(Command(role, who, tuple(argv), log, openvswitch.environment()), self._keeper())
        self.processes[records.key(role, who)] = process
        process.start()
        return process

    def process(self, role: str, who: str = CONTROLLER) -> Process:
        """Return a process of the lab: controller; ovsdb, vswitchd, server (nodes); client, zebra, … (routers).

        Raises ConfigError if there is none.
        """
        try:
            return self.processes[records.key(role, who)]
        except KeyError as error:
            raise ConfigError([f"lab {self.name!r} has no {role!r} on {who!r}"]) from error

    def move(
        self,
        machine: str,
        to: str,
        freeze_s: float = 0.2,
        on_progress: moves.OnProgress = lambda _percent: None,
        cancelled: moves.Cancelled | None = None,
    ) -> moves.Moved:
        """Move a virtual machine to another node while it runs, as somebody does who uses the hypervisor's own command.

        Raises ConfigError, or LabError if it failed or was cancelled; then the machine is where it was.
        """
        way = moves.Way(freeze_s, on_progress, cancelled) if cancelled else moves.Way(freeze_s, on_progress)
        if self._is_router(machine):
            return self.routers.move(machine, to, way)
        return moves.move(self, machine, to, way)

    def paused(self, machine: str) -> AbstractContextManager[None]:
        """Let a virtual machine stand still, silent both ways, while the block runs; it stays where it is.

        Raises ConfigError, LabError.
        """
        return moves.paused(self, machine)

    def destroy(self, machine: str) -> None:
        """Destroy a virtual machine: its processes and its ports go, and it is nowhere.

        Raises ConfigError, LabError.
        """
        if self._is_router(machine):
            self.routers.destroy(machine)
        else:
            moves.destroy(self, machine)

    def _is_router(self, who: str) -> bool:
        found = self.built.machines.get(who)
        return found is not None and found.kind is Kind.ROUTER

    def is_up(self, who: str) -> bool:
        """Whether a machine is there."""
        if self._is_router(who) and who not in self.cabled.machines:
            return bool(self.plan.machines[who].node)
        return is_alive(self.record.holders.get(who))

    def kill_all(self, machine: str) -> None:
        """Kill all processes on a machine, and strike them off the record; its namespaces stay. Raises LabError."""
        holder_pid = self.holder_pid(machine)
        teardown.kill_inside({stopping.namespace_of_machine(holder_pid)}, spare=holder_pid)
        for process in [process for process in self.processes.values() if process.command.who == machine]:
            key = records.key(process.command.role, machine)
            del self.processes[key], self.record.processes[key]
        self._save()

    def enter_argv(self, who: str, argv: Sequence[str | Path], directory: str = "") -> list[str]:
        """Return the command that runs `argv` inside a machine."""
        if self._is_router(who):
            return self.routers.enter_argv(who, argv, directory)
        return spaces.enter_argv(self.holder_pid(who), argv, directory)

    def run(
        self,
        who: str,
        argv: Sequence[str | Path],
        *,
        timeout_s: float = 60.0,
        check: bool = False,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine and return its result; with `check` a failure is a CalledProcessError."""
        return subprocess.run(
            self.enter_argv(who, argv, os.getcwd()),
            capture_output=True,
            text=True,
            timeout=timeout_s * PATIENCE,
            check=check,
            input=stdin,
            env=environment(),
        )

    def popen(
        self,
        who: str,
        argv: Sequence[str | Path],
        *,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command on a machine; its pid is that of the command itself. The caller ends it, or `down` does."""
        argv = self.enter_argv(who, argv, os.getcwd())
        return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env or environment(), text=True)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 30.0, what: str = "the condition") -> None:
        """Return once `condition` is true. Raises LabError, naming `what`, after `timeout_s`."""
        wait_until(condition, timeout_s, what)

    def app_status(self) -> Status:
        """Return the app's view of the network. Raises LabError if it does not answer."""
        return msgspec.json.decode(self.ask("status"), type=Status)

    def ask(self, what: str, arguments: dict[str, str] | None = None) -> bytes:
        """Return the app's answer to what operators ask, as JSON. Raises LabError if it has none."""
        return operator.ask(self.app_socket, what, arguments)

    def awaited(self) -> list[str]:
        """Return what keeps the lab from having settled; empty if every flow of every router is installed."""
        ended = [f"{process.command.role} on {process.command.who} does not run" for process in self._ended()]
        nodes = len(self.built.of_kind(Kind.NODE))
        routers = sum(bool(router.node) for router in self.plan.of_kind(Kind.ROUTER))
        try:
            return ended + operator.missing(self.app_status(), nodes, routers)
        except LabError as error:
            return [*ended, str(error)]

    def _ended(self) -> list[Process]:
        return [process for process in self.processes.values() if not process.alive]

    def wait_settled(self, timeout_s: float = 60.0) -> None:
        """Return once the app has everything that it knows installed. Routing daemons may still learn more.

        Raises LabError, saying what is missing.
        """
        try:
            wait_until(lambda: not self.awaited(), timeout_s, "settling", SETTLING_INTERVAL_S)
        except LabError as error:
            missing = "; ".join(self.awaited())
            raise LabError(f"lab {self.name!r} has not settled after {timeout_s:g} s: {missing}") from error

    @property
    def app_socket(self) -> Path:
        """The app's socket for local operators, as seen from outside."""
        return self.paths.run(CONTROLLER) / Path(programs.APP_SOCKET).relative_to("/run")

    def ovs_rundir(self, node: str) -> Path:
        """Run directory of a node's Open vSwitch, as seen from outside."""
        return self.paths.ovs(node)

    def ofctl(self, node: str, command: str, *words: str) -> str:
        """Run ovs-ofctl on a node's bridge and return its output. Raises LabError."""
        target = f"unix:{self.paths.ovs(node)}/{BRIDGE}.mgmt"
        return run(["ovs-ofctl", "-O", "OpenFlow10", command, target, *words])

    def appctl(self, node: str, *words: str) -> str:
        """Run ovs-appctl against a node's ovs-vswitchd and return its output. Raises LabError."""
        rundir = self.paths.ovs(node)
        pid = (rundir / "ovs-vswitchd.pid").read_text(encoding="ascii").strip()
        return run(["ovs-appctl", "-t", rundir / f"ovs-vswitchd.{pid}.ctl", *words])

    def vsctl(self, node: str, *words: str, wait: bool = True) -> str:
        """Run one ovs-vsctl transaction on a node and return its output. Raises LabError."""
        return openvswitch.vsctl(self.paths.ovs(node), words, wait=wait)


def only_lab() -> str:
    """Return the name of the lab that is up, if it is the only one. Raises ConfigError otherwise."""
    names = lab_names()
    if len(names) == 1:
        return names[0]
    if not names:
        raise ConfigError(["no lab is up: xenflow lab up TOPOLOGY.toml"])
    raise ConfigError([f"several labs are up, say which: {', '.join(names)}"])
