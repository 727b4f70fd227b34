"""What a search makes of simulated futures: one trial for each change, with what it costs and whether it may be proposed.

Every candidate is simulated in the same futures. Sums (energy, emission, cost, counts) are means over the futures. Of peak power, wait
and slowdown the mean over the worst share of the futures is taken (`tail_ratio`; 1 is the plain mean, a smaller one the conditional
value at risk of Rockafellar and Uryasev, Journal of Risk 2, 2000).

Energy can always be saved by not doing the work. So a trial *keeps the work* only when no more tasks are given up than without
changes, and when about as many are completed by the end of the futures. A trial *meets the objectives* when it keeps the work and no
objective of which something is known is breached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.optimization.scoring import Score, check_slo, score
from opendt.twin.metrics import WindowMetrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.model.change import Change
    from opendt.model.slo import Slo
    from opendt.optimization.search_space import Point, SearchSpace
    from opendt.twin.scenarios import Outcomes

__all__ = ["OBJECTIVES", "Evaluate", "Prices", "Trial", "Trials", "expected_metrics"]

OBJECTIVES: Final = ("energy_kwh", "emission_kg", "cost", "task_wait_p95_s", "peak_power_kw")
"""What is to be small, in the order of the columns of `Trial.objectives`."""

Evaluate = Callable[[Sequence[Sequence["Change"]]], "Outcomes"]
"""Simulates candidates in the futures of the search: `opendt.twin.scenarios.Scenarios.evaluate`."""

_J_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What things cost, in one currency of your choice; the cost target of the objectives comes before it.

    Parameters
    ----------
    energy_per_kwh : float
        0.19: electricity of European companies in 2024, EUR without VAT (Eurostat, nrg_pc_205, band IC).
    carbon_per_kg : float
        0: where power plants pay for emissions, the price is part of that of energy; set it where you account for more.
    host_per_hour : float
        A host in service, beside its energy: licences, care. 0: what stands is paid for.
    added_core_per_hour : float
        A core that is added to what is in service. 0.004: a server of 64 cores for 10,000 that lasts five years.
    """

    energy_per_kwh: float = 0.19
    carbon_per_kg: float = 0.0
    host_per_hour: float = 0.0
    added_core_per_hour: float = 0.004

    def __post_init__(self) -> None:
        """Refuse prices that are negative or not finite.

        Raises
        ------
        ValueError
            Names the price.
        """
        for name in ("energy_per_kwh", "carbon_per_kg", "host_per_hour", "added_core_per_hour"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a price of at least 0")

    def of(self, energy_kwh: float, emission_kg: float, hours: float, hosts: int, added_cores: int) -> float:
        """What some hours cost."""
        running = self.host_per_hour * hosts + self.added_core_per_hour * added_cores
        return self.energy_per_kwh * energy_kwh + self.carbon_per_kg * emission_kg + running * hours


@dataclass(frozen=True, slots=True)
class Trial:
    """A configuration that was simulated.

    Attributes
    ----------
    point : tuple of int
        In the search space.
    changes : tuple of Change
        That lead to it.
    words : str
        The same for a person.
    metrics : WindowMetrics
        Expected over the futures; empty when refused.
    cost : float
        Of the futures' time.
    score : Score
        Against the objectives.
    lost_tasks : float
        Tasks given up, and completed too late, beyond what happens without changes and is tolerated.
    error : str, optional
        Why the changes cannot be applied.
    """

    point: Point
    changes: tuple[Change, ...]
    words: str
    metrics: WindowMetrics
    cost: float
    score: Score
    lost_tasks: float
    error: str | None = None

    @property
    def keeps_work(self) -> bool:
        """Whether no work is lost."""
        return self.error is None and self.lost_tasks <= 0

    @property
    def meets(self) -> bool:
        """Whether no work is lost and no objective is breached."""
        return self.keeps_work and self.score.feasible

    @property
    def objectives(self) -> tuple[float, ...]:
        """In the order of `OBJECTIVES`. A wait of which nothing is known is one of nobody: 0."""
        metrics = self.metrics
        known = (metrics.energy_kwh, metrics.emission_kg, self.cost, metrics.task_wait_p95_s, metrics.peak_power_kw)
        return tuple(0.0 if value is None else value for value in known)

    @property
    def rank(self) -> tuple[float, ...]:
        """For choosing the cheapest that meets the objectives, or what comes nearest: smaller is better.

        Work is kept first, then objectives are met, then it is cheap; of equals the one that changes less, then uses less.
        """
        if self.error is not None:
            return (math.inf,)
        return (max(0.0, self.lost_tasks), self.score.violation, self.cost, len(self.changes), *self.objectives)


class Trials:
    """Simulates points, each once, and remembers them.

    Parameters
    ----------
    space : SearchSpace
        What the points mean.
    evaluate : callable
        Simulates candidates; see `Evaluate`.
    slo : Slo
        Objectives.
    prices : Prices
        For the cost.
    tail_ratio : float
        Share of the futures, the worst ones, that peak, wait and slowdown are the mean of.
    work_tolerance_ratio : float
        Share of the tasks completed without changes that may be completed later than the end of the futures.
    """

    def __init__(
        self,
        space: SearchSpace,
        evaluate: Evaluate,
        slo: Slo,
        prices: Prices,
        *,
        tail_ratio: float = 1.0,
        work_tolerance_ratio: float = 0.02,
    ) -> None:
        if not 0 < tail_ratio <= 1 or not 0 <= work_tolerance_ratio < 1:
            raise ValueError(
                f"tail_ratio is {tail_ratio} and work_tolerance_ratio {work_tolerance_ratio}, expected a share above 0 and up "
                "to 1, and one from 0 and below 1"
            )
        self.space = space
        self._evaluate = evaluate
        self._slo, self._prices = slo, prices
        self._tail_ratio, self._tolerance = tail_ratio, work_tolerance_ratio
        self._done: dict[Point, Trial] = {}
        self._base: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self._done)

    def __contains__(self, point: Point) -> bool:
        return point in self._done

    def __getitem__(self, point: Point) -> Trial:
        return self._done[point]

    def all(self) -> tuple[Trial, ...]:
        """Every trial, in the order in which they were simulated; the present is the first."""
        return tuple(self._done.values())

    @property
    def baseline(self) -> Trial:
        """The present, left as it is."""
        return self._done[self.space.now]

    def run(self, points: Sequence[Point]) -> None:
        """Simulate those that are new, all in one batch; the present goes with the first."""
        first = () if self._base is not None else (self.space.now,)
        new = [point for point in dict.fromkeys((*first, *points)) if point not in self._done]
        if new:
            trials = self._judged(new, [self.space.changes(point) for point in new])
            self._done.update(zip(new, trials, strict=True))

    def of_changes(self, changes: tuple[Change, ...], words: str) -> Trial:
        """Simulate changes that need not lie on the grid; they are not remembered, and their point is the nearest one."""
        self.run([])
        point = self.space.nearest(changes) or self.space.now
        return replace(self._judged([point], [changes])[0], words=words)

    def _judged(self, points: Sequence[Point], candidates: Sequence[tuple[Change, ...]]) -> list[Trial]:
        """Simulate candidates and hold them against the present, which is the first of the first batch."""
        outcomes = self._evaluate(candidates)
        completed = outcomes.columns["tasks_completed"].mean(axis=0)
        given_up = outcomes.columns["tasks_terminated"].mean(axis=0)
        if self._base is None:
            if outcomes.errors[0] is not None:
                raise ValueError(f"the present cannot be simulated: {outcomes.errors[0]}")
            self._base = float(completed[0]), float(given_up[0])
        trials = []
        for index, (point, changes) in enumerate(zip(points, candidates, strict=True)):
            lost = math.inf
            if outcomes.errors[index] is None:
                lost = self._lost(float(completed[index]), float(given_up[index]))
            trials.append(self._trial(point, changes, outcomes, index, lost))
        return trials

    def _lost(self, completed: float, given_up: float) -> float:
        base_completed, base_given_up = self._base or (0.0, 0.0)
        late = base_completed - completed
        # Half a task of slack: of a handful of tasks, one that ends a moment later is no loss.
        late = late if late > max(0.5, self._tolerance * base_completed) else 0.0
        return max(0.0, given_up - base_given_up) + late

    def _trial(self, point: Point, changes: tuple[Change, ...], outcomes: Outcomes, index: int, lost: float) -> Trial:
        error = outcomes.errors[index]
        words = self.space.words(point)
        if error is not None:
            empty = WindowMetrics(start_ms=outcomes.start_ms, end_ms=outcomes.end_ms)
            return Trial(point, changes, words, empty, math.inf, score(self._slo, empty), math.inf, error)
        metrics = expected_metrics(outcomes, index, self._tail_ratio)
        return Trial(point, changes, words, metrics, self._cost(point, metrics), score(self._slo, metrics), lost)

    def _cost(self, point: Point, metrics: WindowMetrics) -> float:
        """Cost of the whole time; of energy and hosts by the objectives' own prices where they state them."""
        hours, cores = metrics.duration_s / 3600.0, self.space.added_cores(point)
        for status in check_slo(self._slo, metrics):
            if status.name == "cost" and status.measured is not None:
                windows = metrics.duration_s / self._slo.window_s
                return status.measured * windows + self._prices.of(0.0, metrics.emission_kg or 0.0, hours, 0, cores)
        hosts = self.space.hosts(point)
        return self._prices.of(metrics.energy_kwh or 0.0, metrics.emission_kg or 0.0, hours, hosts, cores)


