from __future__ import annotations

import pytest

from opendt.model.slo import Slo
from opendt.optimization.scoring import check_slo, score, window_cost
from opendt.twin.metrics import WindowMetrics


def slo(**targets):
    return Slo.model_validate({"version": 1, **targets})


def window(minutes=5, **measured):
    return WindowMetrics(start_ms=0, end_ms=minutes * 60_000, **measured)


def the_one(objectives, metrics):
    (status,) = check_slo(objectives, metrics)
    return status


@pytest.mark.parametrize(
    ("measured", "met", "excess"), [(1.8, True, -0.1), (2.0, True, 0.0), (2.2, True, 0.1), (2.21, False, 0.105)]
)
def test_a_target_is_met_up_to_its_tolerance(measured, met, excess):
    status = the_one(slo(energy={"target_kwh": 2.0, "tolerance_ratio": 0.1}), window(energy_kwh=measured))
    assert (status.name, status.unit, status.target, status.measured) == ("energy", "kWh", 2.0, measured)
    assert status.limit == pytest.approx(2.2)
    assert status.met is met
    assert status.excess_ratio == pytest.approx(excess)


def test_energy_and_carbon_of_an_hour_are_scaled_to_the_window_of_the_objectives():
    objectives = slo(energy={"target_kwh": 2.0}, carbon={"target_kg_co2": 1.0}, peak_power={"target_kw": 30.0})
    energy, carbon, peak = check_slo(objectives, window(60, energy_kwh=24.0, emission_kg=6.0, peak_power_kw=20.0))
    assert (energy.measured, carbon.measured, peak.measured) == (2.0, 0.5, 20.0)


def test_all_targets_come_in_a_fixed_order_with_their_units():
    objectives = slo(
        utilization={"min_ratio": 0.3, "max_ratio": 0.8},
        runtime={
            "task_slowdown_p95": {"target_ratio": 2.0},
            "task_wait_p95": {"target_s": 60},
            "makespan": {"target_s": 3600},
        },
        peak_power={"target_kw": 30},
        carbon={"target_kg_co2": 1},
        energy={"target_kwh": 2},
        cost={"target_cost": 1, "currency": "EUR", "price_per_kwh": 0.2},
    )
    found = [(status.name, status.unit, status.met) for status in check_slo(objectives, window())]
    assert found == [
        ("energy", "kWh", None),
        ("carbon", "kg CO2", None),
        ("cost", "EUR", None),
        ("peak_power", "kW", None),
        ("makespan", "s", None),
        ("task_wait_p95", "s", None),
        ("task_slowdown_p95", "ratio", None),
        ("utilization", "ratio", None),
    ]


def test_targets_that_are_not_set_are_not_checked():
    assert check_slo(slo(), window(energy_kwh=1e9)) == ()


@pytest.mark.parametrize(("so_far", "met"), [(1000.0, None), (4000.0, False)])
def test_an_open_makespan_can_only_be_breached(so_far, met):
    objectives = slo(runtime={"makespan": {"target_s": 3600, "tolerance_ratio": 0.1}})
    assert the_one(objectives, window(makespan_s=so_far, makespan_complete=False)).met is met
    assert the_one(objectives, window(makespan_s=1000.0)).met is True


@pytest.mark.parametrize(
    ("measured", "target", "met", "excess"),
    [
        (0.2, 0.3, False, 0.1),
        (0.26, 0.3, True, 0.04),
        (0.5, 0.3, True, -0.2),
        (0.84, 0.8, True, 0.04),
        (0.9, 0.8, False, 0.1),
    ],
)
def test_utilisation_is_held_against_the_nearer_end_of_its_band(measured, target, met, excess):
    objectives = slo(utilization={"min_ratio": 0.3, "max_ratio": 0.8, "tolerance_ratio": 0.05})
    status = the_one(objectives, window(utilization_ratio=measured))
    assert (status.target, status.met) == (target, met)
    assert status.excess_ratio == pytest.approx(excess)


def test_the_score_of_a_feasible_window_by_hand():
    objectives = slo(
        energy={"target_kwh": 2.0, "weight": 3.0},
        peak_power={"target_kw": 20.0},
        utilization={"min_ratio": 0.3, "max_ratio": 0.8, "weight": 2.0},
    )
    found = score(objectives, window(energy_kwh=1.0, peak_power_kw=15.0, utilization_ratio=0.26))
    # Costs 0.5, 0.75 and 0.04 (points below the band) with weights 3, 1 and 2.
    assert found.objective == pytest.approx((3 * 0.5 + 0.75 + 2 * 0.04) / 6)
    assert found.violation == 0
    assert found.feasible
    assert found.total == pytest.approx(found.objective / (1 + found.objective))
    assert [(part.name, part.unit) for part in found.parts] == [
        ("energy", "kWh"),
        ("peak_power", "kW"),
        ("utilization", "ratio"),
    ]


def test_the_score_of_an_infeasible_window_by_hand():
    objectives = slo(
        energy={"target_kwh": 2.0, "weight": 3.0}, utilization={"min_ratio": 0.3, "max_ratio": 0.8, "weight": 2.0}
    )
    found = score(objectives, window(energy_kwh=3.3, utilization_ratio=0.1))
    # 3.3 kWh is 1.5 times the limit of 2.2; utilisation is 15 points below the limit of 0.25.
    assert found.violation == pytest.approx(3 * 0.5 + 2 * 0.15)
    assert not found.feasible
    assert found.total == pytest.approx(1 + 1.8)


