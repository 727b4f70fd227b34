"""How few hosts a demand needs: a bisection on the number of hosts of each group, in which every step is a simulation.

More hosts usually mean shorter waits, but not always: which host a task gets changes with their number, so one host more can
lengthen a percentile. A bisection alone would trust that order. Here it only finds where to look. Then the counts around what it
found and a spread of those on either side are simulated as well; whatever contradicts the order is reported, and the answer is the
fewest hosts from which on every count that was simulated meets the objectives: a lucky smaller number is no capacity.

Of several groups one is reduced at a time, those whose idle cores cost most power first, and again until nothing changes: the result
cannot be reduced in any single group, which is not the fewest over all combinations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from opendt.optimization.search_space import Gene, Point, SearchSpace
    from opendt.optimization.trials import Trial, Trials

__all__ = ["CapacityPlan", "plan_capacity"]

_GRID: Final = 9
_INNER: Final = 5
_AROUND: Final = 4
_SPREAD: Final = 6
_ROUNDS: Final = 4
_SCAN: Final = 16


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """What was found.

    Attributes
    ----------
    fewest : Trial or None
        The configuration with the fewest hosts; None when no number of hosts that was simulated meets the objectives.
    baseline : Trial
        The present.
    trials : tuple of Trial
        All that were simulated, by hosts in service.
    exceptions : tuple of Trial
        Those that contradict the order in the last round: fewer hosts than the answer in one group and yet within the objectives.
    nearest : Trial
        What comes nearest to meeting the objectives, when none does.
    """

    fewest: Trial | None
    baseline: Trial
    trials: tuple[Trial, ...]
    exceptions: tuple[Trial, ...]
    nearest: Trial


def plan_capacity(trials: Trials, on_batch: Callable[[int], None] | None = None) -> CapacityPlan:
    """Find the fewest hosts that meet the objectives.

    Parameters
    ----------
    trials : Trials
        Simulates configurations; its space says how few and how many hosts each group may have.
    on_batch : callable, optional
        Told after each batch how many configurations have been simulated; what it raises ends the search.
    """
    space = trials.space
    planner = _Planner(trials, on_batch)
    genes = [index for index, gene in enumerate(space.genes) if gene.kind == "hosts"]
    genes.sort(key=lambda index: -_waste(space, space.genes[index]))
    point = planner.start(genes)
    exceptions: dict[Point, None] = {}
    met = trials[point].meets
    for _ in range(_ROUNDS if met else 0):
        before, exceptions = point, {}
        for index in genes:
            point, odd = planner.fewest_of(point, index)
            exceptions.update(dict.fromkeys(odd))
        if point == before or len(genes) == 1:
            break
    everything = trials.all()
    ordered = tuple(sorted(everything, key=lambda trial: (space.hosts(trial.point), trial.point)))
    return CapacityPlan(
        fewest=trials[point] if met else None,
        baseline=trials.baseline,
        trials=ordered,
        exceptions=tuple(trials[odd] for odd in exceptions),
        nearest=min(everything, key=lambda trial: trial.rank),
    )


class _Planner:
    def __init__(self, trials: Trials, on_batch: Callable[[int], None] | None) -> None:
        self._trials = trials
        self._on_batch = on_batch

    def simulate(self, points: list[Point]) -> None:
        before = len(self._trials)
        self._trials.run(points)
        if self._on_batch is not None and len(self._trials) > before:
            self._on_batch(len(self._trials))

    def start(self, genes: list[int]) -> Point:
        """A point that meets the objectives: the present, or the most hosts of an even scan that do; else what comes nearest.

        An objective for energy is breached by too many hosts as one for waits is by too few, so neither end need meet both.
        """
        space = self._trials.space
        self.simulate([space.now])
        if self._trials[space.now].meets:
            return space.now
        shares = [number / _SCAN for number in range(_SCAN, -1, -1)]
        for _ in range(_ROUNDS):
            scanned = [self._scaled(genes, share) for share in shares]
            self.simulate(scanned)
            meeting = [point for point in scanned if self._trials[point].meets]
            if meeting:
                return meeting[0]
            nearest = min(range(len(scanned)), key=lambda index: self._trials[scanned[index]].rank)
            high, low = shares[max(nearest - 1, 0)], shares[min(nearest + 1, len(shares) - 1)]
            shares = np.linspace(high, low, _SCAN + 1).tolist()
        return min(self._trials.all(), key=lambda trial: trial.rank).point

    def _scaled(self, genes: list[int], share: float) -> Point:
        """A share of the most hosts in every group."""
        space = self._trials.space
        levels: list[float] = list(space.now)
        for index in genes:
            levels[index] = share * (len(space.genes[index].levels) - 1)
        return space.legal(levels)

    def fewest_of(self, point: Point, gene: int) -> tuple[Point, list[Point]]:
        """Reduce one gene of a point that meets the objectives; also gives the points below that meet them out of order."""
        meets: dict[int, bool] = {}

        def ask(levels: list[int]) -> None:
            asked = {level: self._at(point, gene, level) for level in levels if level not in meets}
            self.simulate(list(asked.values()))
            meets.update({level: self._trials[at].meets for level, at in asked.items()})

        top = point[gene]
        ask(_spread(0, top, _GRID))
        while True:
            failing = [level for level, met in meets.items() if not met]
            low = max(failing, default=-1)
            answer = min(level for level in meets if level > low)  # all above the last that fails are met
            if answer - low > 1:
                ask(_spread(low + 1, answer - 1, _INNER))
                continue
            known = len(meets)
            around = range(max(0, answer - _AROUND), min(top, answer + _AROUND) + 1)
            ask([*around, *_spread(0, answer, _SPREAD), *_spread(answer, top, _SPREAD)])
            if len(meets) == known or max((level for level, met in meets.items() if not met), default=-1) == low:
                break
        odd = [self._at(point, gene, level) for level, met in sorted(meets.items()) if met and level < answer]
        return self._at(point, gene, answer), odd

    def _at(self, point: Point, gene: int, level: int) -> Point:
        return self._trials.space.legal([*point[:gene], level, *point[gene + 1 :]])


def _spread(low: int, high: int, count: int) -> list[int]:
    """Evenly spaced levels from `low` to `high`, both included."""
    return sorted({round(level) for level in np.linspace(low, high, min(count, high - low + 1)).tolist()})


def _waste(space: SearchSpace, gene: Gene) -> float:
    """Power of an idle core, W."""
    state = space.groups[gene.key]
    return state.idle_power_w / state.core_count
