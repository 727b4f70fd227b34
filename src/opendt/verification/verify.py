"""Plans of a fleet held against what happened: each one, and all of them by cluster, kind of work and horizon.

A plan is right when what was observed lies within a stated ratio of what was predicted (`Tolerances`). Over many plans the
*error* is the mean of abs(predicted - observed) / observed, the *bias* the mean of the signed ratio (positive where the
prediction is too long or too much), the *coverage* the share that lies in its own band, and the *skill* 1 - error / error of the
closed formula on the same plans.

The error of a latency has three parts, which add up to it:

- *workload*: the stages of the critical path needed other CPU seconds than was predicted; worth as much time as they take at
  the pace that was predicted of them;
- *sensor*: the last stage's end as its worker reports it against the end that its node reports, which knows whole seconds
  only: what half a second's rounding cannot explain;
- *model*: the rest: waiting, starting, transfers, speeds.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from opendt.model.plan import (
    Interval,
    Plan,
    PlanObservation,
    PlanPrediction,
    PlanVerdict,
    Quantity,
    StageObservation,
)

if TYPE_CHECKING:
    from opendt.model.job import Job

__all__ = [
    "ErrorParts",
    "GroupScore",
    "LatencyRow",
    "Tolerances",
    "latency_row",
    "summarize",
    "verify_plan",
    "write_reports",
]

EnergySource = Literal["meter", "model"]

_ENDED: Final = frozenset({"succeeded", "failed", "lost"})
_HORIZONS_S: Final = (10, 60, 600)
_ROUNDING_MS: Final = 1000
"""A node reports ends in whole seconds, rounded down."""
_J_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far an observed quantity may be from the predicted one, relative to the observed one."""

    latency_ratio: float = 0.10
    cpu_ratio: float = 0.10
    memory_ratio: float = 0.10
    energy_ratio: float = 0.20


@dataclass(frozen=True, slots=True)
class ErrorParts:
    """Where the error of a latency comes from, in ms; the three add up to predicted minus observed."""

    workload_ms: float
    model_ms: float
    sensor_ms: float


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """One finished plan, as one row of a table; `cluster` and `kind` are those of its last stage to finish."""

    plan_id: str
    strategy: str
    cluster: str
    kind: str
    horizon: str
    predicted_ms: float
    observed_ms: float
    lower_ms: float
    upper_ms: float
    closed_form_ms: float
    workload_error_ms: float
    model_error_ms: float
    sensor_error_ms: float

    @property
    def error_ratio(self) -> float:
        """(predicted - observed) / observed."""
        return self.predicted_ms / self.observed_ms - 1.0

    @property
    def is_covered(self) -> bool:
        """Whether the observed latency lies in the band."""
        return self.lower_ms <= self.observed_ms <= self.upper_ms


@dataclass(frozen=True, slots=True)
class GroupScore:
    """How right the plans of one group were; the group is named by one value of one column, or is all of them."""

    by: str
    value: str
    plans: int
    error_ratio: float
    bias_ratio: float
    coverage_ratio: float
    within_tolerance_ratio: float
    closed_form_error_ratio: float
    skill_ratio: float | None
    workload_error_ms: float
    model_error_ms: float
    sensor_error_ms: float


