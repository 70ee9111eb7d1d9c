"""`make demo` from outside: a verdict when it runs through, nothing left behind when it does not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from xenflow_lab.paths import lab_names

pytestmark = [pytest.mark.lab, pytest.mark.root, pytest.mark.ovs]

DEMO = [sys.executable, "-m", "xenflow_lab.demo"]
INSTALLED_S = 90


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    """A demo under way, in a process group of its own, as a shell would start it."""
    demo = subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, bufsize=1
    )
    yield demo
    if demo.poll() is None:
        demo.terminate()
    demo.communicate()


def await_line(demo: subprocess.Popen[str], beginning: str) -> None:
    assert demo.stdout is not None
    seen = []
    for line in demo.stdout:
        seen.append(line)
        if line.strip().startswith(beginning):
            return
    pytest.fail(f"the demo has ended: {''.join(seen)}")


def test_the_demo_shows_everything_and_leaves_nothing() -> None:
    demo = subprocess.run(DEMO, capture_output=True, text=True, timeout=INSTALLED_S)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "\x1b" not in demo.stdout
    assert "All of it holds." in demo.stdout
    figures = dict(
        re.findall(r"^ *(lost|doubled|reordered|longest gap in a flow) {2,}(\S+)", demo.stdout, re.MULTILINE)
    )
    assert figures.keys() == {"lost", "doubled", "reordered", "longest gap in a flow"}, demo.stdout
    assert (figures["lost"], figures["doubled"]) == ("0", "0")
    assert demo.stderr == ""
    assert not [name for name in lab_names() if name.startswith("demo-")]


@pytest.mark.parametrize(
    ("number", "beginning", "code"), [(signal.SIGINT, "1  A network", 130), (signal.SIGTERM, "ok  24 of 24", 143)]
)
def test_an_interrupted_demo_leaves_nothing(
    running: subprocess.Popen[str], number: int, beginning: str, code: int
) -> None:
    await_line(running, beginning)
    os.killpg(running.pid, number)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == code, errors
    assert "Traceback" not in errors
    assert f"demo-{running.pid}" not in lab_names()


def test_a_killed_demo_is_cleaned_up_by_the_next(running: subprocess.Popen[str]) -> None:
    await_line(running, "ok")
    running.kill()
    running.communicate()
    assert f"demo-{running.pid}" in lab_names()
    following = subprocess.run(
        [sys.executable, "-c", "from xenflow_lab.demo.__main__ import remove_left_over; remove_left_over()"]
    )
    assert following.returncode == 0
    assert f"demo-{running.pid}" not in lab_names()
