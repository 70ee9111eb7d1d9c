"""Questions for addresses, and which answer belongs to which."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from xenflow_lab.traffic import ask, frames

OWN_MAC, MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
TARGETS = (ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("fd00::1"))
PLAN = ask.AskPlan(
    "lo", OWN_MAC, {4: ipaddress.ip_address("10.0.0.9"), 6: ipaddress.ip_address("fd00::9")}, MAC, TARGETS
)


def answer(question: bytes, mac: bytes = MAC) -> bytes:
    """Turn a question into its answer, as far as the tool looks at it."""
    if question[12:14] == b"\x08\x06":
        body = question[14:]
        return OWN_MAC + mac + b"\x08\x06" + body[:6] + b"\0\2" + mac + body[24:28] + body[8:18] + body[28:]
    return OWN_MAC + mac + question[12:54] + b"\x88" + question[55:78] + b"\x02\x01" + mac + question[86:]


@given(st.integers(0, 1 << 40))
def test_a_question_is_found_again_with_its_number(number: int) -> None:
    question = PLAN.question(number)
    target = TARGETS[number // 2 % 2]
    assert ask.look(question) == ask.Seen(False, target, OWN_MAC, number)
    assert ask.look(answer(question)) == ask.Seen(True, target, MAC, number)
    assert (question[:6] == MAC) == bool(number % 2)


@given(st.binary(max_size=100))
def test_any_bytes_are_looked_at(content: bytes) -> None:
    ask.look(b"\0" * 12 + b"\x08\x06" + content)
    ask.look(b"\0" * 12 + b"\x86\xdd" + content)


def test_answers_are_counted_for_each_question() -> None:
    count = ask.Count(PLAN)
    for number in range(6):
        count.asked_ns[number] = number * 1_000_000_000
        count.take(PLAN.question(number), outgoing=True)
        for _ in range({3: 0, 4: 2}.get(number, 1)):
            count.take(answer(PLAN.question(number)), outgoing=False)
    assert not count.complete
    count.take(answer(PLAN.question(3), OWN_MAC), outgoing=False)
    assert count.complete
    report = count.report()
    assert (report["asked"], report["answered"]) == (6, {"1": 5, "2": 1})
    assert report["odd"] == [{"number": 4, "answers": 2, "after_s": 4.0}]
    assert len(report["wrong"]) == 1


def test_questions_of_the_kernel_and_their_answers_have_no_number() -> None:
    count = ask.Count(PLAN)
    own, target = (OWN_MAC, PLAN.own[4]), (bytes(6), TARGETS[0])
    count.take(frames.ethernet(MAC, OWN_MAC, (), 0x0806, frames.arp(1, own, target)), outgoing=True)
    assert not count.complete
    count.take(frames.ethernet(OWN_MAC, MAC, (), 0x0806, frames.arp(2, (MAC, TARGETS[0]), own)), outgoing=False)
    assert count.complete
    assert (count.report()["kernel_asked"], count.report()["without_number"], count.wrong) == (1, 1, [])
