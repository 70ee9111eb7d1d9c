"""Where a lab keeps its things: everything derives from its name, so that `down` finds it without any record.

/run/xenflow-lab/NAME/                 state of the lab: lab.json, lock, topology.toml, places/, pki/, log/
/run/xenflow-lab/NAME/m/WHO/run/       what the machine WHO sees as /run (Open vSwitch, FRR, BIRD, XenFlow sockets)
/run/xenflow-lab/NAME/m/WHO/etc-frr/   what it sees as /etc/frr, and var-tmp/ as /var/tmp
/run/netns/xfl.NAME.WHO                its network namespace
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/run/xenflow-lab")
NETNS: Final = Path("/run/netns")
PREFIX: Final = "xfl"


@dataclass(frozen=True, slots=True)
class Paths:
    """The places of the lab `name`."""

    name: str

    @property
    def state(self) -> Path:
        """Directory of the lab."""
        return ROOT / self.name

    @property
    def record(self) -> Path:
        """What was started, as JSON."""
        return self.state / "lab.json"

    @property
    def lock(self) -> Path:
        """Locked (POSIX) by the process that builds the lab, as long as it does."""
        return self.state / "lock"

    @property
    def topology(self) -> Path:
        """Copy of the topology file."""
        return self.state / "topology.toml"

    @property
    def places(self) -> Path:
        """Where the machines are that have moved."""
        return self.state / "places"

    @property
    def pki(self) -> Path:
        """Directory of the lab's certificate authority."""
        return self.state / "pki"

    def machine(self, who: str) -> Path:
        """Directory of a machine's private files."""
        return self.state / "m" / who

    def run(self, who: str) -> Path:
        """What the machine sees as /run."""
        return self.machine(who) / "run"

    def config(self, who: str, program: str) -> Path:
        """Settings file of one of our programs on a machine."""
        return self.machine(who) / "xenflow" / f"{program}.toml"

    def log(self, who: str, program: str) -> Path:
        """Log of a program on a machine."""
        return self.state / "log" / f"{who}.{program}.log"

    def ovs(self, node: str) -> Path:
        """Run directory of the node's Open vSwitch (OVS_RUNDIR), seen from outside."""
        return self.run(node) / "openvswitch"

    def namespace(self, who: str) -> str:
        """Name of the machine's network namespace, for ip(8)."""
        return f"{namespace_prefix(self.name)}{who}"

    def namespace_file(self, who: str) -> Path:
        """File that holds the machine's network namespace."""
        return NETNS / self.namespace(who)


def namespace_prefix(name: str) -> str:
    """Return what the names of all namespaces of the lab `name` begin with; a lab's name has no dot in it."""
    return f"{PREFIX}.{name}."


def lab_namespaces(name: str) -> list[Path]:
    """Return the files of the namespaces that belong to the lab `name` by their names, recorded or not."""
    return sorted(NETNS.glob(f"{namespace_prefix(name)}*")) if NETNS.is_dir() else []


def lab_names() -> list[str]:
    """Return the names of all labs of which there is anything: state or namespaces."""
    states = {path.name for path in ROOT.iterdir() if path.is_dir()} if ROOT.is_dir() else set()
    spaces = {path.name.split(".")[1] for path in NETNS.glob(f"{PREFIX}.*.*")} if NETNS.is_dir() else set()
    return sorted(states | spaces)
