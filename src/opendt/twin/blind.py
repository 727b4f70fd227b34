"""Blind forecasts: what an operator knows at the moment of issue, and no fragment that ends later.

Three ways to guess the power of the next hour without knowing its workload:

- *persistence*: the last reading stays;
- *held load*: the load of the last tick whose fragments have ended stays, priced by a calibrated curve; what the last reading
  shows beyond it decays, as disturbances do. It beats the reading itself, because part of any reading is passing;
- *held mean load*: the same with the mean load of the last ticks.

`ExpertMixture` weighs them per lead time by how well they did so far (exponential weights with forgetting), so that the result
is never much worse than the best of them, persistence included: N. Cesa-Bianchi, G. Lugosi, "Prediction, Learning, and
Games", 2006, chapter 2; forgetting as in M. Herbster, M. Warmuth, "Tracking the best expert", 1998.

Survival of running tasks, arrival rates, time of day and averages of readings were tried without success; the figures are in
docs/concepts/calibration.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.twin.curve import hat_weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from opendt.twin.calibrate import PowerCalibrator

EXPERTS: Final = ("persistence", "held_load", "held_mean_load", "held_load_short")
"""Rows of `blind_experts`, in order."""


UNKNOWN_UTILIZATION: Final = 0.5
"""Utilisation assumed of a host whose task has not shown any fragment yet: the middle, for lack of anything better."""


def assumed_load(calibrator: PowerCalibrator, busy_hosts: ArrayLike) -> NDArray[np.float64]:
    """Features of one tick when nothing is known but requests: hosts that hold a task are half used.

    For the first forecast of all, at which no fragment has ended yet; afterwards the load that was seen is better.

    Parameters
    ----------
    calibrator : PowerCalibrator
        Gives the classes and their knots.
    busy_hosts : array_like, shape (classes,)
        Hosts that hold a task.

    Returns
    -------
    ndarray, shape (1, classes, knots)
        As `blind_experts` takes them.
    """
    weights = [hat_weights(UNKNOWN_UTILIZATION, c.utilization) for c in calibrator.classes]
    return np.asarray(np.asarray(busy_hosts, float)[:, None] * np.stack(weights))[None]


def blind_experts(
    hour: PowerCalibrator,
    short: PowerCalibrator,
    known_features: NDArray[np.float64],
    hosts_up: NDArray[np.float64],
    last_w: float,
    leads: int,
) -> NDArray[np.float64]:
    """Guesses of the coming `leads` ticks from what is known at the moment of issue.

    Parameters
    ----------
    hour, short : PowerCalibrator
        Calibrators with the settings for an hour and for five minutes, updated up to the tick *before* the present one: the
        load of the present tick consists of fragments that end later. They are not changed.
    known_features : ndarray, shape (ticks, classes, knots)
        Features of the last few ticks (five is a good number), oldest first, up to the tick before the present one.
    hosts_up : ndarray, shape (classes,)
        Hosts that are up now.
    last_w : float
        The present reading, in W; NaN if there is none.
    leads : int
        Number of ticks to forecast.

    Returns
    -------
    ndarray, shape (experts, leads)
        Power in W, one row per name in `EXPERTS`.

    Raises
    ------
    ValueError
        If no features are given.
    """
    if known_features.ndim != 3 or not len(known_features):
        raise ValueError(f"known_features have shape {known_features.shape}, expected (ticks >= 1, classes, knots)")
    hosts = np.repeat(hosts_up[None], leads, axis=0)

    def held(calibrator: PowerCalibrator, load: NDArray[np.float64]) -> NDArray[np.float64]:
        present = calibrator.fork()
        present.update(known_features[-1], hosts_up, last_w)  # the last known load stands for the present one
        return present.predict(np.repeat(load[None], leads, axis=0), hosts).mean_w

    load = known_features[-1]
    by_load = held(hour, load)
    level = by_load if np.isnan(last_w) else np.full(leads, last_w)
    return np.stack([level, by_load, held(hour, known_features.mean(axis=0)), held(short, load)])


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSettings:
    """How experts are weighed.

    Parameters
    ----------
    lead_edges : tuple of int
        Borders of groups of leads with weights of their own, counted from 0.
    learning_rate : float
        Weights are ``exp(-learning_rate * sum of forgotten mean relative errors in percent)``. 0.2: an expert that is worse
        by half a point of error for a day has lost nine tenths of its weight.
    forgetting_ratio : float
        Factor on past errors per forecast: 0.98 per hour is a memory of two days.
    """

    lead_edges: tuple[int, ...] = (0, 3, 8, 20, 40, 80, 120)
    learning_rate: float = 0.2
    forgetting_ratio: float = 0.98


MIXTURE_DEFAULTS: Final = MixtureSettings()


class ExpertMixture:
    """Exponentially weighted mean of experts, with weights per group of leads.

    Parameters
    ----------
    experts : int
        Number of experts.
    settings : MixtureSettings
        Groups of leads and speed of learning.
    """

    def __init__(self, experts: int, settings: MixtureSettings = MIXTURE_DEFAULTS) -> None:
        """Start with equal weights."""
        self.settings = settings
        self._parts = [slice(a, b) for a, b in pairwise(settings.lead_edges)]
        self._loss = np.zeros((len(self._parts), experts))
        self._open: NDArray[np.float64] | None = None

    @property
    def weights(self) -> NDArray[np.float64]:
        """Present weights, shape (groups of leads, experts); each row sums to 1."""
        relative = self._loss - self._loss.min(axis=1, keepdims=True)
        weights = np.exp(-self.settings.learning_rate * relative)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def issue(self, guesses_w: ArrayLike) -> NDArray[np.float64]:
        """Weighted mean of the experts' guesses, shape (experts, leads), in W.

        Raises
        ------
        ValueError
            If the guesses have another number of experts or too many leads, or are not finite.
        """
        guesses = np.asarray(guesses_w, float)
        leads = self.settings.lead_edges[-1]
        if guesses.ndim != 2 or guesses.shape[0] != self._loss.shape[1] or guesses.shape[1] > leads:
            raise ValueError(
                f"guesses have shape {guesses.shape}, expected {self._loss.shape[1]} experts and up to {leads} leads"
            )
        if not np.isfinite(guesses).all():
            raise ValueError("an expert's guess is NaN or infinite: leave forecasts out until all experts can speak")
        self._open = guesses
        mean = np.empty(guesses.shape[1])
        for weights, part in zip(self.weights, self._parts, strict=True):
            mean[part] = weights @ guesses[:, part]
        return mean

    def settle(self, measured_w: ArrayLike) -> None:
        """Charge the experts with their errors; leads without outcome are NaN, and may be left off the end.

        Raises
        ------
        ValueError
            If nothing was issued since the last `settle`.
        """
        if self._open is None:
            raise ValueError("there are outcomes to settle but no forecast was issued: call issue() first")
        outcome = np.asarray(measured_w, float)
        guesses, self._open = self._open[:, : outcome.size], None
        self._loss *= self.settings.forgetting_ratio
        for group, part in enumerate(self._parts):
            seen = outcome[part] > 0
            if seen.any():
                error = np.abs(guesses[:, part][:, seen] / outcome[part][seen] - 1.0).mean(axis=1)
                self._loss[group] += 100.0 * error

    def snapshot(self) -> dict[str, Any]:
        """State as plain data for JSON."""
        return {"loss": self._loss.tolist(), "open": None if self._open is None else self._open.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state from `snapshot` of a mixture of the same size.

        Raises
        ------
        ValueError
            If the sizes differ.
        """
        loss = np.array(state["loss"])
        if loss.shape != self._loss.shape:
            raise ValueError(
                f"mixture state has shape {loss.shape}, expected {self._loss.shape} (groups of leads, experts)"
            )
        self._loss = loss
        self._open = None if state["open"] is None else np.array(state["open"])