def test_feasible_comes_before_infeasible_and_less_before_more():
    objectives = slo(energy={"target_kwh": 2.0}, runtime={"task_wait_p95": {"target_s": 60}})
    dear = score(objectives, window(energy_kwh=2.2, task_wait_p95_s=66.0))
    cheap = score(objectives, window(energy_kwh=1.1, task_wait_p95_s=66.0))
    broken = score(objectives, window(energy_kwh=0.01, task_wait_p95_s=66.1))
    worse = score(objectives, window(energy_kwh=0.01, task_wait_p95_s=90.0))
    assert cheap.total < dear.total < 1 < broken.total < worse.total


def test_targets_without_weight_do_not_count_and_unknown_ones_are_named():
    objectives = slo(
        energy={"target_kwh": 2.0},
        peak_power={"target_kw": 1.0, "weight": 0},
        runtime={"task_wait_p95": {"target_s": 60}, "makespan": {"target_s": 3600}},
    )
    found = score(objectives, window(energy_kwh=1.0, peak_power_kw=99.0, makespan_s=1800.0, makespan_complete=False))
    assert found.feasible
    assert found.unknown == ("makespan", "task_wait_p95")
    assert found.objective == pytest.approx(0.5)


def test_nothing_to_judge_by_scores_zero():
    assert score(slo(), window(energy_kwh=1.0)).total == 0.0


# Money.

NIGHT_AND_DAY = (*(0.1,) * 8, *(0.3,) * 12, *(0.2,) * 4)  # from 0, 8 and 20 o'clock
NOON_MS = 1_700_000_000_000 // 86_400_000 * 86_400_000 + 12 * 3_600_000


def prices(price, **more):
    key = "price_per_kwh_by_hour" if isinstance(price, tuple) else "price_per_kwh"
    return slo(cost={"target_cost": 1.0, "currency": "EUR", key: price, **more}).cost


def test_a_flat_price_is_paid_for_energy():
    assert window_cost(prices(0.25), window(energy_kwh=2.0)) == pytest.approx(0.5)


def test_hosts_in_service_cost_beside_their_energy():
    # 12 hosts for a twelfth of an hour at 0.06.
    found = window_cost(prices(0.25, price_per_host_hour=0.06), window(energy_kwh=2.0, hosts_up=12))
    assert found == pytest.approx(0.5 + 0.06)


@pytest.mark.parametrize(
    ("start_h", "offset_h", "price"),
    [(0, 0, 0.3), (7, 0, 0.3), (8, 0, 0.2), (12, 0, 0.1), (7, 1, 0.2), (8, -1, 0.3), (36, 0, 0.1)],
)
def test_the_price_is_that_of_the_hour_of_the_day(start_h, offset_h, price):
    at = WindowMetrics(
        start_ms=start_h * 3_600_000, end_ms=start_h * 3_600_000 + 300_000, energy_kwh=2.0, start_epoch_ms=NOON_MS
    )
    assert window_cost(prices(NIGHT_AND_DAY, utc_offset_h=offset_h), at) == pytest.approx(2.0 * price)


def test_a_window_over_several_hours_pays_each_by_its_time():
    # 19:30 to 21:00: half an hour at 0.3 and an hour at 0.2.
    at = WindowMetrics(start_ms=27_000_000, end_ms=32_400_000, energy_kwh=3.0, start_epoch_ms=NOON_MS)
    assert window_cost(prices(NIGHT_AND_DAY), at) == pytest.approx(1.0 * 0.3 + 2.0 * 0.2)


@pytest.mark.parametrize(
    ("price", "more", "measured"),
    [
        (0.25, {}, {}),
        (0.25, {"price_per_host_hour": 0.01}, {"energy_kwh": 1.0}),
        (NIGHT_AND_DAY, {}, {"energy_kwh": 1.0}),
    ],
)
def test_what_is_not_known_has_no_cost(price, more, measured):
    assert window_cost(prices(price, **more), window(**measured)) is None


def test_cost_is_a_target_like_the_others_and_scaled_to_the_window():
    objectives = slo(cost={"target_cost": 0.5, "currency": "USD", "price_per_kwh": 0.25, "tolerance_ratio": 0.1})
    status = the_one(objectives, window(60, energy_kwh=27.0))  # 2.25 kWh and 0.5625 USD in five minutes
    assert (status.name, status.unit, status.target, status.met) == ("cost", "USD", 0.5, False)
    assert status.measured == pytest.approx(0.5625)
    found = score(objectives, window(60, energy_kwh=27.0))
    assert found.total == pytest.approx(1 + 0.5625 / 0.55 - 1)


def test_a_simulated_window_knows_its_absolute_time():
    from opendt.twin.metrics import Totals, window_metrics
    from tests.unit.optimization.small import simulation

    sim = simulation([(0, 60, 4)])
    start = Totals.of(sim)
    sim.advance(300_000)
    metrics = window_metrics(sim.take_series(), sim.take_results(), start=start, end=Totals.of(sim), tasks=sim.tasks())
    assert metrics.start_epoch_ms == 0
    # 0.3 kW for five minutes, from midnight.
    assert window_cost(prices(NIGHT_AND_DAY), metrics) == pytest.approx(0.025 * 0.1)
