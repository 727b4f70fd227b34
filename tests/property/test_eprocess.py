"""Evidence by betting: what it promises under nulls of every shape, and that it finds what is there."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from opendt.optimization.eprocess import STAKES, AlphaSpending, MeanTest, confidence_bound, e_process, window_test

NULLS = 1000
PAIRS = 200
MOST = 65
TEST = MeanTest(0.01, -0.2, 0.2)
NARROW = MeanTest(0.01, -0.1, 0.1)  # that of a claim by default


def normal(rng, mean):
    return np.clip(mean + rng.normal(0.0, 0.05, PAIRS), -0.2, 0.2)


def two_point(rng, mean):
    return np.where(rng.random(PAIRS) < (mean + 0.2) / 0.4, 0.2, -0.2)


def rarely_bad(rng, mean):
    """Nearly always a little good, seldom as bad as can be: the hardest for whoever trusts a variance."""
    chance = 0.03
    good = (mean + chance * 0.2) / (1.0 - chance)
    return np.where(rng.random(PAIRS) < chance, -0.2, good)


def uniform(rng, mean):
    return mean + rng.uniform(-0.15, 0.15, PAIRS)


def drifting(rng, mean):
    """Each mean given the past is the bound, and the spread follows what came before: dependent, and still a null."""
    values = np.empty(PAIRS)
    spread = 0.05
    for index in range(PAIRS):
        values[index] = mean + spread * (1 if rng.random() < 0.5 else -1)
        spread = 0.15 if values[index] < mean else 0.02
    return values


@pytest.mark.parametrize("shape", [normal, two_point, rarely_bad, uniform, drifting])
def test_at_most_65_of_1000_nulls_are_certified_with_a_look_after_every_pair(shape):
    """Mean exactly at the bound, alpha 0.05, the best moment of 200 looks each."""
    rng = np.random.default_rng(20)
    certified = sum(e_process(shape(rng, TEST.bound), TEST).max() >= math.log(20.0) for _ in range(NULLS))
    assert certified <= MOST


@pytest.mark.parametrize("shape", [normal, two_point, rarely_bad, uniform, drifting])
def test_the_mean_capital_under_a_null_is_at_most_one(shape):
    """An e-value: its expectation is at most 1; the mean of bounded-variance capitals is near it after few bets."""
    rng = np.random.default_rng(21)
    capital = np.array([math.exp(e_process(shape(rng, TEST.bound), TEST)[4]) for _ in range(20 * NULLS)])
    assert capital.mean() <= 1.0 + 4.0 * capital.std() / math.sqrt(len(capital))


def test_a_naive_test_would_not_hold():
    """The same looks at a t-statistic certify far more: the test above can fail."""
    rng = np.random.default_rng(22)
    looks = np.arange(10, PAIRS)
    wrong = 0
    for _ in range(300):
        x = normal(rng, TEST.bound)
        wrong += any((x[:n].mean() - TEST.bound) / (x[:n].std(ddof=1) / math.sqrt(n)) > 1.645 for n in looks)
    assert wrong > 300 * 0.15


@pytest.mark.parametrize(("shape", "mean"), [(normal, 0.03), (uniform, 0.05), (two_point, 0.08)])
def test_a_real_gain_is_found(shape, mean):
    rng = np.random.default_rng(23)
    found = sum(e_process(shape(rng, mean), TEST).max() >= math.log(20.0) for _ in range(200))
    assert found >= 170


def test_capital_by_hand():
    """Two observations, every stake written out."""
    test = MeanTest(0.0, -1.0, 1.0)
    expected = [
        np.mean([1 + s * 0.5 for s in STAKES]),
        np.mean([(1 + s * 0.5) * (1 - s * 0.25) for s in STAKES]),
    ]
    assert np.exp(e_process([0.5, -0.25], test)) == pytest.approx(expected, rel=1e-12)


def test_the_worst_possible_observation_leaves_the_smaller_stakes():
    test = MeanTest(0.0, -1.0, 1.0)
    path = e_process([-1.0, 1.0, 1.0], test)
    assert np.isfinite(path).all()
    assert np.exp(path[0]) == pytest.approx(np.mean([1 - s for s in STAKES]))


def test_evidence_does_not_depend_on_the_order():
    x = np.random.default_rng(24).uniform(-0.2, 0.2, 6)
    ends = [e_process(order, TEST)[-1] for order in itertools.permutations(x)]
    assert np.ptp(ends) < 1e-12


def test_what_lies_outside_of_the_range_is_refused():
    for bad in ([0.3], [math.nan], [0.0, -0.21]):
        with pytest.raises(ValueError, match="expected all of them"):
            e_process(bad, TEST)
    for bound, low, high in ((0.0, 0.0, 1.0), (2.0, 0.0, 1.0), (0.5, 0.0, math.inf)):
        with pytest.raises(ValueError, match="bound"):
            MeanTest(bound, low, high)


def test_the_confidence_bound_covers_and_closes_in():
    """The lower bound lies above the true mean in at most 5 % of cases, and comes near it with observations."""
    rng = np.random.default_rng(25)
    bounds = [confidence_bound(normal(rng, 0.05), -0.2, 0.2, 0.05) for _ in range(200)]
    assert sum(bound > 0.05 for bound in bounds) <= 13
    assert np.mean(bounds) > 0.03


def test_windows_count_once():
    """A thousand copies of one window are one observation; windows that agree are evidence."""
    one = np.full(1000, 0.2)
    assert window_test([one], TEST)[-1] == pytest.approx(e_process([0.2], TEST)[-1])
    assert window_test([one] * 30, TEST)[-1] > math.log(20.0)
    assert len(window_test([[], []], TEST)) == 0


def test_backtest_nulls_with_windows_of_one_piece():
    """Pairs of a window share its fate, which is a coin toss: certified no oftener than alpha."""
    rng = np.random.default_rng(26)
    certified = 0
    for _ in range(400):
        fate = rng.choice([-0.15, 0.17], 40)
        windows = [np.clip(f + rng.normal(0, 0.01, 50), -0.2, 0.2) for f in fate]
        certified += window_test(windows, TEST).max() >= math.log(20.0)
    assert certified <= 26


def test_levels_sum_to_at_most_alpha_without_a_certificate():
    spending, levels = AlphaSpending(0.05), []
    for _ in range(20_000):
        levels.append(spending.level)
        spending = spending.after(certified=False)
    assert sum(levels) + 0.05 / math.log(20_001) / 2.11 <= 0.05  # the integral bounds what is left
    assert levels == sorted(levels, reverse=True)


def test_being_right_earns_alpha_back():
    poor, rich = AlphaSpending(0.05), AlphaSpending(0.05)
    for _ in range(50):
        poor, rich = poor.after(certified=False), rich.after(certified=True)
    assert rich.level == pytest.approx(51 * poor.level)
    assert rich.level < 0.05


def test_the_share_of_false_discoveries_stays_below_alpha():
    """A stream of mostly nulls, each asked again and again: wrong certificates among all, on average, at most alpha."""
    rng = np.random.default_rng(27)
    shares = []
    for _ in range(60):
        spending, wrong = AlphaSpending(0.05), 0
        for question in range(60):
            real = question % 6 == 0
            path = e_process(normal(rng, 0.06 if real else TEST.bound), TEST)
            certified = path.max() >= math.log(1.0 / spending.level)
            wrong += certified and not real
            spending = spending.after(certified=bool(certified))
        shares.append(wrong / max(spending.certified, 1))
        assert spending.certified >= 5
    assert np.mean(shares) <= 0.05


def test_gains_of_two_margins_are_found_after_two_hundred_refusals():
    """50 gains of 2 % against a margin of 1 %, noise of 1 % (twice what real pairs show): at least 45 are certified, however much was asked in vain before."""
    rng = np.random.default_rng(28)
    spending = AlphaSpending(0.05)
    for _ in range(200):
        spending = spending.after(certified=False)
    for _ in range(50):
        gains = np.clip(rng.normal(0.02, 0.01, PAIRS), -0.1, 0.1)
        certified = e_process(gains, NARROW).max() >= math.log(1.0 / spending.level)
        spending = spending.after(certified=bool(certified))
    assert spending.certified >= 45
