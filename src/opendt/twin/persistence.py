"""The naive rival of every forecast: the last reading stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPREAD_RATIO = 0.005  # of power after one tick; the band learns the true size, only the growth with the lead matters


def persistence(last_w: float, leads: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Forecast `leads` ticks by the last reading, with the spread of a random walk.

    Parameters
    ----------
    last_w : float
        Last reading before the forecast, in W.
    leads : int
        Number of ticks.

    Returns
    -------
    mean_w, sd_w : ndarray, shape (leads,)
        The forecast and a rough standard deviation that grows with the root of the lead, in W; for `bands.AdaptiveBand`.
    """
    return np.full(leads, last_w), _SPREAD_RATIO * max(last_w, 1.0) * np.sqrt(np.arange(1, leads + 1))
