"""Capacity is the fewest hosts from which on every number that was simulated is enough, whatever the order of things."""

from __future__ import annotations

import pytest

from opendt.model.slo import DurationTarget, EnergyTarget, RuntimeTargets, Slo
from opendt.optimization.base import Context
from opendt.optimization.capacity import plan_capacity
from opendt.optimization.search_optimizer import known_future
from opendt.optimization.search_space import SearchSpace, SpaceLimits
from opendt.optimization.trials import Prices, Trials
from opendt.twin.whatif import WhatIf
from tests.unit.optimization.small import MINUTE_MS, group, simulation, topology

HOUR_MS = 60 * MINUTE_MS
NO_WAIT = Slo(
    version=1,
    window_s=3600,
    runtime=RuntimeTargets(task_wait_p95=DurationTarget(target_s=30.0, tolerance_ratio=0.0)),
)


def trials_of(tasks, *groups, slo=NO_WAIT, max_host_ratio=1.0, wrap=None):
    sim = simulation(tasks, *groups)
    limits = SpaceLimits(
        max_host_ratio=max_host_ratio,
        reserve_ratio=0.0,
        reserve_hosts=0,
        min_core_speed_ratio=1.0,
        min_power_cap_ratio=1.0,
    )
    context = Context.of(sim, slo, WhatIf(sim, HOUR_MS).baseline)
    cores = max(cores for _, _, cores in tasks)
    space = SearchSpace.of(context, limits=limits, topology=topology(*groups), largest_core_count=cores)
    evaluate = known_future(sim, 3 * HOUR_MS).evaluate
    return Trials(space, wrap(evaluate) if wrap else evaluate, slo, Prices(), work_tolerance_ratio=0.0)


@pytest.mark.parametrize("busy", [1, 5, 17])
def test_as_many_hosts_as_run_tasks_at_once_are_needed_for_no_wait(busy):
    trials = trials_of([(1, 30, 4)] * busy, group(count=40))
    plan = plan_capacity(trials)
    assert trials.space.hosts(plan.fewest.point) == busy
    assert plan.exceptions == ()
    assert len(plan.trials) < 40


def test_the_answer_and_its_neighbours_were_simulated():
    trials = trials_of([(1, 30, 4)] * 9, group(count=30))
    plan = plan_capacity(trials)
    by_hosts = {trials.space.hosts(trial.point): trial for trial in plan.trials}
    assert {8, 9, 10} <= set(by_hosts)
    assert by_hosts[9] is plan.fewest
    assert not by_hosts[8].meets
    assert by_hosts[8].metrics.task_wait_p95_s == pytest.approx(1800.0)


def test_more_hosts_are_planned_where_there_are_too_few():
    trials = trials_of([(1, 30, 4)] * 9, group(count=4), max_host_ratio=5.0)
    plan = plan_capacity(trials)
    assert not plan.baseline.meets
    assert trials.space.hosts(plan.fewest.point) == 9


def test_what_no_number_of_hosts_can_do_is_said():
    trials = trials_of([(1, 30, 4)] * 9, group(count=4))
    plan = plan_capacity(trials)
    assert plan.fewest is None
    assert not plan.nearest.meets
    assert {trials.space.hosts(trial.point) for trial in plan.trials} == {1, 2, 3, 4}


def test_an_energy_target_is_met_by_few_enough_and_a_wait_by_enough():
    # 30 hosts at rest use 3 kWh an hour; nine tasks of half an hour add 0.45 kWh in all.
    slo = Slo(
        version=1,
        window_s=3600,
        energy=EnergyTarget(target_kwh=1.2, tolerance_ratio=0.0),
        runtime=NO_WAIT.runtime,
    )
    trials = trials_of([(1, 30, 4)] * 9, group(count=30), slo=slo)
    plan = plan_capacity(trials)
    assert not plan.baseline.meets
    assert trials.space.hosts(plan.fewest.point) == 9


def test_of_several_groups_the_wasteful_one_goes_first():
    trials = trials_of([(1, 30, 4)] * 6, group("old", count=6, idle_w=300.0), group("new", count=6, idle_w=50.0))
    plan = plan_capacity(trials)
    at = trials.space.values(plan.fewest.point)
    assert (at["hosts", ("c", "old")], at["hosts", ("c", "new")]) == (0, 6)


def test_a_lucky_smaller_number_is_no_capacity():
    """Even numbers of hosts below twelve seem to do: a bisection that trusts the order would stop at one of them."""

    def lucky(evaluate):
        def changed(candidates):
            outcomes = evaluate(candidates)
            hosts = outcomes.columns["hosts_up"]
            enough = (hosts >= 12) | ((hosts >= 6) & (hosts % 2 == 0))
            outcomes.columns["task_wait_p95_s"][:] = 0.0 + 1000.0 * ~enough
            return outcomes

        return changed

    trials = trials_of([(1, 30, 4)] * 2, group(count=32), wrap=lucky)
    plan = plan_capacity(trials)
    assert trials.space.hosts(plan.fewest.point) == 12
    assert plan.exceptions
    assert all(trials.space.hosts(odd.point) % 2 == 0 and odd.meets for odd in plan.exceptions)
