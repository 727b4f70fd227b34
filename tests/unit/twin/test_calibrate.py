"""Calibration: starts at the datasheet, finds a hidden curve, never looks ahead, and survives what sensors do."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.curve import KNOTS, OCCUPIED_UTILIZATION, HostClass, hat_weights
from opendt.twin.settings import FAMILY, NIMBLE, STEADY, Disturbance
from tests.unit.twin.plant import TRUE_IDLE_W, datasheet, forecast_errors, run, true_power_w

BOTH = pytest.mark.parametrize("settings", [STEADY, NIMBLE], ids=["hour", "five_minutes"])


def calibrator(settings=STEADY, hosts=60):
    return PowerCalibrator([datasheet(hosts=hosts)], settings)


@BOTH
def test_without_readings_the_forecast_is_the_datasheet(settings):
    plant = run(ticks=50)
    sheet = datasheet()
    filtered = calibrator(settings)
    filtered.update(plant.features[:20], plant.hosts[:20], np.full(20, np.nan))
    forecast = filtered.predict(plant.features[20:], plant.hosts[20:])
    dynamic = np.array(sheet.power_w) - sheet.power_w[0]
    assert np.allclose(forecast.mean_w, 60 * sheet.power_w[0] + plant.features[20:, 0] @ dynamic)
    assert np.all(forecast.disturbance_w == 0.0)
    utilization, power_w = filtered.curve("node")
    assert np.allclose(np.interp(KNOTS[1:], utilization, power_w), sheet.power_w[1:])
    assert filtered.rejected["missing"] == 20


@BOTH
def test_a_hidden_curve_is_found(settings):
    plant = run(ticks=5760, noise_w=20.0)
    filtered = calibrator(settings)
    errors = forecast_errors(filtered, plant)
    assert errors[:10].mean() > 0.05
    assert errors[2880:].mean() < 0.01
    utilization, power_w = filtered.curve("node")
    assert utilization[0] == 0.0
    assert utilization[-1] == 1.0
    assert np.all(np.diff(utilization) > 0)
    assert np.all(np.diff(power_w) >= 0)
    assert power_w[0] == pytest.approx(TRUE_IDLE_W, rel=0.1)
    inner = np.array([0.3, 0.45, 0.6, 0.75, 0.88])
    assert np.allclose(np.interp(inner, utilization, power_w), true_power_w(inner), rtol=0.06)


def test_the_occupied_point_of_a_curve_lies_just_above_zero():
    utilization, _ = calibrator().curve("node")
    assert utilization[1] == OCCUPIED_UTILIZATION


def test_two_classes_are_told_apart():
    first, second = run(ticks=5760, seed=1), run(ticks=5760, seed=2)
    sheets = [datasheet("a"), datasheet("b")]
    filtered = PowerCalibrator(sheets, STEADY)
    features = np.concatenate([first.features, second.features], axis=1)
    hosts = np.concatenate([first.hosts, second.hosts], axis=1)
    datasheet_b_w = second.hosts[:, 0] * sheets[1].power_w[0] + second.features[:, 0] @ (np.array(KNOTS) * 150.0)
    filtered.update(features, hosts, first.power_w + datasheet_b_w)
    hidden = np.interp(0.6, *filtered.curve("a"))
    honest = np.interp(0.6, *filtered.curve("b"))
    assert hidden == pytest.approx(float(true_power_w(0.6)), rel=0.08)
    assert honest == pytest.approx(50.0 + 0.6 * 150.0, rel=0.08)


@BOTH
def test_any_split_of_the_readings_gives_the_same_bits(settings):
    plant = run(ticks=400, noise_w=10.0, period=8, phase=1)
    whole, parts = calibrator(settings), calibrator(settings)
    whole.update(plant.features, plant.hosts, plant.measured_w)
    start = 0
    for size in [1, 1, 7, 120, 3, 200, 68]:
        part = slice(start, start + size)
        parts.update(plant.features[part], plant.hosts[part], plant.measured_w[part])
        start += size
    assert start == 400
    assert whole.snapshot() == parts.snapshot()


@BOTH
def test_a_restored_filter_continues_to_the_bit(settings):
    plant = run(ticks=600, noise_w=10.0, period=8, phase=1)
    first, second = calibrator(settings), calibrator(settings)
    first.update(plant.features[:333], plant.hosts[:333], plant.measured_w[:333])
    second.restore(json.loads(json.dumps(first.snapshot())))
    rest = plant.features[333:], plant.hosts[333:]
    assert np.array_equal(first.predict(*rest).mean_w, second.predict(*rest).mean_w)
    first.update(*rest, plant.measured_w[333:])
    second.update(*rest, plant.measured_w[333:])
    assert first.snapshot() == second.snapshot()


def test_a_fork_and_a_forecast_leave_the_filter_alone():
    plant = run(ticks=300)
    filtered = calibrator()
    filtered.update(plant.features[:200], plant.hosts[:200], plant.measured_w[:200])
    before = filtered.snapshot()
    filtered.predict(plant.features[200:], plant.hosts[200:])
    twin = filtered.fork()
    twin.update(plant.features[200:], plant.hosts[200:], 1.3 * plant.measured_w[200:])
    assert filtered.snapshot() == before
    assert twin.snapshot() != before


def test_nothing_said_before_a_moment_depends_on_readings_after_it():
    plant = run(ticks=1200, noise_w=10.0)
    said = []
    for factor in (1.0, 1.4):
        filtered = calibrator()
        measured = plant.measured_w.copy()
        measured[600:] *= factor
        forecasts = []
        for start in range(0, 1200, 120):
            part = slice(start, start + 120)
            forecasts.append(filtered.predict(plant.features[part], plant.hosts[part]).mean_w)
            filtered.update(plant.features[part], plant.hosts[part], measured[part])
        said.append(np.concatenate(forecasts))
    assert np.array_equal(said[0][:720], said[1][:720])
    assert not np.array_equal(said[0][720:], said[1][720:])


@BOTH
@pytest.mark.parametrize(
    "nonsense", [lambda w: 0 * w, lambda w: 10 * w, lambda w: w * np.nan, lambda w: -w, lambda w: w + np.inf]
)
def test_an_absurd_sensor_does_not_move_the_curve(settings, nonsense):
    plant = run(ticks=2400, noise_w=20.0)
    filtered = calibrator(settings)
    forecast_errors(filtered, type(plant)(*(column[:1200] for column in vars(plant).values())))
    curve_before = filtered.curve("node")[1]
    part = slice(1200, 1800)
    filtered.update(plant.features[part], plant.hosts[part], nonsense(plant.measured_w[part]))
    assert np.allclose(filtered.curve("node")[1], curve_before, rtol=0.01)
    assert filtered.rejected["implausible"] + filtered.rejected["missing"] == 600
    after = np.abs(filtered.predict(plant.features[1800:], plant.hosts[1800:]).mean_w / plant.power_w[1800:] - 1.0)
    assert after.mean() < 0.015


@BOTH
def test_a_stuck_sensor_is_noticed_and_does_not_wreck_the_curve(settings):
    plant = run(ticks=3600, noise_w=20.0)
    filtered = calibrator(settings)
    filtered.update(plant.features[:1800], plant.hosts[:1800], plant.measured_w[:1800])
    filtered.update(plant.features[1800:3000], plant.hosts[1800:3000], np.full(1200, plant.measured_w[1799]))
    assert filtered.rejected["stuck"] > 1000
    after = np.abs(filtered.predict(plant.features[3000:], plant.hosts[3000:]).mean_w / plant.power_w[3000:] - 1.0)
    assert after.mean() < 0.03


@BOTH
def test_a_single_spike_moves_a_forecast_less_than_the_clip_allows(settings):
    plant = run(ticks=1300, noise_w=20.0)
    clean, hit = calibrator(settings), calibrator(settings)
    for filtered, factor in ((clean, 1.0), (hit, 1.6)):
        measured = plant.measured_w[:1200].copy()
        measured[1150] *= factor
        filtered.update(plant.features[:1200], plant.hosts[:1200], measured)
    rest = plant.features[1200:], plant.hosts[1200:]
    assert np.abs(hit.predict(*rest).mean_w / clean.predict(*rest).mean_w - 1.0).max() < 0.01


@BOTH
@pytest.mark.parametrize("factor", [0.85, 1.2])
def test_a_plant_that_drifts_is_followed(settings, factor):
    plant = run(ticks=8640, noise_w=20.0)
    plant.measured_w *= np.linspace(1.0, factor, 8640)
    assert forecast_errors(calibrator(settings), plant)[2880:].mean() < 0.015


def test_a_meter_that_holds_is_modelled():
    plant = run(ticks=5760, period=8, phase=1)
    aware, unaware = calibrator(), calibrator()
    unaware.meter.observe = lambda tick, power_w: None
    assert forecast_errors(aware, plant)[1440:].mean() < 0.8 * forecast_errors(unaware, plant)[1440:].mean()
    assert (aware.meter.period, aware.meter.phase) == (8, 1)
    assert aware.meter_share == pytest.approx(1.0, abs=0.15)


def test_the_stated_deviation_grows_with_the_lead_and_shrinks_with_knowledge():
    plant = run(ticks=1500, noise_w=20.0)
    filtered = calibrator(NIMBLE)
    constant = np.repeat(plant.features[:1], 240, axis=0), np.repeat(plant.hosts[:1], 240, axis=0)
    early = filtered.predict(*constant).sd_w
    filtered.update(plant.features, plant.hosts, plant.measured_w)
    late = filtered.predict(*constant).sd_w
    assert late[0] < 0.6 * early[0]
    assert np.all(np.diff(late) > -1e-9)


def test_forecasts_of_a_lead_agree_with_the_tail_of_a_longer_one():
    plant = run(ticks=700, noise_w=20.0)
    filtered = calibrator()
    filtered.update(plant.features[:500], plant.hosts[:500], plant.measured_w[:500])
    whole = filtered.predict(plant.features[500:], plant.hosts[500:])
    tail = filtered.predict(plant.features[600:], plant.hosts[600:], lead=101)
    assert np.allclose(whole.mean_w[100:], tail.mean_w)
    assert np.allclose(whole.sd_w[100:], tail.sd_w)


def test_a_disturbance_is_reported_and_decays():
    plant = run(ticks=600)
    filtered = calibrator(NIMBLE)
    filtered.update(plant.features, plant.hosts, plant.power_w)
    forecast = filtered.predict(plant.features[:240], plant.hosts[:240])
    assert forecast.disturbance_w[0] == pytest.approx(sum(filtered.disturbances_w), rel=0.2, abs=5.0)
    last = np.abs(forecast.disturbance_w)
    assert last[-1] < max(last[0], 1.0)


def test_hosts_that_go_down_take_their_idle_power_with_them():
    plant = run(ticks=2880)
    filtered = calibrator()
    filtered.update(plant.features, plant.hosts, plant.power_w)
    up = filtered.predict(plant.features[:1], plant.hosts[:1]).mean_w
    down = filtered.predict(plant.features[:1], plant.hosts[:1] - 10).mean_w
    assert (up - down)[0] == pytest.approx(10 * filtered.curve("node")[1][0], rel=0.1)


def test_a_flat_datasheet_can_still_learn_a_slope():
    plant = run(ticks=5760, noise_w=20.0)
    flat = HostClass("node", 60, KNOTS, tuple(150.0 for _ in KNOTS))
    errors = forecast_errors(PowerCalibrator([flat], NIMBLE), plant, step=10)
    assert errors[2880:].mean() < 0.03


@pytest.mark.parametrize("tick_s", [1.0, 300.0])
def test_other_sampling_intervals_work(tick_s):
    plant = run(ticks=2880, noise_w=20.0)
    errors = forecast_errors(calibrator(replace(STEADY, tick_s=tick_s)), plant)
    assert errors[1440:].mean() < 0.02


def test_wrong_shapes_and_values_are_named():
    plant = run(ticks=10)
    filtered = calibrator()
    with pytest.raises(ValueError, match="1 classes and 11 knots"):
        filtered.update(plant.features[:, :, :5], plant.hosts, plant.measured_w)
    with pytest.raises(ValueError, match="one reading per tick"):
        filtered.update(plant.features, plant.hosts, plant.measured_w[:3])
    with pytest.raises(ValueError, match="NaN or infinity"):
        filtered.update(plant.features * np.nan, plant.hosts, plant.measured_w)
    with pytest.raises(ValueError, match="lead is 0"):
        filtered.predict(plant.features, plant.hosts, lead=0)
    with pytest.raises(ValueError, match="no host class 'gpu'"):
        filtered.curve("gpu")
    with pytest.raises(ValueError, match="start a new calibration"):
        PowerCalibrator([datasheet("a"), datasheet("b")], STEADY).restore(filtered.snapshot())
    with pytest.raises(ValueError, match="at least one"):
        PowerCalibrator([], STEADY)
    assert filtered.tick == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"noise_ratio": 0.0}, "noise_ratio"),
        ({"clip_sd": float("inf")}, "clip_sd"),
        ({"meter_share": 1.5}, "meter_share"),
        ({"disturbances": (Disturbance(time_constant_s=-1, sd_ratio=0.1),)}, r"disturbances\[0\].time_constant_s"),
    ],
)
def test_settings_refuse_nonsense(change, word):
    with pytest.raises(ValueError, match=word):
        replace(STEADY, **change)


def test_features_are_sums_of_hat_functions_over_busy_hosts():
    utilization = np.array([0.1, 0.5, 0.5])
    filtered = calibrator()
    forecast = filtered.predict(hat_weights(utilization).sum(axis=0)[None, None], [[60.0]])
    sheet = datasheet()
    expected = 57 * sheet.power_w[0] + np.interp(utilization, KNOTS, sheet.power_w).sum()
    assert forecast.mean_w[0] == pytest.approx(expected)


def test_a_curve_made_to_rise_prices_the_usual_load_like_the_filter():
    plant = run(ticks=5760, noise_w=20.0)
    filtered = calibrator(NIMBLE)
    filtered.update(plant.features, plant.hosts, plant.measured_w)
    _, power_w = filtered.curve("node")
    load, hosts = plant.features[2880:], plant.hosts[2880:]
    by_filter = filtered.parameter_power(filtered.parameters(), load, hosts).mean()
    by_curve = (hosts[:, 0] * power_w[0] + load[:, 0] @ (np.array(power_w[1:]) - power_w[0])).mean()
    assert by_curve == pytest.approx(by_filter, rel=0.005)


@BOTH
@pytest.mark.parametrize("period", [1, 8])
def test_a_far_forecast_equals_waiting_without_readings(settings, period):
    """The closed form of growing uncertainty is what advancing tick by tick gives."""
    plant = run(ticks=900, noise_w=20.0, period=period, phase=1 % period)
    filtered = calibrator(settings)
    filtered.update(plant.features[:800], plant.hosts[:800], plant.measured_w[:800])
    far = filtered.predict(plant.features[800:], plant.hosts[800:])
    waiting = filtered.fork()
    waiting.update(plant.features[800:899], plant.hosts[800:899], np.full(99, np.nan))
    near = waiting.predict(plant.features[899:], plant.hosts[899:])
    assert near.mean_w[0] == pytest.approx(far.mean_w[99], rel=1e-6)
    assert near.sd_w[0] == pytest.approx(far.sd_w[99], rel=1e-3)
    assert near.disturbance_w[0] == pytest.approx(far.disturbance_w[99], rel=1e-6, abs=1e-6)


def test_the_stated_deviation_is_that_of_the_errors_where_the_model_is_true():
    """Readings drawn from the model itself, unclipped: standardised errors have standard deviation 1 at any lead."""
    settings = replace(STEADY, clip_sd=1e6, noise_ratio=0.002)
    plant = run(ticks=600)
    scores = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        filtered = calibrator(settings)
        filtered.meter.observe = lambda tick, power_w: None  # the noise is in the settings already
        full_load_w = 60 * 200.0
        truth = filtered.deviation[0].copy()
        truth[:12] = rng.multivariate_normal(np.zeros(12), filtered.covariance[0, :12, :12])
        disturbance = np.zeros((2, 600))
        for row, part in zip(disturbance, settings.disturbances, strict=True):
            left, sd = np.exp(-30.0 / part.time_constant_s), part.sd_ratio * full_load_w
            row[0] = sd * rng.standard_normal()
            for tick in range(1, 600):
                row[tick] = left * row[tick - 1] + sd * np.sqrt(1 - left**2) * rng.standard_normal()
        power = filtered.parameter_power(truth[:12], plant.features, plant.hosts) + disturbance.sum(axis=0)
        power += 0.002 * full_load_w * rng.standard_normal(600)
        filtered.update(plant.features[:480], plant.hosts[:480], power[:480])
        forecast = filtered.predict(plant.features[480:], plant.hosts[480:])
        scores.append((power[480:] - forecast.mean_w) / forecast.sd_w)
    spread = np.sqrt(np.mean(np.square(scores), axis=0))
    assert spread[:40].mean() == pytest.approx(1.0, abs=0.15)
    assert spread[80:].mean() == pytest.approx(1.0, abs=0.15)


def test_a_family_goes_through_the_readings_like_each_of_its_members_alone():
    plant = run(ticks=600, noise_w=10.0, period=8, phase=1)
    family = PowerCalibrator([datasheet()], FAMILY)
    family.update(plant.features[:480], plant.hosts[:480], plant.measured_w[:480])
    together = family.predict_members(plant.features[480:], plant.hosts[480:])
    assert together.mean_w.shape == (len(FAMILY), 120)
    for index, settings in enumerate(FAMILY):
        alone = calibrator(settings)
        alone.update(plant.features[:480], plant.hosts[:480], plant.measured_w[:480])
        forecast = alone.predict(plant.features[480:], plant.hosts[480:])
        assert np.allclose(together.mean_w[index], forecast.mean_w)
        assert np.allclose(together.sd_w[index], forecast.sd_w)
        assert np.allclose(together.disturbance_w[index], forecast.disturbance_w)
    assert np.array_equal(family.expect_members(plant.features[480:], plant.hosts[480:]), together.mean_w)


def test_weights_decide_what_a_family_says():
    plant = run(ticks=600, noise_w=10.0)
    family = PowerCalibrator([datasheet()], [STEADY, NIMBLE])
    family.update(plant.features[:480], plant.hosts[:480], plant.measured_w[:480])
    members = family.predict_members(plant.features[480:], plant.hosts[480:])
    even = family.predict(plant.features[480:], plant.hosts[480:])
    assert np.allclose(even.mean_w, members.mean_w.mean(axis=0))
    between = (members.mean_w[0] - members.mean_w[1]) ** 2 / 4
    assert np.allclose(even.sd_w**2, (members.sd_w**2).mean(axis=0) + between)
    family.weigh([0.0, 2.0])
    alone = calibrator(NIMBLE)
    alone.update(plant.features[:480], plant.hosts[:480], plant.measured_w[:480])
    assert np.allclose(family.predict(plant.features[480:], plant.hosts[480:]).mean_w, members.mean_w[1])
    assert np.allclose(family.curve("node")[1], alone.curve("node")[1])
    assert np.allclose(family.disturbances_w, alone.disturbances_w)
    assert family.meter_share == pytest.approx(alone.meter_share)


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 2.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="expected 2 finite numbers"):
        PowerCalibrator([datasheet()], [STEADY, NIMBLE]).weigh(weights)


@pytest.mark.parametrize("family", [[], [STEADY, replace(STEADY, tick_s=60.0)]])
def test_settings_that_are_no_family_are_refused(family):
    with pytest.raises(ValueError, match="same tick_s"):
        PowerCalibrator([datasheet()], family)


def test_a_meter_that_is_said_to_hold_nothing_stays_so():
    plant = run(ticks=2000, period=8, phase=1)
    filtered = calibrator(replace(FAMILY[0], meter_share=0.0, meter_share_sd=0.0))
    filtered.update(plant.features, plant.hosts, plant.measured_w)
    assert filtered.meter.period == 8
    assert filtered.meter_share == 0.0
