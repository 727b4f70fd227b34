"""Bands: they cover what they promise on any of several worlds, look at nothing later, and never leave their forecast."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.twin.bands import BLIND_HOUR_BAND, FIVE_MINUTE_BAND, HOUR_BAND, AdaptiveBand, BandSettings

SMALL = BandSettings(issue_interval_s=1800, lead_edges=(0, 2, 5))


def played(errors, settings=SMALL, mean_w=1000.0, sd_w=50.0):
    """Issue and settle bands around a constant forecast whose outcomes have the given errors, one row an issue."""
    band = AdaptiveBand(settings)
    lower, upper = np.empty_like(errors), np.empty_like(errors)
    for i, row in enumerate(errors):
        lower[i], upper[i] = band.issue(np.full(row.size, mean_w), np.full(row.size, sd_w))
        band.settle(mean_w + row)
    return lower, upper


def covered(errors, lower, upper, mean_w=1000.0):
    return ((mean_w + errors >= lower) & (mean_w + errors <= upper)).mean()


NOISES = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "heavy": lambda rng, shape: rng.standard_t(2, shape),
    "lopsided": lambda rng, shape: rng.exponential(1.0, shape) - 1.0,
    "biased": lambda rng, shape: 0.7 + rng.standard_normal(shape),
}


@given(
    noise=st.sampled_from(sorted(NOISES)),
    size_w=st.floats(5.0, 100.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_coverage_is_near_what_was_asked_for(noise, size_w, seed):
    errors = size_w * NOISES[noise](np.random.default_rng(seed), (600, 5))
    assert 0.86 <= covered(errors[200:], *(side[200:] for side in played(errors))) <= 0.94


@given(factor=st.sampled_from([0.3, 3.0, 6.0]), seed=st.integers(0, 2**32 - 1))
def test_a_change_of_volatility_is_followed(factor, seed):
    errors = 30.0 * np.random.default_rng(seed).standard_normal((600, 5))
    errors[300:] *= factor
    lower, upper = played(errors)
    assert 0.8 <= covered(errors[310:], lower[310:], upper[310:]) <= 0.97
    width = (upper - lower).mean(axis=1)
    change = width[500:].mean() / width[200:300].mean()
    assert 0.5 * factor < change < 2.0 * factor


@given(
    errors=st.lists(st.lists(st.floats(-900, 5000), min_size=5, max_size=5), min_size=1, max_size=30),
    moment=st.integers(0, 29),
)
def test_nothing_issued_before_a_moment_depends_on_what_happens_then(errors, moment):
    errors = np.array(errors)
    changed = errors.copy()
    changed[moment:] += 137.0
    for one, other in zip(played(errors), played(changed), strict=True):
        assert np.array_equal(one[: moment + 1], other[: moment + 1])


@given(
    errors=st.lists(
        st.lists(st.one_of(st.floats(-900, 1e7), st.just(float("nan"))), min_size=1, max_size=5),
        min_size=1,
        max_size=40,
    )
)
def test_a_band_holds_its_forecast_and_stays_finite(errors):
    band = AdaptiveBand(SMALL)
    for row in errors:
        lower, upper = band.issue(np.full(5, 1000.0), np.linspace(10.0, 50.0, 5))
        assert np.isfinite(lower).all()
        assert np.isfinite(upper).all()
        assert (lower >= 0.0).all()
        assert (lower <= 1000.0).all()
        assert (upper >= 1000.0).all()
        band.settle(1000.0 + np.array(row))


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 39))
def test_a_restored_band_continues_to_the_bit(seed, cut):
    errors = 30.0 * np.random.default_rng(seed).standard_normal((40, 5))
    whole = played(errors)
    first = AdaptiveBand(SMALL)
    for row in errors[:cut]:
        first.issue(np.full(5, 1000.0), np.full(5, 50.0))
        first.settle(1000.0 + row)
    second = AdaptiveBand(SMALL)
    second.restore(json.loads(json.dumps(first.snapshot())))
    assert np.array_equal(second.issue(np.full(5, 1000.0), np.full(5, 50.0))[0], whole[0][cut])


@given(seed=st.integers(0, 2**32 - 1))
def test_a_band_may_be_restored_between_issue_and_settle(seed):
    errors = 30.0 * np.random.default_rng(seed).standard_normal((3, 5))
    whole = played(errors)
    first, second = AdaptiveBand(SMALL), AdaptiveBand(SMALL)
    first.issue(np.full(5, 1000.0), np.full(5, 50.0))
    second.restore(json.loads(json.dumps(first.snapshot())))
    second.settle(1000.0 + errors[0])
    assert np.array_equal(second.issue(np.full(5, 1000.0), np.full(5, 50.0))[1], whole[1][1])


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.98])
def test_other_levels_are_met(ratio):
    settings = BandSettings(issue_interval_s=1800, lead_edges=(0, 2, 5), coverage_ratio=ratio)
    errors = 30.0 * np.random.default_rng(0).standard_normal((1500, 5))
    lower, upper = played(errors, settings)
    assert covered(errors[300:], lower[300:], upper[300:]) == pytest.approx(ratio, abs=0.02)


def test_wide_forecasts_get_wide_bands():
    errors = np.random.default_rng(0).standard_normal((400, 5)) * [10.0, 10.0, 40.0, 40.0, 40.0]
    lower, upper = played(errors)
    width = (upper - lower)[200:].mean(axis=0)
    assert width[3] > 2.0 * width[0]


def test_an_outage_does_not_widen_the_band_for_long():
    errors = 30.0 * np.random.default_rng(0).standard_normal((500, 5))
    errors[300] = 100_000.0
    lower, upper = played(errors)
    width = (upper - lower).mean(axis=1)
    assert width[301] < 2.5 * width[250:300].mean()
    assert width[320:340].mean() < 2.0 * width[250:300].mean()


def test_levels_adapt_to_what_the_quantiles_miss():
    """Errors that keep growing are always a bit larger than the past says."""
    errors = np.random.default_rng(0).standard_normal((1500, 5)) * np.geomspace(1.0, 300.0, 1500)[:, None]
    shares = []
    for speed in (0.0, 0.05):
        settings = BandSettings(
            issue_interval_s=1800, lead_edges=(0, 2, 5), adaptation_per_h=speed, scale_half_life_h=200.0
        )
        lower, upper = played(errors, settings, mean_w=10_000.0)
        shares.append(covered(errors[300:], lower[300:], upper[300:], mean_w=10_000.0))
    assert shares[0] < 0.88
    assert abs(shares[1] - 0.9) < 0.5 * abs(shares[0] - 0.9)


def test_the_state_stays_small():
    band = AdaptiveBand(FIVE_MINUTE_BAND)
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(6000):
        band.issue(np.full(10, 1000.0), np.full(10, 30.0))
        band.settle(1000.0 + 30.0 * rng.standard_normal(10))
        sizes.append(sum(len(group["scores"]) for group in band.snapshot()["groups"]) if _ % 1000 == 999 else 0)
    assert max(sizes) < 20_000
    assert sizes[5999] <= 1.1 * sizes[3999]


def test_given_settings_fit_their_horizons():
    assert (HOUR_BAND.lead_edges[-1], FIVE_MINUTE_BAND.lead_edges[-1], BLIND_HOUR_BAND.lead_edges[-1]) == (120, 10, 120)


def test_misuse_is_named():
    band = AdaptiveBand(SMALL)
    with pytest.raises(ValueError, match="call issue"):
        band.settle([1.0])
    with pytest.raises(ValueError, match="positive sd_w"):
        band.issue([1.0], [0.0])
    with pytest.raises(ValueError, match="up to 5 leads"):
        band.issue(np.ones(6), np.ones(6))
    band.issue(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="at most 2 leads"):
        band.settle(np.ones(3))
    with pytest.raises(ValueError, match="lead_edges"):
        BandSettings(issue_interval_s=1, lead_edges=(0, 3, 3))
    with pytest.raises(ValueError, match="coverage_ratio"):
        BandSettings(issue_interval_s=1, lead_edges=(0, 3), coverage_ratio=1.0)


def winkler(errors, lower, upper, mean_w=1000.0):
    outcome = mean_w + errors
    outside = np.maximum(lower - outcome, 0.0) + np.maximum(outcome - upper, 0.0)
    return (upper - lower + 20.0 * outside)[200:].mean()


@pytest.mark.parametrize(("step_w", "better"), [(0.0, 200.0), (15.0, 2.0), (40.0, 2.0)])
def test_half_lives_are_weighed_so_that_none_needs_to_be_chosen(step_w, better):
    """Where the level stays, a long memory is better; where it wanders, a short one; the mixture is as good as either."""
    rng = np.random.default_rng(1)
    errors, level = 30.0 * rng.standard_normal((800, 5)), 0.0
    for index in range(len(errors)):
        level = 0.97 * level + step_w * rng.standard_normal()
        errors[index] += level

    def score(*half_lives_h):
        settings = replace(SMALL, score_half_lives_h=half_lives_h, adaptation_per_h=0.0)
        return winkler(errors, *played(errors, settings))

    alone = {2.0: score(2.0), 200.0: score(200.0)}
    assert min(alone, key=alone.get) == better
    assert max(alone.values()) > 1.05 * min(alone.values())
    assert score(2.0, 200.0) < 1.02 * min(alone.values())
