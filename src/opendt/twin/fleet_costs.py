"""What a stage costs on a node, before anything is in its way: delays, CPU seconds, memory, energy."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, hypot
from typing import TYPE_CHECKING, Final

from opendt.twin.fleet_energy import stage_energy_j
from opendt.twin.fleet_learn import Spread, StartUp, default_emulation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opendt.model.fleet import LatencyMatrix, NodeState
    from opendt.model.job import Job, Stage
    from opendt.model.plan import Placement
    from opendt.twin.fleet_learn import FleetCalibration
    from opendt.twin.scaling import ScaledJob, ScaledStage

__all__ = ["StageCost", "arrival_ms", "closed_form_ms", "quota_run_ms", "stage_cost"]

_PERIOD_MS: Final = 100.0
"""Period of the kernel's CPU quotas, as the kubelet sets it."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a stage takes on a node."""

    startup_ms: float
    startup_spread: Spread
    run_ms: float
    run_spread: Spread
    cpu_seconds: float
    cpu_spread: Spread
    memory_peak_mib: float
    memory_spread: float
    energy_j: float
    failure_probability: float


def quota_run_ms(cpu_seconds: float, millicores: int) -> float:
    """Time that CPU seconds take under a limit, ms.

    Below one core the kernel gives a slice of each period of 100 ms and then nothing until the next one; who needs only a part of
    the last slice is done with it early. With a core or more the limit is taken to be used throughout.

    Examples
    --------
    >>> quota_run_ms(1.0, 500), quota_run_ms(1.0, 2000)
    (1950.0, 500.0)
    """
    work_ms = cpu_seconds * 1000.0
    if millicores >= 1000:
        return work_ms * 1000.0 / millicores
    slice_ms = _PERIOD_MS * millicores / 1000.0
    full = max(ceil(work_ms / slice_ms - 1e-9) - 1, 0)
    return full * _PERIOD_MS + (work_ms - full * slice_ms)


def stage_cost(
    calibration: FleetCalibration,
    node: NodeState,
    stage: ScaledStage,
    exec_format: str,
    described_failures_per_h: float,
) -> StageCost:
    """Work out what a stage takes on a node in a form, by what is known."""
    stretch, stretch_spread = calibration.stretch(node.cluster)
    work = stage.stage.work
    millicores = min(stage.cpu_millicores, node.cpu_millicores) or 1
    start = calibration.startup(node.cluster, exec_format)
    startup_ms = start.ms(millicores, is_after_others=bool(stage.stage.needs))
    if work is None or stage.cpu_seconds is None:
        seconds, cpu_spread = calibration.priors.default_run_s * millicores / 1000.0, Spread(1.0, 0.0)
        in_run = seconds
    else:
        price = calibration.work_cost(node, exec_format, work.kind)
        seconds, cpu_spread = price.cpu_seconds(stage.cpu_seconds, millicores), price.spread
        in_run = price.in_run(seconds)
    run_ms = quota_run_ms(in_run, millicores) * stretch
    peak_mib, memory_spread = calibration.memory_peak_mib(exec_format, stage.memory_mib)
    rate_per_h = calibration.failure_rate_per_h(node.cluster, described_failures_per_h)
    return StageCost(
        startup_ms=startup_ms,
        startup_spread=start.spread,
        run_ms=run_ms,
        run_spread=Spread(hypot(cpu_spread.own, stretch_spread.own), hypot(cpu_spread.common, stretch_spread.common)),
        cpu_seconds=seconds,
        cpu_spread=cpu_spread,
        memory_peak_mib=min(peak_mib, float(stage.memory_mib)),
        memory_spread=memory_spread,
        energy_j=stage_energy_j(node, millicores, seconds, run_ms / 1000.0),
        failure_probability=1.0 - exp(-rate_per_h * (startup_ms + run_ms) / 3.6e6),
    )


def arrival_ms(job: Job, stage: Stage, cluster: str, latency: LatencyMatrix) -> float:
    """How long what a stage needs from elsewhere than its parents takes: the job's input, and data that lies in other clusters."""
    longest = 0.0
    if not stage.needs and job.origin is not None:
        longest = latency.transfer_ms(job.origin.cluster, cluster, job.input_mb)
    for data in stage.constraints.data:
        longest = max(longest, latency.transfer_ms(data.cluster, cluster, data.size_mb))
    return longest


def closed_form_ms(
    calibration: FleetCalibration,
    scaled: ScaledJob,
    placements: Mapping[str, Placement],
    nodes: Mapping[str, NodeState],
    latency: LatencyMatrix,
) -> float:
    """Latency by a formula: the longest path of transfers, assumed delays and work over labelled speed. Nothing learned, nothing simulated."""
    priors = calibration.priors
    assumed = StartUp(priors.begin_ms, priors.startup_cpu_seconds, priors.notice_ms, Spread(priors.startup_spread, 0.0))
    finish: dict[str, float] = {}
    for one in scaled.stages:
        stage, place = one.stage, placements[one.stage.id]
        node = nodes[stage.id]
        ready = arrival_ms(scaled.job, stage, place.cluster, latency)
        if stage.needs:
            ready += max(finish[need] for need in stage.needs)
        for need in stage.needs:
            sent_mb = next(other.stage.output_mb for other in scaled.stages if other.stage.id == need)
            ready = max(ready, finish[need] + latency.transfer_ms(placements[need].cluster, place.cluster, sent_mb))
        millicores = min(one.cpu_millicores, node.cpu_millicores) or 1
        if stage.work is None or one.cpu_seconds is None:
            run_ms = priors.default_run_s * 1000.0
        else:
            slow = priors.reference_mhz / node.core_speed_mhz if node.core_speed_mhz > 0 else 1.0
            seconds = one.cpu_seconds * slow * default_emulation(place.exec_format, stage.work.kind)
            run_ms = seconds * 1e6 / millicores
        finish[stage.id] = ready + assumed.ms(millicores, is_after_others=bool(stage.needs)) + run_ms
    return max(finish.values())
