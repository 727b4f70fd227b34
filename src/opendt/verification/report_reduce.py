"""A long series reduced to what a screen can show, without losing a peak."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["bucket_means", "extremes"]


def extremes(time_ms: Integers, values: Floats, low_ms: int, high_ms: int, buckets: int) -> tuple[Floats, Floats]:
    """Keep of each bucket of time its smallest and its largest value, in the order in which they came.

    Parameters
    ----------
    time_ms : ndarray of int
        Ascending times.
    values : ndarray
        Values, NaN where there is none.
    low_ms, high_ms : int
        Part that is wanted: low < time <= high.
    buckets : int
        Into how many equal parts it is cut.

    Returns
    -------
    time_ms, values : ndarray
        At most twice `buckets` points; a bucket with none is one NaN, so that a line breaks there.
    """
    where, index = _places(time_ms, low_ms, high_ms, buckets)
    kept: list[int] = []
    gaps: list[int] = []
    times, value = time_ms[index], values[index]
    starts = np.searchsorted(where, np.arange(buckets + 1))
    for bucket in range(buckets):
        part = value[starts[bucket] : starts[bucket + 1]]
        if not np.isfinite(part).any():
            gaps.append(bucket)
            continue
        pair = {int(np.nanargmin(part)), int(np.nanargmax(part))}
        kept.extend(int(starts[bucket]) + i for i in sorted(pair))
    middle = low_ms + (np.asarray(gaps, float) + 0.5) * (high_ms - low_ms) / buckets
    found_ms = np.concatenate((times[kept].astype(float), middle))
    found = np.concatenate((value[kept], np.full(len(gaps), np.nan)))
    order = np.argsort(found_ms, kind="stable")
    return found_ms[order], found[order]


def bucket_means(time_ms: Integers, values: Floats, low_ms: int, high_ms: int, buckets: int) -> Floats:
    """Mean of each bucket of time, low < time <= high; NaN where there is none."""
    where, index = _places(time_ms, low_ms, high_ms, buckets)
    part = values[index]
    known = np.isfinite(part)
    count = np.bincount(where[known], minlength=buckets)
    total = np.bincount(where[known], part[known], minlength=buckets)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _places(time_ms: Integers, low_ms: int, high_ms: int, buckets: int) -> tuple[Integers, slice]:
    """Bucket of each sample of the part, and where the part is."""
    index = slice(int(np.searchsorted(time_ms, low_ms, "right")), int(np.searchsorted(time_ms, high_ms, "right")))
    # A sample belongs to the interval that it ends.
    where = ((time_ms[index] - low_ms - 1) * buckets // (high_ms - low_ms)).astype(np.int64)
    return where, index