def verify_plan(
    plan: Plan,
    observation: PlanObservation,
    *,
    energy_j: float | None = None,
    energy_source: EnergySource = "model",
    tolerances: Tolerances | None = None,
) -> PlanVerdict:
    """Hold a plan against what happened.

    Parameters
    ----------
    plan : Plan
        With its prediction.
    observation : PlanObservation
        What is known of its stages; quantities are judged once all stages have ended.
    energy_j : float, optional
        Energy of its stages, J.
    energy_source : {"model", "meter"}
        Whether a meter said so, or CPU seconds through a power model.
    tolerances : Tolerances, optional
        The defaults unless given.

    Raises
    ------
    ValueError
        When the plan predicted nothing: it was infeasible.
    """
    if plan.prediction is None:
        raise ValueError(f"plan {plan.plan_id} has no prediction to be held against anything")
    limits = tolerances or Tolerances()
    stages = observation.stages
    is_complete = {stage.stage_id for stage in stages if stage.phase in _ENDED} >= set(plan.placements)
    said: PlanPrediction = plan.prediction
    finishes = [stage.finished_ms for stage in stages if stage.finished_ms is not None]
    latency_ms = float(max(finishes) - plan.accepted_ms) if is_complete and finishes else None
    cpu_seconds = _total(stages, lambda stage: stage.cpu_seconds) if is_complete else None
    peaks = [stage.memory_peak_mib for stage in stages if stage.memory_peak_mib is not None]
    memory_mib = max(peaks) if is_complete and len(peaks) == len(stages) else None
    energy_kwh = energy_j / _J_PER_KWH if is_complete and energy_j is not None else None
    quantities = {
        "latency_ms": _judged(said.latency_p50_ms, latency_ms, said.latency_interval_ms, limits.latency_ratio),
        "cpu_seconds": _judged(said.cpu_seconds, cpu_seconds, said.cpu_seconds_interval, limits.cpu_ratio),
        "memory_peak_mib": _judged(
            said.memory_peak_mib, memory_mib, said.memory_peak_interval_mib, limits.memory_ratio
        ),
        "energy_kwh": _judged(
            said.energy_kwh,
            energy_kwh,
            said.energy_interval_kwh,
            limits.energy_ratio,
            is_modelled=energy_source == "model",
        ),
    }
    judged = [one.within_tolerance for one in quantities.values() if one.within_tolerance is not None]
    return PlanVerdict(
        plan_id=plan.plan_id,
        is_complete=is_complete,
        within_tolerance=all(judged) if is_complete and judged else None,
        **quantities,
    )


def _total(stages: Sequence[StageObservation], read: Callable[[StageObservation], float | None]) -> float | None:
    values = [read(stage) for stage in stages]
    return None if any(value is None for value in values) else sum(value for value in values if value is not None)


def _judged(
    predicted: float, observed: float | None, interval: Interval, tolerance: float, *, is_modelled: bool = False
) -> Quantity:
    if observed is None or observed <= 0:
        return Quantity(
            predicted=predicted,
            observed=observed,
            error_ratio=None,
            within_tolerance=None,
            in_interval=None,
            is_modelled=is_modelled,
        )
    error = predicted / observed - 1.0
    return Quantity(
        predicted=predicted,
        observed=observed,
        error_ratio=error,
        within_tolerance=abs(error) <= tolerance,
        in_interval=interval.lower <= observed <= interval.upper,
        is_modelled=is_modelled,
    )


def latency_row(plan: Plan, job: Job, observation: PlanObservation) -> LatencyRow | None:
    """Make the row of a plan whose stages have all succeeded; None for any other."""
    said = plan.prediction
    stages = {stage.stage_id: stage for stage in observation.stages}
    if said is None or any(_finish(stages.get(name)) is None for name in plan.placements):
        return None
    last = max(stages.values(), key=lambda stage: (stage.finished_ms or 0, stage.stage_id))
    observed_ms = float((last.finished_ms or 0) - plan.accepted_ms)
    if observed_ms <= 0:
        return None  # clocks that disagree: nothing to divide by
    parts = _parts(said, job, stages, last, said.latency_p50_ms - observed_ms)
    work = next(stage.work for stage in job.stages if stage.id == last.stage_id)
    return LatencyRow(
        plan_id=plan.plan_id,
        strategy=plan.strategy,
        cluster=last.cluster,
        kind="none" if work is None else work.kind,
        horizon=_horizon(said.latency_p50_ms),
        predicted_ms=said.latency_p50_ms,
        observed_ms=observed_ms,
        lower_ms=said.latency_interval_ms.lower,
        upper_ms=said.latency_interval_ms.upper,
        closed_form_ms=said.closed_form_latency_ms,
        workload_error_ms=parts.workload_ms,
        model_error_ms=parts.model_ms,
        sensor_error_ms=parts.sensor_ms,
    )


def _finish(stage: StageObservation | None) -> int | None:
    return None if stage is None or stage.phase != "succeeded" else stage.finished_ms


