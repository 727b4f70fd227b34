from __future__ import annotations

import pytest

from opendt.engine import Simulation
from opendt.model.change import CancelTask, ThrottleHosts
from opendt.model.options import Options
from opendt.model.tasks import workload_from_tasks
from opendt.twin.metrics import Totals, percentile_95, window_metrics
from tests.unit.optimization.small import MINUTE_MS, group, simulation, topology


def windows(sim, ends_min):
    start, found = Totals.of(sim), []
    for end_min in ends_min:
        sim.advance(end_min * MINUTE_MS)
        end = Totals.of(sim)
        found.append(window_metrics(sim.take_series(), sim.take_results(), start=start, end=end, tasks=sim.tasks()))
        start = end
    return found


def test_a_window_by_hand():
    # Two hosts of 4 cores; one task of 4 cores for 5 minutes: 200 W + 100 W, then 100 W + 100 W.
    first, second = windows(simulation([(0, 5, 4), (30, 5, 4)]), (10, 20))
    assert (first.start_ms, first.end_ms, first.duration_s) == (0, 600_000, 600.0)
    assert first.energy_kwh == pytest.approx((300 * 300 + 200 * 300) / 3.6e6)
    assert first.emission_kg == pytest.approx(first.energy_kwh * 0.5)
    assert first.peak_power_kw == pytest.approx(0.3)
    assert first.mean_power_kw == pytest.approx(0.25)
    assert (first.hosts_up, first.hosts_busy) == (2, 0)
    assert (first.tasks_submitted, first.tasks_completed, first.tasks_active, first.tasks_pending) == (1, 1, 0, 0)
    assert first.makespan_s == 300.0
    assert first.makespan_complete
    assert second.mean_power_kw == pytest.approx(0.2)
    assert second.utilization_ratio == 0.0


def test_utilisation_is_the_share_of_the_capacity_that_is_used():
    (window,) = windows(simulation([(0, 60, 4), (0, 60, 2)]), (10,))
    assert window.utilization_ratio == pytest.approx(6 / 8)
    assert (window.hosts_busy, window.tasks_active) == (2, 2)


def test_what_nothing_tells_is_unknown_and_not_zero():
    (window,) = windows(simulation([(60, 1, 4)], sampling_ms=None), (10,))
    assert window.task_wait_p95_s is None
    assert window.task_slowdown_p95_ratio is None
    assert window.makespan_s is None
    assert window.peak_power_kw is None
    assert window.utilization_ratio is None
    assert window.hosts_up is None
    assert window.tasks_completed == 0
    assert window.mean_power_kw == pytest.approx(0.2)


def test_waits_and_slowdowns_of_a_queue():
    # One host; each task takes it whole for 10 minutes, both come at once.
    first, second, third = windows(simulation([(0, 10, 4), (0, 10, 4)], group(count=1)), (5, 15, 25))
    assert first.task_wait_p95_s == 300.0, "the second one has waited for 5 minutes so far"
    assert first.tasks_pending == 1
    assert second.task_wait_p95_s == pytest.approx(600.0, abs=1.0)
    assert second.task_slowdown_p95_ratio == 1.0, "only the first one has finished"
    assert third.task_slowdown_p95_ratio == pytest.approx(2.0, abs=0.01)
    assert third.task_wait_p95_s is None, "none has started in this window"


def test_slower_hosts_show_in_the_slowdown_though_nothing_waits():
    sim = simulation([(0, 10, 4), (1, 10, 2)])
    sim.apply(ThrottleHosts(speed_ratio=0.5))
    (window,) = windows(sim, (25,))
    assert window.task_wait_p95_s == 0.0
    assert window.task_slowdown_p95_ratio == 2.0, "20 minutes for 10; the other one needs no more than half a host"


