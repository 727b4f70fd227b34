"""Error budgets by hand: what is allowed, what is spent, how fast, and what survives a restart."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.model.errors import ModelError
from opendt.model.slo import Slo
from opendt.optimization.budgets import ALERTS, BudgetBook, budget_status
from opendt.optimization.scoring import check_slo
from opendt.twin.metrics import WindowMetrics

WINDOW_MS = 300_000
WEEK_S = 604_800
WAITS = {"task_wait_p95": {"target_s": 300, "tolerance_ratio": 0.0}}
HOURS_OF_A_WEEK = {"target": "task_wait_p95", "good_ratio": 0.99, "slice_s": 3600, "period_s": WEEK_S}


def objectives(*budgets, **targets):
    return Slo.model_validate({"version": 1, "runtime": WAITS, "budgets": budgets, **targets})


class Feed:
    """Feeds windows of five minutes by their waits; None where nobody's wait is known."""

    def __init__(self, *budgets, **targets):
        self.slo = objectives(*budgets, **targets)
        self.book = BudgetBook(self.slo)
        self.end_ms = 0

    def window(self, wait_s):
        self.end_ms += WINDOW_MS
        window = WindowMetrics(start_ms=self.end_ms - WINDOW_MS, end_ms=self.end_ms, task_wait_p95_s=wait_s)
        return self.book.observe(self.end_ms, check_slo(self.slo, window))

    def windows(self, count, wait_s):
        for _ in range(count):
            statuses = self.window(wait_s)
        return statuses

    def hours(self, count, wait_s=10.0):
        return self.windows(12 * count, wait_s)


def test_waits_under_five_minutes_in_99_percent_of_the_hours_of_a_week():
    feed = Feed(HOURS_OF_A_WEEK)
    (status,) = feed.hours(100)
    assert (status.good, status.bad, status.unknown, status.state) == (100, 0, 0, "kept")
    assert status.allowed == pytest.approx(1.68)
    assert status.left_ratio == 1.0

    feed.windows(11, 10.0)
    (status,) = feed.window(301.0)
    assert (status.good, status.bad) == (100, 1)
    assert status.left_ratio == pytest.approx(1 - 1 / 1.68)
    assert status.state == "fast_burn"
    fastest, faster, slow = status.burn_rates
    assert (fastest.long_s, fastest.short_s, faster.long_s, faster.short_s) == (3600, 3600, 7200, 3600)
    assert (slow.long_s, slow.short_s) == (17 * 3600, 7200)
    assert fastest.long_rate == pytest.approx(100.0)
    assert faster.long_rate == pytest.approx(50.0)
    assert slow.long_rate == pytest.approx(100.0 / 17)

    assert feed.hours(1)[0].state == "slow_burn", "the fast ones ask for a bad slice now"
    assert feed.hours(1)[0].state == "kept", "two hours on, nothing burns any more"

    (status,) = feed.window(301.0)
    assert (status.bad, status.state) == (2, "spent")
    assert status.left_ratio == pytest.approx(1 - 2 / 1.68)


def test_bad_slices_leave_with_the_period():
    feed = Feed(HOURS_OF_A_WEEK)
    feed.hours(1, 999.0)
    feed.hours(1, 999.0)
    assert feed.hours(166)[0].bad == 2
    assert feed.hours(1)[0].bad == 1
    (status,) = feed.hours(1)
    assert (status.bad, status.good, status.left_ratio) == (0, 168, 1.0)


def test_one_bad_window_makes_its_slice_bad_at_once_and_a_good_one_does_not_heal_it():
    feed = Feed(HOURS_OF_A_WEEK)
    assert feed.window(301.0)[0].bad == 1
    (status,) = feed.windows(11, 1.0)
    assert (status.good, status.bad) == (0, 1)
    assert feed.window(1.0)[0].good == 1


