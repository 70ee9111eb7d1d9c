"""What a node has refused reaches the app in counts, once they change."""

from __future__ import annotations

from collections import Counter

from xenflow.errors import Fault
from xenflow.wire import Refused
from xenflow_server.refused import RefusedCounts


def test_counts_are_told_when_they_change_and_anew_to_another_app() -> None:
    peers: Counter[Fault] = Counter()
    facts: dict[str, Counter[str]] = {}
    refused = RefusedCounts(lambda: facts)
    refused.doors["ssl:x"] = peers
    assert refused.news() is None
    peers[Fault.CERTIFICATE] += 3
    facts["r1"] = Counter({"the announcement's MAC address": 1000})
    told = Refused({"ssl:x: certificate": 3, "router r1: the announcement's MAC address": 1000})
    assert refused.news() == told
    assert refused.news() is None
    refused.forget()
    assert refused.news() == told
