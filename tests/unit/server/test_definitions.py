from pathlib import Path

import pytest

from xenflow.errors import ConfigError
from xenflow.model import Attachment, MachineKind, pack_mac
from xenflow.resources import Resources
from xenflow_server import definitions

GOOD = """
[[network]]
name = "t1-lan"
vid = 12
[[network]]
name = "t1-wan"
vid = 13
[[port]]
name = "trunk1"
kind = "trunk"
[[port]]
name = "eth1"
kind = "access"
network = "t1-lan"
vlans = { 7 = "t1-wan" }
[[router]]
name = "r1"
max_routes = 100
max_flows = 50
[[router.interface]]
mac = "02:00:00:00:00:01"
network = "t1-lan"
[[router.interface]]
mac = "02:00:00:00:00:02"
network = "t1-wan"
addresses = ["10.0.0.1/24", "2001:db8::1"]
[[host]]
name = "h1"
[[host.interface]]
mac = "02:00:00:00:00:03"
network = "t1-lan"
addresses = ["10.0.0.1"]
"""


def read(tmp_path: Path, **files: str) -> definitions.Definitions:
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    return definitions.read(tmp_path)


def problems(tmp_path: Path, **files: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, **files)
    return list(caught.value.problems)


def test_good_definitions(tmp_path: Path) -> None:
    got = read(tmp_path, a=GOOD)
    assert got.networks == {"t1-lan": 12, "t1-wan": 13}
    assert got.ports["trunk1"].trunk
    assert got.ports["eth1"].attachments == (Attachment(0, "t1-lan"), Attachment(7, "t1-wan"))
    router = got.machines["r1"]
    assert (router.kind, router.max_flows, got.max_routes) == (MachineKind.ROUTER, 50, {"r1": 100})
    assert [len(address) for address in router.interfaces[1].addresses] == [4, 16]
    assert got.vifs[pack_mac("02:00:00:00:00:02")] == ("r1", 2)


def test_an_empty_directory_is_good_and_a_missing_one_is_not(tmp_path: Path) -> None:
    assert read(tmp_path).machines == {}
    with pytest.raises(ConfigError, match="no such directory"):
        definitions.read(tmp_path / "nowhere")


def test_networks_may_stand_in_another_file(tmp_path: Path) -> None:
    networks, _, rest = GOOD.partition("[[port]]")
    assert read(tmp_path, z=networks, a="[[port]]" + rest).vifs


def interface(mac: str = "02:00:00:00:00:09", network: str = "n") -> str:
    return f'[[router.interface]]\nmac = "{mac}"\nnetwork = "{network}"\n'


