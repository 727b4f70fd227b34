"""Weighing rivals by how right they have been: exponential weights that need no learning rate.

What cannot be known beforehand (how noisy a meter is, how long errors stay alike, which guess of an unknown workload is the best)
is not chosen but tried: several answers stand beside each other, and each is trusted as far as its past allows. `Hedge`
keeps the weights of such choices, `ExpertMixture` those of point forecasts, a set per group of lead times.

The weights are those of AdaHedge, whose learning rate follows from the losses themselves: S. de Rooij, T. van Erven,
P. Grünwald, W. Koolen, "Follow the leader if you can, hedge if you must", JMLR 15 (2014). Losses are linearised, so that the
rival is the best weighted mean and not only the best expert: N. Cesa-Bianchi, G. Lugosi, "Prediction, Learning, and Games",
2006, section 2.5. Losses are forgotten with a half-life of a week, the longest rhythm of a data centre.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

HALF_LIFE_H: Final = 168.0
"""Half-life of what experts are charged with, in h: a week."""


class Hedge:
    """Weights of several experts in each of several independent contests, from their losses so far.

    Parameters
    ----------
    contests, experts : int
        Number of contests, and of experts in each.
    interval_h : float
        Time between two charges, in h.

    Attributes
    ----------
    weights : ndarray, shape (contests, experts)
        Present weights; each row sums to 1.
    """

    def __init__(self, contests: int, experts: int, interval_h: float) -> None:
        """Start with equal weights."""
        self._keep = 0.5 ** (interval_h / HALF_LIFE_H)
        self._loss = np.zeros((contests, experts))
        # By how much the weighted losses exceeded what perfect mixing would have cost.
        self._gap = np.zeros(contests)
        self._log_experts = math.log(experts)
        self._weigh()

    def charge(self, losses: NDArray[np.float64]) -> None:
        """Take in one loss an expert and contest, in any unit that stays the same; rows of NaN stand for no outcome."""
        seen = ~np.isnan(losses[:, 0])
        losses = np.where(seen[:, None], losses, 0.0)
        least = np.where(self.weights > 0, losses, np.inf).min(axis=1)
        excess = np.maximum(losses - least[:, None], 0.0)
        # A gap of zero is an infinite rate: only the best expert so far counts, and mixing costs nothing.
        rate = self._rate[:, None]
        mixed = least - np.log(np.vecdot(self.weights, np.exp(-rate * excess))) / self._rate
        mixed = np.where(self._gap > 0, mixed, least)
        gap = np.maximum(np.vecdot(self.weights, losses) - mixed, 0.0)
        self._gap = np.where(seen, self._gap * self._keep + gap, self._gap)
        self._loss = np.where(seen[:, None], self._loss * self._keep + losses, self._loss)
        self._weigh()

    def _weigh(self) -> None:
        behind = self._loss - self._loss.min(axis=1, keepdims=True)
        started = self._gap > 0
        self._rate = np.where(started, self._log_experts / np.where(started, self._gap, 1.0), 1.0)
        weights = np.where(started[:, None], np.exp(-self._rate[:, None] * behind), behind == 0)
        self.weights = weights / weights.sum(axis=1, keepdims=True)

    def snapshot(self) -> dict[str, Any]:
        """State as plain data for JSON."""
        return {"loss": self._loss.tolist(), "gap": self._gap.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `snapshot`.

        Raises
        ------
        ValueError
            If it is of another number of contests or experts.
        """
        loss = np.array(state["loss"], float)
        if loss.shape != self._loss.shape:
            raise ValueError(
                f"state of a mixture has shape {loss.shape}, expected {self._loss.shape} (groups of leads, experts)"
            )
        self._loss, self._gap = loss, np.array(state["gap"], float)
        self._weigh()


class ExpertMixture:
    """Weighted mean of experts' forecasts, with weights per group of leads.

    Parameters
    ----------
    experts : int
        Number of experts.
    lead_edges : tuple of int
        Borders of groups of leads with weights of their own, counted from 0.
    interval_h : float
        Time between forecasts, in h.
    """

    def __init__(self, experts: int, lead_edges: tuple[int, ...], interval_h: float) -> None:
        """Start with equal weights."""
        self._leads = lead_edges[-1]
        self._experts = experts
        self._parts = [slice(a, b) for a, b in pairwise(lead_edges)]
        self._hedge = Hedge(len(self._parts), experts, interval_h)
        self._open: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @property
    def weights(self) -> NDArray[np.float64]:
        """Present weights, shape (groups of leads, experts); each row sums to 1."""
        weights: NDArray[np.float64] = self._hedge.weights
        return weights

    def issue(self, guesses_w: ArrayLike) -> NDArray[np.float64]:
        """Weighted mean of the experts' guesses, shape (experts, leads), in W.

        Raises
        ------
        ValueError
            If the guesses have another number of experts or too many leads, or are not finite.
        """
        guesses = np.asarray(guesses_w, float)
        if guesses.ndim != 2 or guesses.shape[0] != self._experts or guesses.shape[1] > self._leads:
            raise ValueError(
                f"guesses have shape {guesses.shape}, expected {self._experts} experts and up to {self._leads} leads"
            )
        if not np.isfinite(guesses).all():
            raise ValueError("an expert's guess is NaN or infinite: leave forecasts out until all experts can speak")
        mean = np.empty(guesses.shape[1])
        for weights, part in zip(self._hedge.weights, self._parts, strict=True):
            mean[part] = weights @ guesses[:, part]
        self._open = guesses, mean
        return mean

    def settle(self, measured_w: ArrayLike) -> None:
        """Charge the experts with their errors; leads without outcome are NaN, and may be left off the end.

        An expert's loss is how far it would have moved the mean's relative error.

        Raises
        ------
        ValueError
            If nothing was issued since the last `settle`.
        """
        if self._open is None:
            raise ValueError("there are outcomes to settle but no forecast was issued: call issue() first")
        outcome = np.asarray(measured_w, float)
        (guesses, mean), self._open = self._open, None
        losses = np.full((len(self._parts), self._experts), np.nan)
        for own, part in zip(losses, self._parts, strict=True):
            seen = np.flatnonzero(outcome[part] > 0) + part.start
            if seen.size:
                pull = np.sign(mean[seen] - outcome[seen]) / outcome[seen]
                own[:] = ((guesses[:, seen] - mean[seen]) * pull).mean(axis=1)
        self._hedge.charge(losses)

    def snapshot(self) -> dict[str, Any]:
        """State as plain data for JSON."""
        return {
            "hedge": self._hedge.snapshot(),
            "open": None if self._open is None else [part.tolist() for part in self._open],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `snapshot` of a mixture of the same size.

        Raises
        ------
        ValueError
            If the sizes differ.
        """
        self._hedge.restore(state["hedge"])
        self._open = None if state["open"] is None else (np.array(state["open"][0]), np.array(state["open"][1]))
