"""Settings: everything that is wrong is said at once, with file, key, reason and value."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenflow.address import Address
from xenflow.errors import ConfigError
from xenflow.identity import Identity
from xenflow.settings import MAX_FILE_BYTES, Mac, Name, Vid, duplicates, load, load_all, parse
from xenflow.tls import TlsFiles
from xenflow.typed import convert

NAME = "a name of 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"
FILE = Path("/etc/xenflow/test.toml")


class Mode(enum.StrEnum):
    PROACTIVE = "proactive"
    REACTIVE = "reactive"


class Interface(msgspec.Struct, frozen=True):
    mac: Mac
    network: Name
    addresses: list[ipaddress.IPv4Interface] = []
    gateway: ipaddress.IPv6Address | None = None


class Router(msgspec.Struct, frozen=True):
    name: Name
    interface: list[Interface] = []
    max_routes: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0

    def problems(self) -> Iterable[tuple[str, str]]:
        yield from duplicates([i.mac for i in self.interface], lambda n: f"interface[{n}].mac")


class Document(msgspec.Struct, frozen=True):
    listen: Address
    tls: TlsFiles | None = None
    mode: Mode = Mode.PROACTIVE
    probe_interval_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    enabled: bool = True
    router: list[Router] = []
    vlans: dict[Vid, Name] = {}
    nodes: tuple[Name, ...] = ()
    who: Identity | None = None
    kind: Literal["a", "b"] = "a"
    either: int | str = 0
    old_name: int = msgspec.field(name="new-name", default=0)

    def problems(self) -> Iterable[tuple[str, str]]:
        yield from duplicates([r.name for r in self.router], lambda n: f"router[{n}].name")
        if self.kind == "b" and self.mode is Mode.REACTIVE:
            yield "", "kind b is never reactive"


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, Document, FILE)
    return [problem.removeprefix(f"{FILE}: ") for problem in caught.value.problems]


GOOD = """
listen = "ssl:[fe80::1%xfctl]:6655"
mode = "reactive"
probe_interval_s = 2
nodes = ["n1", "n2"]
who = "router/r1"
either = "x"
new-name = 7
vlans = { 12 = "t1-lan", 13 = "t2-lan" }
[tls]
ca = "ca.pem"
certificate = "/abs/c.pem"
key = "../key.pem"
[[router]]
name = "r1"
[[router.interface]]
mac = "02:00:00:00:00:01"
network = "t1"
addresses = ["10.0.0.1/24"]
gateway = "2001:db8::1"
"""


def test_a_good_document() -> None:
    document = parse(GOOD, Document, FILE)
    assert document.listen == Address.parse("ssl:[fe80::1%xfctl]:6655")
    assert document.tls == TlsFiles(Path("/etc/xenflow/ca.pem"), Path("/abs/c.pem"), Path("/etc/xenflow/../key.pem"))
    assert document.mode is Mode.REACTIVE
    assert isinstance(document.probe_interval_s, float)
    assert document.vlans == {12: "t1-lan", 13: "t2-lan"}
    assert document.nodes == ("n1", "n2")
    assert document.who == Identity.parse("xenflow:router/r1")
    assert document.either == "x"
    assert document.old_name == 7
    interface = Interface(
        "02:00:00:00:00:01", "t1", [ipaddress.IPv4Interface("10.0.0.1/24")], ipaddress.IPv6Address("2001:db8::1")
    )
    assert document.router == [Router("r1", [interface])]


def test_everything_at_once() -> None:
    assert problems_of(
        """
        mode = "lazy"
        enabled = 1
        probe_interval_s = 0
        lisen = "ssl:10.0.0.1:1"
        nodes = ["n1", "N2", 3]
        vlans = { 4095 = "x", y = "z", 7 = "Z" }
        [tls]
        ca = 3
        certificate = "c"
        [[router]]
        max_routes = -1
        [[router]]
        name = "r2"
        [[router.interface]]
        mac = "02-00"
        network = "n"
        addresses = ["10.0.0.300"]
        """
    ) == [
        "lisen: unknown key; did you mean \"listen\"? ('ssl:10.0.0.1:1')",
        "listen: missing; an address such as ssl:HOST:PORT is needed",
        "tls.ca: must be a path (3)",
        "tls.key: missing; a path is needed",
        "mode: must be one of 'proactive', 'reactive' ('lazy')",
        "probe_interval_s: out of range: must be more than 0 (0)",
        "enabled: must be true or false (1)",
        f"router[1].name: missing; {NAME} is needed",
        "router[1].max_routes: out of range: must be at least 0 (-1)",
        "router[2].interface[1].mac: must be the MAC address of one interface, such as 02:00:00:00:00:01 ('02-00')",
        "router[2].interface[1].addresses[1]: must be an IPv4 address with prefix length: Octet 300 (> 255) not"
        " permitted in '10.0.0.300' ('10.0.0.300')",
        "vlans.4095: the key must be a VLAN id, 1 to 4094",
        "vlans.y: the key must be a VLAN id, 1 to 4094",
        f"vlans.7: must be {NAME} ('Z')",
        f"nodes[2]: must be {NAME} ('N2')",
        f"nodes[3]: must be {NAME} (3)",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('listen = "tcp:1.2.3.4:x"', "listen: must be an address such as ssl:HOST:PORT: a port is a number"),
        ("listen = 7", "listen: must be an address such as ssl:HOST:PORT (7)"),
        ('listen = "unix:/x"\nprobe_interval_s = nan', "probe_interval_s: must be a finite number (nan)"),
        ('listen = "unix:/x"\nprobe_interval_s = true', "probe_interval_s: must be a number (True)"),
        ('listen = "unix:/x"\nkind = "c"', "kind: must be one of 'a', 'b' ('c')"),
        ('listen = "unix:/x"\neither = [1]', "either: must be a whole number or text"),
        ('listen = "unix:/x"\nrouter = 1', "router: must be a list of tables (1)"),
        ('listen = "unix:/x"\nrouter = [1]', "router[1]: must be a table (1)"),
        ('listen = "unix:/x"\ntls = []', "tls: must be a table"),
        (
            'listen = "unix:/x"\nwho = "r1"',
            "who: must be an identity such as router/r1: use one of router, node, controller, operator, a slash",
        ),
        ('listen = "unix:/x"\nvlans = { 1 = "a", 01 = "b" }', "vlans.01: the key must be a VLAN id"),
        ('listen = "unix:/x"\n"a b\\n" = 1', '"a b\\n": unknown key; known here: either, enabled'),
        ('listen = "unix:/x"\nmode = "reactive"\nkind = "b"', "kind b is never reactive"),
    ],
)
def test_each_reason(text: str, problem: str) -> None:
    problems = problems_of(text)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_checks_beyond_types_come_with_the_others() -> None:
    interface = '{ mac = "02:00:00:00:00:01", network = "t" }'
    text = f"""
    listen = "unix:/x"
    modes = 1
    [[router]]
    name = "r1"
    interface = [{interface}, {interface}]
    [[router]]
    name = "r1"
    """
    assert problems_of(text) == [
        'modes: unknown key; did you mean "mode"? (1)',
        "router[1].interface[2].mac: is the same as interface[1].mac ('02:00:00:00:00:01')",
        "router[2].name: is the same as router[1].name ('r1')",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = ", "is not TOML: Invalid value (at end of document)"),
        (b"a = 1\na = 2\n", "is not TOML: Cannot overwrite a value (at line 2, column 6)"),
        (b"a = '\xff'", "is not UTF-8 (byte 5)"),
        (b"#" * (MAX_FILE_BYTES + 1), "has more than 1048576 bytes"),
        (b"a = " + b"[" * 100_000, "is nested too deeply"),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path, Document)
    assert caught.value.problems == (f"{path}: {reason}",)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        load(tmp_path / "x.toml", Document)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, Document)


def test_all_files_are_judged(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.toml", "b.toml", "c.toml")]
    for path, text in zip(paths, ("x = 1", 'listen = "unix:/x"', "y = 2"), strict=True):
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_all(paths, Document)
    assert len(caught.value.problems) == 4
    assert [document.listen.path for document in load_all(paths[1:2], Document)] == ["/x"]


keys = st.sampled_from([*Document.__struct_encode_fields__, "ca", "name", "interface", "mac", "1", "4094"]) | st.text(
    max_size=8
)
plain = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(keys, plain, max_size=8))
def test_any_document_is_taken_or_refused_with_reasons(document: dict[str, object]) -> None:
    value, problems = convert(document, Document, FILE.parent)
    assert (value is None) == bool(problems)


@given(st.text(max_size=200))
def test_any_text_is_taken_or_refused(text: str) -> None:
    with pytest.raises(ConfigError):  # `listen` is needed, and no such text has it
        parse(text, Document, FILE)
