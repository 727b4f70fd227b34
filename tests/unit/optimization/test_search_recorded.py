"""A record is asked as a whole: configurations hold from before its first task until the work is done."""

from __future__ import annotations

import pickle

import pytest

from opendt.engine.simulation import to_engine
from opendt.model.change import RemoveHosts
from opendt.model.errors import ModelError
from opendt.model.proposal import Proposal
from opendt.model.slo import DurationTarget, EnergyTarget, RuntimeTargets, Slo
from opendt.model.tasks import workload_from_tasks
from opendt.optimization import recorded as module
from opendt.optimization.recorded import Recorded, advise, search_recorded
from opendt.optimization.rule_based import RuleBasedOptimizer, RuleSettings
from opendt.optimization.search import SearchSettings
from opendt.optimization.search_optimizer import SearchOptimizer
from tests.unit.optimization.small import CORE_MHZ, MINUTE_MS, group, topology

HOUR_MS = 60 * MINUTE_MS
EPOCH_MS = 1_700_000_000_000
SETTINGS = SearchSettings(evaluations=40, population=8, work_tolerance_ratio=0.0)


def demand(tasks):
    """Tasks of (submission in minutes, length in minutes, cores), each with full demand, in steps of a minute."""
    return to_engine(
        workload_from_tasks(
            {
                "id": number,
                "submission_ms": EPOCH_MS + submitted * MINUTE_MS,
                "cpu_count": cores,
                "memory_mib": 1,
                "fragments": [(MINUTE_MS, cores * CORE_MHZ)] * length,
            }
            for number, (submitted, length, cores) in enumerate(tasks)
        )
    )


def record(tasks=((0, 30, 4), (0, 30, 4), (20, 30, 4)), hosts=8, drain_ms=HOUR_MS, **settings):
    return Recorded.of(topology(group(count=hosts)), demand(tasks), drain_ms=drain_ms, **settings)


def slo_of(kwh, wait_s=30.0):
    return Slo(
        version=1,
        window_s=6600,
        energy=EnergyTarget(target_kwh=kwh, tolerance_ratio=0.0),
        runtime=RuntimeTargets(task_wait_p95=DurationTarget(target_s=wait_s, tolerance_ratio=0.0)),
    )


def test_it_reaches_from_the_first_task_to_the_last_and_the_drain():
    asked = record()
    assert asked.until_ms == 50 * MINUTE_MS + HOUR_MS
    metrics = asked.context(slo_of(1.0)).metrics
    assert (metrics.tasks_submitted, metrics.tasks_completed) == (3, 3)
    # Eight hosts at rest for 110 minutes and a second, and three half hours of full load.
    assert metrics.energy_kwh == pytest.approx(0.8 * (110 / 60 + 1 / 3600) + 3 * 0.1 * 0.5)


def test_changes_are_made_before_the_first_task_takes_a_host():
    trials = record().trials(slo_of(10.0), SETTINGS)
    one = trials.of_changes((RemoveHosts(count=7),), "one host")
    assert one.metrics.task_wait_p95_s == pytest.approx(40 * 60.0), "the third comes at 20 and starts at 60 minutes"


def test_an_optimiser_sees_the_busiest_moment():
    context = record().context(slo_of(1.0))
    (state,) = context.groups
    assert len(state.busy) == 3
    assert context.load.running == 3


def test_a_search_meets_the_objectives_in_the_record():
    asked = record()
    result, interrupted = search_recorded(asked, slo_of(0.75), SETTINGS)
    assert not interrupted
    assert not result.baseline.meets
    assert result.best.meets
    again = asked.trials(slo_of(0.75), SETTINGS).of_changes(result.best.changes, "again")
    assert again.metrics == result.best.metrics


def test_a_long_record_is_searched_in_coarse_steps_and_told_as_recorded(monkeypatch):
    monkeypatch.setattr(module, "_MANY_FRAGMENTS", 10)
    asked = record()
    assert asked.coarse().fragment_count < asked.fragment_count / 3
    counts = []
    result, _ = search_recorded(asked, slo_of(0.75), SETTINGS, on_batch=counts.append)
    assert result.best.meets
    again = asked.trials(slo_of(0.75), SETTINGS).of_changes(result.best.changes, "again")
    assert again.metrics == result.best.metrics
    assert counts == sorted(counts)
    assert counts[-1] > len(result.trials), "coarse trials count, too, but are not told"
    assert search_recorded(asked, slo_of(0.75), SETTINGS)[0].best.point == result.best.point


@pytest.mark.parametrize("many", [10, 10**9])
def test_what_ctrl_c_leaves_is_told(monkeypatch, many):
    monkeypatch.setattr(module, "_MANY_FRAGMENTS", many)

    def batches(count):
        seen.append(count)
        if len(seen) == 2:
            raise KeyboardInterrupt

    seen = []
    result, interrupted = search_recorded(record(), slo_of(0.75), SETTINGS, on_batch=batches)
    assert interrupted
    assert result.baseline.changes == ()
    assert 1 <= len(result.trials) < SETTINGS.evaluations


def test_other_orders_of_the_days_are_futures_beside_the_record():
    days = [(day * 1440, 30, 4) for day in range(3)]
    asked = record(days, resampled=4, seed=1)
    assert len(asked.demands) == 5
    assert asked.demands[0].content_hash() == demand(days).content_hash()
    assert [d.content_hash() for d in asked.demands] == [
        d.content_hash() for d in record(days, resampled=4, seed=1).demands
    ]
    trials = asked.trials(slo_of(100.0), SETTINGS)
    trials.run([])
    assert trials.baseline.metrics.tasks_completed >= 1


def test_rules_are_asked_until_all_is_met():
    asked = record(hosts=20)
    trials = asked.trials(slo_of(2.0), SETTINGS)
    rules = RuleBasedOptimizer(RuleSettings(cooldown_ms=0))
    steps = advise(asked, slo_of(2.0), rules, trials, rounds=6)
    assert len(steps) > 1
    assert [step.trial.meets for step in steps] == [False] * (len(steps) - 1) + [True]
    assert len(steps[-1].trial.changes) == sum(len(step.proposal.changes) for step in steps)


def test_a_step_for_the_worse_is_the_last():
    class Worse:
        def propose(self, context):
            return Proposal.of("human", context.now_ms, "worse", "to see", (RemoveHosts(count=7),))

    asked = record()
    trials = asked.trials(slo_of(10.0), SETTINGS)
    steps = advise(asked, slo_of(10.0), Worse(), trials, rounds=6)
    assert len(steps) == 1
    assert not steps[0].trial.meets


def test_a_demand_without_tasks_is_refused():
    with pytest.raises(ModelError, match="workload: found no task"):
        Recorded.of(topology(group()), demand([]), drain_ms=0)


def test_an_optimiser_survives_a_pickle():
    asked = record()
    optimizer = SearchOptimizer(SETTINGS)
    context = asked.context(slo_of(0.2))
    first = optimizer.propose(context)
    restored = pickle.loads(pickle.dumps(optimizer))
    assert restored.last is None, "that is only looked at, and large"
    assert restored.propose(context) is None, "it remembers that it has just searched"
    assert first is not None
