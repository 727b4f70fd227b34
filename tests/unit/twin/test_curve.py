"""Curves are exact at their knots, straight between them, and a host class refuses what is none."""

from __future__ import annotations

import numpy as np
import pytest

from opendt.twin.curve import KNOTS, HostClass, hat_weights, monotone


def test_weights_interpolate_straight_lines():
    power = np.linspace(0.0, 1.0, len(KNOTS)) ** 2
    utilization = np.linspace(0.0, 1.0, 301)
    assert np.allclose(hat_weights(utilization) @ power, np.interp(utilization, KNOTS, power), rtol=0, atol=1e-12)


def test_weights_sum_to_one_and_have_two_neighbours():
    weights = hat_weights(np.random.default_rng(0).random((5, 7)))
    assert weights.shape == (5, 7, len(KNOTS))
    assert np.allclose(weights.sum(axis=-1), 1.0)
    assert (np.count_nonzero(weights, axis=-1) <= 2).all()


def test_utilization_outside_counts_as_the_nearer_end():
    assert hat_weights(-0.5)[0] == 1.0
    assert hat_weights(1.5)[-1] == 1.0


def test_monotone_pools_what_falls_and_keeps_what_rises():
    assert monotone(np.array([1.0, 3.0, 2.0, 4.0]), np.ones(4)).tolist() == [1.0, 2.5, 2.5, 4.0]
    assert monotone(np.array([3.0, 1.0]), np.array([3.0, 1.0])).tolist() == [2.5, 2.5]
    assert monotone(np.array([5.0, 4.0, 3.0]), np.ones(3)).tolist() == [4.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("utilization", "power_w", "hosts", "word"),
    [
        ((0.0, 0.5), (1.0, 2.0), 1, "rising from 0 to 1"),
        ((0.0, 0.7, 0.5, 1.0), (1.0, 2.0, 3.0, 4.0), 1, "rising from 0 to 1"),
        ((0.0, 1.0), (1.0,), 1, "finite watts"),
        ((0.0, 1.0), (float("nan"), 2.0), 1, "finite watts"),
        ((0.0, 1.0), (-1.0, 2.0), 1, "none negative"),
        ((0.0, 1.0), (1.0, 2.0), 0, "at least 1"),
    ],
)
def test_a_host_class_refuses_what_is_no_curve(utilization, power_w, hosts, word):
    with pytest.raises(ValueError, match=word) as caught:
        HostClass("odd", hosts, utilization, power_w)
    assert "'odd'" in str(caught.value)
