"""A node's Open vSwitch: its database made ready before the switch starts, ports plugged in one transaction.

Rules (see docs/lab.md): the bridge is created together with its controller row (the first controller that is set later
flushes all flows), `fail_mode=secure`, `ofport_request` always set, and read back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xenflow_lab.command import PATIENCE, LabError, run
from xenflow_lab.plan import BRIDGE, CONTROLLER_ADDRESS, Machine, Plan, Vif

SCHEMA: Final = Path("/usr/share/openvswitch/vswitch.ovsschema")
OPENFLOW_PORT: Final = 6653
DATABASE: Final = "/run/openvswitch/db.sock"
"""Where the machine itself sees its database."""

MOVED_MARK: Final = "xenflow-moved"
"""Key in the external_ids of a vif that goes because its machine has moved: the node that it is on now."""

_LOGGING: Final = ("-vsyslog:off", "-vconsole:info")
"""To standard error, which is the lab's log; never to the host's syslog."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The node's certificate files, for its OpenFlow connection."""

    key: Path
    certificate: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class BridgePort:
    """A port as it goes into the database; `external_ids` as Xen and libvirt write them for a vif."""

    name: str
    ofport: int
    external_ids: dict[str, str] = field(default_factory=dict)


def vif_port(vif: Vif) -> BridgePort:
    """Return the port of a vif of a machine that runs."""
    mac = vif.interface.mac
    ids = {"attached-mac": mac, "iface-id": f"{vif.vm_id or vif.port}.{vif.number}", "iface-status": "active"}
    if vif.vm_id:
        ids["vm-id"] = vif.vm_id
    return BridgePort(vif.port, vif.ofport, ids)


def node_ports(plan: Plan, node: str) -> list[BridgePort]:
    """Return all ports of a node's bridge: trunks, access ports, vifs."""
    return [
        *(BridgePort(end.port, end.ofport) for end in plan.trunk_ends(node)),
        *(BridgePort(access.port, access.ofport) for access in plan.accesses if access.table.node == node),
        *(vif_port(vif) for vif in plan.vifs if vif.node == node),
    ]


def create_argv(rundir: Path) -> list[str]:
    """Return the command that makes an empty database in a node's run directory (seen from outside)."""
    return ["ovsdb-tool", "create", f"{rundir}/conf.db", str(SCHEMA)]


def ovsdb_argv() -> list[str]:
    """Return the command of the node's database server, as seen inside the machine."""
    return [
        *("ovsdb-server", "/run/openvswitch/conf.db", f"--remote=punix:{DATABASE}", "--no-chdir"),
        *("--pidfile", *_LOGGING, "--private-key=db:Open_vSwitch,SSL,private_key"),
        *("--certificate=db:Open_vSwitch,SSL,certificate", "--bootstrap-ca-cert=db:Open_vSwitch,SSL,ca_cert"),
    ]


def vswitchd_argv() -> list[str]:
    """Return the command of the node's switch: at ovs-ctl's own priority, so that packets come before programs."""
    return ["nice", "-n", "-10", "ovs-vswitchd", f"unix:{DATABASE}", "--no-chdir", "--pidfile", *_LOGGING]


def environment() -> dict[str, str]:
    """Return the environment of Open vSwitch's programs inside a node."""
    return {"OVS_RUNDIR": "/run/openvswitch", "OVS_DBDIR": "/run/openvswitch", "OVS_LOGDIR": "/run/openvswitch"}


def vsctl(rundir: Path, words: Iterable[str], *, wait: bool = True) -> str:
    """Run one ovs-vsctl transaction on a node, from outside. With `wait` the switch has taken it on return."""
    limit = f"--timeout={20 * PATIENCE:g}"
    options = [limit] if wait else [limit, "--no-wait"]
    return run(["ovs-vsctl", f"--db=unix:{rundir}/db.sock", *options, *words])


def first_transaction(plan: Plan, node: Machine, tls: Tls | None, datapath: str = "netdev") -> list[str]:
    """Return the words of the transaction that makes the bridge with its controller and all its ports.

    `datapath`: "netdev" (userspace) or "system" (the kernel's).
    """
    words = ["--", "init"]
    if tls:
        words += ["--", "set-ssl", str(tls.key), str(tls.certificate), str(tls.ca)]
    words += [
        *("--", "set", "Open_vSwitch", ".", f"external_ids:system-id={node.name}"),
        *("--", "add-br", BRIDGE),
        *("--", "set", "Bridge", BRIDGE, f"datapath_type={datapath}", "fail_mode=secure", "protocols=OpenFlow10"),
        f"other_config:datapath-id={node.number:016x}",
    ]
    if tls:
        words += ["--", "set-controller", BRIDGE, f"ssl:{CONTROLLER_ADDRESS}:{OPENFLOW_PORT}"]
        words += ["--", "set", "Controller", BRIDGE, "max_backoff=1000", "inactivity_probe=5000"]
        words += ["controller_rate_limit=2000", "controller_burst_limit=1000"]
    for port in node_ports(plan, node.name):
        words += add_port(port)
    return words


def add_port(port: BridgePort) -> list[str]:
    """Return the words that add a port with its number and ids."""
    return [
        *("--", "add-port", BRIDGE, port.name),
        *("--", "set", "Interface", port.name, f"ofport_request={port.ofport}", *_ids(port)),
    ]


def set_ids(port: BridgePort) -> list[str]:
    """Return the words that say of a port whose it is: what makes it the vif of a machine that runs here."""
    return [
        *("--", "--if-exists", "remove", "Interface", port.name, "external_ids", MOVED_MARK),
        *("--", "--if-exists", "set", "Interface", port.name, *_ids(port)),
    ]


def mark_moved(name: str, node: str) -> list[str]:
    """Return the words that say of a port, if it exists, that its machine has moved to `node`."""
    return ["--", "--if-exists", "set", "Interface", name, f"external_ids:{MOVED_MARK}={json.dumps(node)}"]


def del_port(name: str) -> list[str]:
    """Return the words that remove a port, if it exists."""
    return ["--", "--if-exists", "del-port", BRIDGE, name]


def _ids(port: BridgePort) -> list[str]:
    return [f"external_ids:{key}={json.dumps(value)}" for key, value in port.external_ids.items()]


def check_ports(rundir: Path, wanted: Iterable[BridgePort]) -> None:
    """Read back the port numbers. Raises LabError for one that the switch could not give."""
    table = json.loads(vsctl(rundir, ["--format=json", "--columns=name,ofport,error", "list", "Interface"]))
    given = {row[0]: (row[1], row[2]) for row in table["data"]}
    for port in wanted:
        number, error = given.get(port.name, (None, "not in the database"))
        if number != port.ofport:
            reason = error if isinstance(error, str) else f"it has number {number}"
            raise LabError(f"port {port.name}: number {port.ofport} was not given: {reason}")
