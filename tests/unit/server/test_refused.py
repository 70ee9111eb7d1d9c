"""What a node has refused reaches the app in counts, once they change; the log gets one line for many."""

from __future__ import annotations

from collections import Counter

import pytest

from xenflow.errors import Fault
from xenflow.wire import Refused
from xenflow_server.refused import RefusedCounts


def test_counts_are_told_when_they_change_and_anew_to_another_app() -> None:
    peers: Counter[Fault] = Counter()
    facts: dict[str, Counter[str]] = {}
    refused = RefusedCounts(lambda: facts)
    refused.doors["ssl:x"] = peers
    assert refused.news(0.0) is None
    peers[Fault.CERTIFICATE] += 3
    facts["r1"] = Counter({"the announcement's MAC address": 1000})
    told = Refused({"ssl:x: certificate": 3, "router r1: the announcement's MAC address": 1000})
    assert refused.news(1.0) == told
    assert refused.news(2.0) is None
    refused.forget()
    assert refused.news(3.0) == told


def test_a_thousand_refused_facts_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    facts = {"r1": Counter({"x": 1})}
    refused = RefusedCounts(lambda: facts)
    for second in range(30):
        facts["r1"]["x"] += 1000
        refused.news(float(second))
    assert [record.getMessage() for record in caplog.records] == ["refused at=router r1 why=x times=1001"]
    facts["r1"] = Counter({"x": 5})  # the router was gone meanwhile
    refused.news(100.0)
    assert caplog.records[-1].getMessage() == "refused at=router r1 why=x times=29005"
