"""The steps of `up`, in order: certificates, namespaces, cables, switches, XenFlow, routing daemons.

Each step starts its work for all machines at once and then waits; a step that fails raises, and `Lab.up` takes the
lab down again.
"""

from __future__ import annotations

import concurrent.futures
import shutil
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xenflow_lab import fabric, openvswitch, programs, routing, spaces, toml, vlan
from xenflow_lab.command import LabError, finish, run, run_all, start, wait_until
from xenflow_lab.paths import Paths
from xenflow_lab.plan import CONTROLLER, WIRES, Kind, Machine
from xenflow_lab.processes import Process, Started, start_ticks
from xenflow_lab.topology import Datapath, Routing

if TYPE_CHECKING:
    from xenflow_lab.lab import Lab

START_TIMEOUT_S: Final = 30.0


def build(lab: Lab) -> None:
    """Bring up everything of `lab`, whose state directory is there; `lab.routers` has what makes them different."""
    with concurrent.futures.ThreadPoolExecutor(1) as aside:
        certificates = aside.submit(programs.issue_certificates, lab.plan, lab.paths) if lab.with_xenflow else None
        lab.say("namespaces")
        make_spaces(lab)
        lab.say("cables")
        make_fabric(lab)
        if certificates:
            lab.say("certificates")
            certificates.result()
    controller = start_controller(lab) if lab.with_xenflow else None
    lab.say("switches")
    start_switches(lab)
    lab.routers.start_hypervisors()
    if lab.with_xenflow:
        lab.say("servers")
        start_servers(lab)
    lab.say("routers")
    start_routing(lab)
    lab.routers.start()
    if controller:
        _await_file(controller, lab, "xenflow/app.sock")
    check_alive(lab.processes.values())


def make_spaces(lab: Lab) -> None:
    """Make the machines: directories, namespaces, holders."""
    machines = list(lab.cabled.machines.values())
    (lab.paths.state / "log").mkdir()
    for machine in machines:
        spaces.prepare(lab.paths, machine)
    spaces.add_namespaces(lab.paths, machines)
    holders = [(machine, spaces.start_holder(lab.paths, machine)) for machine in machines]
    for machine, holder in holders:
        spaces.await_holder(machine, holder)
        lab.note_holder(machine.name, Started(holder.pid, start_ticks(holder.pid) or 0))
        holder.returncode = 0  # it outlives this process


def make_fabric(lab: Lab) -> None:
    """Make all cables: first the switches' side, so that no guest's interface comes up without carrier."""
    plan, paths = lab.cabled, lab.paths
    inside = paths.namespace(WIRES)  # older kernels refuse a name that another device has where this is asked for
    run(["ip", "-n", inside, "-batch", "-"], stdin=fabric.links(plan, paths))
    nodes = {machine.name for machine in plan.of_kind(Kind.NODE)}
    run_all(
        (_batch_argv(paths, who, fabric.node_script() if who in nodes else ""), batch)
        for who, batch in fabric.switch_side(plan).items()
    )
    run(["tc", "-n", paths.namespace(WIRES), "-batch", "-"], stdin=fabric.wire_filters(plan))
    plug_guests(lab)


def plug_guests(lab: Lab) -> None:
    """Make the guests' ends of cables that are there: VLANs outside, addresses, routes."""
    plan, paths = lab.cabled, lab.paths
    vlan.attach(
        paths.namespace(WIRES), {end.interface.peer: end.vlan for access in plan.accesses for end in access.ends}
    )
    run_all(
        (_batch_argv(paths, guest.name, _own_kernel(guest, plan.topology.lab.datapath)), fabric.guest_side(plan, guest))
        for guest in plan.of_kind(Kind.ROUTER, Kind.HOST, Kind.OUTSIDE)
    )


