"""Evidence that holds under any stopping: betting on the mean of bounded observations, and spending alpha over many questions.

For observations x in [low, high] and the null hypothesis that their mean, given all before them, is at most m, a gambler who
stakes a share s in [0, 1] of the most that cannot be lost multiplies the capital by

    1 + s (x - m) / (m - low)                                        >= 0, and of mean <= 1 under the null

for each observation. The capital K_t is then a nonnegative supermartingale that starts at 1, so that by Ville's inequality
P(some K_t >= 1/alpha) <= alpha: look as often as you like, stop when you like. The best stake is not known beforehand; the
mean of the capitals of a fixed grid of stakes is again such a process, loses at most the factor 1 / (number of stakes) against the
best of them, and does not depend on the order of the observations.

Sources: J. Ville, "Etude critique de la notion de collectif", 1939; I. Waudby-Smith and A. Ramdas, "Estimating means of bounded
random variables by betting", JRSS B 86(1), 2024; Z. Xu and A. Ramdas, "Online multiple testing with e-values", AISTATS 2024.
docs/concepts/certification.md derives what certificates use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["AlphaSpending", "MeanTest", "confidence_bound", "e_process", "window_test"]

STAKES: Final = tuple(2.0**-power for power in range(10))
"""Shares of the most that can be staked. Halving keeps the nearest stake within a factor of 2 of the best, at 3/4 of its growth."""


@dataclass(frozen=True, slots=True)
class MeanTest:
    """The question whether a mean lies above a bound.

    Parameters
    ----------
    bound : float
        The null hypothesis: the mean is at most this.
    low, high : float
        What observations can be; those beyond are refused, not cut, because whoever cuts changes the mean.

    Raises
    ------
    ValueError
        When the bound does not lie between `low` and `high`, or is `low` itself.
    """

    bound: float
    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse what cannot be tested."""
        if not self.low < self.bound <= self.high or not math.isfinite(self.high - self.low):
            raise ValueError(f"the bound {self.bound} must lie above {self.low} and not above {self.high}")


def e_process(observations: ArrayLike, test: MeanTest) -> NDArray[np.float64]:
    """Natural logarithm of the evidence against a test's null after each observation.

    Parameters
    ----------
    observations : array_like, shape (n,)
        In any order that does not depend on their values.
    test : MeanTest
        The question.

    Returns
    -------
    ndarray, shape (n,)
        ln of the e-value; reject at level alpha once it has reached ln(1/alpha). Minus infinity is a capital of 0, from which
        no evidence comes back.

    Raises
    ------
    ValueError
        When an observation is outside of the test's range, or not a number.
    """
    x = np.asarray(observations, dtype=float)
    if x.ndim != 1 or not ((x >= test.low) & (x <= test.high)).all():
        raise ValueError(
            f"observations from {x.min():g} to {x.max():g}, expected all of them in [{test.low}, {test.high}]"
        )
    returns = (x - test.bound) / (test.bound - test.low)
    with np.errstate(divide="ignore"):
        capital = np.cumsum(np.log1p(np.maximum(np.multiply.outer(STAKES, returns), -1.0)), axis=1)
    peak = capital.max(axis=0)
    safe = np.where(np.isfinite(peak), peak, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(safe + np.log(np.exp(capital - safe).mean(axis=0)))


def confidence_bound(observations: ArrayLike, low: float, high: float, alpha: float, *, steps: int = 40) -> float:
    """Lower confidence bound of the mean, valid at any time: the largest bound that is rejected at `alpha`, else `low`.

    The capital falls as the bound rises, so that it is found by halving, to (high - low) / 2^steps.

    Raises
    ------
    ValueError
        As `e_process`.
    """
    rejected, kept = low, high
    for _ in range(steps):
        middle = (rejected + kept) / 2.0
        if not low < middle < high:
            break
        if e_process(observations, MeanTest(middle, low, high)).max(initial=0.0) >= math.log(1.0 / alpha):
            rejected = middle
        else:
            kept = middle
    return rejected


def window_test(differences: Sequence[ArrayLike], test: MeanTest) -> NDArray[np.float64]:
    """Backtest over past windows: evidence after each of them, a window counting once.

    What happens in one window is of one piece: its differences share tasks, weather and state, so a thousand of them are not a
    thousand observations. Each window gives its mean; windows are taken in the order of time, and the null speaks of the mean of a
    window *given those before it*, so that windows may depend on each other.

    Parameters
    ----------
    differences : sequence of array_like
        The paired differences of each window, oldest window first; windows without any are left out.
    test : MeanTest
        The question.

    Raises
    ------
    ValueError
        As `e_process`.
    """
    windows = [np.asarray(one, dtype=float) for one in differences if np.size(one)]
    # Rounding may lift the mean of equal numbers above each of them.
    means = [min(max(one.mean(), one.min()), one.max()) for one in windows]
    return e_process(means, test) if means else np.empty(0)


@dataclass(frozen=True, slots=True)
class AlphaSpending:
    """How much alpha the next question may use: e-LOND over every question that was ever asked, re-submissions too.

    Question t is asked at level alpha g_t (certified before + 1), where the g_t are fixed and sum to at most 1. Whatever the
    dependence between questions, at most a share alpha of what is certified is so wrongly, in expectation, at any time (Xu and
    Ramdas 2024, theorem 1): asking again costs, and being right earns it back. g_t falls as 1 / (t ln^2 t), slower than the
    usual 1 / t^2, since a loop asks for years.

    Parameters
    ----------
    alpha : float
        Share of false discoveries allowed: 0.05 where a person decides, 0.001 where nobody does.
    asked, certified : int
        So far.
    """

    alpha: float = 0.05
    asked: int = 0
    certified: int = 0

    @property
    def level(self) -> float:
        """Level of the next question."""
        return self.alpha * _share(self.asked + 1) * (self.certified + 1)

    def after(self, *, certified: bool) -> AlphaSpending:
        """The state once the next question has been answered."""
        return AlphaSpending(self.alpha, self.asked + 1, self.certified + int(certified))


_SHARE_SUM: Final = 2.11  # sum of 1 / ((t + 1) ln^2(t + 1)) over t >= 1, rounded up: it is below 2.10975


def _share(question: int) -> float:
    """Share of alpha of a question, counted from 1; all of them sum to at most 1."""
    return 1.0 / (_SHARE_SUM * (question + 1) * math.log(question + 1) ** 2)
