"""A search finds what an exhaustive look finds, the same for a seed, within its budgets, and tells what it has at any time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from opendt.model.change import DropFuture, GroupHosts, RemoveHosts, ThrottleHosts
from opendt.model.slo import CostTarget, DurationTarget, EnergyTarget, PeakPowerTarget, RuntimeTargets, Slo
from opendt.optimization.base import Context, GroupState, SystemState
from opendt.optimization.pareto import non_dominated
from opendt.optimization.scoring import score
from opendt.optimization.search import Search, SearchResult, SearchSettings
from opendt.optimization.search_optimizer import SearchOptimizer, known_future
from opendt.optimization.search_space import SearchSpace, SpaceLimits
from opendt.optimization.trials import Prices, Trials
from opendt.twin.metrics import WindowMetrics
from opendt.twin.whatif import WhatIf
from tests.unit.optimization.small import MINUTE_MS, group, simulation

HOUR_MS = 60 * MINUTE_MS
LIMITS = SpaceLimits(reserve_ratio=0.0, reserve_hosts=0, core_speed_step_ratio=0.05, min_power_cap_ratio=1.0)
NOTHING = Slo(version=1, window_s=3600)


def live():
    """Six hosts of which three have work of half an hour."""
    sim = simulation([(0, 30, 4), (0, 30, 4), (5, 30, 4)], group(count=6))
    sim.advance(MINUTE_MS)
    sim.take_series()
    sim.take_results()
    return sim


def context(sim, slo=NOTHING):
    return Context.of(sim, slo, WhatIf(sim, HOUR_MS).baseline)


def trials_of(slo=NOTHING, *, limits=LIMITS, prices=None, horizon_ms=HOUR_MS, sim=None, **settings):
    sim = live() if sim is None else sim
    space = SearchSpace.of(context(sim, slo), limits=limits)
    return Trials(space, known_future(sim, horizon_ms).evaluate, slo, prices or Prices(), **settings)


def every_point(space):
    return [space.legal(levels) for levels in itertools.product(*(range(len(gene.levels)) for gene in space.genes))]


class Clock:
    """Every look at it takes a second."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        self.seconds += 1.0
        return self.seconds


def energy_slo(kwh, wait_s=60.0):
    return Slo(
        version=1,
        window_s=3600,
        energy=EnergyTarget(target_kwh=kwh, tolerance_ratio=0.0),
        runtime=RuntimeTargets(task_wait_p95=DurationTarget(target_s=wait_s, tolerance_ratio=0.0)),
    )


def test_a_trial_says_what_a_what_if_says():
    sim = live()
    trials = trials_of(sim=sim)
    points = every_point(trials.space)[::7]
    trials.run(points)
    question = WhatIf(sim, HOUR_MS)
    for point in points:
        expected = question.changed(trials.space.changes(point))
        found = trials[point].metrics
        for name in ("emission_kg", "energy_kwh", "peak_power_kw", "mean_power_kw", "utilization_ratio"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9), name
        for name in ("hosts_up", "tasks_completed", "tasks_pending", "tasks_active", "task_wait_p95_s"):
            assert getattr(found, name) == getattr(expected, name), name
        assert found.task_slowdown_p95_ratio == expected.task_slowdown_p95_ratio


def test_the_front_is_that_of_all_configurations_when_the_budget_allows_all():
    exhaustive = trials_of()
    exhaustive.run(every_point(exhaustive.space))
    everything = SearchResult.of(exhaustive.all(), "asked")
    found = Search(trials_of(), SearchSettings(evaluations=10_000, population=24)).run()
    assert found.stopped == "exhausted"
    assert found.best.objectives == everything.best.objectives
    assert {trial.objectives for trial in found.front} == {trial.objectives for trial in everything.front}


