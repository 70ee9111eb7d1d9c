"""Real routing daemons write the kernel's table, and the client follows: FRR and BIRD, 20,000 routes by BGP.

The daemons run in namespaces with directories of their own; the machine's daemons and their files are not touched.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.client_world import BASE, Client, RealWorld, run
from xenflow.model import Route

ROUTES = 20_000
FRR = Path("/usr/lib/frr")
SPEAKER = """
router id 10.0.1.2;
protocol device {{ }}
protocol static many {{
  ipv4;
include "{routes}";
}}
protocol bgp peer {{
  local 10.0.1.2 as 65001; neighbor 10.0.1.1 as 65002; connect retry time 1; error wait time 1, 2; hold time 3;
  ipv4 {{ import none; export all; next hop self; }};
}}
"""
BIRD = """
router id 10.0.1.1;
protocol device { scan time 1; }
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp peer {
  local 10.0.1.1 as 65002; neighbor 10.0.1.2 as 65001; connect retry time 1; error wait time 1, 2; hold time 3;
  ipv4 { import all; export none; };
}
"""
BGPD = """
router bgp 65002
 bgp router-id 10.0.1.1
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 neighbor 10.0.1.2 timers 1 3
 neighbor 10.0.1.2 timers connect 1
"""


class Daemons:
    """Routing daemons that were started, and how to end them."""

    def __init__(self, world: RealWorld, directory: Path) -> None:
        self.world, self.directory = world, directory
        self.processes: list[subprocess.Popen[bytes]] = []

    def bird(self, namespace: str, config: str) -> Path:
        """Start BIRD and return its control socket."""
        path = self.directory / f"{namespace}.conf"
        path.write_text(config)
        control = self.directory / f"{namespace}.ctl"
        self._start(namespace, "bird", "-f", "-c", str(path), "-s", str(control))
        return control

    def frr(self, namespace: str, config: str) -> None:
        """Start zebra and bgpd with /etc/frr and /var/run/frr of their own."""
        etc, rundir = self.directory / "etc", self.directory / "run"
        for path in (etc, rundir):
            path.mkdir()
            shutil.chown(path, "frr", "frr")
        self.directory.chmod(0o755)
        (etc / "zebra.conf").write_text("")
        (etc / "bgpd.conf").write_text(config)
        for name in ("zebra", "bgpd"):
            # A /run of its own: /run/frr is not there before the machine's own FRR has run once.
            private = (
                "mount -t tmpfs tmpfs /run && mkdir /run/frr && mount --bind {} /etc/frr && mount --bind {} /run/frr"
            )
            private = private.format(etc, rundir) + f" && exec {FRR / name} "
            options = f"-A 127.0.0.1 -f {etc / name}.conf -i {rundir / name}.pid --vty_socket {rundir}"
            self._start(namespace, "unshare", "--mount", "sh", "-c", private + options)

    def _start(self, namespace: str, *command: str) -> None:
        self.processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", namespace, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def close(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def world() -> Iterator[RealWorld]:
    world = RealWorld()
    try:
        for command in BASE:
            world.ip(command)
        world.answer("10.0.1.2", "02:00:00:00:01:02", "a0")
        yield world
    finally:
        world.close()


@pytest.fixture
def daemons(world: RealWorld) -> Iterator[Daemons]:
    directory = Path(subprocess.check_output(["mktemp", "-d", "/tmp/xfclient-XXXXXX"], text=True).strip())
    daemons = Daemons(world, directory)
    try:
        yield daemons
    finally:
        daemons.close()
        shutil.rmtree(directory)


def learned(client: Client) -> int:
    """Return how many of the speaker's routes are reported, by the right way."""
    table = client.observer.kernel.ipv4.routes
    return sum(1 for prefix in table if prefix[0] == 30) if len(table) > 10 else 0


def reported(client: Client) -> int:
    return sum(1 for kind, key in client.shown.facts if kind == Route.KIND and key[0] == 30)


@pytest.mark.root
@pytest.mark.skipif(not (FRR / "bgpd").exists(), reason="needs FRR: apt-get install frr")
@pytest.mark.skipif(shutil.which("bird", path="/usr/sbin:/usr/bin") is None, reason="needs BIRD: apt-get install bird2")
@pytest.mark.parametrize("receiver", ["frr", "bird"])
def test_twenty_thousand_routes_come_go_and_come_again(world: RealWorld, daemons: Daemons, receiver: str) -> None:
    routes = daemons.directory / "routes.conf"
    routes.write_text("".join(f"route 30.{n >> 8}.{n & 255}.0/24 blackhole;\n" for n in range(ROUTES)))
    speaker = daemons.bird(world.far, SPEAKER.format(routes=routes))
    start: dict[str, Callable[[], object]] = {
        "frr": lambda: daemons.frr(world.near, BGPD),
        "bird": lambda: daemons.bird(world.near, BIRD),
    }
    client = Client(world)
    start[receiver]()
    one = "route 30.1.2.0/24 via 10.0.1.2 dev a0"

    assert client.wait(lambda: learned(client) == ROUTES, 90), learned(client)
    assert reported(client) == ROUTES
    assert client.has(one)

    run("birdc", "-s", str(speaker), "disable", "many")
    assert client.wait(lambda: learned(client) == 0, 60), learned(client)
    assert reported(client) == 0
    run("birdc", "-s", str(speaker), "enable", "many")
    assert client.wait(lambda: learned(client) == ROUTES, 60), learned(client)
    assert reported(client) == ROUTES

    world.ip("link set a0 down")
    assert client.wait(lambda: learned(client) == 0, 20), learned(client)
    assert reported(client) == 0
    world.ip("link set a0 up")
    assert client.wait(lambda: learned(client) == ROUTES, 90), learned(client)
    assert client.has(one)
    assert client.wait(lambda: client.lines(Route) == Client(world).lines(Route), 60)
