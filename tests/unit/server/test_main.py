"""Exit codes and messages of the command itself."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec
import pytest

from xenflow.errors import ConfigError
from xenflow.model import Interface, Machine, MachineKind
from xenflow.settings import load
from xenflow.wire import Define
from xenflow_server import definitions, main
from xenflow_server.book import Book
from xenflow_server.definitions import Definitions
from xenflow_server.server import Server
from xenflow_server.settings import OvsTable, Settings
from xenflow_server.xl import XlWatcher

EXAMPLES = Path(__file__).parents[3] / "deploy"
SETTINGS = """
node = "n1"
app = "ssl:127.0.0.1:6654"
definitions = "definitions.d"
[tls]
ca = "ca.pem"
certificate = "n1.pem"
key = "n1.key"
"""


def start(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


def test_all_problems_of_settings_definitions_and_certificates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "server.toml").write_text(SETTINGS)
    (tmp_path / "definitions.d").mkdir()
    (tmp_path / "definitions.d" / "a.toml").write_text('[[network]]\nname = "a"\nvid = 0')
    code, said = start(capsys, "--config", str(tmp_path / "server.toml"), "--check")
    assert code == 2
    for part in ("reserved", "ca.pem: does not exist", "n1.key: does not exist"):
        assert part in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SETTINGS.replace('"n1"', '"N 1"'), "node: must be a name"),
        (SETTINGS.replace("ssl:127", "tcp:127"), "must be ssl:HOST:PORT"),
        (SETTINGS.replace("ssl:127.0.0.1:6654", "nowhere"), "app: "),
        (SETTINGS + "[limits]\nmax_routes = -1", "limits.max_routes: must be"),
        (SETTINGS + '[ovs]\ndatabase = "/run/db.sock"', "ovs.database: must look like"),
        (SETTINGS + '[ovs]\nbridge = "a bridge"', "ovs.bridge: must be"),
        (SETTINGS + "[limit]\nmax_routes = 1", "unknown key"),
    ],
)
def test_settings_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    (tmp_path / "server.toml").write_text(text)
    code, said = start(capsys, "--config", str(tmp_path / "server.toml"))
    assert code == 2
    assert reason in said


def test_no_settings_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = start(capsys, "--config", str(tmp_path / "none.toml"))
    assert code == 2
    assert "cannot be read" in said


def test_the_examples_are_good(tmp_path: Path) -> None:
    settings = load(EXAMPLES / "server.toml.example", Settings)
    assert (settings.node, settings.ovs.bridge) == ("n1", "xenbr0")
    (tmp_path / "example.toml").write_text((EXAMPLES / "definitions.example.toml").read_text())
    defined = definitions.read(tmp_path)
    assert set(defined.machines) == {"r1", "h1"}


class Redefined(Server):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.taken: list[Definitions] = []

    def redefine(self, definitions: Definitions) -> None:
        self.taken.append(definitions)


def test_a_reload_with_a_problem_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = Redefined()
    book = Book(tmp_path, tmp_path / "state")
    (tmp_path / "a.toml").write_text('[[network]]\nname = "a"\nvid = 0\n[[network]]\nname = "B"\nvid = 7')
    main.reload(server, book)
    assert server.taken == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.ERROR]
    (tmp_path / "a.toml").write_text('[[network]]\nname = "a"\nvid = 7')
    main.reload(server, book)
    assert server.taken[0].networks == {"a": 7}


def test_check_raises_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(SETTINGS)
    with pytest.raises(ConfigError, match="no such directory"):
        main.check(tmp_path / "server.toml")


def test_check_shows_what_was_handed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, state = tmp_path / "definitions.d", tmp_path / "state"
    directory.mkdir()
    (directory / "a.toml").write_text('[[network]]\nname = "a"\nvid = 7')
    book = Book(directory, state)
    book.start()
    machine = Machine("r9", MachineKind.ROUTER, (Interface(1, "a", b"\x02\0\0\0\0\t"),))
    book.define(Define(1, machine, 0, 4))
    settings = load(EXAMPLES / "server.toml.example", Settings)
    settings = msgspec.structs.replace(settings, ovs=OvsTable("tcp:127.0.0.1:6640"))
    main.show(tmp_path, settings, book)
    assert capsys.readouterr().out.endswith("router r9: handed over by the app, epoch 4\n")
    (state / "routers" / "r8.json").write_text("{")
    book = Book(directory, state)
    book.start()
    with pytest.raises(ConfigError, match=r"r8\.json: .*remove it"):
        main.show(tmp_path, settings, book)


def test_who_asks_the_hypervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main.watcher_of("") is None
    assert isinstance(main.watcher_of("xl:"), XlWatcher)
    monkeypatch.delitem(sys.modules, "xenflow_server.libvirt_adapter", raising=False)
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(ConfigError, match="install python3-libvirt"):
        main.watcher_of("qemu:///system")
