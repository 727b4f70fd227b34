"""The front holds what nothing dominates; the knee is where a little more costs a lot."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from opendt.optimization.pareto import knee, non_dominated

NUMBERS = st.one_of(st.integers(0, 3).map(float), st.floats(0, 1, allow_nan=False))
POINTS = hnp.arrays(float, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=NUMBERS)


def dominates(one, other):
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


@given(POINTS)
def test_nothing_dominates_a_point_of_the_front(points):
    front = points[non_dominated(points)]
    assert not any(dominates(one, other) for one, other in itertools.product(points.tolist(), front.tolist()))


@given(POINTS)
def test_whatever_is_not_on_the_front_is_dominated_by_it_or_equal_to_a_point_of_it(points):
    flags = non_dominated(points)
    front = points[flags].tolist()
    for left_out in points[~flags].tolist():
        assert any(dominates(one, left_out) or one == left_out for one in front)


@given(POINTS, st.randoms(use_true_random=False))
def test_the_front_is_the_same_set_in_any_order(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = points[order]
    assert sorted(points[non_dominated(points)].tolist()) == sorted(shuffled[non_dominated(shuffled)].tolist())


def test_of_equal_points_the_first_counts():
    assert non_dominated([[1.0, 1.0], [1.0, 1.0]]).tolist() == [True, False]


def test_a_point_of_which_something_is_unknown_is_on_no_front():
    assert non_dominated([[float("nan"), 0.0], [5.0, 5.0]]).tolist() == [False, True]
    assert non_dominated(np.zeros((0, 2))).tolist() == []


@given(POINTS, st.floats(0.1, 100), st.floats(-50, 50))
def test_the_knee_does_not_depend_on_units(points, factor, shift):
    front = points[non_dominated(points)].round(3)
    front = front[non_dominated(front)]
    found = knee(front)
    scaled = front * factor + shift
    spans = np.ptp(front, axis=0)
    sums = ((front - front.min(axis=0)) / np.where(spans > 0, spans, 1.0)).sum(axis=1)
    assert sums[knee(scaled)] == pytest.approx(sums[found], abs=1e-6)
    assert sums[found] == pytest.approx(sums.min(), abs=1e-12)


def test_the_knee_is_the_corner():
    front = [[0.0, 100.0], [1.0, 60.0], [2.0, 5.0], [50.0, 4.0], [100.0, 0.0]]
    assert knee(front) == 2


def test_a_quantity_that_never_changes_has_no_say():
    assert knee([[0.0, 7.0, 10.0], [1.0, 7.0, 1.0], [10.0, 7.0, 0.0]]) == 1
    assert knee([[3.0, 3.0]]) == 0
    assert knee(np.zeros((0, 2))) is None
