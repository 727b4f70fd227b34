"""Predictions of plans: where time goes, units, risk, and that what is observed changes what is predicted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from opendt.model.errors import ModelError
from opendt.model.job import StageWork
from opendt.model.plan import Placement, Plan, StageObservation
from opendt.twin.fleet_bands import RatioBand
from opendt.twin.fleet_costs import quota_run_ms
from opendt.twin.fleet_energy import kwh, stage_energy_j
from opendt.twin.fleet_futures import FleetFutures, FutureSettings, tail_mean
from opendt.twin.fleet_learn import FleetCalibration
from opendt.twin.fleet_start import start_of_pod, start_of_request
from opendt.twin.predict import PredictiveSimulator
from tests.small_fleet import CLUSTERS, NODES, NOW_MS, cluster, job, node, pod, predictor, stage


def at(name, cluster_name, node_name, form="native"):
    return Placement(stage_id=name, cluster=cluster_name, node_name=node_name, exec_format=form)


def plan_of(one_job, placements, prediction, plan_id="plan"):
    return Plan(
        plan_id=plan_id,
        job_id=one_job.id,
        job_hash="",
        strategy="greedy",
        snapshot_version=1,
        accepted_ms=NOW_MS,
        scale=one_job.scale or 100.0,
        placements=placements,
        prediction=prediction,
        explanation="",
    )


def observed(name, cluster_name, node_name, started_ms, finished_ms, cpu_seconds, **values):
    described = {"phase": "succeeded", "exec_format": "native", "memory_peak_mib": 400.0}
    return StageObservation(
        stage_id=name,
        cluster=cluster_name,
        node_name=node_name,
        created_ms=NOW_MS + 10,
        started_ms=NOW_MS + started_ms,
        finished_ms=NOW_MS + finished_ms,
        cpu_seconds=cpu_seconds,
        **(described | values),
    )


def test_energy_in_the_right_unit():
    assert kwh(95.0 * 1.05) == pytest.approx(2.77e-5, rel=1e-3)
    whole = node("core", "n", idle_w=95.0, max_w=95.0, cpu_millicores=1000)
    assert kwh(stage_energy_j(whole, 1000, 1.05, 1.05)) == pytest.approx(2.77e-5, rel=1e-3)


def test_where_the_time_goes():
    said = predictor().score_plan(
        job(stage("a", output_mb=10.0), stage("b", needs=("a",)), input_mb=5.0),
        {"a": at("a", "core", "core-1"), "b": at("b", "edge", "edge-1")},
    )
    first, second = said.stages
    assert first.time.transfer_ms == pytest.approx(15 + 50)  # half of 30 ms, 5 MB at 100 MB/s
    assert first.time.startup_ms == pytest.approx(500.0 + 30.0)  # and 30 ms of CPU under a limit of one core
    assert first.time.run_ms == pytest.approx(8000.0, rel=0.002)  # 10 s of 2400 MHz at 3000 MHz
    assert second.time.transfer_ms == pytest.approx(15 + 100, abs=1)
    assert second.time.startup_ms == pytest.approx(1530.0)  # until it is noticed that the first one ended
    assert second.time.run_ms == pytest.approx(10_000.0, rel=0.002)
    assert second.finish_ms == pytest.approx(first.finish_ms + second.time.total_ms, abs=2)
    assert said.latency_p50_ms == pytest.approx(second.finish_ms, rel=0.05)
    assert said.cpu_seconds == pytest.approx(18.0, rel=0.005)  # and what a program takes besides its work
    assert said.closed_form_latency_ms == pytest.approx(second.finish_ms, rel=0.002)
    assert said.latency_interval_ms.lower < said.latency_p50_ms < said.latency_interval_ms.upper
    assert said.latency_p95_ms == said.latency_interval_ms.upper


def test_emulation_depends_on_the_kind_of_work():
    def seconds(kind, form, cluster_name="edge", node_name="edge-1"):
        one = job(stage(work=StageWork(kind=kind, cpu_seconds=1.0), formats=("native", "arm64", "wasm")))
        return predictor().score_plan(one, {"a": at("a", cluster_name, node_name, form)}).cpu_seconds

    assert seconds("integer", "qemu-arm64") == pytest.approx(1.03)  # the program itself takes 0.03
    assert 32 <= seconds("floating_point", "qemu-arm64") <= 34
    assert seconds("floating_point", "wasm") == pytest.approx(1.83)
    assert seconds("sorting", "qemu-arm64") == pytest.approx(3.73)
    assert seconds("sorting", "wasm") == pytest.approx(2.43)


def test_a_quota_gives_slices_of_periods():
    assert quota_run_ms(0.05, 500) == 50.0  # fits the first slice
    assert quota_run_ms(0.06, 500) == pytest.approx(110.0)
    assert quota_run_ms(100.0, 100) == pytest.approx(1_000_000, rel=1e-3)


def test_carbon_and_cost_are_those_of_the_cluster():
    said = predictor().score_plan(job(), {"a": at("a", "core", "core-1")})
    assert said.carbon_g == pytest.approx(said.energy_kwh * 45.0)
    assert said.cost == pytest.approx(0.04 * (0.53 + 8.009) / 3600)
    small = job(stage(cpu_millicores=100_000, work=StageWork(cpu_seconds=1000.0)), scale=100.0)
    assert predictor().score_plan(small, {"a": at("a", "core", "core-1")}).cost == pytest.approx(
        100 * said.cost, rel=0.01
    )


def test_a_deadline_is_missed_more_likely_the_nearer_it_is():
    def missed(deadline_ms):
        said = predictor().score_plan(job(deadline_ms=deadline_ms), {"a": at("a", "edge", "edge-1")})
        assert said.risk_score >= said.deadline_miss_probability
        return said.deadline_miss_probability

    assert missed(60_000) < 2e-3  # nothing was seen yet: machines may be half as fast as they say
    assert missed(3_000) > 0.99
    assert 0.3 < missed(10_560) < 0.7
    assert missed(10_000) > missed(10_560) > missed(11_500)


def test_failures_are_part_of_the_risk():
    safe = predictor().score_plan(job(), {"a": at("a", "core", "core-1")}).risk_score
    risky = predictor().score_plan(job(), {"a": at("a", "home", "home-1")}).risk_score
    assert 0 < safe < risky


def test_a_full_node_means_waiting_and_a_pod_of_a_plan_is_known_to_go():
    twin = predictor(pods=(pod("home", "home-1", cpu_millicores=1500, plan_id="other", stage_id="a"),))
    assert twin.score_plan(job(), {"a": at("a", "home", "home-1")}).latency_p50_ms > 3_600_000
    other = job(stage(), id="other")
    empty = predictor()
    placements = {"a": at("a", "home", "home-1")}
    twin.expect(plan_of(other, placements, empty.score_plan(other, placements), "other"))
    said = twin.score_plan(job(), placements)
    assert 0 < said.stages[0].time.queue_ms < 20_000


def test_of_a_job_that_is_no_gang_what_has_a_place_is_predicted():
    loose = job(stage("a"), stage("b"), gang=False)
    said = predictor().score_plan(loose, {"b": at("b", "core", "core-1")})
    assert [one.stage_id for one in said.stages] == ["b"]
    with pytest.raises(ModelError, match="none of stage a"):
        predictor().score_plan(job(stage("a"), stage("b")), {"b": at("b", "core", "core-1")})


def test_what_is_asked_of_it_must_be_there():
    with pytest.raises(ModelError, match="placements of job job: found none of stage a"):
        predictor().score_plan(job(), {})
    with pytest.raises(ModelError, match="placement of a: found node nowhere of core"):
        predictor().score_plan(job(), {"a": at("a", "core", "nowhere")})


def run_many(twin, rounds, startup_ms, slowness, spread=0.03, seed=0):
    """Let plans run on a machine that differs from what was assumed; gives errors and whether each was in its band."""
    rng = np.random.default_rng(seed)
    errors, inside = [], []
    for number in range(rounds):
        one = job(stage(work=StageWork(kind="sorting", cpu_seconds=float(rng.uniform(2.0, 20.0)))))
        placements = {"a": at("a", "edge", "edge-1")}
        said = twin.score_plan(one, placements)
        plan = plan_of(one, placements, said, f"plan-{number}")
        twin.expect(plan)
        begun = startup_ms * np.exp(0.2 * rng.standard_normal()) + said.stages[0].time.transfer_ms
        seconds = one.stages[0].work.cpu_seconds * slowness * np.exp(spread * rng.standard_normal())
        end = begun + seconds * 1000.0
        twin.learn(one, plan, observed("a", "edge", "edge-1", round(begun), round(end), seconds))
        errors.append(said.latency_p50_ms / end - 1.0)
        band = said.latency_interval_ms
        inside.append(band.lower <= round(end) <= band.upper)
    return np.array(errors), np.array(inside)


def test_a_stage_that_ran_elsewhere_than_planned_teaches_nothing_of_starts():
    twin = predictor()
    one = job(stage(work=StageWork(kind="sorting", cpu_seconds=5.0)))
    placements = {"a": at("a", "edge", "edge-1")}
    said = twin.score_plan(one, placements)
    plan = plan_of(one, placements, said, "plan-1")
    twin.expect(plan)
    late = observed("a", "edge", "edge-1", 600_000, 605_000, 5.0)
    twin.learn(one, plan, late, is_as_planned=False)
    then = twin.score_plan(one, placements).stages[0].time.startup_ms
    assert then == pytest.approx(said.stages[0].time.startup_ms, rel=0.01)
    twin.learn(one, plan, late)
    assert twin.score_plan(one, placements).stages[0].time.startup_ms > 2 * then


def test_what_is_observed_calibrates_what_is_predicted_next():
    errors, inside = run_many(predictor(), 400, startup_ms=600.0, slowness=1.7)
    assert abs(errors[0]) > 0.2
    assert np.mean(np.abs(errors[20:]) < 0.10) > 0.9
    assert 0.86 <= inside[30:].mean() <= 0.94


def test_one_wild_outcome_is_not_believed():
    twin = predictor()
    run_many(twin, 60, startup_ms=600.0, slowness=1.0)
    before = twin.calibration.startup("edge", "native").ms(1000, is_after_others=False)
    twin.calibration.see_startup("edge", "native", 600_000.0, NOW_MS, millicores=1000)
    assert twin.calibration.startup("edge", "native").ms(1000, is_after_others=False) < 1.2 * before


def test_what_was_learned_survives_a_restart_to_the_bit():
    twin = predictor()
    run_many(twin, 30, startup_ms=700.0, slowness=1.3)
    open_plan = {"a": at("a", "edge", "edge-1")}
    twin.expect(plan_of(job(), open_plan, twin.score_plan(job(), open_plan), "open"))
    again = predictor()
    again.restore(json.loads(json.dumps(twin.state())))
    assert again.state() == twin.state()
    assert again.score_plan(job(), open_plan) == twin.score_plan(job(), open_plan)
    assert run_many(again, 5, 700.0, 1.3, seed=1)[0].tolist() == run_many(twin, 5, 700.0, 1.3, seed=1)[0].tolist()


def test_emulation_is_learned_apart_from_speed():
    calibration, machine = FleetCalibration(), NODES[3]
    for _ in range(20):
        calibration.see_cpu(machine, "native", "floating_point", 10.0, 12.0, NOW_MS, millicores=1000)
        calibration.see_cpu(machine, "qemu-arm64", "floating_point", 10.0, 12.0 * 25.0, NOW_MS, millicores=1000)
    plain = calibration.work_cost(machine, "native", "floating_point")
    emulated = calibration.work_cost(machine, "qemu-arm64", "floating_point")
    assert plain.cpu_seconds(10.0, 1000) == pytest.approx(12.0, rel=0.01)
    assert emulated.cpu_seconds(10.0, 1000) == pytest.approx(300.0, rel=0.01)
    other = calibration.work_cost(node("core", "x", core_speed_mhz=4800.0), "qemu-arm64", "floating_point")
    assert 14.0 < other.factor < 18.0  # twice as fast by its label; how much of 1.2 is its own nobody has seen


def test_small_quotas_cost_what_each_slice_begins_with():
    calibration, machine = FleetCalibration(), NODES[0]
    rng = np.random.default_rng(5)
    for number in range(200):
        millicores, work = int(rng.choice((30, 40, 50))), float(rng.uniform(0.1, 0.8))
        seen = 0.05 + work * 1.1 * (1 + 3.0 / (0.1 * millicores))
        calibration.see_cpu(
            machine,
            "native",
            "memory",
            work,
            seen * np.exp(0.02 * rng.standard_normal()),
            number,
            millicores=millicores,
        )
    price = calibration.work_cost(machine, "native", "memory")
    for millicores in (30, 50):
        assert price.cpu_seconds(0.5, millicores) == pytest.approx(
            0.05 + 0.55 * (1 + 3.0 / (0.1 * millicores)), rel=0.05
        )


def test_what_passes_before_the_work_begins_is_no_part_of_its_run():
    calibration = FleetCalibration()
    for number in range(100):
        seconds = 0.2 + 0.005 * number
        ideal_ms, lead_ms = seconds * 1e6 / 40, 0.03 * 1e6 / 40
        calibration.see_run("core", "native", ideal_ms - lead_ms, ideal_ms, number, millicores=40)
    price = calibration.work_cost(NODES[0], "native", "integer")
    assert price.in_run(0.2) == pytest.approx(0.17, rel=0.03)
    assert price.in_run(0.001) == pytest.approx(0.0001)


def test_a_start_takes_longer_the_smaller_the_limit_and_after_others():
    calibration = FleetCalibration()
    for number in range(150):
        millicores, after = (30, 40, 50)[number % 3], number % 2 == 0
        seen_ms = 300.0 + 0.05 * 1e6 / millicores + (1700.0 if after else 0.0)
        calibration.see_startup("core", "native", seen_ms, number, millicores=millicores, is_after_others=after)
    start = calibration.startup("core", "native")
    assert start.ms(30, is_after_others=False) == pytest.approx(1967, rel=0.05)
    assert start.ms(50, is_after_others=True) == pytest.approx(3000, rel=0.05)


def test_failure_rates_move_from_the_description_to_what_was_counted():
    calibration = FleetCalibration()
    assert calibration.failure_rate_per_h("home", 0.1) == 0.1
    calibration.see_failures("home", 0.0, 9000.0)
    assert calibration.failure_rate_per_h("home", 0.1) == pytest.approx(0.01)
    calibration.see_failures("home", 900.0, 0.0)
    assert calibration.failure_rate_per_h("home", 0.1) == pytest.approx(0.1)


def test_a_lost_stage_is_a_failure_and_a_failed_one_is_not():
    for phase, failures in (("lost", 1.0), ("failed", 0.0)):
        twin = predictor()
        plan = plan_of(job(), {"a": at("a", "home", "home-1")}, None)
        twin.learn(job(), plan, observed("a", "home", "home-1", 100, 3_600_100, None, phase=phase))
        counted = twin.calibration.failures["home"]
        assert (counted.failures, counted.hours) == (failures, pytest.approx(1.0))


def test_bands_cover_what_they_say_when_errors_change():
    rng = np.random.default_rng(3)
    band, inside = RatioBand(0.9), []
    for number in range(2000):
        spread = 0.1 if number < 1000 else 0.25
        lower, upper = band.interval(100.0, 0.05)
        outcome = 100.0 * np.exp(spread * rng.standard_t(4) * 0.5 + 0.02)
        inside.append(lower <= outcome <= upper)
        band.settle(outcome, 100.0, 0.05, lower, upper)
    assert 0.87 <= np.mean(inside[100:1000]) <= 0.93
    assert 0.86 <= np.mean(inside[1200:]) <= 0.93


def test_bands_cover_what_they_say_though_they_remember_little():
    rng = np.random.default_rng(4)
    band = RatioBand(0.9, prior=1.0, step=0.0)  # nothing else to make up for it
    under_way, inside = [], []
    for outcome in 100.0 * np.exp(0.1 * rng.standard_t(4, size=4000)):
        under_way.append((outcome, *band.interval(100.0, 0.05)))
        if len(under_way) > 8:  # plans overlap
            seen, lower, upper = under_way.pop(0)
            inside.append(lower <= seen <= upper)
            band.settle(seen, 100.0, 0.05, lower, upper)
    assert 0.89 <= np.mean(inside[100:]) <= 0.92


# Futures.


def laid_out(twin, one, **placements):
    return twin.lay_out(twin.scaled(one), placements)


def test_futures_added_up_equal_futures_lived_on_forks():
    twin = predictor(clusters=(*CLUSTERS[:2], cluster("home", failure_rate_per_h=40.0)))
    chain = job(stage("a", output_mb=10.0), stage("b", needs=("a",)), stage("c", needs=("a", "b")))
    laid = laid_out(twin, chain, a=at("a", "home", "home-1"), b=at("b", "core", "core-1"), c=at("c", "edge", "edge-1"))
    futures = FleetFutures(twin, FutureSettings(count=300))
    summed, lived = futures.latencies_ms(laid), futures.on_forks(laid)
    assert np.abs(summed - lived).max() <= 8.0  # each piece is rounded to ms
    assert lived.tolist() == futures.on_forks(laid, threads=1).tolist()
    assert summed.max() > summed.min() + 9_000  # some future has a failure, which costs its recovery at least


def test_forks_know_what_is_on_the_nodes():
    busy = (pod("core", "core-1", cpu_millicores=3500),)
    twin = predictor(pods=busy)
    laid = laid_out(twin, job(), a=at("a", "core", "core-1"))
    futures = FleetFutures(twin, FutureSettings(count=50))
    assert futures.on_forks(laid).min() > 3_600_000 > futures.latencies_ms(laid).max()


def test_clusters_of_one_failure_domain_fail_together():
    def both(domain):
        described = tuple(
            cluster(name, failure_domain=where, failure_rate_per_h=30.0) for name, where in domain.items()
        )
        twin = predictor(clusters=described)
        pair = job(stage("a"), stage("b"))
        count = 20_000
        futures = FleetFutures(twin, FutureSettings(count=count, common_ratio=1.0))
        lived = futures._live(laid_out(twin, pair, a=at("a", "core", "core-1"), b=at("b", "edge", "edge-1")))[1]
        failed = [one.pause_ms > 0 for one in lived]
        return (failed[0] & failed[1]).mean() / failed[0].mean(), failed[0].mean()

    shared, rate = both({"core": "north", "edge": "north", "home": "x"})
    apart, same_rate = both({"core": "north", "edge": "south", "home": "x"})
    assert shared > 0.75
    assert apart < 0.2
    expected = 1.0 - np.exp(-30.0 * (530 + 8000) / 3.6e6)
    assert rate == pytest.approx(expected, rel=0.2)  # how long they run varies
    assert same_rate == pytest.approx(expected, rel=0.2)


def test_the_mean_of_the_tail():
    assert tail_mean(np.arange(1.0, 1001.0), 0.1) == 950.5
    assert tail_mean(np.array([3.0, 1.0]), 0.01) == 3.0


# When will it start?


def test_a_pod_starts_when_the_one_before_it_is_predicted_to_end():
    running = pod("home", "home-1", "r", cpu_millicores=1800, plan_id="other", stage_id="a", started_ms=NOW_MS)
    waits = pod("home", "home-1", "w", phase="Pending", scheduled_ms=-1, started_ms=-1)
    twin = predictor(pods=(running, waits))
    other, placements = job(stage(), id="other"), {"a": at("a", "home", "home-1")}
    said = predictor().score_plan(other, placements)
    twin.expect(plan_of(other, placements, said, "other"))
    found = start_of_pod(twin, ("home", "opendt", "w"))
    held_ms = said.stages[0].time.startup_ms + said.stages[0].time.run_ms
    assert found.quantiles_ms[0.5] - NOW_MS == pytest.approx(held_ms + 530, rel=0.1)
    assert found.quantiles_ms[0.05] < found.quantiles_ms[0.5] < found.quantiles_ms[0.95]
    assert "waits for room" in found.reason


def test_of_a_pod_that_nobody_knows_only_its_age_is_known():
    running = pod("home", "home-1", "r", cpu_millicores=1800, started_ms=NOW_MS - 60_000)
    twin = predictor(pods=(running, pod("home", "home-1", "w", phase="Pending", started_ms=-1)))
    middle = start_of_pod(twin, ("home", "opendt", "w")).quantiles_ms[0.5] - NOW_MS
    assert 40_000 < middle < 90_000  # half of all pods last as long again


def test_where_there_is_room_it_starts_now_and_what_fits_nowhere_never():
    twin = predictor()
    assert start_of_request(twin, [("core", "core-1")], 1000, 64).quantiles_ms[0.5] - NOW_MS < 3000
    assert start_of_request(twin, [("core", "core-1")], 5000, 64) is None
    assert start_of_pod(predictor(pods=(pod("core", "core-1"),)), ("core", "opendt", "p")) is None
    with pytest.raises(ModelError, match="a pod of the fleet as last seen"):
        start_of_pod(twin, ("core", "opendt", "x"))


def test_a_predictor_is_deterministic():
    one = job(stage("a"), stage("b", needs=("a",)))
    placements = {"a": at("a", "core", "core-1"), "b": at("b", "home", "home-1")}
    assert predictor().score_plan(one, placements) == predictor().score_plan(one, placements)
    assert isinstance(predictor(), PredictiveSimulator)
