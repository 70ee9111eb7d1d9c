"""What is counted while something happens to a lab of Xen hosts, and where packets were dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import interruption_xen
from bench.interruption_vms import NATIVE, XENFLOW, Move
from xenflow.answers import MigrationStatus
from xenflow_lab.command import LabError
from xenflow_lab.xen import drops, guest, trial
from xenflow_lab.xen.lab import XenLab

TOPOLOGY = Path(__file__).parents[3] / "deploy" / "lab" / "xen.toml"
LINKS = """[
{"ifindex": 1, "ifname": "lo", "stats64": {"rx": {"packets": 9, "errors": 0, "dropped": 0, "over_errors": 0},
 "tx": {"packets": 9, "errors": 0, "dropped": 0, "carrier_errors": 0}}},
{"ifindex": 7, "ifname": "q2", "stats64": {"rx": {"errors": 0, "dropped": 1}, "tx": {"errors": 2, "dropped": 25}}},
{"ifindex": 8, "ifname": "odd"}]"""
QUEUES = """[{"kind": "pfifo_fast", "handle": "0:", "dev": "t-n2", "root": true, "drops": 4, "backlog": 0},
{"kind": "noqueue", "handle": "0:", "dev": "lo", "root": true, "drops": 0}]"""
DATAPATH = """system@ovs-system:
  lookups: hit:15074 missed:31 lost:27
  flows: 9
  masks: hit:15200 total:3 hit/pkt:1.01
"""


@pytest.mark.parametrize(
    ("most_pps", "expected"),
    [(2040, [2040, 1020, 510]), (510, [510]), (900, [900, 510]), (100, [510]), (1100, [1100, 550, 510])],
)
def test_rates_are_halved_down_to_the_papers(most_pps: float, expected: list[float]) -> None:
    assert list(trial.halves(most_pps)) == expected


def test_a_count_is_whole_if_each_packet_has_come_once() -> None:
    assert trial.Count(100, 0, 0, 0.1, 1.0, ()).is_whole
    assert not trial.Count(100, 1, 0, 0.1, 1.0, ()).is_whole
    assert not trial.Count(100, 0, 1, 0.1, 1.0, ()).is_whole
    assert not trial.Count(0, 0, 0, 0.0, 1.0, ()).is_whole
    assert "3 lost (2 at the receiver's socket)" in str(trial.Count(100, 3, 0, 0.1, 1.0, (), overrun=2))


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Hosts that carry the only rate in the list, and lose three packets of any higher one; what was tried follows."""
    carries = [0.0]
    dropped = drops.Drops()

    def count(_lab: object, _act: object, flow: trial.Flow) -> trial.Count:
        carries.append(flow.rate_pps)
        lost = 0 if flow.rate_pps <= carries[0] else 3
        dropped["n1 q2 sending"] += lost
        return trial.Count(1000, lost, 0, 0.1, 1.0, ())

    monkeypatch.setattr(trial, "count", count)
    monkeypatch.setattr(trial, "await_traffic", lambda _lab, _flow: None)
    monkeypatch.setattr(drops, "read", lambda _lab: drops.Drops(dropped))
    return carries


def test_the_highest_rate_that_loses_nothing_is_tried_twice(link: list[float]) -> None:
    link[0] = 1200
    assert trial.lossless(XenLab(TOPOLOGY, "t"), 4080).rate_pps == 1020
    assert link[1:] == [4080, 2040, 1020, 1020]


def test_hosts_that_lose_packets_by_themselves_are_no_judges(link: list[float]) -> None:
    link[0] = 500
    with pytest.raises(LabError, match=r"even while nothing moves.* 510 packets/s.*3 lost.*dropped: n1 q2 sending 3"):
        trial.lossless(XenLab(TOPOLOGY, "t"), 1020)
    assert link[1:] == [1020, 510]


def test_what_is_lost_at_the_least_rate_is_told_and_where(link: list[float]) -> None:
    found = trial.at_rest(XenLab(TOPOLOGY, "t"), 1020)
    assert (found.flow.rate_pps, found.count.lost_share) == (510, 0.003)
    assert found.words.endswith("dropped: n1 q2 sending 3")
    link[0] = 700
    assert trial.at_rest(XenLab(TOPOLOGY, "t"), 510).count.is_whole