def test_what_is_not_known_is_neither_good_nor_bad():
    feed = Feed(HOURS_OF_A_WEEK)
    (status,) = feed.hours(3, None)
    assert (status.good, status.bad, status.unknown, status.left_ratio) == (0, 0, 3, 1.0)
    feed.windows(5, None)
    (status,) = feed.windows(7, 1.0)
    assert (status.good, status.unknown) == (1, 3)


def test_a_window_belongs_to_the_slice_that_its_end_lies_in():
    feed = Feed(HOURS_OF_A_WEEK)
    feed.windows(11, 1.0)
    assert feed.window(301.0)[0].bad == 1, "the last window of the first hour"
    assert feed.window(1.0)[0].good == 1, "the first of the second"


def test_windows_that_never_came_are_unknown():
    feed = Feed(HOURS_OF_A_WEEK)
    feed.hours(2)
    feed.end_ms += 5 * 3_600_000
    (status,) = feed.hours(1)
    assert (status.good, status.unknown) == (3, 5)
    feed.end_ms += 400 * 3_600_000
    (status,) = feed.hours(1, 999.0)
    assert (status.good, status.bad, status.unknown) == (0, 1, 167)


def test_slices_are_windows_unless_told_otherwise():
    feed = Feed({"target": "task_wait_p95", "good_ratio": 0.9, "period_s": 3000})
    feed.windows(9, 1.0)
    (status,) = feed.window(999.0)
    assert (status.slice_s, status.good, status.bad, status.allowed) == (300, 9, 1, pytest.approx(1.0))
    assert status.left_ratio == pytest.approx(0.0)
    assert status.state == "fast_burn", "what is allowed to the last is not overspent"


def test_alerts_are_those_of_the_workbook_for_thirty_days():
    slo = objectives({**HOURS_OF_A_WEEK, "good_ratio": 0.999, "period_s": 30 * 86_400, "slice_s": 300})
    status = budget_status(slo.budgets[0], 300, "g" * 8640, 0)
    assert [(rate.severity, rate.long_s, rate.short_s, rate.limit) for rate in status.burn_rates] == [
        ("fast", 3_600, 300, 14.4),
        ("fast", 6 * 3_600, 1_800, 6.0),
        ("slow", 3 * 86_400, 6 * 3_600, 1.0),
    ]
    spent = [alert.rate / alert.long_part for alert in ALERTS]
    assert spent == pytest.approx([0.02, 0.05, 0.10])


@pytest.mark.parametrize(
    ("slices", "state"),
    [
        ("g" * 8640, "kept"),
        # 864 bad windows are allowed. A fifth of the last three days bad, evenly, burns at twice the pace.
        ("g" * 7776 + "gggbg" * 172 + "gggb", "slow_burn"),
        ("g" * 7776 + "gggggggggggbgggggggg" * 43 + "gggb", "kept"),  # at half the pace
        # Six tenths of the last six hours and of the last half hour: six times the pace.
        ("g" * 8568 + "bbbgg" * 14 + "bb", "fast_burn"),
        ("g" * 8568 + "bbbgg" * 12 + "g" * 12, "kept"),  # it is over, and was short for the slow alert
        ("b" * 865 + "g" * 7775, "spent"),
        ("b" * 864 + "g" * 7776, "kept"),
    ],
)
def test_states_by_hand(slices, state):
    slo = objectives({**HOURS_OF_A_WEEK, "good_ratio": 0.9, "period_s": 30 * 86_400, "slice_s": 300})
    status = budget_status(slo.budgets[0], 300, slices, 0)
    assert len(slices) == 8640
    assert status.state == state


def test_budgets_come_in_the_order_of_the_file_each_for_its_target():
    slow = {"target": "energy", "name": "thrift", "good_ratio": 0.5, "period_s": 600}
    feed = Feed(slow, HOURS_OF_A_WEEK, energy={"target_kwh": 1.0})
    found = feed.window(999.0)
    assert [(one.name, one.target, one.bad, one.unknown) for one in found] == [
        ("thrift", "energy", 0, 1),
        ("task_wait_p95", "task_wait_p95", 1, 0),
    ]


