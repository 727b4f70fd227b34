"""The mixture is never much worse than its best expert or the best mean of them, learns without a rate, and looks only back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from opendt.twin.mixture import HALF_LIFE_H, ExpertMixture, Hedge

EDGES = (0, 2, 4)


def mixture(experts=2, interval_h=1.0):
    return ExpertMixture(experts, EDGES, interval_h)


@pytest.mark.parametrize("best", range(3))
def test_it_moves_to_the_best_expert(best):
    rng = np.random.default_rng(best)
    weighed = mixture(3)
    own, experts = [], []
    for _ in range(400):
        truth = 1000.0 + 50.0 * rng.standard_normal(4)
        bias = np.where(np.arange(3) == best, 0.0, 0.05)[:, None]
        guesses = truth * (1 + bias + 0.01 * rng.standard_normal((3, 4)))
        own.append(np.abs(weighed.issue(guesses) / truth - 1.0).mean())
        experts.append(np.abs(guesses / truth - 1.0).mean(axis=1))
        weighed.settle(truth)
    assert np.argmax(weighed.weights, axis=1).tolist() == [best, best]
    assert np.mean(own) < 1.15 * np.mean(experts, axis=0).min()


def test_experts_that_err_on_both_sides_are_averaged():
    weighed = mixture()
    errors = []
    for _ in range(300):
        errors.append(np.abs(weighed.issue([[102.0] * 4, [98.0] * 4]) - 100.0).mean())
        weighed.settle([100.0] * 4)
    assert np.mean(errors[100:]) < 0.3


@pytest.mark.parametrize("unit_w", [1.0, 1e6])
def test_the_unit_of_power_does_not_matter(unit_w):
    weighed, reference = mixture(), mixture()
    rng = np.random.default_rng(0)
    for _ in range(50):
        truth = 100.0 + rng.standard_normal(4)
        guesses = truth + rng.standard_normal((2, 4))
        weighed.issue(guesses * unit_w)
        weighed.settle(truth * unit_w)
        reference.issue(guesses)
        reference.settle(truth)
    assert np.allclose(weighed.weights, reference.weights)


def test_who_was_best_long_ago_is_forgotten():
    weighed = mixture()
    turns = 8 * round(HALF_LIFE_H)
    for turn in range(turns):
        good = 0 if turn < turns // 2 else 1
        weighed.issue(np.where(np.arange(2) == good, 101.0, 110.0)[:, None] * np.ones(4))
        weighed.settle([100.0] * 4)
    assert (weighed.weights[:, 1] > 0.8).all()


def test_leads_have_weights_of_their_own():
    weighed = mixture()
    for _ in range(50):
        weighed.issue([[100.0, 100.0, 150.0, 150.0], [150.0, 150.0, 100.0, 100.0]])
        weighed.settle([100.0, 100.0, 100.0, np.nan])
    assert weighed.weights[0, 0] > 0.9
    assert weighed.weights[1, 1] > 0.9


def test_missing_outcomes_change_nothing():
    weighed = mixture()
    weighed.issue([[1.0] * 4, [2.0] * 4])
    weighed.settle([np.nan] * 4)
    assert np.array_equal(weighed.weights, np.full((2, 2), 0.5))


def test_equal_experts_keep_equal_weights():
    weighed = mixture(3)
    for _ in range(20):
        weighed.issue([[110.0] * 4] * 3)
        weighed.settle([100.0] * 4)
    assert np.allclose(weighed.weights, 1 / 3)


def test_regret_grows_slower_than_the_number_of_turns():
    """AdaHedge's promise, without forgetting: what it loses beyond the best expert is of the order of a root."""
    rng = np.random.default_rng(3)
    hedge = Hedge(1, 5, interval_h=0.0)
    turns, own, total = 4000, 0.0, np.zeros(5)
    for _ in range(turns):
        losses = rng.random(5)
        own += float(hedge.weights[0] @ losses)
        total += losses
        hedge.charge(losses[None])
    assert own - total.min() < 2 * np.sqrt(turns * np.log(5) / 4) + 16 * np.log(5)


def test_a_restored_mixture_continues():
    first, second = mixture(), mixture()
    for part in ([[1.0] * 4, [2.0] * 4], [[3.0] * 4, [2.5] * 4]):
        first.issue(part)
        first.settle([2.0] * 4)
    first.issue([[1.0] * 4, [2.0] * 4])
    second.restore(json.loads(json.dumps(first.snapshot())))
    for one in (first, second):
        one.settle([1.0] * 4)
    assert np.array_equal(first.issue([[1.0] * 4, [2.0] * 4]), second.issue([[1.0] * 4, [2.0] * 4]))


def test_misuse_is_named():
    weighed = mixture()
    with pytest.raises(ValueError, match="call issue"):
        weighed.settle([1.0])
    with pytest.raises(ValueError, match="2 experts and up to 4 leads"):
        weighed.issue(np.ones((3, 4)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        weighed.issue(np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match="groups of leads"):
        weighed.restore(mixture(3).snapshot())
    with pytest.raises(ValueError, match="groups of leads"):
        weighed.restore(ExpertMixture(2, (0, 4), 1.0).snapshot())
