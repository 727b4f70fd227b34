"""Positive quantities as sums of products of effects, learned one outcome at a time.

A quantity is a sum of terms, and a term a coefficient times the exponentials of some effects::

    quantity = sum over terms of coefficient * exp(sum of its effects)

CPU seconds of a program, for one, are a start-up part plus its work times the effects of its kind, of the node and of the hour.
Effects are Gaussian. With time each returns to none at all at its family's pace, as an Ornstein-Uhlenbeck process: quickly what is
of the hour, slowly what is of a machine; it is never less known than before anything was seen. An outcome's logarithm updates all effects
by an extended Kalman filter (Jazwinski, Stochastic Processes and Filtering Theory, 1970, chapter 8), and the noise of
outcomes is estimated beside it. One outcome counts no further from what was expected than three deviations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any, Final

import numpy as np

__all__ = ["Effects", "Family", "Term"]

_DEVIATIONS: Final = 3.0
_LEAST_NOISE: Final = 0.01**2
_NOISE_DECAY: Final = 0.97
_NOISE_PRIOR: Final = 2.0
"""Outcomes that the assumed noise counts as."""
_LEAST_TOTAL_RATIO: Final = 0.05
"""A sum with negative terms is at least this part of its positive ones."""
_MS_PER_H: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class Family:
    """Effects of one kind: their deviation before anything is seen, and how long until half of what was seen is forgotten."""

    spread: float
    half_life_h: float


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a quantity; it may be taken off (a coefficient below zero) as long as the sum stays positive.

    Effects are named ``family`` or ``family|what it is of``.
    """

    coefficient: float
    effects: tuple[str, ...]


class Effects:
    """All effects that were seen, by name.

    Parameters
    ----------
    families : mapping of str to Family
        What names may begin with.
    most : int
        Effects that are kept, since an outcome costs their number squared; the one that was not seen for longest goes.
    """

    def __init__(self, families: Mapping[str, Family], most: int = 512) -> None:
        self._families = families
        self._most = most
        self._place: OrderedDict[str, int] = OrderedDict()  # in the order of last being seen
        self._mean = np.zeros(0)
        self._covariance = np.zeros((0, 0))
        self._spread = np.zeros(0)
        self._half_life_h = np.zeros(0)
        self._noises: dict[str, tuple[float, float]] = {}  # variance, and the outcomes that it counts as
        self.time_ms = 0
        """Of the newest outcome; what is asked is asked then."""

    def value(self, terms: Sequence[Term]) -> float:
        """Give a quantity as expected: of the median, to first order."""
        return _total([self._amount(term) for term in terms])

    def factor(self, *names: str) -> float:
        """Exponential of a sum of effects."""
        place, mean = self._place, self._mean
        return exp(sum(mean.item(place[name]) for name in names if name in place))

    def variance(self, *names: str) -> float:
        """Variance of a sum of effects."""
        known = [self._place[name] for name in names if name in self._place]
        unknown = sum(self._family(name).spread ** 2 for name in names if name not in self._place)
        return float(self._covariance[np.ix_(known, known)].sum()) + unknown

    def noise_variance(self, name: str, assumed: float) -> float:
        """Variance of the logarithm of what is no effect's; `assumed` is its deviation before any was seen."""
        return self._noises.get(name, (assumed**2, 0.0))[0]

    def learn(self, terms: Sequence[Term], observed: float, noise: str, assumed: float, time_ms: int) -> None:
        """Take in an outcome.

        Parameters
        ----------
        terms : sequence of Term
            What it is made of.
        observed : float
            Above zero.
        noise, assumed : str, float
            Name of the noise that it comes with, and its deviation before any was seen.
        time_ms : int
            When it was seen; what is older than the newest counts as that.
        """
        self._advance(time_ms)
        for name in dict.fromkeys(name for term in terms for name in term.effects):
            self._enter(name)
        amounts = [self._amount(term) for term in terms]
        total = _total(amounts)
        slope = np.zeros(len(self._mean))
        for term, amount in zip(terms, amounts, strict=True):
            for name in term.effects:
                slope[self._place[name]] += amount / total
        noise_variance, weight = self._noises.get(noise, (assumed**2, _NOISE_PRIOR))
        along = self._covariance @ slope
        variance = float(along @ slope) + noise_variance
        furthest = _DEVIATIONS * sqrt(variance)
        surprise = min(max(log(observed / total), -furthest), furthest)
        self._mean += along * (surprise / variance)
        self._covariance -= np.outer(along, along / variance)
        # What is left of a surprise, times the surprise, has the noise's variance as its mean.
        left = surprise - log(self.value(terms) / total)
        weight = weight * _NOISE_DECAY + 1.0
        noise_variance += (max(left * surprise, 0.0) - noise_variance) / weight
        self._noises[noise] = max(noise_variance, _LEAST_NOISE), weight

    def _amount(self, term: Term) -> float:
        return term.coefficient * self.factor(*term.effects)

    def _advance(self, time_ms: int) -> None:
        """Let time pass: means fade, variances return to what they were at first."""
        if time_ms <= self.time_ms:
            return
        if self.time_ms > 0 and len(self._mean):
            kept = np.exp2(-(time_ms - self.time_ms) / _MS_PER_H / self._half_life_h)
            self._mean *= kept
            self._covariance *= np.outer(kept, kept)
            self._covariance[np.diag_indices(len(kept))] += (1.0 - kept * kept) * self._spread**2
        self.time_ms = time_ms

    def _enter(self, name: str) -> None:
        """Make room for an effect, or note that it was seen."""
        if name in self._place:
            self._place.move_to_end(name)
            return
        family = self._family(name)
        if len(self._place) >= self._most:
            _, place = self._place.popitem(last=False)
        else:
            place = len(self._place)
            self._mean, self._spread, self._half_life_h = (
                np.append(one, 0.0) for one in (self._mean, self._spread, self._half_life_h)
            )
            self._covariance = np.pad(self._covariance, (0, 1))
        self._place[name] = place
        self._mean[place], self._spread[place], self._half_life_h[place] = 0.0, family.spread, family.half_life_h
        self._covariance[place, :] = self._covariance[:, place] = 0.0
        self._covariance[place, place] = family.spread**2

    def _family(self, name: str) -> Family:
        return self._families[name.partition("|")[0]]

    def state(self) -> dict[str, Any]:
        """Everything that was learned, as plain data: effects by place, and places in the order of last being seen."""
        return {
            "time_ms": self.time_ms,
            "effects": sorted(self._place, key=self._place.__getitem__),
            "seen": list(self._place.values()),
            "mean": self._mean.tolist(),
            "covariance": self._covariance.tolist(),
            "noises": {name: list(one) for name, one in sorted(self._noises.items())},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        names = state["effects"]
        self.time_ms = int(state["time_ms"])
        self._place = OrderedDict((names[place], place) for place in state["seen"])
        self._mean = np.array(state["mean"], dtype=np.float64)
        self._covariance = np.array(state["covariance"], dtype=np.float64).reshape(len(names), len(names))
        self._spread = np.array([self._family(name).spread for name in names], dtype=np.float64)
        self._half_life_h = np.array([self._family(name).half_life_h for name in names], dtype=np.float64)
        self._noises = {name: (float(one[0]), float(one[1])) for name, one in state["noises"].items()}


def _total(amounts: Sequence[float]) -> float:
    return max(sum(amounts), _LEAST_TOTAL_RATIO * sum(amount for amount in amounts if amount > 0))
