"""Autonomy steps down when the twin or its sensors go wrong, by hand, and up again."""

from __future__ import annotations

import json
import math
import pickle

import pytest

from opendt.model.errors import ModelError
from opendt.model.mode import MODES, lowered, lowest, rank
from opendt.verification.trust import TrustChange, TrustKeeper
from opendt.verification.trust_budget import AccuracyBudget
from opendt.verification.trust_settings import TrustSettings
from opendt.verification.verdict import Verdict

WINDOW_MS = 300_000
LOOSE = AccuracyBudget(verdicts=4, error_ratio=9.0, bias_ratio=9.0, coverage_ratio=0.0, skill_ratio=-99.0)


def settings(**changed):
    return TrustSettings(**{"good_windows": 5, "budgets": {"window": LOOSE}, **changed})


def verdict(error=0.01, *, bias=0.0, coverage=0.9, rival=0.02, kind="window", points=10):
    return Verdict(
        kind=kind,
        issued_ms=0,
        target_ms=WINDOW_MS,
        points=points,
        error_ratio=error,
        bias_ratio=bias,
        coverage_ratio=coverage,
        persistence_error_ratio=rival,
    )


NOTHING = Verdict(kind="window", issued_ms=0, target_ms=WINDOW_MS, points=0)
MOVING = [1000.0 + n for n in range(10)]
DEAD = [math.nan] * 10


class Plant:
    """Feeds windows one after the other."""

    def __init__(self, mode="auto", **changed):
        self.keeper = TrustKeeper(mode, settings(**changed.pop("settings", {})), **changed)
        self.now_ms = 0

    def window(self, readings=None, *verdicts, expected=None):
        self.now_ms += WINDOW_MS
        # Every window its own level, so that nothing stands still by chance.
        readings = [value + self.now_ms / WINDOW_MS for value in MOVING] if readings is None else readings
        return self.keeper.observe(self.now_ms, verdicts or (verdict(),), readings, expected)

    def windows(self, count, *given, **more):
        return [change for _ in range(count) if (change := self.window(*given, **more))]


def test_modes_are_ordered():
    assert [rank(mode) for mode in MODES] == [0, 1, 2, 3]
    assert [lowered("auto", steps) for steps in (0, 1, 2, 3, 4)] == ["auto", "approve", "advise", "observe", "observe"]
    assert lowest("auto", "advise", "approve") == "advise"


def test_the_configured_mode_is_what_may_be_done_while_all_is_well():
    plant = Plant("approve")
    assert plant.windows(50) == []
    assert plant.keeper.level == "approve"


@pytest.mark.parametrize(
    "readings", [DEAD, [], [0.0] * 10, [-5.0] * 10, [math.inf] * 10, [9e9] * 10, [*DEAD[:5], *MOVING[:5]]]
)
def test_windows_without_usable_readings_step_down_one_level_at_the_third(readings):
    plant = Plant(most_power_w=5000.0)
    assert plant.windows(2, readings, NOTHING) == []
    change = plant.window(readings, NOTHING)
    missing = sum(not 0 < value <= 5000.0 for value in readings)
    assert change == TrustChange(
        time_ms=plant.now_ms,
        before="auto",
        after="approve",
        reason=f"3 of the last 3 windows had no usable readings: {missing} of {len(readings)} missing or impossible",
    )
    assert plant.keeper.level == "approve"


def test_two_bad_windows_of_six_are_forgiven():
    plant = Plant()
    for _ in range(20):
        assert plant.windows(2, DEAD, NOTHING) == []
        assert plant.windows(4) == []
    assert plant.keeper.level == "auto"


