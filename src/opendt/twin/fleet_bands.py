"""Bands around the quantities of plans: adaptive conformal quantiles of log ratios.

As `opendt.twin.bands` does for power, with one difference: plans come one at a time and overlap, so a score is settled whenever
its plan ends. The score of an outcome is log(observed / predicted) over the spread that was predicted of it, and the band is made
of the recent scores' quantiles:

- recent scores count more: the weight halves every `half_life` outcomes, and the outcome that is to come has a weight, too
  (Barber, Candès, Ramdas, Tibshirani, Annals of Statistics 51, 2023): without it bands cover less than they say;
- the nominal level of each side moves with its misses (Gibbs, Candès, NeurIPS 2021), within bounds;
- Gaussian scores that weigh as much as `prior` outcomes stand in until there are some.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import exp, isfinite, log
from statistics import NormalDist
from typing import Any, Final

__all__ = ["RatioBand"]

_PRIOR: Final = tuple(NormalDist().inv_cdf((i + 0.5) / 40) for i in range(40))
_KEPT: Final = 400
_LARGEST: Final = 20.0
_ADAPTED: Final = (0.1, 2.0)
"""The nominal level of a side stays within these multiples of the wanted one."""


class RatioBand:
    """A band around one kind of positive quantity.

    Parameters
    ----------
    coverage_ratio : float
        Share of outcomes wanted inside.
    half_life : float
        Outcomes after which a score counts half.
    prior : float
        Weight of the Gaussian scores, in outcomes.
    step : float
        How far one outcome moves the nominal level (gamma of adaptive conformal inference).
    """

    def __init__(
        self, coverage_ratio: float = 0.9, *, half_life: float = 30.0, prior: float = 10.0, step: float = 0.05
    ) -> None:
        self.coverage_ratio = coverage_ratio
        self._miss = (1.0 - coverage_ratio) / 2.0
        self._decay = 0.5 ** (1.0 / half_life)
        self._prior, self._step = prior, step
        self._levels = [self._miss, self._miss]
        self._recent: list[float] = []  # in order of arrival, the last `_KEPT`
        self._sorted: tuple[list[float], list[float]] | None = None

    def interval(self, value: float, spread: float) -> tuple[float, float]:
        """Band around a predicted value whose logarithm is thought to deviate by `spread`; it always holds the value."""
        low, high = self._bounds()
        return value * exp(spread * min(low, 0.0)), value * exp(spread * max(high, 0.0))

    def exceedance(self, limit: float, value: float, spread: float) -> float:
        """Give the probability that the outcome is above a limit, by what was seen alone: an estimate, where a band has to hold."""
        if limit <= 0 or value <= 0:
            return 1.0 if value > limit else 0.0
        scores, mass = self._table()
        score = log(limit / value) / max(spread, 1e-9)
        # Beyond what was seen half a score more is allowed for, less and less the farther away.
        beyond = 0.5 / (len(scores) + 1)
        if score >= scores[-1]:
            return beyond * exp(-2.0 * (score - scores[-1]))
        if score < scores[0]:
            return 1.0 - beyond * exp(-2.0 * (scores[0] - score))
        return 1.0 - beyond - (1.0 - 2.0 * beyond) * mass[bisect_right(scores, score) - 1] / mass[-1]

    def settle(self, observed: float, value: float, spread: float, lower: float, upper: float) -> None:
        """Learn what came of a prediction and of the band that was issued with it."""
        if observed <= 0 or value <= 0:
            return
        score = log(observed / value) / max(spread, 1e-9)
        if not isfinite(score):
            return
        misses = (float(observed < lower), float(observed > upper))
        for side, missed in enumerate(misses):
            level = self._levels[side] + self._step * (self._miss - missed)
            self._levels[side] = min(max(level, _ADAPTED[0] * self._miss), _ADAPTED[1] * self._miss)
        self._recent.append(min(max(score, -_LARGEST), _LARGEST))
        del self._recent[:-_KEPT]
        self._sorted = None

    def _table(self) -> tuple[list[float], list[float]]:
        """Scores in rising order and their weights summed up to each."""
        if self._sorted is None:
            pairs = [(score, self._prior / len(_PRIOR)) for score in _PRIOR]
            weight = 1.0
            for score in reversed(self._recent):
                pairs.append((score, weight))
                weight *= self._decay
            pairs.sort()
            mass, total = [], 0.0
            for _, one in pairs:
                total += one
                mass.append(total)
            self._sorted = [score for score, _ in pairs], mass
        return self._sorted

    def _bounds(self) -> tuple[float, float]:
        """Scores between which the next one lies, but for the levels' shares of misses."""
        whole = self._table()[1][-1] + 1.0
        return self._at(self._levels[0] * whole), self._at((1.0 - self._levels[1]) * whole)

    def _at(self, place: float) -> float:
        """Score at a place among all and the one to come, between those on either side of it.

        A score stands in the middle of its weight, and the one to come, which weighs 1, half below and half above all of them: of
        equal weights the k-th of n stands at k of n + 1, below which the next one lies with probability k / (n + 1).
        """
        scores, mass = self._table()
        above = bisect_left(range(len(scores)), place, key=lambda i: self._middle(mass, i))
        if above == 0 or above == len(scores):
            return scores[min(above, len(scores) - 1)]
        before, after = self._middle(mass, above - 1), self._middle(mass, above)
        return scores[above - 1] + (place - before) / (after - before) * (scores[above] - scores[above - 1])

    @staticmethod
    def _middle(mass: list[float], place: int) -> float:
        return 0.5 * ((mass[place - 1] if place else 0.0) + mass[place]) + 0.5

    def state(self) -> dict[str, Any]:
        """Everything that was learned, as plain data."""
        return {"levels": list(self._levels), "scores": list(self._recent)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self._levels, self._recent = list(state["levels"]), list(state["scores"])
        self._sorted = None
