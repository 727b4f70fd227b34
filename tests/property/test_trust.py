"""Trust over whole stretches: sensors that break are noticed within six windows, healthy noise never is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opendt.model.mode import MODES, rank
from opendt.verification.trust import TrustKeeper
from opendt.verification.verdict import judge

WINDOW_MS, TICKS, TICK_MS = 300_000, 10, 30_000
WEEK = 2016
HOUR = 12


class Plant:
    """A day's rhythm of power under a twin that knows it up to its own slow errors, and a sensor with noise.

    Bands follow the errors seen (1.645 times their mean square over the last hours), so that a fault widens them in time, as the
    twin's own bands do.
    """

    def __init__(self, seed, noise, error):
        self.rng = np.random.default_rng(seed)
        self.noise, self.error = noise, error
        self.slow = 0.0
        self.spread = np.hypot(noise, error)
        self.last_w = np.nan
        self.hour = []

    def window(self, index, fault=None):
        """Readings of a window and its verdicts."""
        target_ms = index * WINDOW_MS + TICK_MS * np.arange(1, TICKS + 1)
        true_w = 20_000.0 * (1.0 + 0.3 * np.sin(2 * np.pi * target_ms / 86_400_000))
        self.slow = 0.9 * self.slow + np.sqrt(1 - 0.81) * self.error * self.rng.standard_normal()
        noise = self.rng.standard_normal(TICKS)
        read_w = true_w * (1.0 + self.noise * noise)
        if fault == "noisy":
            read_w = true_w * (1.0 + 10 * self.noise * noise)
        elif fault == "dead":
            read_w = np.full(TICKS, np.nan)
        elif fault == "stuck":
            read_w = np.full(TICKS, self.last_w)
        elif fault == "doubled":
            read_w = 2.0 * read_w
        said_w = true_w * (1.0 + self.slow)
        band_w = 1.645 * self.spread * said_w
        columns = (target_ms, said_w, said_w - band_w, said_w + band_w, read_w)
        start_ms = index * WINDOW_MS
        verdicts = [judge("window", start_ms, *columns, self.last_w)]
        self.hour.append((columns, self.last_w))
        if len(self.hour) == HOUR:
            joined = [np.concatenate(column) for column in zip(*(one for one, _ in self.hour), strict=True)]
            verdicts.append(judge("hour", start_ms - 11 * WINDOW_MS, *joined, self.hour[0][1]))
            self.hour = []
        if np.isfinite(read_w).all():
            self.last_w = float(read_w[-1])
            self.spread = np.sqrt(0.98 * self.spread**2 + 0.02 * np.mean((said_w / read_w - 1) ** 2))
        return read_w, verdicts


def fed(keeper, plant, first, count, fault=None):
    changes = []
    for index in range(first, first + count):
        readings, verdicts = plant.window(index, fault)
        change = keeper.observe((index + 1) * WINDOW_MS, verdicts, readings)
        if change is not None:
            changes.append(change)
    return changes


def plant_of(seed, noise, share):
    """The twin's own error is at most as large as the noise: ten times a noise that is far below it would still be covered."""
    return Plant(seed, noise, share * noise)


plants = st.builds(plant_of, st.integers(0, 2**32 - 1), st.floats(0.004, 0.02), st.floats(0.0, 1.0))


@given(plants)
@settings(max_examples=12)
def test_a_healthy_noisy_week_never_steps_down(plant):
    assert fed(TrustKeeper("auto"), plant, 0, WEEK) == []


@pytest.mark.parametrize("fault", ["dead", "stuck", "doubled", "noisy"])
@given(plant=plants, healthy=st.integers(20, 400), mode=st.sampled_from(MODES[1:]))
@settings(max_examples=25)
def test_a_sensor_that_breaks_is_noticed_within_six_windows(fault, plant, healthy, mode):
    keeper = TrustKeeper(mode)
    assert fed(keeper, plant, 0, healthy) == []
    changes = fed(keeper, plant, healthy, 6, fault)
    assert changes, "no step down within six windows"
    assert rank(keeper.level) < rank(mode)
    assert changes[0].before == mode
    assert rank(changes[0].before) - rank(changes[0].after) == 1


@pytest.mark.parametrize("fault", ["dead", "stuck", "doubled"])
@given(plant=plants)
@settings(max_examples=10)
def test_a_repaired_sensor_is_trusted_again(fault, plant):
    keeper = TrustKeeper("auto")
    fed(keeper, plant, 0, 100)
    fed(keeper, plant, 100, 6, fault)
    assert keeper.level != "auto"
    fed(keeper, plant, 106, 24)
    assert keeper.level != "auto", "not at once"
    fed(keeper, plant, 130, 276)
    assert keeper.level == "auto"


streams = st.lists(st.sampled_from([None, "dead", "stuck", "doubled", "noisy"]), min_size=1, max_size=80)


@given(plant=plants, faults=streams, mode=st.sampled_from(MODES), cut=st.integers(0, 79))
@settings(max_examples=60)
def test_whatever_happens_steps_are_single_and_restarts_change_nothing(plant, faults, mode, cut):
    keeper, level = TrustKeeper(mode), mode
    for index, fault in enumerate(faults):
        if index == cut:
            again = TrustKeeper(mode)
            again.restore(json.loads(json.dumps(keeper.state())))
            keeper = again
        readings, verdicts = plant.window(index, fault)
        end_ms = (index + 1) * WINDOW_MS
        twin = TrustKeeper(mode)
        twin.restore(keeper.state())
        change = keeper.observe(end_ms, verdicts, readings)
        assert twin.observe(end_ms, verdicts, readings) == change, "deterministic"
        if change is not None:
            assert (change.time_ms, change.before) == (end_ms, level)
            assert abs(rank(change.after) - rank(change.before)) == 1
            level = change.after
        assert keeper.level == level
        assert rank(level) <= rank(mode)
