"""What the sender's test mode spoils is what the receiver reports; and the receiver against a naive model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenflow_lab.traffic.flowcount import MAX_NUMBER, FlowCount
from xenflow_lab.traffic.numbering import Faults, Numbering


def count(numbers: list[int], total: int | None = None) -> FlowCount:
    flow = FlowCount()
    for now_ns, number in enumerate(numbers, 1):
        flow.arrive(number, now_ns, now_ns, 100)
    if total is not None:
        flow.end(total)
    return flow


EVERY = st.sampled_from([0, 0, 2, 3, 7, 10])


@given(st.builds(Faults, EVERY, EVERY, EVERY, st.integers(1, 20)), st.integers(1, 300))
def test_faults_made_are_faults_counted(faults: Faults, packets: int) -> None:
    numbering = Numbering(faults)
    sent = [numbering.take() for _ in range(packets)]
    sent += numbering.rest()
    flow = count(sent, numbering.total)
    assert flow.lost == numbering.skipped
    assert flow.duplicated == numbering.duplicated
    assert flow.received == len(set(sent)) == numbering.total - numbering.skipped
    assert flow.reordered <= numbering.delayed


@given(st.lists(st.integers(0, 60), max_size=80), st.integers(0, 70))
def test_counts_equal_a_naive_model(numbers: list[int], total: int) -> None:
    flow = count(numbers, total)
    firsts = list(dict.fromkeys(numbers))
    expected = max([total, *(number + 1 for number in numbers)])
    late = [max(firsts[:i]) - number for i, number in enumerate(firsts) if i and number < max(firsts[:i])]
    missing = "".join("x" if number in firsts else "-" for number in range(expected))
    assert flow.received == len(firsts)
    assert flow.duplicated == len(numbers) - len(firsts)
    assert flow.lost == expected - len(firsts)
    assert flow.longest_loss() == max(map(len, missing.split("x")))
    assert (flow.reordered, flow.extent_max) == (len(late), max(late, default=0))


def test_late_packets_in_a_row_are_one_window() -> None:
    flow = count([0, 3, 1, 2, 4, 6, 5])
    assert (flow.reordered, flow.windows) == (3, 2)
    assert [(window.packets, window.extent) for window in flow.first_windows] == [(2, 2), (1, 1)]


def test_the_longest_gap_says_when() -> None:
    flow = FlowCount(interval_ns=10)
    for now_ns in (100, 101, 150, 155):
        flow.arrive(now_ns, now_ns, now_ns, 5)
    assert (flow.gaps.maximum, flow.longest_gap_at_ns) == (49, 101)
    assert flow.rates_bps() == [8e9, 0, 0, 0, 0, 8e9]


def test_a_wild_number_costs_no_memory() -> None:
    flow = count([0, MAX_NUMBER, 2**32 - 1])
    assert (flow.received, flow.uncounted, flow.expected) == (1, 2, 1)


def test_a_flow_of_which_only_the_end_came_has_lost_all() -> None:
    assert count([], 10).lost == 10
    assert count([], 10).longest_loss() == 10
