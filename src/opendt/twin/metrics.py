"""What a window of time was like, in the quantities that service-level objectives speak of.

Energy, emission and counts are differences of the engine's totals at the two ends, so they are exact whatever the sampling;
peak power, utilisation and hosts come from the samples in between, waits and slowdowns from the tasks. What is not known is
None, never 0: no task started means that there is no wait to speak of, not that nobody waited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opendt.engine.simulation import Simulation

__all__ = ["SLOWDOWN_BOUND_MS", "Totals", "WindowMetrics", "percentile_95", "window_metrics"]

SLOWDOWN_BOUND_MS: Final = 10_000
"""Shorter ideal run times count as this long in a slowdown, ms: else the shortest tasks, which nobody waits for, decide.

D. G. Feitelson and L. Rudolph, "Metrics and benchmarking for parallel job scheduling", JSSPP 1998.
"""

_J_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class Totals:
    """Cumulative totals of a simulation at a moment; two of them border a window.

    Energy in J and emission in g are of all clusters, from the grid, since the start; tasks are counts. `start_epoch_ms` is the
    absolute time of the start, ms since the epoch (UTC).
    """

    time_ms: int
    energy_j: float
    emission_g: float
    submitted: int
    completed: int
    active: int
    pending: int
    start_epoch_ms: int | None = None

    @classmethod
    def of(cls, simulation: Simulation) -> Totals:
        """Read the totals of a simulation as it stands (about 2 us)."""
        engine = simulation.engine
        counts = engine.counts()
        return cls(
            time_ms=engine.now_ms,
            energy_j=engine.energy_j(),
            emission_g=engine.emission_g(),
            submitted=counts["submitted"],
            completed=counts["completed"],
            active=counts["active"],
            pending=counts["pending"],
            start_epoch_ms=engine.start_epoch_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowMetrics:
    """A window of time, after `start_ms` and up to and including `end_ms`; None where a quantity is unknown.

    The first window includes time 0.

    Parameters
    ----------
    start_ms, end_ms : int
        Borders, ms since the start of the simulation.
    energy_kwh, emission_kg : float, optional
        From the grid, over the window.
    peak_power_kw : float, optional
        Highest power of all clusters together at any sample.
    mean_power_kw : float, optional
        Energy over time.
    utilization_ratio : float, optional
        CPU supply over CPU capacity of the hosts that are up, over all samples.
    hosts_up, hosts_busy : int, optional
        At the last sample.
    tasks_active, tasks_pending : int, optional
        On hosts and in the queue, at the end.
    tasks_submitted, tasks_completed : int, optional
        In the window.
    task_wait_p95_s : float, optional
        95th percentile of the waits of the tasks started in the window, and, with their wait so far, of those that still wait
        for their first start at its end: a queue that nobody leaves would otherwise look like no queue at all. The wait of a
        task that still runs is counted from its submission to its last start.
    task_slowdown_p95_ratio : float, optional
        95th percentile, over the tasks completed in the window, of their bounded slowdown: (finish - moment from which nothing but
        the scheduler kept the task waiting) / ideal run time, but at least 1. That moment is the submission, or the end of the last
        parent. The ideal run time, what the task would have taken had it always got what it asked for, counts as at least
        `SLOWDOWN_BOUND_MS`.
    makespan_s : float, optional
        From the first submission to the last finish among the tasks submitted in the window. While some of them are not
        finished it is what it is at least, and `makespan_complete` is False.
    makespan_complete : bool
        Whether all tasks submitted in the window have ended in it.
    start_epoch_ms : int, optional
        Absolute time of the start of the simulation, ms since the epoch (UTC): prices depend on the hour of the day.
    """

    start_ms: int
    end_ms: int
    energy_kwh: float | None = None
    emission_kg: float | None = None
    peak_power_kw: float | None = None
    mean_power_kw: float | None = None
    utilization_ratio: float | None = None
    hosts_up: int | None = None
    hosts_busy: int | None = None
    tasks_active: int | None = None
    tasks_pending: int | None = None
    tasks_submitted: int | None = None
    tasks_completed: int | None = None
    task_wait_p95_s: float | None = None
    task_slowdown_p95_ratio: float | None = None
    makespan_s: float | None = None
    makespan_complete: bool = True
    start_epoch_ms: int | None = field(default=None, compare=False)

    @property
    def duration_s(self) -> float:
        """Length of the window in s."""
        return (self.end_ms - self.start_ms) / 1000.0


def window_metrics(
    series: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    start: Totals,
    end: Totals,
    tasks: Mapping[str, Any] | None = None,
    opening: bool = False,
) -> WindowMetrics:
    """Summarise a window.

    Parameters
    ----------
    series, results : mapping
        What ``Simulation.take_series()`` and ``take_results()`` gave at the end of the window; what lies outside the window
        is left out.
    start, end : Totals
        The simulation at both ends.
    tasks : mapping, optional
        ``Simulation.tasks()`` at the end. Without it the waits of tasks that have not ended are unknown, and so are wait and
        makespan when there are such tasks.
    opening : bool
        Whether a task that waited before the start and starts in that very instant counts: in a what-if, whose changes take effect
        there. Of windows that follow each other, the one before has counted it.

    Returns
    -------
    WindowMetrics
        About 30 us for a window of ten samples.

    Raises
    ------
    ValueError
        When the window does not end after its start.
    """
    if end.time_ms <= start.time_ms:
        raise ValueError(f"the window ends at {end.time_ms} ms, expected a time after its start at {start.time_ms} ms")
    energy_j = end.energy_j - start.energy_j
    peak_kw, utilization, hosts_up, hosts_busy = _from_samples(series, start.time_ms, end.time_ms)
    wait_s, slowdown, makespan_s, complete = _from_tasks(results, tasks, start, end, opening=opening)
    return WindowMetrics(
        start_ms=start.time_ms,
        end_ms=end.time_ms,
        energy_kwh=energy_j / _J_PER_KWH,
        emission_kg=(end.emission_g - start.emission_g) / 1000.0,
        peak_power_kw=peak_kw,
        mean_power_kw=energy_j / (end.time_ms - start.time_ms),
        utilization_ratio=utilization,
        hosts_up=hosts_up,
        hosts_busy=hosts_busy,
        tasks_active=end.active,
        tasks_pending=end.pending,
        tasks_submitted=end.submitted - start.submitted,
        tasks_completed=end.completed - start.completed,
        task_wait_p95_s=wait_s,
        task_slowdown_p95_ratio=slowdown,
        makespan_s=makespan_s,
        makespan_complete=complete,
        start_epoch_ms=end.start_epoch_ms,
    )


def percentile_95(values: Sequence[float]) -> float | None:
    """Nearest-rank 95th percentile: the smallest value that at least 95 % do not exceed; None of nothing.

    It is always one of the values, and the largest one of fewer than twenty. (NumPy's needs 60 us of set-up a call.)
    """
    if not values:
        return None
    rank = -(-95 * len(values) // 100)  # in whole numbers: 0.95 is not one of a float's values
    return sorted(values)[rank - 1]


def _from_samples(
    series: Mapping[str, Any], start_ms: int, end_ms: int
) -> tuple[float | None, float | None, int | None, int | None]:
    """Peak power in kW, utilisation, hosts up and hosts busy."""
    time_ms = series.get("time_ms")
    if time_ms is None or len(time_ms) == 0:
        return None, None, None, None
    first, stop = 0, len(time_ms)
    if time_ms[0] <= start_ms or time_ms[-1] > end_ms:
        first, stop = (int(i) for i in time_ms.searchsorted((start_ms, end_ms), side="right"))
        if first == stop:
            return None, None, None, None
    power_w = series["power_w"][first:stop]
    capacity = float(series["capacity_mhz"][first:stop].sum())
    usage = float(series["usage_mhz"][first:stop].sum())
    peak_w = float((power_w if power_w.shape[1] == 1 else power_w.sum(axis=1)).max())
    utilization = usage / capacity if capacity > 0 else None
    return peak_w / 1000.0, utilization, int(series["hosts_up"][stop - 1]), int(series["hosts_busy"][stop - 1])


def _from_tasks(
    results: Mapping[str, Any], tasks: Mapping[str, Any] | None, start: Totals, end: Totals, *, opening: bool
) -> tuple[float | None, float | None, float | None, bool]:
    """95th percentiles of wait (s) and slowdown, makespan (s) and whether that is complete."""
    after, until = start.time_ms or -1, end.time_ms  # nothing comes before time 0, so its window includes it
    waits_ms: list[int] = []
    slowdowns: list[float] = []
    submitted_ms: list[int] = []
    finished_ms: list[int] = []
    for submitted, ready, started, finished, queued, ideal, completed in _ended(results):
        if after < started <= until or (opening and submitted < started == after):
            waits_ms.append(queued)
        if completed and after < finished <= until:
            slowdowns.append(max((finished - ready) / max(ideal, SLOWDOWN_BOUND_MS), 1.0))
        if after < submitted <= until:
            submitted_ms.append(submitted)
            finished_ms.append(finished if finished >= 0 else until)
    complete = len(submitted_ms) >= end.submitted - start.submitted
    live_known = tasks is not None or end.active + end.pending == 0
    if tasks is not None:
        for state, submitted, started in _live(tasks):
            if state == "queued" and started < 0:
                waits_ms.append(until - submitted)
            elif state == "running" and (started > after or (opening and submitted < started == after)):
                waits_ms.append(started - submitted)
            if submitted > after:
                complete = False
                submitted_ms.append(submitted)
                finished_ms.append(until)
    wait_ms = percentile_95(waits_ms) if live_known else None
    makespan_s = (max(finished_ms) - min(submitted_ms)) / 1000.0 if submitted_ms and (complete or live_known) else None
    return None if wait_ms is None else wait_ms / 1000.0, percentile_95(slowdowns), makespan_s, complete


def _ended(results: Mapping[str, Any]) -> zip[tuple[int, int, int, int, int, int, bool]]:
    names = (
        "submitted_ms",
        "ready_ms",
        "started_ms",
        "finished_ms",
        "scheduling_delay_ms",
        "ideal_ms",
        "completed",
    )
    columns = [results[name].tolist() if name in results else [] for name in names]
    return zip(*columns, strict=True)


def _live(tasks: Mapping[str, Any]) -> zip[tuple[str, int, int]]:
    """State, submission and last start of the tasks in the system."""
    return zip(tasks["state"], tasks["submitted_ms"].tolist(), tasks["started_ms"].tolist(), strict=True)
