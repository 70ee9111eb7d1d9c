"""A lab that is taken down after tests, its logs kept if one of them has failed, or it has not come up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from xenflow_lab.lab import Lab

AnyLab = TypeVar("AnyLab", bound=Lab)


@contextmanager
def kept_if_failed(request: pytest.FixtureRequest, lab: AnyLab, keep: Callable[[AnyLab], None]) -> Iterator[AnyLab]:
    """Bring a lab up, and take it down at the end; `keep` is called before that if its logs are wanted."""
    before = request.session.testsfailed
    lab.on_failure = lambda: keep(lab)
    lab.up()
    try:
        yield lab
    except BaseException:
        keep(lab)
        raise
    else:
        if request.session.testsfailed > before:
            keep(lab)
    finally:
        lab.down()
