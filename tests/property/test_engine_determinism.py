"""Same seed same bytes; forks, splits, snapshots and refused changes leave no trace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt import (
    AddHosts,
    AllHosts,
    CancelTask,
    EngineError,
    FailHosts,
    NamedHosts,
    RepairHosts,
    SetPowerCap,
    Simulation,
    SnapshotError,
    ThrottleHosts,
    workload_from_tasks,
)
from opendt.engine import to_engine
from tests.property.engine_systems import differences, seen, systems

MOMENTS = st.lists(st.integers(0, 12_000), min_size=1, max_size=5).map(sorted)
END_MS = 15_000


@given(systems())
def test_the_same_seed_gives_the_same_bytes(system):
    one, other = system.start(), system.start()
    one.run()
    other.run()
    assert differences(seen(one), seen(other)) == []


@given(systems(), MOMENTS)
def test_advancing_in_pieces_equals_advancing_at_once(system, moments):
    whole, pieces = system.start(), system.start()
    whole.advance(END_MS)
    for moment in moments:
        pieces.advance(moment)
        assert pieces.now_ms == moment
        _ = pieces.energy_j, pieces.power_w, pieces.hosts(), pieces.tasks()
    pieces.advance(END_MS)
    assert differences(seen(whole), seen(pieces)) == []


@given(systems(), MOMENTS)
def test_a_run_after_advancing_equals_a_run(system, moments):
    whole, pieces = system.start(), system.start()
    whole.run()
    for moment in moments:
        if moment < whole.now_ms:
            pieces.advance(moment)
    pieces.run()
    assert differences(seen(whole), seen(pieces)) == []


@given(systems(), MOMENTS)
def test_forks_do_not_disturb_their_parent(system, moments):
    alone, parent = system.start(), system.start()
    for moment in moments:
        alone.advance(moment)
        parent.advance(moment)
        child, changed = parent.fork(), parent.fork()
        child.run()
        changed.apply(ThrottleHosts(speed_ratio=0.5), FailHosts(hosts=AllHosts()), RepairHosts())
        changed.advance(moment + 3000)
    alone.advance(END_MS)
    parent.advance(END_MS)
    assert differences(seen(alone), seen(parent)) == []


@given(systems(), st.integers(0, 12_000))
def test_fork_then_advance_equals_advance(system, moment):
    original = system.start()
    original.advance(moment)
    original.take_series()
    original.take_results()
    fork = original.fork()
    original.run()
    fork.run()
    assert differences(seen(original), seen(fork)) == []


@given(systems(), st.integers(0, 12_000), st.booleans())
def test_restore_equals_the_original(system, moment, with_workloads):
    original = system.start(submit=False)
    workload = to_engine(workload_from_tasks(system.tasks))
    original.submit(workload)
    original.advance(moment)
    original.take_series()
    original.take_results()
    data = original.snapshot(workloads=with_workloads)
    restored = Simulation.restore(data, [] if with_workloads else [workload])
    assert restored.snapshot(workloads=with_workloads) == data
    original.run()
    restored.run()
    assert differences(seen(original), seen(restored)) == []
    assert restored.snapshot() == original.snapshot()


@given(systems(), st.integers(0, 12_000), st.data())
def test_a_damaged_snapshot_is_refused(system, moment, data):
    simulation = system.start()
    simulation.advance(moment)
    whole = simulation.snapshot()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(SnapshotError):
        Simulation.restore(whole[:cut])
    flipped = bytearray(whole)
    flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SnapshotError):
        Simulation.restore(bytes(flipped))


@given(systems())
def test_a_snapshot_of_another_version_is_refused(system):
    data = bytearray(system.start().snapshot())
    data[6] += 1
    with pytest.raises(SnapshotError, match="format"):
        Simulation.restore(bytes(data))


@given(systems())
def test_a_left_out_workload_must_be_given(system):
    data = system.start().snapshot(workloads=False)
    with pytest.raises(SnapshotError, match="left out"):
        Simulation.restore(data)


@given(systems(), st.integers(1, 3000))
def test_submitting_while_running_equals_submitting_in_advance(system, delay_ms):
    """Later tasks are given in a second workload, before or after the simulation got under way."""
    later = [
        {**task, "id": 100 + task["id"], "submission_ms": task["submission_ms"] + 4000 + delay_ms, "parents": ()}
        for task in system.tasks
    ]
    before, after = system.start(), system.start()
    before.submit(workload_from_tasks(later))
    after.advance(3999)
    after.submit(workload_from_tasks(later))
    before.advance(END_MS)
    after.advance(END_MS)
    assert differences(seen(before), seen(after)) == []


INVALID = st.sampled_from(
    [
        FailHosts(hosts=NamedHosts(names=("nobody",))),
        CancelTask(task="no such task"),
        SetPowerCap(cluster="gamma", max_power_w=10.0),
    ]
)


@given(systems(), st.integers(0, 9000), INVALID, st.booleans())
def test_changes_are_applied_all_or_none(system, moment, invalid, adding):
    alone, refused = system.start(), system.start()
    alone.advance(moment)
    refused.advance(moment)
    valid = (
        AddHosts(cluster="alpha", group=system.topology.clusters[0].hosts[0]) if adding else FailHosts(hosts=AllHosts())
    )
    with pytest.raises(EngineError):
        refused.apply(valid, ThrottleHosts(speed_ratio=0.25), invalid)
    assert refused.snapshot() == alone.snapshot()
    alone.advance(END_MS)
    refused.advance(END_MS)
    assert differences(seen(alone), seen(refused)) == []
