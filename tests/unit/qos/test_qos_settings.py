"""What qos.toml says of sharing: defaults, links of their own, and every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from qos_controller.decision import Ceilings, Policy, PolicyKind, Weights, standard
from qos_controller.settings import Sharing
from xenflow.errors import ConfigError
from xenflow.settings import parse

FILE = Path("qos.toml")


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        parse(text, Sharing, FILE)
    return refused.value.problems


def test_the_defaults_are_the_papers_rhythm_and_our_policy() -> None:
    sharing = parse("", Sharing, FILE)
    assert (sharing.t_med_s, sharing.k_med) == (1.0, 3)
    assert sharing.policy_of("any") == Policy(PolicyKind.WORK_CONSERVING, Weights.USAGE, Ceilings.EQUATION)


def test_a_link_may_have_a_policy_of_its_own() -> None:
    text = """
        ceilings = "link"
        [[link]]
        port = "eth1"
        policy = "paper"
        [[link]]
        port = "eth2"
        weights = "hired"
    """
    sharing = parse(text, Sharing, FILE)
    assert sharing.policy_of("eth0") == Policy(ceilings=Ceilings.LINK)
    assert sharing.policy_of("eth1") == standard(PolicyKind.PAPER)
    assert sharing.policy_of("eth2") == Policy(weights=Weights.HIRED, ceilings=Ceilings.LINK)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("t_med_s = nan", "t_med_s: must be a finite number"),
        ("t_med_s = inf", "t_med_s: must be a finite number"),
        ("t_med_s = 0", "t_med_s: out of range"),
        ("t_med_s = -1.0", "t_med_s: out of range"),
        ('t_med_s = "1"', "t_med_s: must be a number"),
        ("k_med = 0", "k_med: out of range"),
        ("k_med = -3", "k_med: out of range"),
        ("k_med = 2.5", "k_med: must be a whole number"),
        ("k_med = nan", "k_med: must be a whole number"),
        ("k_med = true", "k_med: must be a whole number"),
        ('policy = "fair"', "policy: must be one of 'work-conserving', 'paper', 'equation-1-only', 'static'"),
        ('polcy = "paper"', 'polcy: unknown key; did you mean "policy"?'),
        ('policy = "static"\nweights = "usage"', 'weights: the policy "static" has no level 1'),
        ('policy = "paper"\nceilings = "link"', 'ceilings: the policy "paper" has no choice of ceilings'),
        ('[[link]]\nport = "a b"', "link[1].port: must be the name of an interface"),
        ('[[link]]\nport = "a"\n[[link]]\nport = "a"', "link[2].port: is the same as link[1].port"),
        ('[[link]]\nport = "a"\npolicy = "static"\nceilings = "link"', "link[1].ceilings: the policy"),
    ],
)
def test_bad_values_are_refused_with_their_keys(text: str, problem: str) -> None:
    found = problems(text)
    assert any(line.startswith(f"qos.toml: {problem}") for line in found), found


def test_all_problems_are_named_at_once() -> None:
    found = problems('t_med_s = nan\nk_med = 0\npolicy = "x"\n[[link]]\nport = "a"\npolicy = "y"')
    assert [line.split(": ")[1] for line in found] == ["t_med_s", "k_med", "policy", "link[1].policy"]
