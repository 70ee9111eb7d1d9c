"""Desired and actual: any history ends in the desired flows, twice is once, what is not ours or not known stays."""

from hypothesis import given
from hypothesis import strategies as st

from xenflow_app.flowtable import FABRIC, Batch, FlowTable, cookie
from xenflow_app.openflow import actions, nxm

KEYS = [nxm.flow_key(table, 100, reg0=number) for table in (0, 10, 30) for number in range(4)]
VALUES = [actions.value(cookie(5, owner), actions.output(port)) for owner in (FABRIC, 7) for port in (1, 2)]

flows = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))


def run(table: FlowTable, switch: dict[bytes, bytes], most: int = 1000) -> list[Batch]:
    batches = []
    while table.due:
        batch = table.take(most)
        for key, value in batch.upserts:
            switch[key] = value
        for key, value in batch.deletes:
            assert switch.pop(key) == value
        batches.append(batch)
    return batches


@given(flows, flows, st.integers(1, 5))
def test_resync_ends_in_the_desired_flows_and_twice_sends_nothing(
    desired: dict[bytes, bytes], installed: dict[bytes, bytes], most: int
) -> None:
    table, switch = FlowTable(), dict(installed)
    for key, value in desired.items():
        table.want(key, value)
    assert not table.due
    table.resync(dict(switch), lambda _: True)
    run(table, switch, most)
    assert switch == desired
    table.resync(dict(switch), lambda _: True)
    assert not table.due


@given(flows, st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.sampled_from(VALUES))), st.integers(1, 4))
def test_any_history_of_wants_converges(
    installed: dict[bytes, bytes], history: list[tuple[bytes, bytes | None]], most: int
) -> None:
    table, switch = FlowTable(), dict(installed)
    table.resync(dict(switch), lambda _: True)
    for step, (key, value) in enumerate(history):
        if value is None:
            table.unwant(key)
        else:
            table.want(key, value)
        if step % 3 == 0:
            run(table, switch, most)
    run(table, switch, most)
    assert switch == table.desired
    assert table.actual == switch


@given(flows)
def test_higher_tables_come_first_and_deletes_last_in_reverse(desired: dict[bytes, bytes]) -> None:
    table = FlowTable()
    table.resync({key: VALUES[0] for key in KEYS if key not in desired}, lambda _: True)
    for key, value in desired.items():
        table.want(key, value)
    for key in KEYS:
        if key not in desired:
            table.unwant(key)
    batch = table.take(1000)
    assert [key[0] for key, _ in batch.upserts] == sorted((key[0] for key in desired), reverse=True)
    assert [key[0] for key, _ in batch.deletes] == sorted(key[0] for key, _ in batch.deletes)


def test_flows_of_an_owner_that_is_not_in_sync_are_held() -> None:
    table = FlowTable()
    switch = {KEYS[0]: VALUES[0], KEYS[1]: VALUES[2], KEYS[2]: VALUES[2]}
    table.want(KEYS[1], VALUES[2])
    table.resync(dict(switch), lambda owner: owner == FABRIC)
    run(table, switch)
    assert set(switch) == {KEYS[1], KEYS[2]}
    assert table.held == 1
    table.release(7)
    run(table, switch)
    assert set(switch) == {KEYS[1]}


def test_a_refused_flow_stays_out_until_its_value_changes() -> None:
    table = FlowTable()
    table.resync({}, lambda _: True)
    table.want(KEYS[0], VALUES[0])
    table.want(KEYS[1], VALUES[0])
    table.take(10)
    table.refuse(KEYS[0], "no")
    assert KEYS[0] not in table.actual
    table.want(KEYS[0], VALUES[0])
    assert len(table.take(10)) == 0
    table.want(KEYS[0], VALUES[1])
    assert table.take(10).upserts == [(KEYS[0], VALUES[1])]


def test_a_group_is_exactly_what_was_wanted_last() -> None:
    table = FlowTable()
    table.want_group(("a",), {KEYS[0]: VALUES[0], KEYS[1]: VALUES[0]})
    table.want_group(("a",), {KEYS[1]: VALUES[1]})
    assert table.desired == {KEYS[1]: VALUES[1]}
    table.want_group(("a",), {})
    assert not table.desired


def test_a_flow_that_aged_out_is_put_back_only_if_it_is_wanted() -> None:
    table = FlowTable()
    table.resync({KEYS[0]: VALUES[0], KEYS[1]: VALUES[0]}, lambda _: True)
    table.want(KEYS[0], VALUES[0])
    table.unwant(KEYS[1])
    table.gone(KEYS[0])
    table.gone(KEYS[1])
    assert [key for key, _ in table.take(10).upserts] == [KEYS[0]]
