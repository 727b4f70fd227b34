"""Which points a sweep visits: grids, and samples that are the same wherever and whenever they are drawn.

Draws use only ``random.Random.random``, whose sequence Python promises to keep, and every axis has a generator of its own,
seeded with its name: another axis, another order or a library's new version changes no draw.

A Latin hypercube of n points (McKay, Beckman and Conover, Technometrics 21, 1979) has in every axis exactly one point in
each of n equally likely strata, so that the mean over it of a monotone response varies less than over independent draws.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import JsonValue

    from opendt.optimization.sweep_spec import Draw, Sample, SweepSpec

__all__ = ["Row", "rows_of"]


@dataclass(frozen=True)
class Row:
    """One simulation of a sweep: its number from 0, axis -> value, and the seed of the simulation."""

    index: int
    settings: Mapping[str, JsonValue]
    seed: int


def rows_of(spec: SweepSpec) -> list[Row]:
    """List the rows in the order of the spec: the first axis of the grid changes slowest, the seed fastest."""
    grid = [dict(zip(spec.grid, values, strict=True)) for values in product(*spec.grid.values())]
    drawn = list(_points(spec.sample)) if spec.sample else [{}]
    points = product(grid, drawn, spec.seeds)
    return [Row(index, {**fixed, **sampled}, seed) for index, (fixed, sampled, seed) in enumerate(points)]


def _points(sample: Sample) -> Iterator[dict[str, JsonValue]]:
    """Draw the points of a sample."""
    columns = []
    for name, draw in sample.axes.items():
        generator = random.Random(f"{sample.seed}:{name}")
        shares = (_independent if sample.method == "random" else _stratified)(generator, sample.count)
        columns.append([_value(draw, share) for share in shares])
    for values in zip(*columns, strict=True):
        yield dict(zip(sample.axes, values, strict=True))


def _independent(generator: random.Random, count: int) -> list[float]:
    return [generator.random() for _ in range(count)]


def _stratified(generator: random.Random, count: int) -> list[float]:
    """One draw in each of `count` equal parts of [0, 1), in random order."""
    keys = [generator.random() for _ in range(count)]
    strata = sorted(range(count), key=keys.__getitem__)
    # Rounding must not lift a draw to the part above, or to 1.
    below = [math.nextafter((stratum + 1) / count, 0.0) for stratum in strata]
    return [min((stratum + generator.random()) / count, most) for stratum, most in zip(strata, below, strict=True)]


def _value(draw: Draw, share: float) -> JsonValue:
    """Value of a draw below which the given share of its distribution lies."""
    if draw.uniform is not None:
        low, high = draw.uniform
        return low + (high - low) * share
    if draw.log_uniform is not None:
        low, high = draw.log_uniform
        return min(max(low * math.pow(high / low, share), low), high)
    if draw.integers is not None:
        first, last = draw.integers
        return first + int(share * (last - first + 1))
    choices = draw.choice or ()
    return choices[int(share * len(choices))]
