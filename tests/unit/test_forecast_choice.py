"""How the filters of the forecasts are chosen: on declared plants, by the rule that the program states, and as the defaults are."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from opendt.twin.calibrate import PowerCalibrator
from opendt.twin.guard import ROLLBACK_DEFAULTS
from opendt.twin.mixture import ExpertMixture
from opendt.twin.settings import FAMILY

BENCHES = Path(__file__).resolve().parents[2] / "benches"


@pytest.fixture
def module(monkeypatch):
    """Import a module of benches/, which is no package, and forget it afterwards."""
    monkeypatch.syspath_prepend(str(BENCHES))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == BENCHES:
            del sys.modules[name]


@pytest.fixture
def choice(module):
    return module("forecast_choice")


def test_the_defaults_are_among_the_candidates(choice):
    families = [candidate.family for candidate in choice.candidates()]
    assert FAMILY in families
    assert max(map(len, families)) == choice.MOST_FILTERS


def test_the_smallest_within_a_hundredth_is_picked_and_of_these_the_best(choice):
    best = math.log(0.01)
    near, nearer, far = best + 0.009, best + 0.005, best + 0.011
    assert choice.pick([best, near, nearer, far], [12, 4, 4, 1]) == 2
    assert choice.pick([best, near, near, far], [12, 4, 6, 1]) == 1
    assert choice.pick([best, far], [12, 1]) == 0


def test_candidates_are_weighed_as_the_forecasters_weigh(choice, module):
    """Members that learn side by side and are mixed in many sets at once err as a family on its own does."""
    week = module("forecast_plants").plant(6, days=0.25)
    (own,) = choice.log_errors(week, [FAMILY], ["linearised"])
    others = choice.log_errors(week, [FAMILY[:1], FAMILY, FAMILY[-2:]], ["plain", "linearised", "linearised"])
    assert np.allclose(others[1], own)
    for column, horizon in enumerate(choice.HORIZONS):
        calibrator = PowerCalibrator(week.classes, FAMILY)
        mixture = ExpertMixture(len(FAMILY), (0, horizon), horizon * 30 / 3600)
        errors = []
        for start in range(0, week.measured_w.size, horizon):
            part = slice(start, start + horizon)
            said = mixture.issue(calibrator.expect_members(week.features[part], week.hosts_up[part]))
            errors.append(np.abs(said / week.measured_w[part] - 1.0))
            mixture.settle(week.measured_w[part])
            calibrator.update(week.features[part], week.hosts_up[part], week.measured_w[part])
        assert own[column] == pytest.approx(np.log(np.mean(errors)), rel=1e-6)


def test_every_plant_is_another_and_the_same_each_time(module):
    plants = module("forecast_plants")
    assert plants.count() == 20
    made = [plants.plant(index, days=1 / 12) for index in (0, 1, 5, 19)]
    assert len({one.name for one in made}) == len({one.measured_w.tobytes() for one in made}) == len(made)
    assert np.array_equal(made[-1].measured_w, plants.plant(19, days=1 / 12).measured_w)
    assert all(np.isfinite(one.measured_w).all() and one.measured_w.size == 240 for one in made)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"hold_ticks": 3}, [1, 1, 3, 3, 3, 6]),
        ({"hold_ticks": 3, "share": 0.5}, [1, 1.5, 3, 3.5, 4, 6]),
        ({"mean_ticks": 2}, [1, 1.5, 2.5, 3.5, 4.5, 5.5]),
        ({"mean_ticks": 2, "hold_ticks": 2}, [1, 1.5, 1.5, 3.5, 3.5, 5.5]),
    ],
)
def test_meters_read_as_they_say(module, settings, expected):
    meter = module("forecast_plants").Meter(name="", **settings)
    assert meter.read(np.arange(1.0, 7.0)).tolist() == expected


def test_a_held_meter_makes_modelling_it_worth_while(choice, module):
    """What the choice rests on: filters that know of held readings win where there are any, and lose nothing elsewhere."""
    plants = module("forecast_plants")
    families = [choice.make_family((0.003,), (0.01,), choice.TIMES_S[1:2], meters) for meters in (("exact",), ("all",))]
    held, exact = (choice.log_errors(plants.plant(i, days=0.5), families, ["plain"] * 2) for i in (1, 0))
    assert held[1, 1] < held[0, 1] - 0.1
    assert np.allclose(exact[0], exact[1], atol=0.01)


def test_amounts_are_halved_and_doubled_one_at_a_time(choice):
    offered = choice.variants(FAMILY)
    assert len(offered) == 1 + 2 * len(choice.AMOUNTS)
    assert len(set(offered.values())) == len(offered)
    assert offered["as stated"] == FAMILY


def test_coarser_curves_price_what_they_can_express_alike(choice, module):
    week = module("forecast_plants").plant(0, days=1 / 24)
    coarse = choice.coarse(week, (0.0, 1.0))
    assert coarse.features.shape == (*week.features.shape[:2], 2)
    assert np.allclose(coarse.features.sum(axis=2), week.features.sum(axis=2))
    assert np.allclose(coarse.features[..., 1], week.features @ np.array(choice.KNOTS))


def test_the_program_reports_its_choice(choice, module, monkeypatch, capsys, tmp_path):
    """From end to end with two candidates on two plants of two hours."""
    few = [one for one in choice.candidates() if one.size == 1][:2]
    monkeypatch.setattr(choice, "candidates", lambda: few)
    monkeypatch.setattr(choice.plants, "METERS", choice.plants.METERS[:2])
    monkeypatch.setattr(choice.plants, "PLANTS", choice.plants.PLANTS[:1])
    monkeypatch.setattr(choice, "AMOUNTS", {"clip_sd": choice.AMOUNTS["clip_sd"]})
    monkeypatch.setattr(choice, "ProcessPoolExecutor", Here)
    file = tmp_path / "choice.json"
    monkeypatch.setattr(sys, "argv", ["forecast_choice.py", "--days", str(1 / 12), "--json", str(file)])
    assert choice.main() == 0
    out = capsys.readouterr().out
    assert "2 families on 2 plants" in out
    assert "chosen:" in out
    assert "knots 11" in out
    assert "CalibrationSettings" in file.read_text()


class Here:
    """A pool that does the work itself."""

    def __init__(self, *_arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        return None

    map = staticmethod(map)


def test_the_guards_ratio_is_the_middle_of_what_repairs_and_does_not_alarm(module):
    guard = module("forecast_guard")
    assert guard.pick([0.75, 0.9], [0.15, 0.25]) == 0.5  # 0.3 to 0.7
    assert guard.pick([0.75, 0.9], [0.15, 0.8]) == 0.45  # one is never repaired: 0.2 to 0.7
    with pytest.raises(ValueError, match="false alarm"):
        guard.pick([0.05], [0.2])
    assert ROLLBACK_DEFAULTS.gain_ratio in {round(0.05 * step, 2) for step in range(2, 19)}


def test_a_sensor_that_lies_for_hours_is_seen_by_the_guard(module):
    guard, plants = module("forecast_guard"), module("forecast_plants")
    false_alarm, repairs = guard.judge(0, days=3.0)
    assert false_alarm > 0.6
    assert len(repairs) == len(guard.FACTORS)
    assert max(repairs) < 0.6
    assert plants.plant(0, days=3.0).name.startswith("as it is")
