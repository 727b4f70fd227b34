"""Weighing rivals by how right they have been: exponential weights that need no learning rate.

What cannot be known beforehand (how noisy a meter is, how long errors stay alike, which guess of an unknown workload is the best)
is not chosen but tried: several answers stand beside each other, and each is trusted as far as its past allows. `Hedge`
keeps the weights of one such choice, `ExpertMixture` those of point forecasts, a set per group of lead times.

The weights are those of AdaHedge, whose learning rate follows from the losses themselves: S. de Rooij, T. van Erven,
P. Grünwald, W. Koolen, "Follow the leader if you can, hedge if you must", JMLR 15 (2014). Losses are linearised, so that the
rival is the best weighted mean and not only the best expert: N. Cesa-Bianchi, G. Lugosi, "Prediction, Learning, and Games",
2006, section 2.5. Losses are forgotten with a half-life of a week, the longest rhythm of a data centre.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

HALF_LIFE_H: Final = 168.0
"""Half-life of what experts are charged with, in h: a week."""


class Hedge:
    """Weights of several experts, from their losses so far.

    Parameters
    ----------
    experts : int
        Number of experts.
    interval_h : float
        Time between two charges, in h.
    """

    def __init__(self, experts: int, interval_h: float) -> None:
        """Start with equal weights."""
        self._keep = 0.5 ** (interval_h / HALF_LIFE_H)
        self._loss = np.zeros(experts)
        self._gap = 0.0  # by how much the weighted losses exceeded what perfect mixing would have cost
        self.weights = np.full(experts, 1.0 / experts)

    def charge(self, losses: NDArray[np.float64]) -> None:
        """Take in one loss an expert, in any unit that stays the same."""
        eta = self._eta()
        least = float(losses[self.weights > 0].min())
        mixed = least
        if np.isfinite(eta):
            mixed -= float(np.log(self.weights @ np.exp(-eta * np.maximum(losses - least, 0.0)))) / eta
        self._gap = self._gap * self._keep + max(float(self.weights @ losses) - mixed, 0.0)
        self._loss = self._loss * self._keep + losses
        self._weigh()

    def _eta(self) -> float:
        return float(np.log(self._loss.size)) / self._gap if self._gap > 0 else np.inf

    def _weigh(self) -> None:
        behind, eta = self._loss - self._loss.min(), self._eta()
        weights = np.exp(-eta * behind) if np.isfinite(eta) else (behind == 0).astype(float)
        self.weights = weights / weights.sum()

    def snapshot(self) -> dict[str, Any]:
        """State as plain data for JSON."""
        return {"loss": self._loss.tolist(), "gap": self._gap}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `snapshot`.

        Raises
        ------
        ValueError
            If it is of another number of experts.
        """
        loss = np.array(state["loss"], float)
        if loss.shape != self._loss.shape:
            raise ValueError(f"state of a mixture is of {loss.size} experts, expected {self._loss.size}")
        self._loss, self._gap = loss, state["gap"]
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
        self._hedges = [Hedge(experts, interval_h) for _ in self._parts]
        self._open: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @property
    def weights(self) -> NDArray[np.float64]:
        """Present weights, shape (groups of leads, experts); each row sums to 1."""
        return np.stack([hedge.weights for hedge in self._hedges])

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
        for hedge, part in zip(self._hedges, self._parts, strict=True):
            mean[part] = hedge.weights @ guesses[:, part]
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
        for hedge, part in zip(self._hedges, self._parts, strict=True):
            seen = np.flatnonzero(outcome[part] > 0) + part.start
            if seen.size:
                pull = np.sign(mean[seen] - outcome[seen]) / outcome[seen]
                hedge.charge(((guesses[:, seen] - mean[seen]) * pull).mean(axis=1))

    def snapshot(self) -> dict[str, Any]:
        """State as plain data for JSON."""
        return {
            "hedges": [hedge.snapshot() for hedge in self._hedges],
            "open": None if self._open is None else [part.tolist() for part in self._open],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `snapshot` of a mixture of the same size.

        Raises
        ------
        ValueError
            If the sizes differ.
        """
        if len(state["hedges"]) != len(self._hedges):
            raise ValueError(f"mixture state has {len(state['hedges'])} groups of leads, expected {len(self._hedges)}")
        for hedge, saved in zip(self._hedges, state["hedges"], strict=True):
            hedge.restore(saved)
        self._open = None if state["open"] is None else (np.array(state["open"][0]), np.array(state["open"][1]))
