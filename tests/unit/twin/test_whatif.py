from __future__ import annotations

import pytest

from opendt.model.change import AddHosts, GroupHosts, RemoveHosts, ThrottleHosts
from opendt.model.errors import EngineError
from opendt.model.tasks import workload_from_tasks
from opendt.optimization.search_optimizer import known_future
from opendt.twin.whatif import WhatIf, compare
from tests.unit.optimization.small import CORE_MHZ, MINUTE_MS, group, simulation

HOUR_MS = 60 * MINUTE_MS


def live():
    sim = simulation([(0, 30, 4), (20, 30, 4)], group(count=3))
    sim.advance(10 * MINUTE_MS)
    return sim


def test_an_idle_host_saves_what_it_draws_at_rest():
    found = compare(live(), [RemoveHosts(count=1)], HOUR_MS)
    saved = found.baseline.energy_kwh - found.changed.energy_kwh
    assert saved == pytest.approx(0.1), "100 W for an hour"
    assert (found.baseline.hosts_up, found.changed.hosts_up) == (3, 2)
    assert found.changed.tasks_completed == found.baseline.tasks_completed == 2


def test_a_slower_clock_costs_time_and_loses_no_work():
    found = compare(live(), [ThrottleHosts(speed_ratio=0.5)], HOUR_MS)
    # The running task has 20 minutes of work left and takes 40; the next one takes 60, from minute 20 to minute 80.
    assert found.baseline.tasks_completed == 2
    assert found.changed.tasks_completed == 1
    assert found.changed.peak_power_kw == pytest.approx(0.3 + 2 * 0.1 * 0.25)


def test_both_sides_conserve_work_whatever_the_trace_ran_with():
    # 10 minutes of twice what the host can give: the live twin loses half of the work, a what-if takes 20 minutes for it.
    sim = simulation([(30, 1, 1)], group(count=1))
    sim.submit(workload_from_tasks([{"id": 9, "cpu_count": 4, "fragments": [(10 * MINUTE_MS, 8 * CORE_MHZ)]}]))
    found = compare(sim, [], 15 * MINUTE_MS)
    assert (found.baseline.tasks_active, found.changed.tasks_active) == (1, 1)
    sim.advance(15 * MINUTE_MS)
    assert sim.counts["active"] == 0


def test_a_change_that_empties_the_queue_at_once_is_known_to_have_ended_the_wait():
    """Who waited and starts with the change waited until then: a wait that is unknown would count as a target lost."""
    sim = simulation([(0, 90, 4), (2, 20, 4), (4, 20, 4)], group(count=1))
    sim.advance(10 * MINUTE_MS)
    assert sim.counts["pending"] == 2
    more = AddHosts(cluster="c", group=group("more", count=2))
    found = compare(sim, [more], 5 * MINUTE_MS)
    assert found.baseline.task_wait_p95_s == 13 * 60
    assert found.changed.task_wait_p95_s == 8 * 60
    assert compare(sim, [more], HOUR_MS).changed.task_wait_p95_s == 8 * 60  # also when they have ended within it
    for horizon_ms in (5 * MINUTE_MS, HOUR_MS):  # and where many futures are simulated in one call
        outcomes = known_future(sim, horizon_ms).evaluate([(), [more]])
        expected = compare(sim, [more], horizon_ms)
        found = [outcomes.metrics(0, number).task_wait_p95_s for number in (0, 1)]
        assert found == [expected.baseline.task_wait_p95_s, expected.changed.task_wait_p95_s]


def test_a_task_that_has_just_started_by_itself_is_counted_on_no_side():
    sim = simulation([(0, 90, 4), (10, 20, 4)], group(count=2))
    sim.advance(10 * MINUTE_MS)
    found = compare(sim, [RemoveHosts(count=1)], 5 * MINUTE_MS)
    assert (found.baseline.task_wait_p95_s, found.changed.task_wait_p95_s) == (None, None)


def test_the_same_future_without_changes_is_equal():
    found = compare(live(), [], HOUR_MS)
    assert found.baseline == found.changed


def test_the_live_twin_is_not_disturbed():
    asked, alone = live(), live()
    before = asked.snapshot()
    compare(asked, [RemoveHosts(count=2, evict=True), ThrottleHosts(speed_ratio=0.3)], HOUR_MS)
    assert asked.snapshot() == before
    for sim in (asked, alone):
        sim.run()
    assert asked.energy_j == alone.energy_j
    assert asked.take_results()["finished_ms"].tolist() == alone.take_results()["finished_ms"].tolist()
    assert asked.take_series()["power_w"].tolist() == alone.take_series()["power_w"].tolist()


def test_questions_share_the_future_without_changes():
    sim = live()
    question = WhatIf(sim, HOUR_MS)
    first, second = question.compare([RemoveHosts(count=1)]), question.compare([ThrottleHosts(speed_ratio=0.5)])
    assert first.baseline is second.baseline
    assert second == compare(sim, [ThrottleHosts(speed_ratio=0.5)], HOUR_MS)


def test_a_question_is_about_the_moment_it_was_asked():
    sim = live()
    question = WhatIf(sim, HOUR_MS)
    sim.advance(40 * MINUTE_MS)
    assert question.baseline == compare(live(), [], HOUR_MS).baseline


def test_a_change_that_cannot_be_applied_is_refused():
    with pytest.raises(EngineError, match="nowhere"):
        compare(live(), [RemoveHosts(hosts=GroupHosts(group="nowhere"))], HOUR_MS)


def test_after_a_refused_change_the_next_question_is_answered():
    question = WhatIf(live(), HOUR_MS)
    with pytest.raises(EngineError):
        question.compare([RemoveHosts(hosts=GroupHosts(group="nowhere"))])
    assert question.compare([]) == compare(live(), [], HOUR_MS)


def test_a_horizon_must_lie_ahead():
    with pytest.raises(ValueError, match="expected a positive time"):
        WhatIf(live(), 0)
