"""Identities and addresses: one spelling each, and nothing else is accepted."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.identity import Identity
from xenflow.wire import Role

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).filter(str.isascii)
identities = st.builds(Identity, st.sampled_from(Role), names)


@given(identities)
def test_format_then_parse_gives_the_same(identity: Identity) -> None:
    assert Identity.parse(identity.uri) == identity
    assert Identity.from_text(str(identity)) == identity


@given(st.text(max_size=90) | st.text(alphabet=string.ascii_lowercase + ":/.%-_ \n", max_size=90))
def test_what_parses_is_canonical(text: str) -> None:
    try:
        identity = Identity.parse(text)
    except ValueError:
        return
    assert identity.uri == text


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "router/r1",
        "xenflow:",
        "xenflow:router",
        "xenflow:router/",
        "xenflow:/r1",
        "xenflow:Router/r1",
        "xenflow:root/r1",
        "XENFLOW:router/r1",
        "xenflow:router/R1",
        "xenflow:router/r1\n",
        "xenflow:router/r1 ",
        "xenflow:router/r1/x",
        "xenflow:router/r1?x",
        "xenflow:router/%72",
        "xenflow:router/.r1",
        "xenflow://router/r1",
        "xenflow:router/r1\0",
        "xenflow:router/é",
        "xenflow:router/" + "a" * 64,
    ],
)
def test_other_spellings_are_refused(uri: str) -> None:
    with pytest.raises(ValueError):
        Identity.parse(uri)


def test_longest_name() -> None:
    assert Identity.parse("xenflow:node/" + "a" * 63).name == "a" * 63
