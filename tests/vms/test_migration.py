"""Five real live migrations of a router under numbered packets: nothing lost, nothing doubled; what is lost without.

The figure goes to bench/out/figure3c_native.
"""

from __future__ import annotations

import pytest

from bench import interruption_vms
from bench.interruption_vms import NATIVE, XENFLOW, Trial
from tests.keeping import kept_if_failed
from tests.lab import moving
from tests.vms.conftest import TOPOLOGY, await_routes, keep, machines, own_name
from xenflow_lab.lab import Lab
from xenflow_lab.plan import Kind

pytestmark = [pytest.mark.vms, pytest.mark.root, pytest.mark.ovs]


@pytest.fixture(scope="module")
def separated(lab: Lab) -> Trial:
    interruption_vms.await_traffic(lab)
    before = moving.overrun(lab)
    found = interruption_vms.measure(lab, XENFLOW)
    print(f"{found.words()}; {moving.overrun(lab) - before} frames came to the switches faster than they were taken")
    return found


def test_five_live_migrations_lose_and_double_nothing(lab: Lab, separated: Trial) -> None:
    assert (separated.lost, separated.doubled, len(separated.moves)) == (0, 0, interruption_vms.MOVES)
    assert all(move.stopped_s > 0 for move in separated.moves), "QEMU does not say how long it was"
    lab.wait_settled(120)
    moving.assert_as_wanted(lab)


def test_virsh_migrate_typed_by_hand_ends_in_the_same_state(lab: Lab) -> None:
    before = {item.number for item in moving.migrations(lab)}
    here = moving.node_of(lab, "blue-r1")
    target = next(node for node in interruption_vms.NODES if node != here)
    there = machines(lab)
    words = ["migrate", "--live", "--persistent", "--undefinesource", "blue-r1", there.libvirtd(target).uri]
    there.virsh(here, *words, "--migrateuri", there.stream(target), timeout_s=240)

    def ended() -> bool:
        return any(item.ended and item.number not in before for item in moving.migrations(lab))

    lab.wait_until(ended, 120, "the end of a migration that nobody has ordered")
    (done,) = [item for item in moving.migrations(lab) if item.number not in before]
    assert (done.router, done.planned, done.state, done.target) == ("blue-r1", False, "done", target)
    lab.wait_settled(120)
    moving.assert_as_wanted(lab)
    await_routes(lab)


def test_the_same_machine_loses_packets_when_they_pass_it(
    request: pytest.FixtureRequest, lab: Lab, separated: Trial
) -> None:
    """Last: it draws both; only the first lab's routers are paused meanwhile, for the sake of the processors."""
    routers = [router.name for router in lab.plan.of_kind(Kind.ROUTER)]
    for name in routers:
        machines(lab).virsh(moving.node_of(lab, name), "suspend", name)
    native = Lab(TOPOLOGY, own_name("n"), with_xenflow=False, vms=True, say=print)
    try:
        with kept_if_failed(request, native, keep):
            interruption_vms.switch_plainly(native)
            interruption_vms.await_traffic(native)
            found = interruption_vms.measure(native, NATIVE, 2)
    finally:
        for name in routers:
            machines(lab).virsh(moving.node_of(lab, name), "resume", name)
    print(found.words())
    interruption_vms.draw([separated, found])
    assert found.lost > 0
