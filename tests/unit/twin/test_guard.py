"""Supervision: steps and drift are reported with time and size, a spoilt fit is rolled back, a good one left alone."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from opendt.twin.drift import DriftDetector, DriftEvent, DriftSettings
from opendt.twin.guard import GuardedCalibrator, RollbackEvent, RollbackSettings, update_alike
from opendt.twin.settings import NIMBLE, STEADY
from tests.unit.twin.plant import datasheet, run

DAYS = 2880


@pytest.fixture(scope="module")
def plant():
    return run(ticks=3 * DAYS, noise_w=20.0)


def guarded(plant, measured, settings=STEADY, **options):
    guard = GuardedCalibrator([datasheet()], settings, **options)
    guard.update(plant.features, plant.hosts, measured)
    return guard, guard.take_events()


@pytest.mark.parametrize("settings", [STEADY, NIMBLE], ids=["hour", "five_minutes"])
def test_a_plant_that_stays_gives_no_events(plant, settings):
    _, events = guarded(plant, plant.measured_w, settings)
    assert events == []


@pytest.mark.parametrize("size", [-0.06, 0.06])
def test_a_step_is_reported_once_with_its_time_and_size(plant, size):
    measured = plant.measured_w.copy()
    measured[5000:] *= 1 + size
    _, events = guarded(plant, measured)
    steps = [event for event in events if isinstance(event, DriftEvent) and event.kind == "step"]
    assert len(steps) == 1
    assert 5000 < steps[0].tick <= 5000 + 120
    assert abs(steps[0].since_tick - 5000) <= 120
    assert steps[0].size_ratio == pytest.approx(size, abs=0.02)
    assert not any(isinstance(event, RollbackEvent) for event in events)


def test_a_slow_drift_is_reported_with_its_direction(plant):
    measured = plant.measured_w * np.linspace(1.0, 1.12, len(plant.measured_w))
    _, events = guarded(plant, measured)
    drifts = [event for event in events if isinstance(event, DriftEvent) and event.kind == "drift"]
    assert 1 <= len(drifts) <= 4
    assert all(0.03 <= event.size_ratio < 0.08 for event in drifts)


def spoilt(plant):
    """Power readings of a sensor that shows half as much again for five hours, which is plausible."""
    measured = plant.measured_w.copy()
    measured[5000:5600] *= 1.5
    return measured


def test_a_fit_that_a_broken_sensor_spoilt_is_rolled_back(plant):
    measured = spoilt(plant)
    guard, events = guarded(plant, measured, NIMBLE)
    rollbacks = [event for event in events if isinstance(event, RollbackEvent)]
    assert rollbacks
    first = rollbacks[0]
    assert 5600 < first.tick <= 5600 + 6 * 120
    assert first.to_tick <= 5000
    assert first.kept_error_ratio < 0.4 * first.error_ratio

    never, none = guarded(plant, measured, NIMBLE, rollback=RollbackSettings(gain_ratio=0.0))
    assert not any(isinstance(event, RollbackEvent) for event in none)
    assert never.calibrator.snapshot() != guard.calibrator.snapshot()


def test_after_a_rollback_the_curve_is_that_of_before(plant):
    measured = spoilt(plant)
    guard = GuardedCalibrator([datasheet()], NIMBLE)
    good = None
    for start in range(0, len(measured), 120):
        part = slice(start, start + 120)
        guard.update(plant.features[part], plant.hosts[part], measured[part])
        rollbacks = [event for event in guard.take_events() if isinstance(event, RollbackEvent)]
        if start + 120 == 4920:
            good = guard.curve("node")[1]
        if rollbacks:
            assert np.allclose(guard.curve("node")[1], good, rtol=0.1)
            break
    else:
        pytest.fail("there was no rollback")


def test_guarding_does_not_change_a_good_fit(plant):
    from opendt.twin.calibrate import PowerCalibrator

    guard, _ = guarded(plant, plant.measured_w)
    bare = PowerCalibrator([datasheet()], STEADY)
    bare.update(plant.features, plant.hosts, plant.measured_w)
    assert guard.calibrator.snapshot() == bare.snapshot()


def test_a_restored_guard_continues_to_the_bit_and_splits_do_not_matter(plant):
    measured = spoilt(plant)
    whole, events = guarded(plant, measured, NIMBLE)
    first = GuardedCalibrator([datasheet()], NIMBLE)
    first.update(plant.features[:5003], plant.hosts[:5003], measured[:5003])
    seen = first.take_events()
    second = GuardedCalibrator([datasheet()], NIMBLE)
    second.restore(json.loads(json.dumps(first.snapshot())))
    second.update(plant.features[5003:], plant.hosts[5003:], measured[5003:])
    assert seen + second.take_events() == events
    assert second.snapshot() == whole.snapshot()


def test_events_are_plain_data():
    event = DriftEvent("step", 10, 5, 0.1)
    assert json.loads(json.dumps(event.as_dict())) == {"kind": "step", "tick": 10, "since_tick": 5, "size_ratio": 0.1}
    assert RollbackEvent(9, 0, 0.2, 0.1).as_dict()["to_tick"] == 0


def test_white_innovations_rarely_alarm():
    rng = np.random.default_rng(0)
    detector = DriftDetector(DriftSettings(settling_ticks=0, step_ratio=0.0))
    events = [detector.observe(10 * i, 100.0 * rng.standard_normal(), 10_000.0) for i in range(20_000)]
    assert sum(event is not None for event in events) <= 1


def test_the_settling_time_is_silent():
    detector = DriftDetector()
    for i in range(200):
        assert detector.observe(10 * i, 100.0 + 1000.0 * (i > 50), 10_000.0) is None
        assert detector.observe_level(10 * i, 12_000.0, 10_000.0) is None


def test_a_detector_that_has_seen_only_perfection_is_silent():
    detector = DriftDetector(DriftSettings(settling_ticks=0))
    assert all(detector.observe(10 * i, 0.0, 10_000.0) is None for i in range(100))


def test_calibrators_that_learn_together_learn_what_each_would_alone(plant):
    """Also when one is rolled back and the other, whose weights differ, is not."""
    measured = spoilt(plant)
    measured[50:60] = np.nan

    def pair() -> list[GuardedCalibrator]:
        return [
            GuardedCalibrator([datasheet()], (STEADY, NIMBLE)),
            GuardedCalibrator([datasheet()], (STEADY, NIMBLE), rollback=RollbackSettings(gain_ratio=0.0)),
        ]

    alone, together = pair(), pair()
    borders = [0, 10, 13, 20, 45, 5000, 5601, len(measured)]
    for start, stop in pairwise(borders):
        columns = plant.features[start:stop], plant.hosts[start:stop], measured[start:stop]
        expected = [guard.update(*columns) for guard in alone]
        for found, own in zip(update_alike(together, *columns), expected, strict=True):
            np.testing.assert_array_equal(found, own)
        for guards in (alone, together):
            guards[1].calibrator.weigh([1.0, 3.0])
    rolled_back = [any(isinstance(event, RollbackEvent) for event in guard.take_events()) for guard in together]
    assert rolled_back == [True, False]
    for own, other in zip(together, alone, strict=True):
        np.testing.assert_equal(own.snapshot(), other.snapshot())
