"""Settings files and commands of XenFlow's own programs in a lab. Pure: a plan -> text and argv.

Every setting of the lab is one that a real installation has too; the lab adds nothing that only it could use.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from xenflow.errors import ConfigError
from xenflow.identity import Identity
from xenflow.pki import Authority, Lifetimes
from xenflow.wire import Role
from xenflow_lab.openvswitch import DATABASE, OPENFLOW_PORT, Tls
from xenflow_lab.paths import Paths
from xenflow_lab.plan import (
    BRIDGE,
    CONTROL_ADDRESS,
    CONTROL_BRIDGE,
    CONTROLLER,
    CONTROLLER_ADDRESS,
    Kind,
    Machine,
    Plan,
)
from xenflow_lab.topology import Controller, Datapath, HostTable, RouterTable

APP_PORT: Final = 6654
SERVER_PORT: Final = 6655
QOS_SOCKET: Final = "/run/xenflow/qos.sock"
"""The qos-controller's socket, as its node sees it."""
FRAME_OVERHEAD: Final = 22
"""Ethernet header and two tags."""
APP_SOCKET: Final = "/run/xenflow/app.sock"
"""The app's socket for local operators, as the controller's machine sees it."""

Settings = dict[str, object]


def identities(plan: Plan) -> list[Identity]:
    """Return everybody who needs a certificate."""
    return [
        Identity(Role.CONTROLLER, CONTROLLER),
        Identity(Role.OPERATOR, "lab"),
        *(Identity(Role.NODE, node.name) for node in plan.of_kind(Kind.NODE)),
        *(Identity(Role.ROUTER, router.name) for router in plan.of_kind(Kind.ROUTER)),
    ]


def issue_certificates(plan: Plan, paths: Paths) -> None:
    """Make the lab's own authority and all certificates."""
    authority = Authority.create(paths.pki, Lifetimes())
    for identity in identities(plan):
        authority.issue(identity)


def node_tls(paths: Paths, node: str) -> Tls:
    """Return the certificate files that a node's switch uses."""
    files = certificates(paths, Identity(Role.NODE, node))
    return Tls(Path(files["key"]), Path(files["certificate"]), Path(files["ca"]))


def certificates(paths: Paths, identity: Identity) -> dict[str, str]:
    """Return the certificate files of `identity` by their keys in the table [tls]."""
    stem = paths.pki / identity.role.value / identity.name
    return {
        "ca": str(paths.pki / "ca.pem"),
        "certificate": f"{stem}.pem",
        "key": f"{stem}.key",
        "crl": str(paths.pki / "crl.pem"),
    }


def app_settings(plan: Plan, paths: Paths) -> Settings:
    """Return app.toml; `[app]` of the topology is laid over it."""
    settings: Settings = {
        "listen": f"ssl:{CONTROLLER_ADDRESS}:{APP_PORT}",
        "openflow": f"ssl:{CONTROLLER_ADDRESS}:{OPENFLOW_PORT}",
        "socket": APP_SOCKET,
        "nodes": [node.name for node in plan.of_kind(Kind.NODE)],
        "mode": plan.topology.lab.mode,
        "tls": certificates(paths, Identity(Role.CONTROLLER, CONTROLLER)),
    }
    return overlay(settings, plan.topology.app)


def server_settings(plan: Plan, paths: Paths, node: str, hypervisor: Settings | None = None) -> Settings:
    """Return server.toml of a node; `[server]` of the topology is laid over it.

    `hypervisor` says how it is asked (default: the lab is it).
    """
    settings: Settings = {
        "node": node,
        "app": f"ssl:{CONTROLLER_ADDRESS}:{APP_PORT}",
        "listen": f"ssl:[{CONTROL_ADDRESS}%{CONTROL_BRIDGE}]:{SERVER_PORT}",
        "definitions": str(paths.machine(node) / "xenflow" / "definitions.d"),
        "ovs": {"database": f"unix:{DATABASE}", "rundir": str(Path(DATABASE).parent), "bridge": BRIDGE},
        "hypervisor": hypervisor or {"move": move_argv(plan.name)},
        "state": str(paths.machine(node) / "xenflow" / "state"),
        "tls": certificates(paths, Identity(Role.NODE, node)),
    }
    return overlay(settings, plan.topology.server)