def test_a_fault_that_stays_steps_down_to_the_lowest_level_and_no_further():
    plant = Plant()
    changes = plant.windows(30, DEAD, NOTHING)
    assert [(change.time_ms // WINDOW_MS, change.after) for change in changes] == [
        (3, "approve"),
        (6, "advise"),
        (9, "observe"),
    ]


def test_a_sensor_that_hangs_is_noticed_although_it_is_predicted_perfectly():
    plant = Plant()
    plant.windows(10)
    perfect = verdict(0.0, coverage=1.0, rival=0.0)
    (change,) = plant.windows(5, [1234.5] * 10, perfect)
    assert change.time_ms == plant.now_ms
    assert change.reason.endswith("the same 1234.5 W for 3 windows")


def test_equal_readings_are_no_fault_where_the_simulated_power_stands_still_too():
    plant = Plant()
    assert plant.windows(20, [1000.0] * 10, expected=[990.0] * 10) == []
    assert len(plant.windows(5, [1000.0] * 10, expected=MOVING)) == 1


def test_forecasts_that_are_far_off_step_down_at_the_third():
    plant = Plant()
    plant.windows(10)
    wrong = verdict(0.5, bias=-0.5, coverage=0.0)
    (change,) = plant.windows(3, None, wrong)
    assert change.reason == "3 of the last 6 forecasts were far off: error 50%, allowed 10%"


@pytest.mark.parametrize(
    ("noisy", "words"),
    [
        (verdict(0.05, bias=0.01, coverage=0.6), "4.0%, usually 0.5%, and 40%"),  # eight times as much, many outside
        (verdict(0.07, bias=0.01, coverage=0.8), "6.0%, usually 0.5%, and 20%"),  # twelve times as much, some outside
    ],
)
def test_noise_beyond_the_usual_and_the_bands_steps_down(noisy, words):
    plant = Plant()
    plant.windows(20, None, verdict(0.006, bias=0.001))  # scatter 0.5 %
    (change,) = plant.windows(3, None, noisy)
    assert change.reason == f"3 of the last 6 forecasts were far off: scatter {words} outside of the band"


@pytest.mark.parametrize(
    "harmless",
    [
        verdict(0.07, bias=0.01, coverage=0.9),  # the bands expected it
        verdict(0.05, bias=0.01, coverage=0.7),  # eight times the usual, and mostly expected
        verdict(0.025, bias=0.006, coverage=0.3),  # not four times the usual
        verdict(0.05, bias=0.049, coverage=0.0),  # an offset, not noise: the budgets' matter
    ],
)
def test_what_only_looks_like_noise_is_none(harmless):
    plant = Plant()
    plant.windows(20, None, verdict(0.006, bias=0.001))
    assert plant.windows(6, None, harmless) == []


SMOOTH = [1000.0 + 10.0 * n for n in range(10)]
SHAKY = [value + (2.0 if n % 2 else -2.0) for n, value in enumerate(SMOOTH)]  # unforeseen steps of 4 W
SHAKIER = [value + (8.0 if n % 2 else -8.0) for n, value in enumerate(SMOOTH)]  # of 16 W


def test_readings_that_jump_more_than_usual_and_than_was_simulated_step_down():
    plant = Plant()
    assert plant.windows(20, SHAKY, expected=SMOOTH) == []
    # The band is known from the second window on: its verdict comes with the one after.
    (change,) = plant.windows(4, SHAKIER, verdict(coverage=0.8), expected=SMOOTH)
    assert change.reason.endswith("steps of 1.5% that were not simulated, usually 0.4%, and outside of the band")


@pytest.mark.parametrize(
    ("readings", "coverage", "expected"),
    [
        (SHAKIER, 0.9, SMOOTH),  # the band expected it
        (SHAKIER, 0.8, SHAKIER),  # the simulation did
        (SHAKIER, 0.8, None),  # nobody knows what was simulated
        ([*SHAKY[:5], *(value + 400.0 for value in SHAKY[5:])], 0.8, SMOOTH),  # one jump of the load
    ],
)
def test_what_is_accounted_for_is_no_noise(readings, coverage, expected):
    plant = Plant()
    plant.windows(20, SHAKY, expected=SMOOTH)
    for n in range(12):
        moving = [value + n for value in readings]
        assert plant.window(moving, verdict(coverage=coverage), expected=expected) is None


def test_a_twin_that_cannot_say_how_right_it_is_steps_down():
    plant = Plant(settings={"silent_windows": 8})
    other = verdict(kind="hour")
    changes = plant.windows(10, None, other)
    assert [change.reason for change in changes] == [
        "3 of the last 3 forecasts were far off: no verdict for 10 windows"
    ]


BUDGET = AccuracyBudget(verdicts=4, error_ratio=0.04, bias_ratio=0.03, coverage_ratio=0.6, skill_ratio=0.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (verdict(0.05, rival=0.06), "window: error 5.0%, allowed 4.0%"),
        (verdict(0.035, bias=0.035, rival=0.06), "window: bias +3.5%, allowed 3.0% either way"),
        (verdict(0.035, bias=-0.035, rival=0.06), "window: bias -3.5%, allowed 3.0% either way"),
        (verdict(0.01, coverage=0.5), "window: coverage 50%, at least 60% asked"),
        (verdict(0.036, rival=0.03), "window: skill -0.20 against persistence, at least 0.00 asked"),
        (verdict(math.nan), "window: error nan%, allowed 4.0%"),
    ],
)
def test_each_budget_that_is_left_steps_down_when_its_stretch_is_full(given, words):
    plant = Plant(settings={"budgets": {"window": BUDGET}, "bad_limit": 6})
    assert plant.windows(3, None, given) == []
    change = plant.window(None, given)
    assert words in change.reason
    assert plant.windows(3, None, given) == [], "the stretch begins anew"


def test_skill_is_not_asked_of_forecasts_that_are_nearly_right():
    plant = Plant(settings={"budgets": {"window": BUDGET}})
    assert plant.windows(10, None, verdict(0.02, rival=0.001)) == []