def expected_metrics(outcomes: Outcomes, candidate: int, tail_ratio: float = 1.0) -> WindowMetrics:
    """Put what a candidate brought in all futures into one window; see the head of this module.

    What is unknown in some futures is the mean over the others; a makespan is complete when it is in all of them.
    """
    columns = {name: column[:, candidate] for name, column in outcomes.columns.items()}
    energy_j, peak_w = float(columns["energy_j"].mean()), _tail(columns["peak_power_w"], tail_ratio)
    capacity = float(columns["capacity_mhz"].sum())
    counts: dict[str, Any] = {
        name: _rounded(columns[name])
        for name in ("hosts_up", "hosts_busy", "tasks_active", "tasks_pending", "tasks_submitted", "tasks_completed")
    }
    return WindowMetrics(
        start_ms=outcomes.start_ms,
        end_ms=outcomes.end_ms,
        energy_kwh=energy_j / _J_PER_KWH,
        emission_kg=float(columns["emission_g"].mean()) / 1000.0,
        peak_power_kw=None if peak_w is None else peak_w / 1000.0,
        mean_power_kw=energy_j / (outcomes.end_ms - outcomes.start_ms),
        utilization_ratio=float(columns["usage_mhz"].sum()) / capacity if capacity > 0 else None,
        task_wait_p95_s=_tail(columns["task_wait_p95_s"], tail_ratio),
        task_slowdown_p95_ratio=_tail(columns["task_slowdown_p95_ratio"], tail_ratio),
        makespan_s=_tail(columns["makespan_s"], 1.0),
        makespan_complete=bool(columns["makespan_complete"].all()),
        start_epoch_ms=outcomes.start_epoch_ms,
        **counts,
    )


def _tail(values: NDArray[np.float64], ratio: float) -> float | None:
    """Mean over the largest share of what is known."""
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return None
    return float(known[len(known) - max(1, math.ceil(ratio * len(known) - 1e-9)) :].mean())


def _rounded(values: NDArray[np.float64]) -> int | None:
    known = values[~np.isnan(values)]
    return round(float(known.mean())) if len(known) else None
