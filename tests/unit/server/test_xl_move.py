"""Live migrations by Xen's own tool: what it is told, and a model of it that is run as a program."""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from xenflow.errors import DataplaneError, RemoteProtocolError
from xenflow_server import migrate
from xenflow_server.migrate import CANCELLED, UNKNOWN
from xenflow_server.xl_move import LEFT_SUSPENDED, XlMove, is_suspended, migrate_argv, percent_of

follow = functools.partial(migrate.follow, look_s=0.01)
STREAM_BYTES = 200_000
UUID = "0a1b2c3d-0000-4000-8000-000000000001"
DOM0 = {"domid": 0, "config": {"c_info": {"type": "pv", "name": "Domain-0"}, "b_info": {}}}


@pytest.mark.parametrize(
    ("target", "argv"),
    [
        ("ssh://n2", ["xl", "migrate", "3", "n2"]),
        ("ssh://root@n2.example", ["xl", "migrate", "3", "root@n2.example"]),
        ("ssh://root@10.0.0.2:2222/", ["xl", "migrate", "-s", "ssh -p 2222", "3", "root@10.0.0.2"]),
        ("tcp://10.0.0.2:8002", ["xl", "migrate", "-s", "", "3", "exec socat - TCP:10.0.0.2:8002"]),
        ("tcp://[fd00::2]:8002", ["xl", "migrate", "-s", "", "3", "exec socat - TCP:[fd00::2]:8002"]),
    ],
)
def test_what_xl_is_told(target: str, argv: list[str]) -> None:
    assert migrate_argv(3, target) == argv


@pytest.mark.parametrize(
    "target",
    [
        "n2",
        "ssh://n2;reboot",
        "ssh://-oProxyCommand=x",
        "ssh://$(x)",
        "tcp://n2",
        "tcp://a@n2:1",
        "ssh://n2/x y",
        "http://n2",
    ],
)
def test_a_place_that_a_shell_could_misread(target: str) -> None:
    with pytest.raises(RemoteProtocolError, match="must look like"):
        migrate_argv(3, target)


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("xc: progress: Memory: 1024/65536    1%", 1),
        ("xc: Saving memory: iter 0 (last sent 0 skipped 0): 0/32768    0%", 0),
        ("100%", 99),
        ("migration target: Ready to receive domain.", None),
    ],
)
def test_progress(line: str, percent: int | None) -> None:
    assert percent_of(line) == percent


@pytest.mark.parametrize(
    ("text", "suspended"),
    [
        ("r1                          3   128     1     ---ss-       5.1", True),
        ("r1--migratedaway            3   128     1     ---ss-      15.1\n", True),
        (
            "Name                       ID   Mem VCPUs     State   Time(s)\nr1   3   128     1     -b----       5.1",
            False,
        ),
        ("r1                          3   128     1     ---sc-       5.1", False),  # has crashed
        ("r1                          3   128     1     --p---       5.1", False),  # its owner has paused it
        ("r1 is an invalid domain identifier (rc=-6)", False),
    ],
)
def test_a_suspended_machine(text: str, suspended: bool) -> None:
    assert is_suspended(text) is suspended


MODEL = """
import json, os, signal, subprocess, sys
state = sys.argv[1]
marker = state + ".suspended"
def load(): return json.load(open(state))
def store(entries):
    with open(state + ".new", "w") as file: json.dump(entries, file)
    os.replace(state + ".new", state)
def say(line): print(line, file=sys.stderr, flush=True)
def migrate(domid, host):
    say("migration target: Ready to receive domain.")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    transport = subprocess.Popen(["tail", "-c", "+1", "-f", state + ".stream"], **pipes)
    saver = subprocess.Popen([os.path.join(os.path.dirname(state), "libxl-save-helper"), "1000"])
    open(marker, "w").close()
    if host == "killed":
        transport.kill()
        saver.kill()
        os.kill(os.getpid(), signal.SIGKILL)
    if host == "late":
        say("migration sender: Giving target permission to start.")
    say("xc: progress: 50/100    50%")
    if host == "late":
        open(state + ".go").read()
        alive = transport.poll() is None
    if host == "slow":
        transport.wait()
        alive = saver.poll() is None
    transport.kill()
    saver.kill()
    if host == "slow":
        say("Migration failed, resuming at sender." if alive else "the saver was killed")
        os.unlink(marker)
        sys.exit(1)
    if host == "undone":
        entry = load()[-1]
        entry["config"]["c_info"]["name"] += "--migratedaway"
        store([*load()[:-1], entry])
        say("** Migration failed during final handshake **")
        sys.exit(" responsibility to avoid that.  Sorry.")
    if host == "n3":
        os.unlink(marker)
        sys.exit("migration sender: Target reported startup failure")
    if host == "late" and not alive:
        sys.exit("the transport was killed")
    store([entry for entry in load() if str(entry["domid"]) != domid])
    say("Migration successful.")

command, arguments = sys.argv[2], sys.argv[3:]
if arguments == ["-l"]:
    print(json.dumps(load()))
elif command == "list":
    print("Name                 ID   Mem VCPUs     State   Time(s)")
    print(f"r1  {arguments[0]}  128     1     {'---ss-' if os.path.exists(marker) else '-b----'}       5.1")
elif command == "resume" and os.path.exists(state + ".resumes"):
    os.unlink(marker)
elif command == "migrate":
    migrate(*arguments[-2:])
else:
    sys.exit("command not implemented")
"""


