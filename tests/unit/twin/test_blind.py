"""Blind forecasts: the mixture is never much worse than its best expert, and nothing later enters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from opendt.twin.blind import EXPERTS, ExpertMixture, MixtureSettings, assumed_load, blind_experts
from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.curve import KNOTS
from opendt.twin.persistence import persistence
from opendt.twin.settings import FIVE_MINUTES_AHEAD, HOUR_AHEAD
from tests.unit.twin.plant import datasheet, run

SETTINGS = MixtureSettings(lead_edges=(0, 2, 4))


@pytest.fixture(scope="module")
def trained():
    plant = run(ticks=1000, noise_w=20.0)
    pair = []
    for settings in (HOUR_AHEAD, FIVE_MINUTES_AHEAD):
        calibrator = PowerCalibrator([datasheet()], settings)
        calibrator.update(plant.features[:899], plant.hosts[:899], plant.measured_w[:899])
        pair.append(calibrator)
    return plant, *pair


def test_experts_start_from_what_is_known(trained):
    plant, hour, short = trained
    before = hour.snapshot(), short.snapshot()
    guesses = blind_experts(hour, short, plant.features[894:899], plant.hosts[899], plant.measured_w[899], 120)
    assert guesses.shape == (len(EXPERTS), 120)
    assert (guesses[0] == plant.measured_w[899]).all()
    assert np.abs(guesses / plant.measured_w[899] - 1.0).max() < 0.1
    assert (hour.snapshot(), short.snapshot()) == before


def test_without_a_reading_the_load_stands_in(trained):
    plant, hour, short = trained
    guesses = blind_experts(hour, short, plant.features[894:899], plant.hosts[899], float("nan"), 120)
    assert np.array_equal(guesses[0], guesses[1])
    assert np.isfinite(guesses).all()


def test_a_first_forecast_assumes_half_used_hosts():
    calibrator = PowerCalibrator([datasheet()], HOUR_AHEAD)
    load = assumed_load(calibrator, [40])
    assert load.shape == (1, 1, len(KNOTS))
    guesses = blind_experts(calibrator, calibrator, load, np.array([60.0]), float("nan"), 10)
    assert np.allclose(guesses, 60 * 50.0 + 40 * 75.0)


def test_no_features_are_refused(trained):
    plant, hour, short = trained
    with pytest.raises(ValueError, match="ticks >= 1"):
        blind_experts(hour, short, plant.features[:0], plant.hosts[0], 1.0, 10)


@pytest.mark.parametrize("best", range(3))
def test_the_mixture_moves_to_the_best_expert(best):
    rng = np.random.default_rng(best)
    mixture = ExpertMixture(3, SETTINGS)
    own, experts = [], []
    for _ in range(400):
        truth = 1000.0 + 50.0 * rng.standard_normal(4)
        guesses = truth * (1 + np.where(np.arange(3) == best, 0.01, 0.05)[:, None] * rng.standard_normal((3, 4)))
        own.append(np.abs(mixture.issue(guesses) / truth - 1.0).mean())
        experts.append(np.abs(guesses / truth - 1.0).mean(axis=1))
        mixture.settle(truth)
    assert np.argmax(mixture.weights, axis=1).tolist() == [best, best]
    assert np.mean(own) < 1.05 * np.mean(experts, axis=0).min()


def test_the_mixture_forgets_who_was_best_long_ago():
    mixture = ExpertMixture(2, SETTINGS)
    for turn in range(600):
        truth = np.full(4, 100.0)
        good = 0 if turn < 300 else 1
        mixture.issue(np.where(np.arange(2) == good, 101.0, 110.0)[:, None] * np.ones(4))
        mixture.settle(truth)
    assert (mixture.weights[:, 1] > 0.9).all()


def test_leads_have_weights_of_their_own():
    mixture = ExpertMixture(2, SETTINGS)
    for _ in range(50):
        mixture.issue([[100.0, 100.0, 150.0, 150.0], [150.0, 150.0, 100.0, 100.0]])
        mixture.settle([100.0, 100.0, 100.0, np.nan])
    assert mixture.weights[0, 0] > 0.9
    assert mixture.weights[1, 1] > 0.9


def test_missing_outcomes_change_nothing():
    mixture = ExpertMixture(2, SETTINGS)
    mixture.issue([[1.0] * 4, [2.0] * 4])
    mixture.settle([np.nan] * 4)
    assert np.array_equal(mixture.weights, np.full((2, 2), 0.5))


def test_a_restored_mixture_continues(trained):
    first, second = ExpertMixture(2, SETTINGS), ExpertMixture(2, SETTINGS)
    guesses = [[1.0] * 4, [2.0] * 4]
    first.issue(guesses)
    second.restore(json.loads(json.dumps(first.snapshot())))
    for mixture in (first, second):
        mixture.settle([1.0] * 4)
    assert np.array_equal(first.issue(guesses), second.issue(guesses))


def test_misuse_is_named():
    mixture = ExpertMixture(2, SETTINGS)
    with pytest.raises(ValueError, match="call issue"):
        mixture.settle([1.0])
    with pytest.raises(ValueError, match="2 experts and up to 4 leads"):
        mixture.issue(np.ones((3, 4)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        mixture.issue(np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match="groups of leads"):
        mixture.restore(ExpertMixture(3, SETTINGS).snapshot())


def test_persistence_keeps_the_last_reading_and_widens_with_the_root_of_the_lead():
    mean, sd = persistence(1000.0, 4)
    assert mean.tolist() == [1000.0] * 4
    assert np.allclose(sd / sd[0], np.sqrt([1, 2, 3, 4]))
    assert (persistence(0.0, 2)[1] > 0).all()
