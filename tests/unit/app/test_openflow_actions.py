"""Actions: bytes as Open vSwitch returns them, and what is refused before it gets that far."""

from __future__ import annotations

import pytest

from xenflow_app.openflow import actions, fields, text
from xenflow_app.openflow.fields import Subfield, whole


def test_bytes_as_dumped_by_open_vswitch() -> None:
    """Taken from dumps of 3.1; tests/contract compares all of them with a live one."""
    assert actions.resubmit(45).hex() == "ffff001000002320000efff82d000000"
    assert actions.set_queue(5).hex() == "ffff0010000023200004000000000005"
    larger = actions.check_pkt_larger(1518, Subfield(fields.REG5, 0, 1))
    assert larger.hex() == "ffff001800002320003105ee000000010a04000000000000"
    multipath = actions.multipath(3, Subfield(fields.REG3, 0, 16), 50)
    assert multipath.hex() == "ffff002000002320000a00060032000000020002000000000000000f00010604"
    assert actions.controller().hex() == "00000008fffdffff"
    assert actions.controller(64, controller_id=5).hex() == "ffff0010000023200014004000050100"
    assert actions.drop() == b""


def test_only_an_idle_timeout_has_the_flag() -> None:
    assert actions.value(7, b"").hex() == "000000000000000700000000"
    assert actions.value(7, b"", 60).hex() == "0000000000000007003c0001"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: actions.set_vlan_vid(4096),
        lambda: actions.set_vlan_pcp(8),
        lambda: actions.load(Subfield(fields.REG0, 0, 3), 8),
        lambda: actions.move(whole(fields.IN_PORT), whole(fields.REG0)),
        lambda: actions.multipath(0, whole(fields.REG0)),
        lambda: actions.multipath(9, Subfield(fields.REG0, 0, 3)),
        lambda: actions.check_pkt_larger(1500, whole(fields.REG0)),
    ],
)
def test_what_does_not_fit_is_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError):
        wrong()


def test_unknown_actions_are_shown_as_bytes() -> None:
    foreign = bytes.fromhex("000b0010000300000000000000000007")
    assert text.actions(foreign) == f"unknown({foreign.hex()})"
    assert text.actions(actions.output(3) + actions.strip_vlan()) == "output:3,strip_vlan"


@pytest.mark.parametrize("broken", [b"\0", b"\0\0\0\4", b"\0\0\0\x10" + bytes(8), b"\xff\xff\0\x08" + bytes(4)])
def test_malformed_actions_are_a_value_error(broken: bytes) -> None:
    with pytest.raises(ValueError):
        text.actions(broken)
