"""The name of an image in the cache: the same for the same content, another for any other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from xenflow_lab.machines.recipe import Recipe

RECIPE = Recipe("one", packages=("frr", "tcpdump"), files={"/etc/one": "1\n"})


def test_order_and_repetition_of_packages_count_for_nothing() -> None:
    other = dataclasses.replace(RECIPE, packages=("tcpdump", "frr", "frr", "udev"))
    assert other.digest() == RECIPE.digest()


@pytest.mark.parametrize(
    ("change", "same_root"),
    [
        ({"packages": ("frr",)}, False),
        ({"kernel": "linux-image-cloud-amd64"}, False),
        ({"files": {"/etc/one": "2\n"}}, True),
        ({"commands": ("true",)}, True),
        ({"modules": ("ext4",)}, True),
        ({"size_mib": 100}, True),
    ],
)
def test_what_is_in_it_decides_its_name(change: dict[str, object], same_root: bool) -> None:
    other = dataclasses.replace(RECIPE, **change)  # type: ignore[arg-type]
    assert other.digest() != RECIPE.digest()
    assert (other.root_digest() == RECIPE.root_digest()) is same_root


def test_a_package_counts_by_its_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "x_1_all.deb", tmp_path / "b" / "x_1_all.deb"
    for path in (first, second):
        path.parent.mkdir()
        path.write_bytes(b"one")
    digests = [dataclasses.replace(RECIPE, debs=(path,)).digest() for path in (first, second)]
    assert digests[0] == digests[1], "where it lies counts for nothing"
    second.write_bytes(b"two")
    assert dataclasses.replace(RECIPE, debs=(second,)).digest() != digests[0]