def test_without_budgets_there_is_nothing_to_tell():
    assert Feed().window(999.0) == ()


def test_a_window_that_is_seen_again_changes_nothing():
    feed = Feed(HOURS_OF_A_WEEK)
    feed.hours(2)
    before = feed.book.state()
    feed.end_ms -= WINDOW_MS
    assert feed.window(999.0) == feed.book.statuses()
    assert feed.book.state() == before


waits = st.lists(st.sampled_from([None, 1.0, 999.0]), max_size=60)


@given(before=waits, after=waits)
def test_a_restart_goes_on_equally(before, after):
    short = {**HOURS_OF_A_WEEK, "name": "short", "slice_s": 600, "period_s": 12_000}
    feed, again = Feed(HOURS_OF_A_WEEK, short), Feed(HOURS_OF_A_WEEK, short)
    for wait_s in before:
        feed.window(wait_s)
    again.book.restore(json.loads(json.dumps(feed.book.state())))
    assert pickle.loads(pickle.dumps(feed.book)).state() == again.book.state()
    again.end_ms = feed.end_ms
    for wait_s in after:
        assert again.window(wait_s) == feed.window(wait_s)
    assert again.book.state() == feed.book.state()


@given(given_waits=st.lists(st.sampled_from([None, 1.0, 999.0]), min_size=1, max_size=120))
def test_the_book_counts_what_a_plain_count_gives(given_waits):
    feed = Feed({**HOURS_OF_A_WEEK, "slice_s": 900, "period_s": 9000})
    for wait_s in given_waits:
        (status,) = feed.window(wait_s)
    slices = [given_waits[i : i + 3] for i in range(0, len(given_waits), 3)][-10:]
    assert status.bad == sum(999.0 in one for one in slices)
    assert status.good == sum(999.0 not in one and 1.0 in one for one in slices)
    assert status.unknown == sum(set(one) == {None} for one in slices)


def test_new_objectives_keep_budgets_of_the_same_target_and_slices():
    feed = Feed(HOURS_OF_A_WEEK)
    feed.hours(3, 999.0)
    feed.book.follow(objectives({**HOURS_OF_A_WEEK, "good_ratio": 0.9, "period_s": 7200}))
    (status,) = feed.book.statuses()
    assert (status.bad, status.allowed) == (2, pytest.approx(0.2))
    feed.book.follow(objectives({**HOURS_OF_A_WEEK, "slice_s": 7200}))
    assert feed.book.statuses()[0].bad == 0
    feed.book.follow(objectives())
    assert feed.book.statuses() == ()


def test_a_state_of_other_slices_begins_anew():
    feed = Feed(HOURS_OF_A_WEEK)
    feed.hours(3, 999.0)
    other = Feed({**HOURS_OF_A_WEEK, "slice_s": 7200})
    other.book.restore(feed.book.state())
    assert other.book.statuses()[0].bad == 0


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"version": 7}, "budgets.version"),
        ({"last_ms": None}, "budgets.last_ms"),
        ({"budgets": []}, "budgets.budgets"),
        ({"budgets": {"task_wait_p95": 3}}, "budgets.task_wait_p95"),
        (
            {"budgets": {"task_wait_p95": {"target": "task_wait_p95", "slice_s": 3600, "first": 0, "slices": "gx"}}},
            "budgets.task_wait_p95",
        ),
    ],
)
def test_a_state_that_is_none_is_refused_and_nothing_is_changed(wrong, place):
    feed = Feed(HOURS_OF_A_WEEK)
    feed.hours(3, 999.0)
    before = feed.book.state()
    with pytest.raises(ModelError) as caught:
        feed.book.restore({**before, **wrong})
    assert caught.value.place == place
    assert feed.book.state() == before
