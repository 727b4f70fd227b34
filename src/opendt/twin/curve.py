"""Power curves per host class as weights on hat functions: what calibration learns and what the engine uses.

A curve is a straight line between watts at fixed utilisations. With `hat_weights` the power of many hosts becomes linear in
those watts, so that the sum over hosts of each hat function is all that calibration needs to know of a tick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.engine import simulation as engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

KNOTS: Final[tuple[float, ...]] = tuple(engine.KNOTS)
"""Utilisations of a host at which its power is learned: those of the engine's basis functions; closer where real curves bend (SPECpower: near idle and full load)."""

OCCUPIED_UTILIZATION: Final = 1e-6
"""Utilisation at which a learned curve states the power of a host that holds a task without load; below it, the host is empty."""


@dataclass(frozen=True, slots=True)
class HostClass:
    """Hosts that share one power curve, and what the datasheet says of it.

    Parameters
    ----------
    name : str
        Name of the class, unique within a calibrator.
    host_count : int
        Number of hosts; sets the size of disturbances and of the plausible range.
    utilization : tuple of float
        Rising utilisations from 0 to 1 at which the curve is learned, normally `KNOTS`.
    power_w : tuple of float
        Power of one host at each of them according to the datasheet, in W.
    """

    name: str
    host_count: int
    utilization: tuple[float, ...]
    power_w: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no curve.

        Raises
        ------
        ValueError
            If there are no hosts, or the points are not rising from 0 to 1 with finite positive power.
        """
        u, p = np.asarray(self.utilization, float), np.asarray(self.power_w, float)
        if self.host_count < 1:
            raise ValueError(f"host class {self.name!r}: host_count is {self.host_count}, expected at least 1")
        if u.size < 2 or u[0] != 0.0 or u[-1] != 1.0 or np.any(np.diff(u) <= 0):
            raise ValueError(
                f"host class {self.name!r}: utilization is {self.utilization}, expected rising from 0 to 1"
            )
        if p.shape != u.shape or not np.all(np.isfinite(p)) or p.min() < 0 or p.max() <= 0:
            raise ValueError(
                f"host class {self.name!r}: power_w is {self.power_w}, expected {u.size} finite watts, none negative"
            )


def hat_weights(utilization: ArrayLike, knots: Sequence[float] = KNOTS) -> NDArray[np.float64]:
    """Weights of straight-line interpolation: `power = hat_weights(u) @ power_at_knots`.

    Parameters
    ----------
    utilization : array_like
        Utilisations of hosts; values outside 0 to 1 count as the nearer end.
    knots : sequence of float
        Rising utilisations.

    Returns
    -------
    ndarray, shape (..., len(knots))
        At most two non-zero weights each, which sum to 1.
    """
    points = np.asarray(knots, float)
    u = np.clip(np.asarray(utilization, float), points[0], points[-1])
    left = np.clip(np.searchsorted(points, u, side="right") - 1, 0, points.size - 2)
    share = (u - points[left]) / (points[left + 1] - points[left])
    weights = np.zeros((*u.shape, points.size))
    np.put_along_axis(weights, left[..., None], (1.0 - share)[..., None], axis=-1)
    np.put_along_axis(weights, left[..., None] + 1, share[..., None], axis=-1)
    return weights


def monotone(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The non-decreasing sequence nearest to `values` in weighted least squares (pool adjacent violators)."""
    level: list[float] = []
    weight: list[float] = []
    size: list[int] = []
    for value, mass in zip(values.tolist(), weights.tolist(), strict=True):
        level.append(value)
        weight.append(mass)
        size.append(1)
        while len(level) > 1 and level[-2] > level[-1]:
            total = weight[-2] + weight[-1]
            level[-2:] = [(level[-2] * weight[-2] + level[-1] * weight[-1]) / total]
            weight[-2:] = [total]
            size[-2:] = [size[-2] + size[-1]]
    return np.repeat(level, size)
