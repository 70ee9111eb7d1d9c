"""Strategies: any tree of ours, for tests of what changes one into another."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from qos_controller.plan import LINK_MINOR
from qos_controller.tree import OUR_ROOT, HtbClass, Program, Tree, as_inner

MINORS = range(1, 7)
GROUPS = range(0x8001, 0x8004)


def _class(minor: int, parent: int, numbers: tuple[int, int, int], limit_bytes: int) -> HtbClass:
    rate, quantum, prio = numbers
    return HtbClass(minor, parent, rate, rate * 2, 10, 20, quantum, prio, limit_bytes)


RATES = st.sampled_from([1000, 2000, 5_000_000_000])
NUMBERS = st.tuples(RATES, st.sampled_from([1522, 3044]), st.sampled_from([0, 1]))


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A link's class, groups beneath it, leaves beneath either, programs."""
    classes = {LINK_MINOR: as_inner(_class(LINK_MINOR, 0, draw(NUMBERS), 0))}
    groups = draw(st.sets(st.sampled_from(GROUPS)))
    for minor in groups:
        classes[minor] = as_inner(_class(minor, LINK_MINOR, draw(NUMBERS), 0))
    for minor in draw(st.sets(st.sampled_from(MINORS))):
        parent = draw(st.sampled_from([LINK_MINOR, *sorted(groups)]))
        limit = draw(st.sampled_from([64000, 128000]))
        classes[minor] = replace(_class(minor, parent, draw(NUMBERS), limit), head_drop=draw(st.booleans()))
    codes = draw(st.lists(st.binary(min_size=8, max_size=8), max_size=3))
    programs = tuple(Program(0x7860 + number, code) for number, code in enumerate(codes))
    return Tree(OUR_ROOT, classes, programs)