def _batch_argv(paths: Paths, who: str, script: str) -> list[str]:
    inner = f"set -e\nip -batch -\n{script}"
    return ["nsenter", f"--net={paths.namespace_file(who)}", "--", "sh", "-c", inner]


_UNTRACKED = """\
nft -f - <<'END'
table inet lab {
    chain untracked { type filter hook prerouting priority -450; notrack; }
}
END
"""


def _own_kernel(machine: Machine, datapath: Datapath) -> str:
    """Let a guest be what it would be with a kernel of its own.

    A socket reads what it sends, where the datapath is not the kernel's: it must carry its checksum. The kernel's
    datapath brings connection tracking with it, which puts fragments together in each namespace: guests do not.
    """
    if datapath is Datapath.KERNEL:
        return _UNTRACKED
    return "".join(f"ethtool -K {interface.device} tx off >/dev/null\n" for interface in machine.interfaces)


def start_switches(lab: Lab) -> None:
    """Start Open vSwitch on every node, with bridge, controller and ports set beforehand; read back the ports."""
    plan = lab.cabled
    nodes, datapath = plan.of_kind(Kind.NODE), plan.topology.lab.datapath
    run_all((openvswitch.create_argv(lab.paths.ovs(node.name)), "") for node in nodes)
    databases = [lab.launch("ovsdb", node.name, openvswitch.ovsdb_argv()) for node in nodes]
    for node, process in zip(nodes, databases, strict=True):
        _await_file(process, lab, "openvswitch/db.sock", _listens)
        tls = programs.node_tls(lab.paths, node.name) if lab.with_xenflow else None
        openvswitch.vsctl(
            lab.paths.ovs(node.name), openvswitch.first_transaction(plan, node, tls, datapath), wait=False
        )
    switches = [lab.launch("vswitchd", node.name, openvswitch.vswitchd_argv()) for node in nodes]
    for node, process in zip(nodes, switches, strict=True):
        _await_file(process, lab, "openvswitch/ovs-vswitchd.pid")
        rundir = lab.paths.ovs(node.name)
        openvswitch.vsctl(rundir, ["set", "Open_vSwitch", ".", "external_ids:lab=" + lab.name])
        openvswitch.check_ports(rundir, openvswitch.node_ports(plan, node.name))


def start_controller(lab: Lab) -> Process:
    """Start the app: before the switches, so that none of them has to try twice."""
    config = lab.paths.config(CONTROLLER, "app")
    config.write_text(toml.encode(programs.app_settings(lab.plan, lab.paths)), encoding="utf-8")
    return lab.launch("controller", CONTROLLER, programs.controller_argv(lab.plan, config))


def start_servers(lab: Lab) -> None:
    """Start the server of every node, and its qos-controller if bandwidth matters in this lab."""
    plan, paths = lab.built, lab.paths
    for node in plan.of_kind(Kind.NODE):
        if plan.topology.has_queues:
            config = paths.config(node.name, "qos")
            config.write_text(toml.encode(programs.qos_settings(plan, paths, node.name)), encoding="utf-8")
            lab.launch("qos", node.name, [programs.program("qos-controller"), "--config", str(config)])
        config = paths.config(node.name, "server")
        settings = programs.server_settings(plan, paths, node.name, lab.routers.hypervisor(node.name))
        config.write_text(toml.encode(settings), encoding="utf-8")
        directory = config.parent / "definitions.d"
        directory.mkdir()
        (directory / "lab.toml").write_text(toml.encode(programs.definitions(plan, node.name)), encoding="utf-8")
        lab.launch("server", node.name, [programs.program("xenflow-server"), "--config", str(config)])