class Host:
    """A Xen host with one machine, as files; `xl` is a program that shows and changes it, and is killed by SIGTERM."""

    def __init__(self, directory: Path) -> None:
        self.state, program = directory / "state", directory / "xl.py"
        program.write_text(MODEL)
        (directory / "libxl-save-helper").symlink_to("/bin/sleep")
        os.mkfifo(directory / "state.go")
        (directory / "state.stream").write_bytes(bytes(STREAM_BYTES))
        created = {"type": "pvh", "name": "r1", "uuid": UUID}
        self.state.write_text(json.dumps([DOM0, {"domid": 3, "config": {"c_info": created, "nics": []}}]))
        self.xl = (sys.executable, str(program), str(self.state))

    def file(self, suffix: str) -> Path:
        return self.state.with_suffix(f".{suffix}")


@pytest.mark.parametrize(
    ("target", "cancel", "error"),
    [
        ("ssh://n2", False, ""),
        ("ssh://n3", False, "migration sender: Target reported startup failure"),
        ("ssh://slow", True, CANCELLED),
    ],
)
def test_a_move(tmp_path: Path, target: str, cancel: bool, error: str) -> None:
    host = Host(tmp_path)
    cancelled, said = threading.Event(), []

    def say(line: str) -> None:
        said.append(line)
        if cancel:
            cancelled.set()

    assert follow(XlMove(UUID, target, host.xl), cancelled, say) == error
    assert said in (["50%"], []) if not cancel else said == ["50%"]
    assert (UUID.encode() in host.state.read_bytes()) == bool(error)
    assert not error or not host.file("suspended").exists(), "it goes on here"


def test_xl_itself_is_not_told_to_end(tmp_path: Path) -> None:
    host, cancelled = Host(tmp_path), threading.Event()
    complaints: list[str] = []

    class Observed(XlMove):
        def run(self) -> None:
            try:
                super().run()
            except DataplaneError as error:
                complaints.append(str(error))
                raise

    assert follow(Observed(UUID, "ssh://slow", host.xl), cancelled, lambda _: cancelled.set()) == CANCELLED
    assert complaints == ["Migration failed, resuming at sender."]


def test_it_gets_on_as_long_as_the_stream_does(tmp_path: Path) -> None:
    host, cancelled = Host(tmp_path), threading.Event()

    class Streaming(XlMove):
        def percent(self) -> int:
            if self.moved() > STREAM_BYTES:
                cancelled.set()
            return super().percent()

    move = Streaming(UUID, "ssh://slow", host.xl)
    assert move.moved() == 0
    assert follow(move, cancelled, lambda _: None) == CANCELLED
    assert 0 < move.moved() < 100, "of what has ended, the lines count"


def test_cancelled_before_it_begins(tmp_path: Path) -> None:
    cancelled = threading.Event()
    move = XlMove(UUID, "ssh://n2", Host(tmp_path).xl)
    assert move.cancel()
    cancelled.set()
    assert follow(move, cancelled, lambda _: None) == CANCELLED


def test_too_late_to_cancel(tmp_path: Path) -> None:
    host, cancelled = Host(tmp_path), threading.Event()
    answers: list[bool] = []

    class Late(XlMove):
        def cancel(self) -> bool:
            answers.append(super().cancel())
            if len(answers) == 1:
                host.file("go").write_text("")
            return answers[-1]

    assert follow(Late(UUID, "ssh://late", host.xl), cancelled, lambda _: cancelled.set()) == ""
    assert answers
    assert not any(answers)
    assert UUID.encode() not in host.state.read_bytes()


@pytest.mark.parametrize(("resumes", "rest"), [(True, ""), (False, f"; {LEFT_SUSPENDED}")])
def test_a_machine_that_a_killed_xl_has_left(tmp_path: Path, resumes: bool, rest: str) -> None:
    host = Host(tmp_path)
    if resumes:
        host.file("resumes").touch()
    why = follow(XlMove(UUID, "ssh://killed", host.xl), threading.Event(), lambda _: None)
    assert why == f"xl migrate: ended by SIGKILL{rest}"
    assert host.file("suspended").exists() != resumes


def test_after_a_handshake_that_fails_nobody_knows(tmp_path: Path) -> None:
    move = XlMove(UUID, "ssh://undone", Host(tmp_path).xl)
    why = follow(move, threading.Event(), lambda _: None, certain_s=0)
    assert why == f"** Migration failed during final handshake **; {UNKNOWN}"


def test_a_machine_that_is_not_here(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.state.write_text(json.dumps([DOM0]))
    with pytest.raises(DataplaneError, match="no machine with uuid"):
        XlMove(UUID, "ssh://n2", host.xl).run()