def test_ideal_run_times_below_ten_seconds_count_as_ten_and_no_slowdown_is_below_one():
    # One host: 1 s, and 6 s behind it; 6 s alone; then 6 s that waits for half a minute.
    first, second = windows(simulation([(0, 1 / 60, 4), (0, 0.1, 4), (1, 0.1, 4)], group(count=1)), (1, 2))
    assert (first.tasks_completed, first.task_slowdown_p95_ratio) == (2, 1.0)
    assert (second.tasks_completed, second.task_slowdown_p95_ratio) == (1, 1.0)
    (window,) = windows(simulation([(0, 1, 4), (0.5, 0.1, 4)], group(count=1)), (2,))
    assert window.task_slowdown_p95_ratio == pytest.approx((30 + 6) / 10, abs=0.11)


def test_waiting_for_a_parent_is_no_slowdown():
    made = Simulation(topology(group()), Options(start_epoch_ms=0), sample_interval_ms=30_000)
    tasks = [
        {"id": 1, "fragments": [(10 * MINUTE_MS, 1000.0)]},
        {"id": 2, "fragments": [(MINUTE_MS, 1.0)], "parents": [1]},
    ]
    made.submit(workload_from_tasks(tasks))
    (window,) = windows(made, (20,))
    assert (window.tasks_completed, window.task_slowdown_p95_ratio) == (2, pytest.approx(1.0, abs=0.02))


def test_a_task_that_was_given_up_has_no_slowdown():
    sim = simulation([(0, 60, 4)])
    start = Totals.of(sim)
    sim.advance(5 * MINUTE_MS)
    sim.apply(CancelTask(task="0"))
    window = window_metrics(sim.take_series(), sim.take_results(), start=start, end=Totals.of(sim), tasks=sim.tasks())
    assert (window.task_slowdown_p95_ratio, window.tasks_completed) == (None, 0)


def test_a_task_is_counted_in_the_window_it_starts_in_also_when_it_runs_on():
    first, second = windows(simulation([(0, 60, 4)]), (5, 10))
    assert first.task_wait_p95_s == 0.0
    assert second.task_wait_p95_s is None


def test_an_open_makespan_is_what_it_is_at_least():
    first, second = windows(simulation([(1, 1, 4), (2, 30, 4)]), (10, 40))
    assert (first.makespan_s, first.makespan_complete) == (540.0, False)
    assert (second.makespan_s, second.makespan_complete) == (None, True)


def test_without_the_tasks_in_the_system_waits_and_open_makespans_are_unknown():
    sim = simulation([(0, 1, 4), (0, 30, 4)])
    start = Totals.of(sim)
    sim.advance(5 * MINUTE_MS)
    window = window_metrics(sim.take_series(), sim.take_results(), start=start, end=Totals.of(sim))
    assert window.task_wait_p95_s is None
    assert (window.makespan_s, window.makespan_complete) == (None, False)


def test_samples_and_results_outside_of_the_window_are_left_out():
    sim = simulation([(0, 4, 4), (12, 4, 4)])
    sim.advance(10 * MINUTE_MS)
    start = Totals.of(sim)
    sim.advance(11 * MINUTE_MS)
    window = window_metrics(sim.take_series(), sim.take_results(), start=start, end=Totals.of(sim), tasks=sim.tasks())
    assert window.peak_power_kw == pytest.approx(0.2), "0.3 kW were drawn before the window"
    assert window.task_slowdown_p95_ratio is None


def test_energies_of_windows_add_up_to_the_meter():
    sim = simulation([(0, 7, 4), (3.3, 11, 2), (9, 2.2, 1)], sampling_ms=None)
    found = windows(sim, (1, 4, 9, 17, 30))
    assert sum(window.energy_kwh for window in found) * 3.6e6 == pytest.approx(sim.energy_j, rel=1e-12)


def test_a_window_must_not_be_empty():
    now = Totals.of(simulation([(0, 1, 4)]))
    with pytest.raises(ValueError, match="expected a time after its start"):
        window_metrics({}, {}, start=now, end=now)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], None), ([3], 3), (range(1, 20), 19), (range(1, 21), 19), (range(100, 0, -1), 95), (range(1, 61), 57)],
)
def test_percentile_by_nearest_rank(values, expected):
    assert percentile_95(list(values)) == expected
