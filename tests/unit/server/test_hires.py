"""Bandwidth in definitions: what is taken, what is refused and how that is told, and handing it over."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenflow.bandwidth import Match, TrafficClass, parse_rate, rate_text
from xenflow.errors import ConfigError
from xenflow.model import pack_prefix
from xenflow_server.definitions import Definitions, read
from xenflow_server.handed import as_table

NETWORK = (
    '[[network]]\nname = "a"\nvid = 10\nrate = "5Mbit"\n[[port]]\nname = "t1"\nkind = "trunk"\ncapacity = "100Mbit"\n'
)
ROUTER = (
    '[[router]]\nname = "r1"\n{0}\n[[router.interface]]\nmac = "02:00:00:00:00:01"\nnetwork = "a"\ncapacity = "1Gbit"\n'
)
VOICE = """rate = "20Mbit"
ceiling = "60Mbit"
class = [
  {name = "voice", rate = "2Mbit", match = [{dscp = 46}, {protocol = "udp", destination_ports = "5004-5100"}]},
  {name = "bulk", rate = "1Mbit", ceiling = "10Mbit", match = [{source = "10.1.0.0/16", protocol = "47"}]},
]"""


def definitions(tmp_path: Path, router: str) -> Definitions:
    (tmp_path / "a.toml").write_text(NETWORK + ROUTER.format(router))
    return read(tmp_path)


def test_what_is_hired_is_taken(tmp_path: Path) -> None:
    defined = definitions(tmp_path, VOICE)
    router = defined.machines["r1"]
    assert (router.rate, router.ceiling, router.interfaces[0].capacity) == (20_000_000, 60_000_000, 10**9)
    assert router.classes == (
        TrafficClass("voice", 2_000_000, 0, (Match(46), Match(-1, 17, destination_ports=(5004, 5100)))),
        TrafficClass("bulk", 1_000_000, 10_000_000, (Match(-1, 47, pack_prefix("10.1.0.0/16")),)),
    )
    assert defined.rates == {"a": 5_000_000}
    assert defined.ports["t1"].capacity == 100_000_000


def test_a_definition_that_is_handed_over_says_the_same(tmp_path: Path) -> None:
    router = definitions(tmp_path, VOICE).machines["r1"]
    table = as_table(router, 0)
    assert (table.rate, table.ceiling, len(table.classes)) == ("20000000bit", "60000000bit", 2)
    assert table.classes[0].match[1].destination_ports == "5004-5100"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('rate = "0Mbit"', "router 'r1': rate must be a rate above 0, such as \"20Mbit\" ('0Mbit')"),
        ('rate = "-3Mbit"', "such as \"20Mbit\" ('-3Mbit')"),
        ('rate = "nan"', "such as \"20Mbit\" ('nan')"),
        ('rate = "9000Tbit"', "such as \"20Mbit\" ('9000Tbit')"),
        ('rate = "20Mbit"\nceiling = "10Mbit"', "ceiling is below the rate, 20 Mbit/s ('10Mbit')"),
        ('ceiling = "10Mbit"', "ceiling without rate"),
        ('class = [{name = "x", rate = "1Mbit", match = [{dscp = 1}]}]', "add rate"),
        ('rate = "1Mbit"\nclass = [{name = "x", rate = "2Mbit", match = [{dscp = 1}]}]', "classes hire more"),
        ('rate = "1Mbit"\nclass = [{name = "x", rate = "1Mbit"}]', "class 'x': match is missing"),
        ('rate = "1Mbit"\nclass = [{name = "control", rate = "1Mbit", match = [{dscp = 1}]}]', "of that name"),
        (
            'rate = "1Mbit"\nclass = [{name = "x", rate = "1Mbit", match = [{dscp = 64}]}]',
            "match 1: dscp must be 0 to 63 (64)",
        ),
        ('rate = "1Mbit"\nclass = [{name = "x", rate = "1Mbit", match = [{}]}]', "match 1: is empty"),
        ('rate = "1Mbit"\nclass = [{name = "x", rate = "1Mbit", match = [{source_ports = "1"}]}]', "need a protocol"),
        ('rate = "1Mbit"\nclass = [{name = "x", rate = "1Mbit", match = [{protocol = "tpc"}]}]', "one of icmp, tcp"),
        ('rate = "1Mbit"\nclass = [{name = "x", rate = "1Mbit", match = [{source = "10.0.0.1/8"}]}]', "host bits"),
        ('rate = "1Mbit"\nclass = [{name = "x", rate = "1Mbit", match = [{vlan = 3}]}]', "unknown key"),
        (
            'rate = "9Mbit"\nclass = ['
            + "".join(f'{{name = "x{n}", rate = "1Mbit", match = [{{dscp = {n}}}]}},' for n in range(7))
            + "]",
            "has more than 6 classes (7)",
        ),
    ],
)
def test_each_problem_is_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        definitions(tmp_path, text)
    assert any(reason in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("text", "rate"), [("20Mbit", 20_000_000), ("0.5 Mbit/s", 500_000), ("64kbit", 64_000), ("1bit", 1)]
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


def test_rates_for_people() -> None:
    assert [rate_text(rate) for rate in (0, 500, 33_333_333, 10**9)] == [
        "0 bit/s",
        "500 bit/s",
        "33.33 Mbit/s",
        "1 Gbit/s",
    ]
