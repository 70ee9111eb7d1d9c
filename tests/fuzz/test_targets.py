"""Every fuzz target for a moment; `python tests/fuzz/fuzz.py --seconds 600` goes on for longer."""

from __future__ import annotations

import pytest

from tests.fuzz.fuzz import Target, targets

ROUNDS = 3000


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_damaged_input_does_no_harm(target: Target) -> None:
    assert target.run(1, lambda rounds: rounds >= ROUNDS) == ROUNDS
