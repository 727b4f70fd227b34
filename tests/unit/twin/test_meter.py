"""The refresh of a meter is found from its readings, also under noise, and is not invented."""

from __future__ import annotations

import json

import numpy as np
import pytest

from opendt.twin.meter import MeterMonitor


def observed(readings):
    meter = MeterMonitor()
    for tick, reading in enumerate(readings, start=1):
        meter.observe(tick, reading)
    return meter


def held(ticks, period, phase, seed=0):
    level = 20_000 + np.cumsum(100.0 * np.random.default_rng(seed).standard_normal(ticks + 1))
    tick = np.arange(1, ticks + 1)
    return level[np.maximum(tick - (tick - phase) % period, 0)]


@pytest.mark.parametrize(("period", "phase"), [(2, 0), (4, 3), (8, 1), (10, 5), (20, 19)])
def test_a_held_reading_shows_its_period(period, phase):
    meter = observed(held(1000, period, phase))
    assert (meter.period, meter.phase) == (period, phase)
    assert meter.noise_w == pytest.approx(0.0, abs=20.0)


def test_a_held_reading_is_found_under_noise():
    noise = 150.0 * np.random.default_rng(1).standard_normal(5000)
    meter = observed(held(5000, 8, 1) + noise)
    assert (meter.period, meter.phase) == (8, 1)
    assert meter.noise_w == pytest.approx(150.0, rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_a_random_walk_has_no_period(seed):
    assert observed(held(5000, 1, 0, seed)).period == 1


def test_a_constant_reading_has_neither_period_nor_noise():
    meter = observed(np.full(500, 100.0))
    assert (meter.period, meter.noise_w) == (1, 0.0)


def test_missing_readings_are_passed_over():
    readings = held(2000, 8, 1)
    readings[np.random.default_rng(2).random(2000) < 0.3] = np.nan
    assert observed(readings).period == 8


def test_the_period_is_given_up_when_it_is_gone():
    readings = np.concatenate([held(1000, 8, 1), held(20_000, 1, 0, seed=3)])
    assert observed(readings).period == 1


def test_a_snapshot_continues_like_the_original():
    readings = held(1000, 8, 1)
    first = observed(readings[:503])
    second = MeterMonitor()
    second.restore(json.loads(json.dumps(first.snapshot())))
    for tick, reading in enumerate(readings[503:], start=504):
        first.observe(tick, reading)
        second.observe(tick, reading)
    assert first.snapshot() == second.snapshot()