def test_every_kind_of_forecast_has_its_own_budget_and_others_have_none():
    plant = Plant(settings={"budgets": {"hour": BUDGET}})
    assert plant.windows(10, None, verdict(), verdict(9.0, kind="unheard_of")) == []
    changes = plant.windows(4, None, verdict(), verdict(0.08, kind="hour"))
    assert [change.reason for change in changes] == [
        "hour: error 8.0%, allowed 4.0%; hour: skill -3.00 against persistence, at least 0.00 asked"
    ]


def test_a_good_stretch_steps_up_one_level_at_a_time():
    plant = Plant()
    plant.windows(6, DEAD, NOTHING)
    assert plant.keeper.level == "advise"
    ups = plant.windows(20)
    assert [(change.time_ms // WINDOW_MS - 6, change.before, change.after) for change in ups] == [
        (5, "advise", "approve"),
        (10, "approve", "auto"),
    ]
    assert ups[0].reason == "5 windows in a row without fault, all budgets kept"


def test_one_bad_window_begins_the_good_stretch_anew():
    plant = Plant()
    plant.windows(3, DEAD, NOTHING)
    for _ in range(6):
        assert plant.windows(4) == []
        assert plant.window(DEAD, NOTHING) is None
    assert plant.keeper.level == "approve"


def test_a_step_up_asks_for_a_margin():
    plant = Plant(settings={"budgets": {"window": BUDGET}})
    plant.windows(3, DEAD, NOTHING)
    assert plant.windows(20, None, verdict(0.035, rival=0.05)) == [], "within 4 %, not within 80 % of it"
    assert [change.after for change in plant.windows(20, None, verdict(0.01))] == ["auto"]


@pytest.mark.parametrize("mode", MODES)
def test_trust_never_allows_more_than_is_configured(mode):
    plant = Plant(mode)
    plant.windows(30, DEAD, NOTHING)
    assert plant.keeper.level == "observe"
    plant.windows(60)
    assert plant.keeper.level == mode


def test_the_configured_mode_may_change_between_windows():
    plant = Plant("auto")
    plant.windows(3, DEAD, NOTHING)
    plant.keeper.mode = "approve"
    assert plant.keeper.level == "advise"


def test_a_window_that_is_seen_again_changes_nothing():
    plant = Plant()
    plant.windows(2, DEAD, NOTHING)
    before = plant.keeper.state()
    assert plant.keeper.observe(plant.now_ms, (NOTHING,), DEAD) is None
    assert plant.keeper.state() == before


@pytest.mark.parametrize("way", ["json", "pickle"])
def test_a_restart_goes_on_equally(way):
    plant = Plant(settings={"budgets": {"window": BUDGET, "hour": BUDGET}})
    plant.windows(15, None, verdict(0.006), verdict(0.02, kind="hour", rival=None))
    plant.windows(4, DEAD, NOTHING)
    if way == "pickle":
        again = pickle.loads(pickle.dumps(plant.keeper))
    else:
        again = TrustKeeper("auto", plant.keeper.settings)
        again.restore(json.loads(json.dumps(plant.keeper.state())))
    assert again.state() == plant.keeper.state()
    for end_ms in range(plant.now_ms + WINDOW_MS, plant.now_ms + 20 * WINDOW_MS, WINDOW_MS):
        readings = DEAD if end_ms % 7 else [float(end_ms)] * 10
        assert again.observe(end_ms, (verdict(),), readings) == plant.keeper.observe(end_ms, (verdict(),), readings)
    assert again.level == plant.keeper.level


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"version": 2}, "trust.version"),
        ({"steps": None}, "trust.steps"),
        ({"ranges": [[1]]}, "trust.ranges"),
        ({"verdicts": {"window": [[1.0]]}}, "trust.verdicts"),
    ],
)
def test_a_state_that_is_none_is_refused_and_nothing_is_changed(wrong, place):
    plant = Plant()
    plant.windows(4, DEAD, NOTHING)
    before = plant.keeper.state()
    with pytest.raises(ModelError) as caught:
        plant.keeper.restore({**before, **wrong})
    assert caught.value.place == place
    assert plant.keeper.state() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"bad_limit": 0},
        {"bad_limit": 7},
        {"missing_ratio": 0.0},
        {"recovery_ratio": 1.5},
        {"quick_error_ratio": math.nan},
        {"scatter_limits": ((0.5, 0.5),)},
        {"scatter_limits": ((4.0, 1.5),)},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrustSettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"verdicts": 0}, {"error_ratio": 0.0}, {"coverage_ratio": 1.1}, {"skill_ratio": 2.0}, {"bias_ratio": math.inf}],
)
def test_budgets_that_cannot_be_kept_are_refused(wrong):
    kept = {"verdicts": 4, "error_ratio": 0.1, "bias_ratio": 0.1, "coverage_ratio": 0.5, "skill_ratio": 0.0}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AccuracyBudget(**{**kept, **wrong})