@pytest.mark.parametrize("kwh", [0.55, 0.7, 0.85])
def test_the_cheapest_that_meets_is_found_with_a_part_of_the_evaluations(kwh):
    slo = energy_slo(kwh)
    exhaustive = trials_of(slo)
    points = every_point(exhaustive.space)
    exhaustive.run(points)
    cheapest = min((trial.cost for trial in exhaustive.all() if trial.meets), default=None)
    found = Search(trials_of(slo), SearchSettings(evaluations=len(points) // 2, population=12)).run()
    if cheapest is None:
        assert not found.meets
    else:
        assert found.meets
        assert found.best.cost == pytest.approx(cheapest)


def test_equal_seeds_search_alike_and_others_do_not():
    def points(seed):
        return [
            t.point for t in Search(trials_of(), SearchSettings(evaluations=40, population=8, seed=seed)).run().trials
        ]

    assert points(3) == points(3)
    assert points(3) != points(4)


def test_a_budget_of_evaluations_is_kept():
    for budget in (1, 7, 11):
        result = Search(trials_of(), SearchSettings(evaluations=budget, population=8)).run()
        assert len(result.trials) == budget
        assert result.stopped == "evaluations"
        assert result.baseline.changes == ()


def test_a_budget_of_time_is_kept_and_something_is_told():
    clock = Clock()
    result = Search(
        trials_of(), SearchSettings(evaluations=10_000, population=8, time_budget_s=30.0), clock_s=clock
    ).run()
    assert result.stopped == "time"
    assert clock.seconds < 40
    assert 1 < len(result.trials) < 60
    least = Search(trials_of(), SearchSettings(time_budget_s=1e-6), clock_s=Clock()).run()
    assert least.stopped == "time"
    assert least.baseline.changes == ()


def test_it_can_be_stopped_at_any_time():
    search = Search(trials_of(energy_slo(0.7)), SearchSettings(evaluations=200, population=8))

    def stop(count):
        if count > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.run(stop)
    assert search.result.stopped == "asked"
    assert 20 < len(search.result.trials) < 200
    assert search.result.front


def test_more_evaluations_never_find_less():
    ranks = [
        Search(trials_of(energy_slo(0.62)), SearchSettings(evaluations=budget, population=8, walk_ratio=0.0))
        .run()
        .best.rank
        for budget in (10, 20, 40, 60)
    ]
    assert ranks == sorted(ranks, reverse=True)


def test_not_doing_the_work_is_no_saving():
    # Within the hour one host could do two of the three tasks, and a clock of half the speed the same.
    trials = trials_of(NOTHING, work_tolerance_ratio=0.0)
    trials.run(every_point(trials.space))
    result = SearchResult.of(trials.all(), "asked")
    lazy = min(trials.all(), key=lambda trial: trial.metrics.energy_kwh)
    assert lazy.lost_tasks > 0
    assert not lazy.keeps_work
    assert lazy not in result.front
    assert result.best.metrics.tasks_completed == result.baseline.metrics.tasks_completed == 3


def test_tasks_that_no_host_fits_any_more_are_lost():
    sim = simulation([(5, 10, 8)], group("big", count=1, cores=8), group("small", count=2))
    space = SearchSpace.of(context(sim), limits=LIMITS)
    trials = Trials(space, known_future(sim, HOUR_MS).evaluate, NOTHING, Prices())
    without_big = space.nearest([RemoveHosts(hosts=GroupHosts(group="big"))])
    trials.run([without_big])
    assert trials[without_big].lost_tasks > 0
    assert not trials[without_big].meets


def test_a_smaller_part_of_the_futures_weighs_their_worst():
    sim = live()
    scenarios = known_future(sim, HOUR_MS)
    tasks = sim.tasks()["number"]
    base = sim.fork()
    base.apply(DropFuture())
    loads = np.array([[1000.0] * len(tasks), [4000.0] * len(tasks)])
    left_ms = np.full_like(loads, 30 * MINUTE_MS, dtype=np.int64)
    two = replace(scenarios, base=base, tasks=tasks, left_ms=left_ms, cpu_mhz=loads, arrivals=(None, None))
    space = SearchSpace.of(context(sim), limits=LIMITS)
    peaks, energies = [], []
    for ratio in (1.0, 0.5):
        trials = Trials(space, two.evaluate, NOTHING, Prices(), tail_ratio=ratio)
        trials.run([])
        peaks.append(trials.baseline.metrics.peak_power_kw)
        energies.append(trials.baseline.metrics.energy_kwh)
    assert peaks[0] == pytest.approx((0.65 + 0.8) / 2)
    assert peaks[1] == pytest.approx(0.8)
    assert energies[0] == energies[1], "sums are means whatever the share"


def test_cost_follows_the_prices():
    prices = Prices(energy_per_kwh=2.0, carbon_per_kg=3.0, host_per_hour=5.0, added_core_per_hour=7.0)
    limits = replace(LIMITS, max_core_ratio=2.0)
    trials = trials_of(prices=prices, limits=limits)
    gene = next(index for index, one in enumerate(trials.space.genes) if one.kind == "cores")
    more = trials.space.legal([*trials.space.now[:gene], 99, *trials.space.now[gene + 1 :]])
    trials.run([more])
    for trial, added in ((trials.baseline, 0), (trials[more], 24)):
        metrics = trial.metrics
        expected = 2.0 * metrics.energy_kwh + 3.0 * metrics.emission_kg + 5.0 * 6 + 7.0 * added
        assert trial.cost == pytest.approx(expected)


def test_prices_of_the_objectives_come_first():
    slo = Slo(
        version=1,
        window_s=600,
        cost=CostTarget(target_cost=1.0, currency="EUR", price_per_kwh=10.0, price_per_host_hour=1.0),
    )
    trials = trials_of(slo)
    trials.run([])
    assert trials.baseline.cost == pytest.approx(10.0 * trials.baseline.metrics.energy_kwh + 6.0)


def test_changes_beside_the_grid_are_simulated_as_they_are():
    trials = trials_of()
    trial = trials.of_changes((ThrottleHosts(speed_ratio=0.777),), "slower")
    assert trial.words == "slower"
    expected = WhatIf(live(), HOUR_MS).changed([ThrottleHosts(speed_ratio=0.777)])
    assert trial.metrics.energy_kwh == pytest.approx(expected.energy_kwh)
    assert len(trials) == 1, "only the present is remembered"


@pytest.mark.parametrize(
    "settings",
    [{"evaluations": 0}, {"population": 3}, {"time_budget_s": 0.0}, {"walk_ratio": 1.5}, {"walk_ratio": float("nan")}],
)
def test_budgets_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        SearchSettings(**settings)


def test_shares_and_prices_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="tail_ratio is 0"):
        trials_of(tail_ratio=0.0)
    with pytest.raises(ValueError, match="energy_per_kwh is -1"):
        Prices(energy_per_kwh=-1.0)


# The optimiser of the loop.

SETTINGS = SearchSettings(evaluations=80, population=12, limits=LIMITS)


def test_what_is_proposed_meets_the_objectives_when_it_is_simulated():
    sim = live()
    slo = energy_slo(0.7)
    proposal = SearchOptimizer(SETTINGS).propose(context(sim, slo))
    assert (proposal.source, proposal.rule) == ("search", "cheapest_that_meets")
    after = WhatIf(sim, HOUR_MS).changed(proposal.changes)
    before = WhatIf(sim, HOUR_MS).baseline
    assert not score(slo, before).feasible
    assert score(slo, after).feasible
    assert after.tasks_completed == before.tasks_completed
    assert proposal.expected.energy_ratio == pytest.approx(after.energy_kwh / before.energy_kwh - 1.0)
    assert "kWh" in proposal.reason


def test_what_cannot_be_met_is_come_near_to():
    proposal = SearchOptimizer(SETTINGS).propose(context(live(), energy_slo(0.01)))
    assert proposal.rule == "nearest_to_meeting"
    assert "none meets all objectives" in proposal.reason


def test_things_that_are_fine_are_left_alone_unless_much_is_saved():
    slo = Slo(version=1, window_s=3600, peak_power=PeakPowerTarget(target_kw=10.0))
    greedy = SearchOptimizer(replace(SETTINGS, least_gain_ratio=0.01))
    content = SearchOptimizer(replace(SETTINGS, least_gain_ratio=0.9))
    assert greedy.propose(context(live(), slo)) is not None
    assert content.propose(context(live(), slo)) is None
    assert content.last.best.meets


def test_it_keeps_silent_for_a_while_after_a_search():
    sim = live()
    optimizer = SearchOptimizer(replace(SETTINGS, cooldown_ms=10 * MINUTE_MS))
    slo = energy_slo(0.7)
    first = optimizer.propose(context(sim, slo))
    sim.advance(6 * MINUTE_MS)
    assert optimizer.propose(context(sim, slo)) is None
    sim.advance(11 * MINUTE_MS)
    again = optimizer.propose(context(sim, slo))
    assert again is not None
    assert again.id != first.id


def test_a_state_without_a_simulation_gives_no_proposal():
    node = GroupState(cluster="c", group="g", core_count=4, core_speed_mhz=1.0, idle=("a",), busy=(), free_cores=(4,))
    metrics = WindowMetrics(start_ms=0, end_ms=1)
    source = SystemState(groups=(node,))
    assert SearchOptimizer().propose(Context(now_ms=1, slo=energy_slo(1.0), metrics=metrics, source=source)) is None


def test_futures_are_asked_for_when_they_are_given():
    sim = live()
    asked = []

    def futures(one):
        asked.append(one.now_ms)
        return known_future(one.source, 30 * MINUTE_MS)

    optimizer = SearchOptimizer(SETTINGS, futures=futures)
    optimizer.propose(context(sim, energy_slo(0.7)))
    assert asked == [sim.now_ms]
    assert optimizer.last.baseline.metrics.duration_s == 1800


def test_the_twin_is_not_disturbed():
    sim = live()
    before = sim.snapshot()
    SearchOptimizer(SETTINGS).propose(context(sim, energy_slo(0.7)))
    assert sim.snapshot() == before


def test_nothing_dominates_the_front_or_lies_beside_it():
    result = Search(trials_of(), SearchSettings(evaluations=60, population=12)).run()
    kept = [trial for trial in result.trials if trial.keeps_work]
    flags = non_dominated([trial.objectives for trial in kept])
    assert {trial.point for trial in result.front} == {t.point for t, flag in zip(kept, flags, strict=True) if flag}
    assert result.knee in result.front
