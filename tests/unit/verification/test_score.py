"""Scores agree with figures worked out by hand, and with their definitions on random data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.forecast_accuracy import judge_kind
from opendt.model.errors import ModelError
from opendt.verification.score import DAY_MS, HOUR_MS, interval_score_w, match, score, skill_interval

STEP_MS = 30_000


def judged(power_w, measured_w, *, half_width_w=10.0, persistence_w=None, **more):
    power_w, measured_w = np.asarray(power_w, float), np.asarray(measured_w, float)
    time_ms = STEP_MS * np.arange(1, power_w.size + 1)
    rival = np.full(power_w.size, 100.0) if persistence_w is None else np.asarray(persistence_w, float)
    return score(
        time_ms - STEP_MS,
        time_ms,
        power_w,
        power_w - half_width_w,
        power_w + half_width_w,
        time_ms,
        measured_w,
        rival,
        **more,
    )


def test_figures_by_hand():
    found = judged([100, 110, 90, 100], [100, 100, 100, 125])
    assert found.points == 4
    assert found.mape_ratio == pytest.approx((0 + 0.1 + 0.1 + 0.2) / 4)
    assert found.bias_ratio == pytest.approx((0 + 0.1 - 0.1 - 0.2) / 4)
    assert found.coverage_ratio == 0.75  # the last lies 15 W above its band; two lie on the edge, which is inside
    assert found.winkler_ratio == pytest.approx((0.2 + 0.2 + 0.2 + (20 + 20 * 15) / 125) / 4)
    assert found.persistence_mape_ratio == pytest.approx(0.2 / 4)
    assert found.skill_ratio.value == pytest.approx(1 - 0.4 / 0.2)
    assert found.persistence_winkler_ratio is None
    assert found.winkler_skill_ratio is None


def test_the_rival_gets_a_band_of_its_own():
    found = judged(
        [100, 100], [100, 112], persistence_lower_w=np.array([90.0, 90.0]), persistence_upper_w=np.array([115.0, 115.0])
    )
    assert found.persistence_coverage_ratio == 1.0
    assert found.coverage_ratio == 0.5
    assert found.persistence_winkler_ratio == pytest.approx((25 / 100 + 25 / 112) / 2)
    assert found.winkler_skill_ratio == pytest.approx(1 - found.winkler_ratio / found.persistence_winkler_ratio)


def test_what_was_not_measured_is_not_scored():
    found = judged([100, 100, 100, 100], [100, np.nan, 0, 125])
    assert (found.points, found.unscored) == (2, 2)
    assert found.mape_ratio == pytest.approx(0.1)


def test_targets_between_samples_are_not_matched_to_a_neighbour():
    assert match([30_000, 45_000, 90_000], [60_000, 30_000], [2.0, 1.0]).index.tolist() == [0]


def test_a_rival_that_knows_nothing_yet_is_left_out_of_skill():
    found = judged([100, 100], [110, 125], persistence_w=[np.nan, 75])
    assert found.persistence_points == 1
    assert found.skill_ratio.value == pytest.approx(1 - 0.2 / 0.4)
    unknown = judged([100, 100], [110, 125], persistence_w=[np.nan, np.nan])
    assert unknown.skill_ratio is None
    assert unknown.persistence_mape_ratio is None


def test_days_and_terciles():
    time_ms = HOUR_MS * np.arange(1, 49)
    measured = np.repeat([100.0, 200.0, 300.0], 16)
    power = np.where(measured < 300, measured, measured + 50)
    found = score(time_ms - 1, time_ms, power, power - 1, power + 1, time_ms, measured, measured)
    assert found.coverage_by_tercile_ratio == (1.0, 1.0, 0.0)
    assert found.coverage_by_day_ratio == {0: 1.0, 1: 8 / 24}  # the sample at midnight ends the day before
    assert set(found.as_dict()) >= {"points", "skill_ratio"}


def test_the_interval_of_skill_holds_its_value_and_is_seeded():
    rng = np.random.default_rng(3)
    time_ms = STEP_MS * np.arange(1, 20_161)
    rival = np.abs(rng.normal(0.03, 0.02, time_ms.size)) * (1 + (time_ms // DAY_MS) % 3)
    own = rival * rng.uniform(0.2, 0.6, time_ms.size)
    found = skill_interval(own, rival, time_ms, seed=1)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(1 - own.sum() / rival.sum())
    assert found == skill_interval(own, rival, time_ms, seed=1)
    assert found != skill_interval(own, rival, time_ms, seed=2)


def test_equal_forecasts_have_no_skill_and_no_doubt():
    errors = np.linspace(0.01, 0.05, 5000)
    found = skill_interval(errors, errors, STEP_MS * np.arange(1, 5001))
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_rival_without_any_error_leaves_skill_undefined():
    found = judged([100, 110], [100, 100])
    assert np.isnan([found.skill_ratio.value, found.skill_ratio.low, found.skill_ratio.high]).all()


def test_the_figures_are_those_of_the_judge_that_shares_no_code():
    rng = np.random.default_rng(5)
    time_ms = STEP_MS * np.arange(1, 20_001)
    measured = 20_000 + 3_000 * np.sin(time_ms / DAY_MS * 6) + rng.normal(0, 200, time_ms.size)
    target, outcome = time_ms[120:], measured[120:]
    issued = (target - 1) // HOUR_MS * HOUR_MS
    power = outcome * (1 + rng.normal(0.002, 0.01, target.size))
    columns = {"power_w": power, "lower_w": power - 330, "upper_w": power + 310}
    naive = measured[np.searchsorted(time_ms, issued, side="right") - 1]
    found = score(issued, target, *columns.values(), time_ms, measured, naive)
    judge = judge_kind({"issued_ms": issued, "target_ms": target, **columns}, time_ms, measured, 24)
    assert found.points == judge["scored"]
    assert found.mape_ratio == pytest.approx(judge["mape_percent"] / 100)
    assert found.bias_ratio == pytest.approx(judge["bias_percent"] / 100)
    assert found.coverage_ratio == pytest.approx(judge["coverage"])
    assert found.winkler_ratio == pytest.approx(judge["winkler_percent"] / 100)
    assert found.persistence_mape_ratio == pytest.approx(judge["persistence"]["mape_percent"] / 100)
    assert found.skill_ratio.value == pytest.approx(judge["persistence"]["skill"])
    assert found.skill_ratio.low == pytest.approx(judge["persistence"]["low"], abs=0.01)
    np.testing.assert_allclose(found.coverage_by_tercile_ratio, judge["coverage_by_load_tercile"])


@given(
    st.lists(st.tuples(st.floats(1, 1e5), st.floats(0, 1e4), st.floats(0, 1e4)), min_size=1, max_size=40),
    st.floats(-1e5, 1e5),
)
def test_the_winkler_score_is_the_width_inside_and_dearer_outside(bands, shift):
    outcome, below, above = (np.array(column) for column in zip(*bands, strict=True))
    inside = interval_score_w(outcome - below, outcome + above, outcome)
    np.testing.assert_allclose(inside, below + above, atol=1e-6)
    moved = interval_score_w(outcome - below, outcome + above, outcome + shift)
    assert (moved >= inside - 1e-6).all()


def test_the_true_quantiles_have_the_best_winkler_score():
    outcome = np.random.default_rng(0).normal(1000, 50, 200_000)
    scores = [
        interval_score_w(np.full_like(outcome, 1000 - h), np.full_like(outcome, 1000 + h), outcome).mean()
        for h in (60, 82.2, 110)
    ]
    assert min(scores) == scores[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"power_w": [1.0]}, r"power_w: found 1 values, expected 2"),
        ({"lower_w": [1.0, np.nan]}, r"lower_w\[1\]: found nan, expected a finite power"),
        ({"issued_ms": [0, 60_000]}, r"row 1: found issued at 60000 ms for 60000 ms"),
        ({"target_ms": [31_000, 61_000]}, r"found no target at the time of a measured sample"),
    ],
)
def test_what_cannot_be_judged_is_refused(change, message):
    rows = {
        "issued_ms": [0, 0],
        "target_ms": [30_000, 60_000],
        "power_w": [1.0, 1.0],
        "lower_w": [0.0, 0.0],
        "upper_w": [2.0, 2.0],
        "measured_time_ms": [30_000, 60_000],
        "measured_w": [1.0, 1.0],
        "persistence_w": [1.0, 1.0],
    }
    with pytest.raises(ModelError, match=message):
        score(**{**rows, **change})