def start_routing(lab: Lab) -> None:
    """Start routing daemons, and the client in every router."""
    machines = lab.cabled.of_kind(Kind.ROUTER, Kind.OUTSIDE)
    frr = [machine for machine in machines if routing.uses(machine, Routing.FRR)]
    for machine in frr:
        _write_frr_files(lab, machine)
        _start_frr(lab, machine, ["zebra"])
    for machine in machines:
        if routing.uses(machine, Routing.BIRD):
            _start_bird(lab, machine)
    if lab.with_xenflow:
        for router in lab.cabled.of_kind(Kind.ROUTER):
            lab.launch("client", router.name, _client_argv(lab, router))
    for machine in frr:  # a daemon that finds no zebra tries again only after ten seconds
        _await_file(lab.process("zebra", machine.name), lab, "frr/zserv.api")
        _start_frr(lab, machine, routing.frr_daemons(machine)[1:])
    for machine in frr:
        for daemon in routing.frr_daemons(machine):
            _await_file(lab.process(daemon, machine.name), lab, f"frr/{daemon}.vty")
    _configure_frr(lab, frr)


def _client_argv(lab: Lab, router: Machine) -> list[str]:
    config = lab.paths.config(router.name, "client")
    config.write_text(toml.encode(programs.client_settings(lab.paths, router)), encoding="utf-8")
    return [programs.program("xenflow-client"), "--config", str(config)]


def _write_frr_files(lab: Lab, machine: Machine) -> None:
    directory = lab.paths.machine(machine.name) / "etc-frr"
    (directory / "vtysh.conf").write_text("service integrated-vtysh-config\n", encoding="ascii")
    (directory / "frr.conf").write_text(routing.frr_config(machine), encoding="utf-8")
    for name in ("vtysh.conf", "frr.conf"):
        shutil.chown(directory / name, "frr", "frr")


def _start_frr(lab: Lab, machine: Machine, daemons: Iterable[str]) -> None:
    for daemon in daemons:
        lab.launch(daemon, machine.name, routing.frr_argv(daemon))


def _configure_frr(lab: Lab, machines: list[Machine]) -> None:
    """Load frr.conf into the daemons. Raises LabError with the lines that FRR does not take."""
    started = [(machine, lab.enter_argv(machine.name, ["vtysh", "-b"])) for machine in machines]
    running = [(machine, argv, start(argv)) for machine, argv in started]
    failed = []
    for machine, argv, process in running:
        try:
            finish(process, argv)
        except LabError as error:
            failed.append(f"{machine.name}: frr: {str(error).partition(': ')[2]}")
    if failed:
        raise LabError("\n".join(failed))


def _start_bird(lab: Lab, machine: Machine) -> None:
    path = lab.paths.run(machine.name) / "bird" / "bird.conf"
    path.write_text(routing.bird_config(machine), encoding="utf-8")
    try:
        run(lab.enter_argv(machine.name, ["bird", "-p", "-c", "/run/bird/bird.conf"]))
    except LabError as error:
        raise LabError(f"{machine.name}: bird: {str(error).partition(': ')[2]}") from error
    argv = ["bird", "-f", "-c", "/run/bird/bird.conf", "-s", "/run/bird/bird.ctl", "-P", "/run/bird/bird.pid"]
    lab.launch("bird", machine.name, argv)


def _await_file(process: Process, lab: Lab, name: str, ready: Callable[[Path], bool] = Path.exists) -> None:
    """Return once the process has made `name` in its machine's /run. Raises LabError if it ends before."""
    path = lab.paths.run(process.command.who) / name
    wait_until(
        lambda: ready(path) or not process.alive,
        START_TIMEOUT_S,
        f"start of {process.command.role} on {process.command.who} (log: {process.command.log})",
    )
    check_alive([process])


def _listens(path: Path) -> bool:
    """Return whether a process accepts connections there: ovsdb-server makes the file a moment before it does."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def check_alive(processes: Iterable[Process]) -> None:
    """Raise LabError for processes that have ended, with what they said last."""
    dead = [process for process in processes if not process.alive]
    if dead:
        raise LabError(
            "\n".join(
                f"{process.command.role} on {process.command.who} has ended:\n{process.log_tail()}" for process in dead
            )
        )
