"""Axes, reduction and charts of the report."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.verification.report_chart import Chart, Reading, table
from opendt.verification.report_reduce import bucket_means, extremes
from opendt.verification.report_scale import DAY_MS, HOUR_MS, Calendar, number, percent, round_axis, signed_percent


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_a_round_axis_holds_its_range_with_few_rising_ticks(low, span, count):
    axis = round_axis(low, low + span, count=count)
    slack = 1e-6 * max(abs(low), span)
    assert axis.low <= low + slack
    assert axis.high >= low + span - slack
    values = [tick.value for tick in axis.ticks]
    assert values == sorted(set(values))
    assert 2 <= len(values) <= count + 3
    assert len({tick.label for tick in axis.ticks}) == len(values)


def test_an_axis_of_one_value_still_has_a_length():
    for value in (0.0, 5.0, -3.0):
        axis = round_axis(value, value)
        assert axis.low < value < axis.high


def test_a_calendar_names_local_days_and_hours():
    start = 1_665_093_600_000  # Thursday 6 October 2022, 22:00 UTC, midnight in Amsterdam
    calendar = Calendar(start, 2 * HOUR_MS)
    assert calendar.moment(0) == "Fri 7 Oct 00:00"
    assert calendar.zone == "UTC+2"
    assert Calendar(start, -(3 * HOUR_MS + 1_800_000)).zone == "UTC−3:30"
    week = calendar.axis(0, 7 * DAY_MS)
    assert [tick.label for tick in week.ticks if tick.label] == [
        "Fri 7",
        "Sat 8",
        "Sun 9",
        "Mon 10",
        "Tue 11",
        "Wed 12",
        "Thu 13",
    ]
    assert [tick.value for tick in week.ticks if tick.rule] == [day * DAY_MS for day in range(1, 7)]
    assert [tick.label for tick in calendar.axis(0, DAY_MS).ticks][:3] == ["00:00", "03:00", "06:00"]


def test_a_day_of_the_run_is_named_by_what_holds_most_of_it():
    late = Calendar(1_665_093_600_000 - 60_000, 2 * HOUR_MS)  # a minute before midnight
    assert late.moment(0) == "Thu 6 Oct 23:59"
    assert (late.run_day(0), late.run_day(1, short=True)) == ("Fri 7 Oct", "Sat 8")
    assert Calendar(None).run_day(2) == "Day 3"


def test_a_calendar_without_a_start_counts_days():
    calendar = Calendar(None)
    assert calendar.moment(DAY_MS + HOUR_MS) == "Day 2 01:00"
    assert calendar.zone == "since the start"
    assert [tick.label for tick in calendar.axis(0, 3 * DAY_MS).ticks if tick.label] == ["Day 1", "Day 2", "Day 3"]


@pytest.mark.parametrize("days", [1, 2, 5, 30, 400])
def test_an_axis_of_time_stays_readable(days):
    labels = [tick.label for tick in Calendar(0).axis(0, days * DAY_MS).ticks if tick.label]
    assert 3 <= len(labels) <= 17


def test_numbers_in_words():
    assert number(1_234_567.4) == "1\u202f234\u202f567"
    assert number(-0.04, 1) == "0.0"
    assert number(-4.0) == "−4"
    assert number(float("inf")) == "–"
    assert (percent(0.975), percent(None), percent(float("nan"))) == ("97.5\u00a0%", "–", "–")
    assert (signed_percent(0.01), signed_percent(-0.01)) == ("+1.0\u00a0%", "−1.0\u00a0%")


@given(st.lists(st.one_of(st.floats(0, 1e5), st.just(float("nan"))), min_size=1, max_size=400), st.integers(1, 50))
def test_reduction_loses_no_peak(values, buckets):
    series = np.array(values)
    time_ms = 30_000 * np.arange(1, series.size + 1)
    end_ms = int(time_ms[-1])
    found_ms, found = extremes(time_ms, series, 0, end_ms, buckets)
    assert (np.diff(found_ms) >= 0).all()
    assert found.size <= 2 * buckets
    known = np.isfinite(series)
    if known.any():
        assert np.nanmax(found) == series[known].max()
        assert np.nanmin(found) == series[known].min()
    else:
        assert not np.isfinite(found).any()


def test_means_of_buckets_take_each_sample_into_the_interval_it_ends():
    time_ms = np.array([30, 60, 90, 120, 150])
    means = bucket_means(time_ms, np.array([1.0, 3.0, np.nan, 5.0, 100.0]), 0, 180, 3)
    np.testing.assert_array_equal(means, [2.0, 5.0, 100.0])
    np.testing.assert_array_equal(bucket_means(time_ms, np.ones(5), 60, 120, 1), [1.0])
    assert np.isnan(bucket_means(time_ms, np.ones(5), 600, 900, 2)).all()


def points_of(path):
    """Absolute points of a path of M and relative l commands, per piece."""
    pieces = []
    for piece in re.findall(r"M([^M]*)", path):
        head, _, steps = piece.rstrip("z").partition("l")
        at = np.array(re.findall(r"-?\d+", head.removesuffix("h0")), int)
        moves = np.array(re.findall(r"-?\d+", steps), int).reshape(-1, 2)
        pieces.append(np.vstack((at, at + np.cumsum(moves, axis=0))) if moves.size else at[None])
    return pieces


def drawn(**more):
    return Chart("Power", round_axis(0, 10), round_axis(0, 10), **more)


@given(st.lists(st.one_of(st.floats(0, 10), st.just(float("nan"))), min_size=1, max_size=60))
def test_a_line_passes_through_its_points_and_breaks_at_gaps(values):
    chart = drawn()
    x = np.linspace(0, 10, len(values))
    chart.line(x, values, "predicted")
    path = re.search(r'class="l predicted" d="([^"]*)"', chart.html())[1]
    pieces = points_of(path)
    known = np.isfinite(values)
    assert len(pieces) == np.count_nonzero(known[1:] & ~known[:-1]) + int(known[0])
    wanted = np.column_stack((np.round(x * 160), np.round((1 - np.array(values) / 10) * 600)))[known].astype(int)
    if known.any():
        found = {tuple(point) for piece in pieces for point in piece.tolist()}
        assert found == {tuple(point) for point in wanted.tolist()}


def test_an_area_goes_there_above_and_back_below():
    chart = drawn()
    chart.area([0, 5, 10], [1, 1, np.nan], [2, 3, 4], "band")
    path = re.search(r'class="a band" d="([^"]*)"', chart.html())[1]
    assert points_of(path)[0].tolist() == [[0, 480], [800, 420], [800, 540], [0, 540]]


def test_readings_are_safe_json_whatever_the_names_are():
    chart = drawn()
    name = '</script><b>"&'
    chart.read(
        {"x": [1.0, 2.0], "labels": [name, "b"]}, [Reading(name, [1.25, np.nan], [2.5, 3.0])], unit="kW", digits=2
    )
    html = chart.html()
    text = re.search(r'class="data">(.*?)</script>', html)[1]
    data = json.loads(text)
    assert data["series"] == [{"name": name, "v": [125, None], "u": [250, 300]}]
    assert data["at"]["labels"][0] == name


def test_a_table_escapes_its_cells():
    html = table(["<a>"], [["<b>&"]], caption="<c>")
    assert "<b>&" not in html
    assert "&lt;b&gt;&amp;" in html
    assert "<a>" not in html
    assert "<c>" not in html
