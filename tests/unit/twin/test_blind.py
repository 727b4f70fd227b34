"""Blind forecasts: many ways to hold the load, and nothing later enters."""

from __future__ import annotations

import numpy as np
import pytest

from opendt.twin.blind import EXPERTS, HELD_TICKS, assumed_load, blind_experts
from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.curve import KNOTS
from opendt.twin.persistence import persistence
from opendt.twin.settings import NIMBLE, STEADY
from tests.unit.twin.plant import datasheet, run


@pytest.fixture(scope="module")
def trained():
    plant = run(ticks=1000, noise_w=20.0)
    calibrator = PowerCalibrator([datasheet()], [STEADY, NIMBLE])
    calibrator.update(plant.features[:899], plant.hosts[:899], plant.measured_w[:899])
    return plant, calibrator


def test_experts_start_from_what_is_known(trained):
    plant, calibrator = trained
    before = calibrator.snapshot()
    guesses = blind_experts(calibrator, plant.features[880:899], plant.hosts[899], plant.measured_w[899], 120)
    assert guesses.shape == (len(EXPERTS), 120)
    assert (guesses[0] == plant.measured_w[899]).all()
    assert np.abs(guesses / plant.measured_w[899] - 1.0).max() < 0.1
    assert calibrator.snapshot() == before


def test_a_held_load_is_the_mean_of_the_last_ticks_priced_by_the_family(trained):
    plant, calibrator = trained
    known = plant.features[880:899]
    guesses = blind_experts(calibrator, known, plant.hosts[899], plant.measured_w[899], 3)
    present = calibrator.fork()
    present.update(known[-1], plant.hosts[899], plant.measured_w[899])
    mean = np.repeat(known[-4:].mean(axis=0)[None], 3, axis=0)
    assert HELD_TICKS[2] == 4
    assert np.allclose(guesses[EXPERTS.index("held_load_4")], present.predict(mean, plant.hosts[:3]).mean_w)


def test_without_a_reading_the_load_stands_in(trained):
    plant, calibrator = trained
    guesses = blind_experts(calibrator, plant.features[894:899], plant.hosts[899], float("nan"), 120)
    assert np.array_equal(guesses[0], guesses[1])
    assert np.isfinite(guesses).all()


def test_a_first_forecast_assumes_half_used_hosts():
    calibrator = PowerCalibrator([datasheet()], STEADY)
    load = assumed_load(calibrator, [40])
    assert load.shape == (1, 1, len(KNOTS))
    guesses = blind_experts(calibrator, load, np.array([60.0]), float("nan"), 10)
    assert np.allclose(guesses, 60 * 50.0 + 40 * 75.0)


def test_no_features_are_refused(trained):
    plant, calibrator = trained
    with pytest.raises(ValueError, match="ticks >= 1"):
        blind_experts(calibrator, plant.features[:0], plant.hosts[0], 1.0, 10)


def test_persistence_keeps_the_last_reading_and_widens_with_the_root_of_the_lead():
    mean, sd = persistence(1000.0, 4)
    assert mean.tolist() == [1000.0] * 4
    assert np.allclose(sd / sd[0], np.sqrt([1, 2, 3, 4]))
    assert (persistence(0.0, 2)[1] > 0).all()
