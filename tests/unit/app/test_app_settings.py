"""app.toml: the example is complete and true, and problems are named with their keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenflow.errors import ConfigError
from xenflow.settings import load, parse
from xenflow_app.settings import AppSettings

EXAMPLE = Path(__file__).parents[3] / "deploy" / "app.toml.example"
TLS = '[tls]\nca = "ca"\ncertificate = "cert"\nkey = "key"\n'


def test_the_example_loads_and_shows_the_defaults() -> None:
    settings = load(EXAMPLE, AppSettings)
    body = EXAMPLE.read_text().partition("\n\n")[2]
    uncommented = "\n".join(line.removeprefix("# ") for line in body.splitlines())
    assert parse(uncommented, AppSettings, EXAMPLE) == settings


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "nodes"),
        ('nodes = ["n1", "n1"]', "nodes[2]: is the same as nodes[1]"),
        ('nodes = ["N 1"]', "nodes[1]: must be a name"),
        ('nodes = []\nlisten = "tcp:127.0.0.1:6654"', "listen: servers and operators are verified"),
        ('nodes = []\nopenflow = "tcp:0.0.0.0:6653"', "openflow: plain TCP is for loopback only"),
        ('nodes = []\nopenflow = "unix:/x"', "openflow: switches connect by"),
        ('nodes = []\nopenflow = "ssl:0.0.0.0:6654"', "openflow: has the same port as listen"),
        ('nodes = []\nmode = "fast"', "mode:"),
        ("nodes = []\nprobe_interval_s = 0", "probe_interval_s:"),
        ("nodes = []\nmodus = 1", "modus: unknown key"),
        ("nodes = []\n[pox]\nport = 6653", "pox.port: is taken"),
        ("nodes = []\n[reactive]\nidle_timeout_s = 0", "reactive.idle_timeout_s:"),
    ],
)
def test_problems_are_named(text: str, problem: str) -> None:

    with pytest.raises(ConfigError) as refused:
        parse(f"{text}\n{TLS}", AppSettings, Path("app.toml"))
    assert any(problem in line for line in refused.value.problems), refused.value.problems