def _horizon(latency_ms: float) -> str:
    for limit_s in _HORIZONS_S:
        if latency_ms < limit_s * 1000:
            return f"under {limit_s} s"
    return f"{_HORIZONS_S[-1]} s and more"


def _parts(
    said: PlanPrediction,
    job: Job,
    stages: Mapping[str, StageObservation],
    last: StageObservation,
    error_ms: float,
) -> ErrorParts:
    """Split an error; see the head of this module."""
    predicted = {stage.stage_id: stage for stage in said.stages}
    workload_ms = 0.0
    for name in _critical_path(job, stages, last.stage_id):
        one, cpu_seconds = predicted.get(name), stages[name].cpu_seconds
        if one is None or cpu_seconds is None or one.cpu_seconds <= 0:
            continue
        workload_ms += one.time.run_ms * (1.0 - cpu_seconds / one.cpu_seconds)
    sensor_ms = 0.0
    if last.container_finished_ms is not None and last.finished_ms is not None:
        apart_ms = last.finished_ms - last.container_finished_ms
        # The node's second began up to a second before: only what lies outside of it is a disagreement. A worker's end
        # that is too late makes the prediction look too short.
        sensor_ms = -float(apart_ms if apart_ms < 0 else max(0, apart_ms - _ROUNDING_MS))
    return ErrorParts(workload_ms=workload_ms, sensor_ms=sensor_ms, model_ms=error_ms - workload_ms - sensor_ms)


def _critical_path(job: Job, stages: Mapping[str, StageObservation], last: str) -> list[str]:
    """The chain of stages that each waited for: from the last to finish back to a first one."""
    needs = {stage.id: stage.needs for stage in job.stages}
    path = [last]
    while needs[path[-1]]:
        path.append(max(needs[path[-1]], key=lambda name: (stages[name].finished_ms or 0, name)))
    return path


def summarize(rows: Sequence[LatencyRow], *, tolerance_ratio: float = Tolerances().latency_ratio) -> list[GroupScore]:
    """Score all plans, then those of each cluster, kind, horizon and strategy."""
    groups: dict[tuple[str, str], list[LatencyRow]] = {("all", ""): list(rows)} if rows else {}
    for by in ("cluster", "kind", "horizon", "strategy"):
        for value in sorted({getattr(row, by) for row in rows}):
            groups[by, value] = [row for row in rows if getattr(row, by) == value]
    return [_score(by, value, members, tolerance_ratio) for (by, value), members in groups.items()]


def _score(by: str, value: str, rows: Sequence[LatencyRow], tolerance_ratio: float) -> GroupScore:
    error = _mean(abs(row.error_ratio) for row in rows)
    rival = _mean(abs(row.closed_form_ms / row.observed_ms - 1.0) for row in rows)
    return GroupScore(
        by=by,
        value=value,
        plans=len(rows),
        error_ratio=error,
        bias_ratio=_mean(row.error_ratio for row in rows),
        coverage_ratio=_mean(float(row.is_covered) for row in rows),
        within_tolerance_ratio=_mean(float(abs(row.error_ratio) <= tolerance_ratio) for row in rows),
        closed_form_error_ratio=rival,
        skill_ratio=1.0 - error / rival if rival > 0 else None,
        workload_error_ms=_mean(abs(row.workload_error_ms) for row in rows),
        model_error_ms=_mean(abs(row.model_error_ms) for row in rows),
        sensor_error_ms=_mean(abs(row.sensor_error_ms) for row in rows),
    )


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def write_reports(rows: Sequence[LatencyRow], folder: Path) -> list[Path]:
    """Write ``latency.parquet``, ``latency.csv`` and ``summary.csv``, each whole or not at all; gives their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(LatencyRow)]
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    table = folder / "latency.parquet"
    draft = table.with_suffix(".parquet.part")
    pq.write_table(pa.table(columns), draft)
    draft.replace(table)
    return [
        table,
        _write_csv(folder / "latency.csv", names, (astuple(row) for row in rows)),
        _write_csv(
            folder / "summary.csv",
            [field.name for field in fields(GroupScore)],
            (astuple(score) for score in summarize(rows)),
        ),
    ]


def _write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    draft = path.with_suffix(".csv.part")
    with draft.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
    draft.replace(path)
    return path