@pytest.mark.parametrize(
    ("carried", "state", "expected"),
    [
        (2040, "done", [2040]),
        (600, "done", [2040, 1020, 510]),
        (100, "done", [2040, 1020, 510]),
        (600, "failed", [2040]),
    ],
)
def test_migrations_go_on_until_no_packet_is_lost(
    monkeypatch: pytest.MonkeyPatch, carried: float, state: str, expected: list[int]
) -> None:
    def once(_lab: object, rate_pps: float) -> interruption_xen.Try:
        counted = trial.Count(1000, 0 if rate_pps <= carried else 7, 0, 0.1, 40.0, ())
        found = interruption_xen.of(XENFLOW, rate_pps, counted, Move(10.0, 50.0, 0.0, 9.0))
        return interruption_xen.Try(
            found, MigrationStatus(1, "r1", "n1", "n2", True, state, True, "", 100, "", 3.0, [])
        )

    monkeypatch.setattr(trial, "await_traffic", lambda _lab: None)
    monkeypatch.setattr(interruption_xen, "_try", once)
    said: list[str] = []
    tries = interruption_xen.migrate(XenLab(TOPOLOGY, "t", say=said.append), 2040)
    assert [one.trial.rate_pps for one in tries] == expected
    assert len(said) == len(expected)


def test_packets_of_an_earlier_flow_do_not_count() -> None:
    common = {"duplicated": 0, "longest_gap_ns": 10**9, "rates_bps": [1.0], "delay_ns": {"max": 2 * 10**9}}
    flows = [{"received": 3, "last_ns": 10, **common}, {"received": 99, "last_ns": 20, **common}]
    found = trial.counted(100, 7.0, {"flows": flows, "dropped_by_socket": 1})
    assert found == trial.Count(100, 1, 0, 1.0, 7.0, (1.0,), 1, 2.0)
    assert trial.counted(100, 7.0, {"flows": []}).lost == 100


def test_places_where_packets_were_dropped() -> None:
    before = drops.of_links("n1", "[]") + drops.of_queues("n1/Dom0", QUEUES.replace('"drops": 4', '"drops": 1'))
    after = drops.of_links("n1", LINKS) + drops.of_queues("n1/Dom0", QUEUES) + drops.of_datapath("n1/Dom0", DATAPATH)
    assert drops.words(before, after) == (
        "n1 q2 sending 27, n1/Dom0 datapath 27, n1/Dom0 t-n2 queue pfifo_fast 3, n1 q2 receiving 1"
    )
    assert drops.words(after, after) == "nowhere that counts"
    assert not drops.of_queues("n1", "")


def test_a_guest_of_xens_own_scripts_is_the_same_guest() -> None:
    lab = XenLab(TOPOLOGY, "t")
    ours = guest.configuration(lab.built, lab.built.machines["r1"], "6.1.0-9-cloud-amd64")
    found = interruption_xen.plain(lab, ours)
    different = [(one, other) for one, other in zip(ours.splitlines(), found.splitlines(), strict=True) if one != other]
    ((before, after),) = different
    assert (
        before.replace("xenbr0,script=vif-xenflow", "xenbr0.10,script=vif-openvswitch", 1).replace(
            "xenbr0,script=vif-xenflow", "xenbr0.20,script=vif-openvswitch"
        )
        == after
    )
    with pytest.raises(LabError):
        interruption_xen.plain(lab, "nothing")


def test_trials_are_drawn_and_told(tmp_path: Path) -> None:
    counted = trial.Count(60 * 510, 12, 0, 9.5, 40.0, tuple(510 * 8 * 1472.0 for _ in range(120)))
    variants = (XENFLOW, XENFLOW, NATIVE)
    found = [interruption_xen.of(variant, 510.0, counted, Move(10.0, 50.0, 0.0, 9.0)) for variant in variants]
    assert found[0].received_pps[0] == pytest.approx(510)
    assert "12 of 30600 lost" in interruption_xen.words(found[0])
    assert "took 40 s, the machine was silent for 9.0 s" in interruption_xen.words(found[0])
    interruption_xen.draw(found, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"figure3c_xen{suffix}" for suffix in (".png", ".svg", ".csv")
    }
    lines = (tmp_path / "out" / "figure3c_xen.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [[variant, "510", "1"] for variant in variants]
