"""Which hosts go on from where they were saved, and which are made anew; who finds them again."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from xenflow.errors import ConfigError
from xenflow_lab import attach, paths, record
from xenflow_lab.command import LabError
from xenflow_lab.lab import Lab
from xenflow_lab.machines import image
from xenflow_lab.machines.image import Image
from xenflow_lab.xen import build, keep, node
from xenflow_lab.xen.keep import Kept
from xenflow_lab.xen.lab import XenLab

TOPOLOGY = Path(__file__).parents[3] / "deploy" / "lab" / "xen.toml"


@pytest.fixture
def images(tmp_path: Path) -> tuple[Image, Image]:
    found = []
    for name in ("host", "router"):
        boot = tmp_path / name / "boot"
        boot.mkdir(parents=True)
        (boot / "config-6.1.0").touch()
        (tmp_path / name / "disk.ext4").touch()
        found.append(Image(tmp_path / name))
    return found[0], found[1]


def key(images: tuple[Image, Image], name: str = "t", *, with_xenflow: bool = True, topology: Path = TOPOLOGY) -> str:
    return keep.key(XenLab(topology, name, with_xenflow=with_xenflow), *images)


def test_the_same_hosts_have_the_same_key(images: tuple[Image, Image]) -> None:
    assert key(images) == key(images)
    assert len(key(images)) == 8


def _other_topology(images: tuple[Image, Image], tmp_path: Path, _: pytest.MonkeyPatch) -> str:
    other = tmp_path / "other.toml"
    other.write_text(TOPOLOGY.read_text().replace("ospf_dead_s = 120", "ospf_dead_s = 60"))
    return key(images, topology=other)


def _other_packages(images: tuple[Image, Image], tmp_path: Path, _: pytest.MonkeyPatch) -> str:
    shutil.copytree(images[0].directory, tmp_path / "newer")
    return key((Image(tmp_path / "newer"), images[1]))


def _same_packages_built_anew(images: tuple[Image, Image], _tmp: Path, _: pytest.MonkeyPatch) -> str:
    os.utime(images[1].disk, (1, 1))
    return key(images)


def _more_memory(images: tuple[Image, Image], _tmp: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(node, "MEMORY_MIB", 2048)
    return key(images)


def _other_unit_in_dom0(images: tuple[Image, Image], _tmp: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(node, "_UNIT", node._UNIT + "# changed\n")
    return key(images)


def _without_xenflow(images: tuple[Image, Image], _tmp: Path, _: pytest.MonkeyPatch) -> str:
    return key(images, with_xenflow=False)


@pytest.mark.parametrize(
    "change",
    [
        _other_topology,
        _other_packages,
        _same_packages_built_anew,
        _more_memory,
        _other_unit_in_dom0,
        _without_xenflow,
    ],
)
def test_what_hosts_are_made_of_decides(
    change: Callable[[tuple[Image, Image], Path, pytest.MonkeyPatch], str],
    images: tuple[Image, Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = key(images)
    assert change(images, tmp_path, monkeypatch) != before


def test_hosts_are_ready_when_all_were_saved_and_for_a_month(tmp_path: Path) -> None:
    pki = tmp_path / "pki"
    (pki / "node").mkdir(parents=True)
    kept = Kept(tmp_path / "xen" / "t-12345678")
    assert kept.why_anew() == "there are none of these packages and this topology"
    kept.begin(pki)
    assert kept.why_anew() == "an earlier start has not come to its end"
    assert (kept.pki / "node").is_dir()
    kept.finish()
    assert kept.ready
    os.utime(kept.directory / "ready", (1, 1))
    assert "days old" in kept.why_anew()
    kept.begin(tmp_path / "none")
    assert not kept.ready


def test_what_nobody_needs_goes_and_it_is_said(
    images: tuple[Image, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(keep, "lab_names", lambda: ["used"])
    names = ["t-00000000", "tt-00000000", "old-00000000", "used-00000000"]
    for name in names:
        (image.cache() / "xen" / name).mkdir(parents=True)
    for name in names[2:]:
        os.utime(image.cache() / "xen" / name, (1, 1))
    said: list[str] = []
    kept = keep.find(XenLab(TOPOLOGY, "t", say=said.append), *images)
    assert kept.directory.name == f"t-{key(images)}"
    assert {path.name for path in kept.directory.parent.iterdir()} == {"tt-00000000", "used-00000000"}
    assert said == ["saved hosts: made of other packages, settings or another topology; they go"]


@dataclasses.dataclass
class Host:
    """A machine that runs or has ended."""

    alive: bool

    def kill(self) -> None:
        self.alive = False


@pytest.mark.parametrize("alive", [True, False])
def test_hosts_that_qemu_does_not_resume_are_made_anew(
    alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that runs and is only slow is not: that would cost what was saved."""
    said: list[str] = []
    hosts = {"n1": Host(True), "n2": Host(alive)}
    monkeypatch.setattr(XenLab, "hosts", hosts)
    monkeypatch.setattr(XenLab, "note_hosts", lambda _lab, _kept: None)

    def refuse(_lab: object, _snapshot: str) -> None:
        raise LabError("n2: no snapshot 'ready'\nmore")

    monkeypatch.setattr(build, "start_hosts", refuse)
    lab = XenLab(TOPOLOGY, "t", say=said.append)
    if alive:
        with pytest.raises(LabError, match="no snapshot"):
            build.resume_hosts(lab, Kept(tmp_path))
        assert not said
    else:
        assert not build.resume_hosts(lab, Kept(tmp_path))
        assert not any(host.alive for host in hosts.values())
        assert said == ["saved hosts: QEMU does not go on from there (n2: no snapshot 'ready'); making them anew"]


def test_a_lab_is_found_again_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    for name, hosts in (("plain", {}), ("xen", {"n1": "/n1"})):
        (tmp_path / name).mkdir()
        shutil.copy(TOPOLOGY, tmp_path / name / "topology.toml")
        record.write(paths.Paths(name).record, record.LabRecord(name, hosts=hosts))
    assert type(attach.attach("plain")) is Lab
    found = attach.attach("xen")
    assert isinstance(found, XenLab)
    assert found.record.hosts == {"n1": "/n1"}
    with pytest.raises(ConfigError, match="no such lab"):
        attach.attach("none")


def test_what_a_lab_of_xen_hosts_has_not_is_refused(tmp_path: Path) -> None:
    text = TOPOLOGY.read_text().replace('{ network = "right", ', '{ network = "right", rate_mbps = 5, ')
    (tmp_path / "limited.toml").write_text(
        f'{text}\n[[host]]\nname = "h1"\nnode = "n1"\nnetwork = "left"\naddresses = ["10.0.1.20/24"]\n'
    )
    found = XenLab(tmp_path / "limited.toml", "t").routers.problems()
    assert any("host 'h1'" in problem for problem in found)
    assert any("router 'r1': rate_mbps" in problem for problem in found)
