"""Workflows by hand: schedules whose length anybody can add up."""

from __future__ import annotations

import pytest

from opendt.formats.wfformat import Workflow
from opendt.model import Cluster, EngineError, HostGroup, Topology, Workload
from opendt.twin.workflow import NO_OVERHEAD, Overhead, fit_overhead, leave_one_out, simulated_makespan_s


def workflow(run_s, parents, *, cores=(4,), placed=None, makespan_s=1.0, system="hand", cpu_count=None):
    """Make a workflow of tasks of one core (unless said) on machines m0, m1, … with these cores."""
    offset = [0]
    for named in parents:
        offset.append(offset[-1] + len(named))
    run_ms = [round(1000 * s) for s in run_s]
    columns = {
        "ids": [f"t{i}" for i in range(len(run_s))],
        "submission_ms": [0] * len(run_s),
        "duration_ms": run_ms,
        "cpu_count": cpu_count or [1] * len(run_s),
        "cpu_capacity_mhz": [2000.0] * len(run_s),
        "memory_mib": [0] * len(run_s),
        "fragment_offset": list(range(len(run_s) + 1)),
        "fragment_duration_ms": run_ms,
        "fragment_cpu_mhz": [2000.0] * len(run_s),
    }
    if any(parents):
        columns |= {"parent_offset": offset, "parents": [parent for named in parents for parent in named]}
    hosts = tuple(
        HostGroup(name=f"m{i}", count=1, core_count=n, core_speed_mhz=2000.0, memory_mib=1024)
        for i, n in enumerate(cores)
    )
    return Workflow(
        name="by hand",
        system=system,
        workload=Workload.from_columns(columns),
        machines=Topology(clusters=(Cluster(name="machines", hosts=hosts),)),
        machine_of_task=tuple(placed or ["m0"] * len(run_s)),
        makespan_s=makespan_s,
    )


DIAMOND = [[], [0], [0], [1, 2]]


def test_a_diamond_takes_its_critical_path_where_cores_are_free():
    diamond = workflow([10, 20, 30, 5], DIAMOND)
    assert simulated_makespan_s(diamond) == diamond.critical_path_s() == 45.0


def test_one_core_takes_the_sum():
    assert simulated_makespan_s(workflow([10, 20, 30, 5], DIAMOND, cores=(1,))) == 65.0


def test_tasks_keep_their_time_where_they_did_not_run():
    assert simulated_makespan_s(workflow([10, 10], [[], []], cores=(1, 1), placed=["m0", "m0"])) == 10.0


def test_as_placed_tasks_queue_at_their_machine_and_hold_up_nobody_else():
    placed = ["m0", "m0", "m0", "m1"]
    crowded = workflow([10, 10, 10, 5], [[], [], [], []], cores=(1, 4), placed=placed)
    assert simulated_makespan_s(crowded) == 10.0
    assert simulated_makespan_s(crowded, as_placed=True) == pytest.approx(30.0, abs=0.01)
    # The child of the task on m1 is done long before m0 has worked off its queue.
    child = workflow([10, 10, 10, 5, 1], [[], [], [], [], [3]], cores=(1, 4), placed=[*placed, "m1"])
    assert simulated_makespan_s(child, as_placed=True) == pytest.approx(30.0, abs=0.01)


@pytest.mark.parametrize(
    ("overhead", "makespan_s"),
    [
        (NO_OVERHEAD, 10),
        (Overhead(2.0), 3 * 2 + 10),  # the third is handed out after 6 s
        (Overhead(0.0, 1.5), 1.5 + 10),  # noticed all together
        (Overhead(2.0, 1.5), 1.5 + 3 * 2 + 10),
        (Overhead(20.0), 3 * 20 + 10),
    ],
)
def test_independent_tasks_are_handed_out_one_by_one(overhead, makespan_s):
    three = workflow([10, 10, 10], [[], [], []])
    assert simulated_makespan_s(three, overhead) == pytest.approx(makespan_s, abs=0.01)


def test_a_chain_pays_for_every_link():
    chain = workflow([10, 20, 5], [[], [0], [1]])
    assert simulated_makespan_s(chain, Overhead(2.0, 1.5)) == pytest.approx(35 + 3 * 3.5, abs=0.01)


def test_a_dispatcher_does_not_wait_for_machines():
    # One core is busy for 100 s; both other turns pass meanwhile.
    assert simulated_makespan_s(workflow([100, 1], [[], []], cores=(1,)), Overhead(5.0)) == pytest.approx(106, abs=0.01)


def test_a_task_that_fits_nowhere_is_told():
    with pytest.raises(EngineError, match="fits no machine"):
        simulated_makespan_s(workflow([1], [[]], cores=(2,), cpu_count=[3]))


def with_makespan(overhead, **shape):
    """Make an instance that was measured under an overhead."""
    measured_s = simulated_makespan_s(workflow(**shape), overhead)
    return workflow(**shape, makespan_s=measured_s)


WIDE = {"run_s": [3.0] * 40, "parents": [[]] * 40}
DEEP = {"run_s": [4.0] * 6, "parents": [[], [0], [1], [2], [3], [4]]}
MIXED = {"run_s": [5.0] * 9, "parents": [[], [0], [0], [0], [0], [1, 2], [3, 4], [5], [6]]}


def test_a_fit_finds_the_overhead_that_made_the_makespans():
    truth = Overhead(2.5, 12.0)
    both = fit_overhead([with_makespan(truth, **shape) for shape in (WIDE, DEEP)], with_startup=True)
    assert both.dispatch_s == pytest.approx(2.5, rel=0.1)
    assert both.startup_s == pytest.approx(12.0, rel=0.1)
    one = fit_overhead([with_makespan(Overhead(2.5), **WIDE)], with_startup=True)
    assert one.dispatch_s == pytest.approx(2.5, rel=0.1)
    assert one.startup_s == 0.0


def test_each_is_predicted_by_the_others_of_its_system_alone():
    instances = [with_makespan(Overhead(2.5), **shape) for shape in (WIDE, DEEP, MIXED)]
    lone = workflow([1.0], [[]], makespan_s=100.0, system="another")
    *studies, other = leave_one_out([*instances, lone])
    for study in studies:
        assert study.predicted_error_ratio == pytest.approx(0.0, abs=0.1)
        assert study.scheduled_error_ratio < -0.2
        assert study.critical_path_s <= study.scheduled_s <= study.measured_s
    assert (other.overhead, other.predicted_s, other.predicted_error_ratio) == (None, None, None)
    # What an instance measured of itself does not touch its own prediction.
    changed = [workflow(**WIDE, makespan_s=1e4), *instances[1:]]
    assert leave_one_out(changed)[0].predicted_s == studies[0].predicted_s


def test_a_fit_needs_an_instance():
    with pytest.raises(ValueError, match="at least one"):
        fit_overhead([])
