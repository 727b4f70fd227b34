"""Ideal run times in the results: the work of a task as told, whatever became of it, and since when it could have run."""

from __future__ import annotations

import pytest

from opendt import (
    AllHosts,
    ConserveWork,
    FailHosts,
    MigrateTask,
    Options,
    RepairHosts,
    SetRemainingWork,
    ThrottleHosts,
    Work,
)
from tests.unit.engine.systems import column, host_group, simulate, task

FULL = 4000.0
HALF = ThrottleHosts(speed_ratio=0.5)


def times(simulation):
    """(ready, finished, ideal) in ms, by task."""
    results = simulation.take_results()
    columns = (results[name].tolist() for name in ("ready_ms", "finished_ms", "ideal_ms"))
    return dict(zip(results["id"].tolist(), zip(*columns, strict=True), strict=True))


@pytest.mark.parametrize("changes", [(), (ConserveWork(),)])
def test_waiting_is_not_part_of_it(changes):
    simulation = simulate(tasks=[task(number, cpu_count=4) for number in (1, 2)])
    simulation.apply(*changes)
    simulation.run()
    assert times(simulation) == {1: (0, 10_000, 10_000), 2: (0, 20_000, 10_000)}


def test_running_slower_is_not_part_of_it():
    simulation = simulate(tasks=[{"id": 1, "fragments": [(6_000, FULL), (4_000, 1000.0)]}])
    simulation.apply(HALF)
    simulation.run()
    assert times(simulation) == {1: (0, 16_000, 10_000)}


def test_sums_over_many_fragments_of_several_tasks():
    # Sums are kept for blocks of fragments: tasks that begin and end within, at and across their borders.
    counts = (1, 63, 64, 65, 200, 127, 3)
    fragments = [[(100 + 7 * piece, 100.0 + piece) for piece in range(count)] for count in counts]
    simulation = simulate(
        host_group(count=7), tasks=[{"id": number, "fragments": pieces} for number, pieces in enumerate(fragments)]
    )
    simulation.apply(ConserveWork())
    simulation.run()
    sums = [sum(piece[0] for piece in pieces) for pieces in fragments]
    assert column(simulation, "ideal_ms") == dict(enumerate(sums))


@pytest.mark.parametrize(
    ("changes", "expected_ms"),
    [((), 4_000 + 700), ((ConserveWork(),), 4_000 + 700), ((HALF,), 2_000 + 700)],
)
def test_replaced_work_counts_as_told_and_what_was_done_before_it_at_full_speed(changes, expected_ms):
    simulation = simulate(tasks=[{"id": 1, "fragments": [(1_000, FULL), (90_000, FULL), (1_000, FULL)]}])
    simulation.apply(*changes)
    simulation.advance(4_000)
    for duration_ms in (300, 700):
        simulation.apply(SetRemainingWork(task="1", work=(Work(duration_ms=duration_ms, cpu_mhz=FULL),)))
    simulation.run()
    assert column(simulation, "ideal_ms") == {1: expected_ms}


def test_work_that_is_replaced_while_it_waits():
    simulation = simulate(tasks=[task(1, cpu_count=4), task(2, cpu_count=4)])
    simulation.advance(4_000)
    simulation.apply(SetRemainingWork(task="2", work=(Work(duration_ms=2_000, cpu_mhz=FULL),)))
    simulation.run()
    assert times(simulation) == {1: (0, 10_000, 10_000), 2: (0, 12_000, 2_000)}


@pytest.mark.parametrize("changes", [(), (ConserveWork(),)])
def test_a_task_that_moves_has_the_work_it_had(changes):
    simulation = simulate(host_group("a"), host_group("b"), tasks=[task(1, 10_000, FULL)])
    simulation.apply(*changes)
    simulation.advance(4_000)
    simulation.apply(MigrateTask(task="1", host="b"))
    simulation.run()
    assert times(simulation) == {1: (0, 10_000, 10_000)}


def test_work_that_is_done_again_counts_once():
    simulation = simulate(tasks=[task(1)])
    simulation.advance(4_000)
    simulation.apply(FailHosts(hosts=AllHosts()), RepairHosts())
    simulation.run()
    assert times(simulation) == {1: (0, 14_000, 10_000)}


def test_snapshots_do_not_count():
    options = Options.model_validate({"checkpoint": {"interval_ms": 3_000, "duration_ms": 500}})
    simulation = simulate(tasks=[task(1)], checkpoint=options.checkpoint)
    simulation.run()
    ready_ms, finished_ms, ideal_ms = times(simulation)[1]
    assert (ready_ms, ideal_ms) == (0, 10_000)
    assert finished_ms > 10_500


def test_an_exec_format_lengthens_it():
    simulation = simulate(tasks=[task(1, slowdown=1.5), task(2)])
    simulation.apply(ConserveWork())
    simulation.run()
    assert column(simulation, "ideal_ms") == {1: 15_000, 2: 10_000}


def test_a_child_could_not_run_before_its_last_parent_ended():
    simulation = simulate(tasks=[task(1, 5_000), task(2, 8_000), task(3, 1_000, parents=[1, 2])])
    simulation.run()
    assert times(simulation)[3] == (8_000, 9_000, 1_000)


def test_it_is_unknown_of_tasks_that_were_given_up():
    simulation = simulate(tasks=[task(1, cpu_count=5)])
    simulation.run()
    assert column(simulation, "ideal_ms") == {1: -1}