NETWORK = '[[network]]\nname = "n"\nvid = 5\n'
ROUTER = '[[router]]\nname = "r"\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[[network]]\nname = "n"\nvid = 0', "reserved"),
        ('[[network]]\nname = "n"\nvid = 4095', "reserved"),
        ('[[network]]\nname = "N!"\nvid = 5', "name must match"),
        (NETWORK + NETWORK, "name is used twice"),
        (NETWORK + '[[network]]\nname = "m"\nvid = 5', "vid is that of network 'n'"),
        (NETWORK + '[[port]]\nname = "p"\nkind = "uplink"', 'kind must be "trunk" or "access"'),
        (NETWORK + '[[port]]\nname = "p"\nkind = "trunk"\nnetwork = "n"', "a trunk carries every network"),
        (NETWORK + '[[port]]\nname = "p"\nkind = "access"', "needs network or vlans"),
        (NETWORK + '[[port]]\nname = "p"\nkind = "access"\nnetwork = "m"', "unknown network"),
        (NETWORK + '[[port]]\nname = "p q"\nkind = "trunk"', "without space and slash"),
        (NETWORK + '[[port]]\nname = "p"\nkind = "trunk"\n[[port]]\nname = "p"\nkind = "trunk"', "used twice"),
        (NETWORK + '[[port]]\nname = "p"\nkind = "access"\nvlans = { 0 = "n" }', "an id must be 1 to 4094"),
        (NETWORK + '[[port]]\nname = "p"\nkind = "access"\nvlans = { x = "n" }', "an id must be 1 to 4094"),
        (NETWORK + '[[port]]\nname = "p"\nkind = "access"\nvlans = { 1 = "n", 01 = "n" }', "twice"),
        (NETWORK + '[[port]]\nname = "p"\nkind = "access"\nvlans = { 1 = "n", 2 = "n" }', "would be a loop"),
        (NETWORK + ROUTER, "has no interface"),
        (NETWORK + ROUTER + interface() + ROUTER + interface("02:00:00:00:00:0a"), "name is used twice"),
        (NETWORK + ROUTER + interface("aa:aa:aa:aa:aa:aa"), "announcement"),
        (NETWORK + ROUTER + interface("01:00:5e:00:00:01"), "unicast"),
        (NETWORK + ROUTER + interface("00:00:00:00:00:00"), "unicast"),
        (NETWORK + ROUTER + interface("020000000009"), "must look like"),
        (NETWORK + ROUTER + interface(network="m"), "unknown network"),
        (NETWORK + ROUTER + interface() + interface(), "mac is that of"),
        (NETWORK + ROUTER + interface() + interface("02:00:00:00:00:0a"), "two interfaces of a router"),
        (NETWORK + ROUTER + "max_flows = -1\n" + interface(), "max_flows must be"),
        (NETWORK + ROUTER + interface() + 'addresses = ["10.0.0.300"]', "not an IPv4 or IPv6 address"),
        (NETWORK + ROUTER + "memory_mib = 7\n" + interface(), "memory_mib must be 8 to 16777216 (7)"),
        (NETWORK + ROUTER + "memory_mib = 99999999\n" + interface(), "memory_mib must be 8 to 16777216"),
        (NETWORK + ROUTER + 'memory_mib = "1G"\n' + interface(), "memory_mib"),
        (NETWORK + ROUTER + "vcpus = 0\n" + interface(), "vcpus must be 1 to 4096 (0)"),
        (NETWORK + ROUTER + "cpu_weight = 0\n" + interface(), "cpu_weight must be 1 to 65535 (0)"),
        (NETWORK + ROUTER + "cpu_cap = -1\n" + interface(), "percent of one processor; 0: no cap) (-1)"),
        (
            NETWORK + ROUTER + "vcpus = 2\ncpu_cap = 201\n" + interface(),
            "more than vcpus = 2 can use, 200 percent (201)",
        ),
    ],
)
def test_each_problem_is_named(tmp_path: Path, text: str, reason: str) -> None:
    found = problems(tmp_path, a=text)
    assert any(reason in problem for problem in found), found
    assert all(str(tmp_path / "a.toml") in problem for problem in found)


def test_processor_and_memory(tmp_path: Path) -> None:
    own = "memory_mib = 512\nvcpus = 2\ncpu_weight = 512\ncpu_cap = 200\n"
    assert read(tmp_path, a=NETWORK + ROUTER + own + interface()).machines["r"].resources == Resources(512, 2, 512, 200)
    assert read(tmp_path, a=NETWORK + ROUTER + interface()).machines["r"].resources == Resources()


def test_an_address_stands_once_in_a_network(tmp_path: Path) -> None:
    text = NETWORK + ROUTER + interface() + 'addresses = ["10.0.0.1"]\n'
    text += (
        '[[host]]\nname = "h"\n[[host.interface]]\nmac = "02:00:00:00:00:0b"\nnetwork = "n"\naddresses = ["10.0.0.1"]'
    )
    assert "address is taken in network 'n'" in problems(tmp_path, a=text)[0]


def test_all_problems_of_all_files_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        a='[[network]]\nname = "n"\nvid = 0\n[[network]]\nname = "m"\nvid = 7',
        b='[[network]]\nname = "o"\nvid = 7',
        c='[[network]]\nname = "p"\nvlan = 8',
    )
    for part in ("a.toml", "b.toml", "c.toml", "reserved", "vid is that of network 'm'", "unknown key"):
        assert any(part in problem for problem in found), (part, found)
