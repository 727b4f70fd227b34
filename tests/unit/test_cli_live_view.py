"""The live view draws on a terminal, writes lines elsewhere, and is silent when asked to be."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from opendt.cli.live_view import ForecastState, LiveState, LiveView, SloState, sparkline

WINDOW_MS = 300_000
DAY_MS = 86_400_000


def state(window=1, windows=2016, **more):
    return replace(
        LiveState(
            dataset="synthetic-week",
            now_ms=window * WINDOW_MS,
            end_ms=windows * WINDOW_MS,
            window=window,
            windows=windows,
            measured_w=15_000.0 + window % 7 * 500,
            predicted_w=15_100.0,
            next_w=15_200.0,
            next_lower_w=14_000.0,
            next_upper_w=16_400.0,
            forecasts=(
                ForecastState("One hour ahead", 0.0098, 0.0288, 0.903),
                ForecastState("One hour ahead, blind", None, None, None),
            ),
            slos=(SloState("energy", True), SloState("wait", False), SloState("makespan", None)),
            proposal="[bold]Take 12 idle hosts\x1b[2J out",
            proposals=7,
            start_epoch_ms=1_709_510_400_000,
        ),
        **more,
    )


class Clock:
    def __init__(self, step_s):
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self):
        self.now_s += self.step_s
        return self.now_s


def terminal():
    return Console(record=True, width=100, file=io.StringIO(), force_terminal=True, color_system=None)


def picture(*states):
    console = terminal()
    with LiveView(console=console, clock=Clock(0.01)) as view:
        for one in states:
            view.update(one)
    return console.export_text()


def test_the_picture_shows_the_loop():
    text = picture(*(state(window) for window in range(1, 300)))
    for words in (
        "OpenDT  synthetic-week",
        "Day 2, Tue 00:55",
        "299 of 2,016 windows",
        "× real time",
        "Measured now   17.50 kW",
        "90 % band 14.00 kW to 16.40 kW",
        "One hour ahead         0.98 %       2.88 %  66.0 %        90.3 %",
        "energy ✓ met   wait ✕ breached   makespan – not checked",
        "Proposal 7  [bold]Take 12 idle hosts",
    ):
        assert words in text, words


def test_names_cannot_steer_the_terminal():
    assert "\x1b[2J" not in picture(state(dataset="\x1b[2Jname", slos=(SloState("\x1b[2J", True),)))


def test_the_last_state_is_left_standing_whenever_it_came():
    assert "7 of 2,016" in picture(state(5), state(6), state(7)).rsplit("OpenDT", 1)[1]


def test_an_empty_state_is_drawn_too():
    assert "Measured now   – " in picture(
        LiveState(dataset="d", now_ms=0, end_ms=1, window=0, windows=1, measured_w=float("nan"))
    )


def test_redrawing_is_limited_to_ten_a_second(monkeypatch):
    drawn = []
    monkeypatch.setattr(LiveView, "_picture", lambda self, one: drawn.append(one.window) or str(one.window))
    clock = Clock(0.0)
    with LiveView(console=terminal(), clock=clock) as view:
        for window in range(1, 101):
            clock.now_s = window * 0.01  # a second in all
            view.update(state(window))
    assert len(drawn) <= 12
    assert drawn[-1] == 100


def test_without_a_terminal_there_is_a_line_for_each_day():
    stream = io.StringIO()
    with LiveView(stream=stream, clock=Clock(0.001)) as view:
        for window in range(1, 2017):
            view.update(state(window))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("Day 2, Tue 00:00: 288 of 2,016 windows; One hour ahead 0.98 % (persistence 2.88 %)")
    assert lines[-1].startswith("Day 8, Mon 00:00: 2,016 of 2,016 windows")
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("windows", [12, 288, 300])
def test_a_run_that_ends_within_a_day_gets_its_last_line(windows):
    stream = io.StringIO()
    with LiveView(stream=stream) as view:
        for window in range(1, windows + 1):
            view.update(state(window, windows))
    assert f"{windows} of {windows} windows" in stream.getvalue().splitlines()[-1]
    assert len(stream.getvalue().splitlines()) == -(-windows * WINDOW_MS // DAY_MS)


def test_quiet_is_silent_even_on_a_terminal():
    console, stream = terminal(), io.StringIO()
    with LiveView(quiet=True, console=console, stream=stream) as view:
        view.update(state())
    assert console.export_text() == ""
    assert stream.getvalue() == ""


def test_the_screen_is_given_back_when_the_run_is_interrupted():
    console = terminal()

    def interrupted():
        with LiveView(console=console) as view:
            view.update(state(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "3 of 2,016" in console.export_text()
    assert console._live_stack == []


def test_a_sparkline_keeps_to_its_blocks():
    assert sparkline([-5.0, 0.0, 10.0, 50.0, float("nan"), None], 0.0, 10.0) == "▁▁██  "
    assert sparkline([3.0, 3.0], 3.0, 3.0) == "▁▁"
