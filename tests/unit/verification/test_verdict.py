"""A forecast is judged by the readings of its ticks, beside saying "as now"."""

from __future__ import annotations

import numpy as np
import pytest

from opendt.verification.verdict import judge

TARGET = np.array([30_000, 60_000, 90_000], np.int64)


def verdict(measured, power=(100.0, 100.0, 100.0), last=80.0):
    power_w = np.array(power)
    return judge("hour", 0, TARGET, power_w, power_w - 10.0, power_w + 10.0, np.array(measured), last)


def test_errors_are_relative_to_the_reading():
    found = verdict([100.0, 125.0, 80.0])
    assert found.points == 3
    assert found.error_ratio == pytest.approx((0.0 + 0.2 + 0.25) / 3)
    assert found.bias_ratio == pytest.approx((0.0 - 0.2 + 0.25) / 3)
    assert found.coverage_ratio == pytest.approx(1 / 3)
    assert found.persistence_error_ratio == pytest.approx((0.2 + 0.36 + 0.0) / 3)
    assert found.skill_ratio == pytest.approx(1 - 0.45 / 0.56)
    assert (found.issued_ms, found.target_ms) == (0, 90_000)


def test_a_band_includes_its_borders():
    assert verdict([90.0, 110.0, 110.001]).coverage_ratio == pytest.approx(2 / 3)


def test_ticks_without_a_reading_do_not_count():
    found = verdict([float("nan"), 0.0, 50.0])
    assert found.points == 1
    assert found.error_ratio == 1.0


def test_nothing_is_said_where_nothing_was_measured():
    found = verdict([float("nan")] * 3)
    assert found.points == 0
    assert (found.error_ratio, found.bias_ratio, found.coverage_ratio, found.skill_ratio) == (None,) * 4


def test_there_is_no_rival_before_the_first_reading_and_no_skill_over_a_perfect_one():
    assert verdict([100.0] * 3, last=float("nan")).persistence_error_ratio is None
    assert verdict([100.0] * 3, last=float("nan")).skill_ratio is None
    assert verdict([80.0] * 3, last=80.0).skill_ratio is None
