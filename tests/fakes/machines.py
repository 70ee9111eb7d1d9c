"""A working model of a machine's processor and memory, as the server's `Adjustable` seam shows them; and one of xl."""

from __future__ import annotations

import dataclasses

from xenflow.errors import DataplaneError
from xenflow.resources import Resources
from xenflow_server.granting import Adjustable


@dataclasses.dataclass(slots=True)
class FakeMachine:
    """`scheduler` is False where weight and cap cannot be had; `follows` is False for a guest that keeps its memory."""

    most_mib: int = 512
    most_vcpus: int = 4
    scheduler: bool = True
    follows: bool = True
    has: dict[str, int] = dataclasses.field(default_factory=lambda: {"memory_mib": 256, "vcpus": 1})
    changes: int = 0

    def read(self) -> Resources:
        rest = {"cpu_weight": 256, "cpu_cap": 0} if self.scheduler else {}
        return Resources(**(rest | self.has))

    def change(self, key: str, value: int) -> None:
        most = {"memory_mib": self.most_mib, "vcpus": self.most_vcpus}.get(key, value)
        if value > most:
            raise DataplaneError(f"cannot have more than {most}")
        if key.startswith("cpu_") and not self.scheduler:
            raise DataplaneError("this hypervisor has no scheduler to set")
        self.changes += 1
        if self.follows:
            self.has[key] = value

    def nearest(self, key: str, value: int) -> int:
        return value


class FakeMachines:
    """Those that run, by uuid; `answers` is False while the hypervisor is away."""

    def __init__(self, machines: dict[str, FakeMachine]) -> None:
        self.machines = machines
        self.answers = True

    def find(self, uuid: str) -> Adjustable:
        if not self.answers:
            raise DataplaneError("the hypervisor does not answer")
        if uuid not in self.machines:
            raise DataplaneError(f"no machine {uuid}")
        return self.machines[uuid]


XL = """
import json, os, sys
state, (what, *more) = sys.argv[1], sys.argv[2:]
host = json.load(open(state))  # domid -> uuid, name, mem, vcpus, weight, cap, most (MiB), most_vcpus; "scheduler"
scheduler = host.pop("scheduler")
def of(domid):
    if domid not in host: sys.exit(f"{domid} is an invalid domain identifier (rc=-6)")
    return host[domid]
def table(one, domid):
    print("Cpupool Pool-0: ratelimit=1000us\\n" if not one else "", end="")
    print("Name                                ID Weight  Cap")
    print("%-36s%2s %6d %4d" % (of(domid)["name"], domid, of(domid)["weight"], of(domid)["cap"]))
def limit(value, most, what):
    if value > most: sys.exit(f"libxl: error: {what}: {value} is more than {most}")
if [what, *more] == ["list", "-l"]:
    own = lambda it: {"c_info": {"name": it["name"], "uuid": it["uuid"]}}
    print(json.dumps([{"domid": int(domid), "config": own(it)} for domid, it in host.items()]))
elif what == "list":
    it = of(more[0])
    print("Name                                        ID   Mem VCPUs\\tState\\tTime(s)")
    print("%-40s %5s %5d %5d     -b----     123.4" % (it["name"], more[0], it["mem"], it["vcpus"]))
elif what == "info":
    print("host                   : n1\\nxen_scheduler          : " + scheduler + "\\nxen_pagesize : 4096")
elif what == "sched-" + scheduler and scheduler.startswith("credit"):
    options = dict(zip(more[::2], more[1::2]))
    domid = options.pop("-d")
    it = of(domid)
    for option, key in (("-w", "weight"), ("-c", "cap")):
        if option in options: it[key] = int(options[option])
    if not options: table(True, domid)
elif what == "mem-set":
    value = int(more[1].removesuffix("m"))
    limit(value, of(more[0])["most"], "memory target")
    of(more[0])["mem"] = value
elif what == "vcpu-set":
    value = int(more[1])
    limit(value, of(more[0])["most_vcpus"], "vcpus")
    of(more[0])["vcpus"] = value
else:
    sys.exit(f"command {what} not implemented")
with open(state + ".new", "w") as file: json.dump(host | {"scheduler": scheduler}, file)
os.replace(state + ".new", state)
"""
