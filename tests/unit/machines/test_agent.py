"""The agent of a machine and who asks it, joined by sockets instead of virtio-serial."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenflow_lab.command import LabError
from xenflow_lab.machines.agent import CHUNK_BYTES, Agent
from xenflow_lab.machines.guest import agent as guest
from xenflow_lab.machines.qemu import agent_socket


class Joined(guest.Port):
    """A port whose other end is a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.descriptor = connection.fileno()
        self._writing = threading.Lock()

    def serve(self) -> None:
        rest = b""
        while data := self.connection.recv(1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            for line in filter(None, lines):
                self._answer(line)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    with tempfile.TemporaryDirectory(prefix="xfa-") as name, socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.setitem(guest.ENVIRONMENT, "HOME", name)
        listener.bind(str(agent_socket(Path(name), 0)))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b'what was left {"id": "0.0", "code": 9}\n{"id": "0.1", "code": 9}\n')
                    Joined(connection).serve()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Agent(Path(name))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def run(agent: Agent, *argv: str, **options: object) -> tuple[int, str, str]:
    request = {"op": "run", "argv": list(argv), "timeout_s": 20, "directory": "/", **options}
    answer = agent._ask(request, 30)
    return answer.code, answer.out.decode(), answer.err.decode()


def test_a_command_has_exit_code_output_and_errors(agent: Agent) -> None:
    assert run(agent, "sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")


def test_a_command_that_takes_too_long_is_ended_with_its_children(agent: Agent) -> None:
    code, _, errors = run(agent, "sh", "-c", "sleep 1000 & wait", timeout_s=0.2)
    assert code == -9
    assert "no end after 0.2 s" in errors


def test_a_command_that_there_is_not_is_an_error(agent: Agent) -> None:
    with pytest.raises(LabError, match="nonesuch"):
        run(agent, "nonesuch")


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 7])
def test_files_come_and_go_whole(agent: Agent, tmp_path: Path, length: int) -> None:
    content = bytes(n % 251 for n in range(length))
    path = tmp_path / "deep" / "file"
    agent.put(str(path), b"longer than what follows" * CHUNK_BYTES, 0o600)
    agent.put(str(path), content, 0o750)
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o750
    assert agent.get(str(path)) == content


def test_lines_that_are_no_requests_are_passed_over(agent: Agent) -> None:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(agent_socket(agent._directory, 0)))
        link.sendall(b'\n{"op": "run"\n{}\n7\n{"op": "nonesuch"}\n')
        link.sendall(b'{"id": "1", "op": "ping"}\n')
        with link.makefile() as answers:
            lines = [answers.readline() for _ in range(4)]
    assert lines[2:] == ["\n", '{"id": "1"}\n']
    assert agent.ping()


def test_a_machine_that_does_not_run(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    assert not agent.ping()
    with pytest.raises(LabError, match="does not run"):
        agent.run(["true"])