def qos_settings(plan: Plan, paths: Paths, node: str) -> Settings:
    """Return qos.toml of a node; `[qos]` of the topology is laid over it.

    Trunks' devices could carry larger frames than any guest sends; the kernel's datapath has its segments for frames.
    """
    largest = max((network.mtu for network in plan.topology.network), default=1500) + FRAME_OVERHEAD
    settings: Settings = {
        "socket": f"unix:{QOS_SOCKET}",
        "state": str(paths.machine(node) / "xenflow" / "qos"),
        "frame_bytes": largest if plan.topology.lab.datapath is Datapath.USERSPACE else 0,
        "ovs": {"database": f"unix:{DATABASE}", "bridge": BRIDGE},
    }
    return overlay(settings, plan.topology.qos)


def move_argv(lab: str) -> list[str]:
    """Return the command that moves a machine, but for its name and the target's: the lab is the hypervisor."""
    return [sys.executable, "-m", "xenflow.cli.main", "lab", "move", "--name", lab]


def client_settings(paths: Paths, router: Machine) -> Settings:
    """Return client.toml of a router."""
    return {
        "router": router.name,
        "server": f"ssl:[{CONTROL_ADDRESS}%{CONTROL_BRIDGE}]:{SERVER_PORT}",
        "max_routes": router.table.client_max_routes if isinstance(router.table, RouterTable) else 0,
        "tls": certificates(paths, Identity(Role.ROUTER, router.name)),
    }


def definitions(plan: Plan, node: str) -> Settings:
    """Return what the node's server is told: all networks, its ports, the machines that start there."""
    ports: list[Settings] = [
        {"name": end.port, "kind": "trunk", **_given(capacity=trunk.capacity)}
        for trunk in plan.trunks
        for end in trunk.ends
        if end.node == node
    ]
    for access in plan.accesses:
        if access.table.node == node:
            port: Settings = {"name": access.port, "kind": "access", **_given(capacity=access.table.capacity)}
            if access.table.network:
                port["network"] = access.table.network
            if access.table.vlans:
                port["vlans"] = dict(access.table.vlans)
            ports.append(port)
    found: dict[str, list[Settings]] = {"router": [], "host": []}
    for machine in plan.of_kind(Kind.ROUTER, Kind.HOST):
        if machine.node == node:
            found[machine.kind.value].append(_definition(plan, machine.name))
    networks = [
        {"name": network.name, "vid": network.vid, **_given(rate=network.rate)} for network in plan.topology.network
    ]
    tables = {"network": networks, "port": ports, **found}
    return {name: rows for name, rows in tables.items() if rows}


def _definition(plan: Plan, name: str) -> Settings:
    table = plan.machines[name].table
    interfaces = [
        {
            "mac": vif.interface.mac,
            "network": vif.network,
            "addresses": [text.partition("/")[0] for text in vif.interface.addresses],
            **_given(capacity=vif.capacity),
        }
        for vif in plan.vifs
        if vif.machine == name
    ]
    if isinstance(table, HostTable):
        return {"name": name, "interface": interfaces}
    for interface in interfaces:
        del interface["addresses"]  # a router reports its own
    if not isinstance(table, RouterTable):
        return {"name": name, "interface": interfaces}
    given = _given(max_routes=table.max_routes, max_flows=table.max_flows, rate=table.rate, ceiling=table.ceiling)
    given |= dict(table.resources.said())  # a cap of 0 says something: no cap
    classes = {"class": list(table.classes)} if table.classes else {}
    return {"name": name, **given, "interface": interfaces, **classes}


def _given(**values: object) -> Settings:
    """Return the keys that have a value."""
    return {key: value for key, value in values.items() if value}


def overlay(base: Settings, over: Settings) -> Settings:
    """Return `base` with the keys of `over`, tables merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def program(name: str) -> str:
    """Return the path of one of our programs, beside this Python or in PATH. Raises ConfigError."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if found is None:
        raise ConfigError([f"{name} is not installed: pip install 'xenflow[lab]' beside {sys.executable}"])
    return found


def controller_argv(plan: Plan, config: Path) -> list[str]:
    """Return the command of the app, stand-alone or in POX."""
    if plan.topology.lab.controller is Controller.POX:
        return [sys.executable, f"{os.environ['POX_HOME']}/pox.py", "xenflow.app", f"--config={config}"]
    return [program("xenflow-controller"), "--config", str(config)]
