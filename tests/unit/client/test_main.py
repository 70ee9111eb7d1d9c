"""The program as a user meets it: messages and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xenflow import __version__
from xenflow.identity import Identity
from xenflow.model import Address, Fact, Hop, Link, Neighbor, Route, RouteKind, ShedRoutes, pack_prefix
from xenflow.pki import Authority
from xenflow.settings import load
from xenflow_client.main import main
from xenflow_client.settings import ClientSettings
from xenflow_client.show import Shown

EXAMPLE = Path(__file__).parents[3] / "deploy" / "client.toml.example"
FACTS: list[Fact] = [
    Link(2, "eth0", b"\x02\0\0\0\0\1", 1500, True),
    Address(2, pack_prefix("10.0.0.0/24")[:3] + b"\x01\x18"),
    Route(pack_prefix("10.9.0.0/16"), RouteKind.UNICAST, (Hop(2, b"\x0a\0\0\2"), Hop(7, b"", 3))),
    Route(pack_prefix("10.8.0.0/16"), RouteKind.BLACKHOLE),
    Neighbor(2, b"\x0a\0\0\2", b"\x02\0\0\0\0\2"),
    ShedRoutes(4),
]


def test_example_is_valid() -> None:
    settings = load(EXAMPLE, ClientSettings)
    assert settings.router == "r1"
    assert (settings.max_routes, settings.refresh_s, settings.resync_s) == (0, 20.0, 300.0)
    assert settings.tls.ca == EXAMPLE.parent / "ca.pem"


def test_every_commented_setting_of_the_example_exists(tmp_path: Path) -> None:
    lines = [line.removeprefix("# ") for line in EXAMPLE.read_text().splitlines()[3:]]
    (tmp_path / "client.toml").write_text("\n".join(lines))
    load(tmp_path / "client.toml", ClientSettings)


def test_missing_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "client.toml")]) == 2
    assert "client.toml" in capsys.readouterr().err


def test_all_problems_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "client.toml"
    path.write_text(
        'router = "R 1"\nserver = "tcp:127.0.0.1:1"\nmax_route = 3\nrefresh_s = 900\n[tls]\nca = "ca.pem"\n'
    )
    assert main(["--config", str(path)]) == 2
    said = capsys.readouterr().err
    for part in ("router", "R 1", "max_route", "max_routes", "refresh_s", "tls.certificate", "tls.key"):
        assert part in said


def test_server_must_be_reached_over_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "client.toml"
    path.write_text(EXAMPLE.read_text().replace("ssl:[fe80::1%xfctl]:6655", "unix:/run/x"))
    assert main(["--config", str(path)]) == 2
    assert "server: must be ssl:HOST:PORT" in capsys.readouterr().err


def test_missing_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "client.toml"
    path.write_text(EXAMPLE.read_text())
    assert main(["--config", str(path)]) == 2
    said = capsys.readouterr().err
    for name in ("ca.pem", "certificate.pem", "key.pem", "crl.pem"):
        assert name in said


def test_certificate_of_another_router(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority.create(tmp_path / "pki")
    issued = authority.issue(Identity.parse("xenflow:router/r2"))
    path = tmp_path / "client.toml"
    path.write_text(
        f'router = "r1"\nserver = "ssl:127.0.0.1:1"\n[tls]\nca = "{authority.ca_path}"\n'
        f'certificate = "{issued.certificate}"\nkey = "{issued.key}"\n'
    )
    assert main(["--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert "router/r2" in said
    assert "r1" in said


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--json"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert __version__ in capsys.readouterr().out


def shown(as_json: bool) -> tuple[Shown, list[str]]:
    lines: list[str] = []
    sink = Shown(lines.append, as_json)
    for fact in FACTS:
        sink.put(fact)
    return sink, lines


def test_text() -> None:
    sink, lines = shown(as_json=False)
    sink.show()
    assert lines == [
        "link eth0 index 2 mac 02:00:00:00:00:01 mtu 1500 up",
        "address 10.0.0.1/24 dev eth0",
        "route 10.8.0.0/16 blackhole",
        "route 10.9.0.0/16 nexthop via 10.0.0.2 dev eth0 weight 1 nexthop dev 7 weight 3",
        "neighbor 10.0.0.2 dev eth0 mac 02:00:00:00:00:02",
        "shed 4",
    ]


def test_json_and_changes() -> None:
    sink, lines = shown(as_json=True)
    sink.show(follow=True)
    assert json.loads(lines[3]) == {
        "fact": "route",
        "prefix": "10.9.0.0/16",
        "kind": "unicast",
        "hops": [
            {"link": "eth0", "gateway": "10.0.0.2", "weight": 1},
            {"link": "7", "gateway": "", "weight": 3},
        ],
    }
    del lines[:]
    sink.put(FACTS[3])
    sink.drop(Route.KIND, FACTS[3].key)
    sink.drop(Route.KIND, FACTS[3].key)
    sink.put(FACTS[3])
    assert [json.loads(line)["change"] for line in lines] == ["-", "+"]
