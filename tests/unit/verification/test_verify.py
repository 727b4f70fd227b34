"""Plans held against what happened."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from opendt.model.plan import Placement, Plan, PlanObservation, StageObservation
from opendt.verification.verify import Tolerances, latency_row, summarize, verify_plan, write_reports
from tests.told_fleet import NOW_MS, job, prediction

JOB = job()


def plan(plan_id: str = "p", strategy: str = "greedy") -> Plan:
    return Plan(
        plan_id=plan_id,
        job_id=JOB.id,
        job_hash="0",
        strategy=strategy,
        snapshot_version=1,
        accepted_ms=NOW_MS,
        scale=1.0,
        placements={name: Placement(stage_id=name, node_name="a-1", cluster="a") for name in ("first", "second")},
        prediction=prediction(["first", "second"]),
        explanation="",
    )


def seen(
    plan_id: str = "p", *, finish_s: float = 20.0, cpu_seconds: float = 10.0, container_s: float | None = None
) -> PlanObservation:
    def stage(name: str, end_s: float) -> StageObservation:
        return StageObservation(
            stage_id=name,
            node_name="a-1",
            cluster="a",
            exec_format="native",
            phase="succeeded",
            started_ms=NOW_MS + int(end_s * 1000) - 9000,
            finished_ms=NOW_MS + int(end_s * 1000),
            container_finished_ms=None if container_s is None else NOW_MS + int(container_s * 1000),
            cpu_seconds=cpu_seconds,
            memory_peak_mib=64.0,
        )

    stages = (stage("first", finish_s / 2), stage("second", finish_s))
    return PlanObservation(plan_id=plan_id, status="succeeded", stages=stages)


def test_a_plan_that_was_right_is_within_all_tolerances() -> None:
    verdict = verify_plan(plan(), seen(), energy_j=360.0)
    assert verdict.is_complete
    assert verdict.within_tolerance
    assert verdict.latency_ms.error_ratio == 0.0
    assert verdict.cpu_seconds.observed == 20.0
    assert verdict.energy_kwh.observed == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("finish_s", "within", "in_band"),
    [(18.2, True, True), (18.1, False, True), (22.0, True, True), (23.0, False, False)],
)
def test_ten_percent_of_the_observed_latency_is_the_limit(finish_s: float, within: bool, in_band: bool) -> None:
    verdict = verify_plan(plan(), seen(finish_s=finish_s))
    assert verdict.latency_ms.within_tolerance is within
    assert verdict.latency_ms.in_interval is in_band
    assert verdict.within_tolerance is within


def test_what_is_not_over_is_not_judged() -> None:
    half = seen().model_copy(update={"stages": seen().stages[:1], "status": "running"})
    verdict = verify_plan(plan(), half)
    assert not verdict.is_complete
    assert verdict.within_tolerance is None
    assert verdict.latency_ms.observed is None


def test_a_quantity_nobody_measured_is_left_open_and_does_not_spoil_the_rest() -> None:
    verdict = verify_plan(plan(), seen())
    assert verdict.energy_kwh.observed is None
    assert verdict.energy_kwh.within_tolerance is None
    assert verdict.within_tolerance


def test_an_infeasible_plan_has_nothing_to_verify() -> None:
    with pytest.raises(ValueError, match="plan p has no prediction"):
        verify_plan(plan().model_copy(update={"prediction": None}), seen())


def test_the_parts_of_an_error_add_up_and_name_who_caused_it() -> None:
    # Both stages needed a fifth less than the 10 s predicted: of 9000 ms running each, 1800 ms. The node's second is no error.
    row = latency_row(plan(), JOB, seen(finish_s=16.0, cpu_seconds=8.0, container_s=15.5))
    assert row is not None
    assert row.workload_error_ms == pytest.approx(3600.0)
    assert row.sensor_error_ms == 0.0
    assert row.model_error_ms == pytest.approx(4000.0 - 3600.0)
    assert row.error_ratio == pytest.approx(0.25)


def test_clocks_that_disagree_are_the_sensor_s_error() -> None:
    late = latency_row(plan(), JOB, seen(finish_s=23.0, container_s=20.0))
    early = latency_row(plan(), JOB, seen(finish_s=17.0, container_s=20.0))
    assert late is not None
    assert early is not None
    assert (late.sensor_error_ms, early.sensor_error_ms) == (-2000.0, 3000.0)
    assert late.workload_error_ms + late.model_error_ms + late.sensor_error_ms == pytest.approx(-3000.0)


def test_a_plan_that_did_not_succeed_has_no_row() -> None:
    failed = seen().stages[1].model_copy(update={"phase": "failed"})
    assert latency_row(plan(), JOB, seen().model_copy(update={"stages": (seen().stages[0], failed)})) is None


def test_scores_by_group_by_hand(tmp_path: Path) -> None:
    rows = [
        latency_row(plan(name, strategy), JOB, seen(name, finish_s=finish_s))
        for name, strategy, finish_s in (("p", "greedy", 20.0), ("q", "greedy", 25.0), ("r", "cvar", 16.0))
    ]
    known = [row for row in rows if row is not None]
    scores = {(score.by, score.value): score for score in summarize(known)}
    whole = scores["all", ""]
    assert whole.plans == 3
    assert whole.error_ratio == pytest.approx((0.0 + 0.2 + 0.25) / 3)
    assert whole.bias_ratio == pytest.approx((0.0 - 0.2 + 0.25) / 3)
    assert whole.coverage_ratio == pytest.approx(1 / 3)
    assert whole.within_tolerance_ratio == pytest.approx(1 / 3)
    rival = (0.5 + 0.2 + 0.875) / 3
    assert whole.closed_form_error_ratio == pytest.approx(rival)
    assert whole.skill_ratio == pytest.approx(1 - 0.15 / rival)
    assert scores["strategy", "cvar"].error_ratio == pytest.approx(0.25)
    assert scores["horizon", "under 60 s"].plans == 3
    paths = write_reports(known, tmp_path / "reports")
    assert [path.name for path in paths] == ["latency.parquet", "latency.csv", "summary.csv"]
    assert pq.read_table(paths[0]).column("plan_id").to_pylist() == ["p", "q", "r"]
    assert paths[2].read_text().splitlines()[1].startswith("all,,3,")
    assert not list((tmp_path / "reports").glob("*.part"))


def test_no_plans_give_no_scores_and_an_empty_report(tmp_path: Path) -> None:
    assert summarize([]) == []
    assert pq.read_table(write_reports([], tmp_path)[0]).num_rows == 0


def test_tolerances_are_those_of_the_caller() -> None:
    assert verify_plan(
        plan(), seen(finish_s=15.0), tolerances=Tolerances(latency_ratio=0.5)
    ).latency_ms.within_tolerance
