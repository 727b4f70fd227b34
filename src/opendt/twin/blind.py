"""Blind forecasts: what an operator knows at the moment of issue, and no fragment that ends later.

Ways to guess the power of the next hour without knowing its workload:

- *persistence*: the last reading stays;
- *held load*: the mean load of the last ticks whose fragments have ended stays, priced by a calibrated curve; what the last
  reading shows beyond it decays, as disturbances do. It beats the reading itself, because part of any reading is passing.

How many ticks to average is not chosen here: every number of ticks that is a power of two, up to about ten minutes, stands for
itself, and `mixture.ExpertMixture` weighs them per lead time by how well they did so far.

Survival of running tasks, arrival rates, time of day and averages of readings were tried without success; the figures are in
docs/concepts/calibration.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.twin.curve import hat_weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from opendt.twin.calibrate import PowerCalibrator

HELD_TICKS: Final = (1, 2, 4, 8, 16)
"""Numbers of ticks over which held loads are averaged."""

EXPERTS: Final = ("persistence", *(f"held_load_{ticks}" for ticks in HELD_TICKS))
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
    calibrator: PowerCalibrator,
    known_features: NDArray[np.float64],
    hosts_up: NDArray[np.float64],
    last_w: float,
    leads: int,
) -> NDArray[np.float64]:
    """Guesses of the coming `leads` ticks from what is known at the moment of issue.

    Parameters
    ----------
    calibrator : PowerCalibrator
        Updated up to the tick *before* the present one: the load of the present tick consists of fragments that end later. It
        is not changed.
    known_features : ndarray, shape (ticks, classes, knots)
        Features of the last ticks, oldest first, up to the tick before the present one; as many as there are, 16 suffice.
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
    present = calibrator.fork()
    present.update(known_features[-1], hosts_up, last_w)  # the last known load stands for the present one
    held = []
    for ticks in HELD_TICKS:
        load = known_features[-ticks:].mean(axis=0)
        held.append(present.weights @ present.expect_members(np.repeat(load[None], leads, axis=0), hosts))
    level = np.full(leads, last_w) if np.isfinite(last_w) else held[0]
    return np.stack([level, *held])
