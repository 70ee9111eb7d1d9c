"""First settings of each process, as `xenflow init` and `xenflow pki bundle` write them: commented, ready to be loaded.

Rule: what a person has to know to go on is in the comments; what is commented out shows the default.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from xenflow.address import Address

_ROUTER: Final = """\
# Settings of xenflow-client, in the VM of a virtual router: man xenflow-client. Paths are relative to this file.
# `systemctl reload xenflow-client` (SIGHUP) takes changes over.

# The router's name (as in its certificate and its definition); the server of whichever node the VM is on, by the VM's
# interface towards it (behind the %).
router = {name}
server = {server}

# max_routes = 0      # report so many routes at the most, the longest prefixes first (0: only the server's cap counts)
# refresh_s = 20.0    # have the kernel verify stale neighbors within this time (1 to 25)
# resync_s = 300.0    # read all tables again this often without a reason (10 to 86400)

# Replaced files count without a restart.
[tls]
ca = "ca.pem"
certificate = "certificate.pem"
key = "key.pem"
crl = "crl.pem"
"""

_NODE: Final = """\
# Settings of xenflow-server, the daemon of a node (Dom0): man xenflow-server. Relative paths count from this file's
# directory. `xenflow-server --check` says what is wrong; `systemctl reload xenflow-server` reads the definitions again.

node = {name}                           # this node's name, as in its certificate
app = {app}                             # the controller
listen = {listen}                       # for the routers' clients: the same host-local address on every node
# definitions = "/etc/xenflow/definitions.d"    # what belongs where: networks, ports, routers, hosts
# state = "/var/lib/xenflow"                    # definitions that the controller hands over when a router moves here
# qos = "unix:/run/xenflow/qos.sock"            # this node's qos-controller

# Replaced files count without a restart.
[tls]
ca = "node/ca.pem"
certificate = "node/certificate.pem"
key = "node/key.pem"
crl = "node/crl.pem"

[ovs]
bridge = {bridge}
# database = "unix:/run/openvswitch/db.sock"
# rundir = "/run/openvswitch"                   # ovs-vswitchd.pid and its control socket

# [hypervisor]
# uri = "qemu:///system"                        # or xen:///system, or xl: (Xen without libvirt): who runs here
# peers = {{ n2 = "qemu+ssh://root@n2/system" }}  # where the other nodes' hypervisors are; with xl: ssh://root@n2
# move = ["/usr/local/sbin/migrate"]            # a command of your own that migrates: router and target are appended

# [limits]
# max_routes = 0                                # cap of a router whose definition has none (0: no cap)
# max_routers = 0                               # how many routers may run here (0: any number)
"""

_CONTROLLER: Final = """\
# Settings of the controller, stand-alone (xenflow-controller) or in POX (pox.py xenflow.app): man xenflow-controller.
# Paths are relative to this file. What is commented out shows the default.

nodes = {nodes}                         # may connect, as servers and as switches; each proves its name
mode = {mode}                           # "reactive": an exact flow at the first packet
listen = {listen}                       # servers and operators
openflow = {openflow}                   # switches

# socket = "/run/xenflow/app.sock"      # operators on this machine
# probe_interval_s = 1.0                # how often links between nodes are probed (0.1 to 60)
# hold_s = 60                           # how long a router whose VM has left, and arrived nowhere, is forwarded for

# Replaced files count without a restart.
[tls]
ca = "controller/ca.pem"
certificate = "controller/certificate.pem"
key = "controller/key.pem"
crl = "controller/crl.pem"

# [reactive]
# idle_timeout_s = 60                   # a flow that no packet has used for so long goes
# max_flows = 10000                     # exact flows of a router without a max_flows of its own

# [limits]
# max_macs_per_port = 1024              # addresses learned behind one network of an access port
# mac_age_s = 300                       # how long such an address is remembered without a packet
# max_switches = 256                    # OpenFlow connections at once

# [pox]
# port = 6633                           # POX's own listener, on 127.0.0.1, behind `openflow`
"""


def router_settings(name: str, server: Address) -> str:
    """Return client.toml of a router."""
    return _ROUTER.format(name=_toml(name), server=_toml(str(server)))


def node_settings(name: str, app: Address, listen: Address, bridge: str) -> str:
    """Return server.toml of a node; its files are in node/."""
    return _NODE.format(name=_toml(name), app=_toml(str(app)), listen=_toml(str(listen)), bridge=_toml(bridge))


def controller_settings(nodes: Sequence[str], listen: Address, openflow: Address, mode: str) -> str:
    """Return app.toml of the controller; its files are in controller/."""
    return _CONTROLLER.format(
        nodes=_toml(list(nodes)), listen=_toml(str(listen)), openflow=_toml(str(openflow)), mode=_toml(mode)
    )


def _toml(value: object) -> str:
    """Spell text, or a list of it: for what names and addresses consist of, TOML and JSON spell it alike."""
    return json.dumps(value)
