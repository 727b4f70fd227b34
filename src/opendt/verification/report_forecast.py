"""Sections of the report on how right the forecasts were, and on what the twin has learned."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.verification.report_chart import Chart, Reading, details, table
from opendt.verification.report_reduce import bucket_means, extremes
from opendt.verification.report_scale import Axis, Calendar, Tick, number, percent, round_axis, signed_percent
from opendt.verification.score import DAY_MS, HOUR_MS, match

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from opendt.verification.report_data import CurveComparison, Predictions, ReportData
    from opendt.verification.score import ForecastScore

    Floats = NDArray[np.float64]

__all__ = ["coverage_section", "error_section", "forecast_section", "kind_title", "learning_section"]

_WEEK_BUCKETS: Final = 672  # a quarter of an hour each over a week: about a pixel and a half
_DAY_BUCKETS: Final = 720  # two minutes each
_MOST_FLAGS: Final = 20  # more would lie on each other; all events are in their table
_TERCILES: Final = ("low load", "middle", "high load")


def kind_title(kind: str, window_ms: int) -> str:
    """Name a kind of forecast in words."""
    titles = {
        "hour": "One hour ahead",
        "window": f"{_minutes(window_ms).capitalize()} ahead",
        "blind_hour": "One hour ahead, blind",
    }
    return titles.get(kind, kind.replace("_", " ").capitalize())


def _kind_note(kind: str, window_ms: int) -> str:
    notes = {
        "hour": "Made at each full hour for the hour that follows, knowing the work that will run but no power after that moment.",
        "window": f"Made every {_minutes(window_ms)} for the window that follows, knowing the work that will run but no "
        "power after that moment.",
        "blind_hour": "Made at each full hour for the hour that follows, knowing only what an operator knows then: requests, what has "
        "run and what was measured, no durations and no work to come.",
    }
    return notes.get(kind, "")


def _minutes(window_ms: int) -> str:
    return "five minutes" if window_ms == 300_000 else f"{number(window_ms / 60_000)} minutes"


def _days(data: ReportData) -> range:
    return range(-(-data.end_ms // DAY_MS))


# ---------------------------------------------------------------------------------------------- predicted and measured


def forecast_section(data: ReportData) -> str:
    """Predicted against measured power with the 90 % band: the whole run, and each day; the reader picks day and kind."""
    calendar = Calendar(data.start_epoch_ms, data.utc_offset_ms)
    kinds = list(data.kinds)
    spans = [("all", "Whole run")] + [(str(day), calendar.run_day(day)) for day in _days(data)]
    inputs = "".join(_radio("kind", kind, first=kind == kinds[0]) for kind in kinds)
    inputs += "".join(_radio("span", span, first=span == "all") for span, _ in spans)
    choices = _choices("Kind of forecast", "kind", [(kind, kind_title(kind, data.window_ms)) for kind in kinds])
    choices += _choices("Days", "span", spans)
    notes = "".join(f'<p class="k k-{kind} note">{escape(_kind_note(kind, data.window_ms))}</p>' for kind in kinds)
    power = round_axis(*_power_range(data), unit="kW", factor=0.001, count=6)
    panels = [f'<div class="panel p-all">{_power_chart(data, calendar, power, 0, data.end_ms, _WEEK_BUCKETS)}</div>']
    for day in _days(data):
        low, high = day * DAY_MS, (day + 1) * DAY_MS
        panels.append(
            f'<div class="panel p-{day}">{_power_chart(data, calendar, power, low, high, _DAY_BUCKETS)}</div>'
        )
    return (
        f"<style>{_picker_rules(kinds, [span for span, _ in spans])}</style>{inputs}"
        f'<div class="tools">{choices}</div><div class="panels">{notes}{"".join(panels)}</div>'
    )


def _radio(group: str, value: str, *, first: bool) -> str:
    name = f"{group}-{value}"
    return f'<input type="radio" class="pick" name="{group}" id="{name}" value="{value}"{" checked" if first else ""}>'


def _choices(title: str, group: str, options: list[tuple[str, str]]) -> str:
    labels = "".join(f'<label for="{group}-{value}">{escape(text)}</label>' for value, text in options)
    return f'<div class="choices" role="group" aria-label="{title}">{labels}</div>'


def _picker_rules(kinds: list[str], spans: list[str]) -> str:
    """Let the radio buttons choose without script; on paper every day is shown."""
    rules = []
    for name in [f"kind-{kind}" for kind in kinds] + [f"span-{span}" for span in spans]:
        rules.append(f"#{name}:checked~.tools label[for={name}]{{background:var(--ink);color:var(--paper)}}")
        rules.append(
            f"#{name}:focus-visible~.tools label[for={name}]{{outline:2px solid var(--accent);outline-offset:2px}}"
        )
    rules += [f"#kind-{kind}:checked~.panels .k:not(.k-{kind}){{display:none}}" for kind in kinds]
    hidden = "".join(f"#span-{span}:checked~.panels .panel:not(.p-{span}){{display:none}}" for span in spans)
    return "".join(rules) + f"@media screen{{{hidden}}}"


def _power_range(data: ReportData) -> tuple[float, float]:
    """Range that holds what was measured and predicted; the widest hundredth of the bands may be cut."""
    ends = [data.measured_w[np.isfinite(data.measured_w)]]
    for predictions in data.kinds.values():
        ends += [
            predictions.power_w,
            np.quantile(predictions.lower_w, [0.005]),
            np.quantile(predictions.upper_w, [0.995]),
        ]
    values = np.concatenate(ends)
    return float(values.min()), float(values.max())


def _power_chart(data: ReportData, calendar: Calendar, power: Axis, low: int, high: int, buckets: int) -> str:
    whole = high - low > DAY_MS
    title = "Power of all hosts, predicted and measured" + ("" if whole else f", {calendar.run_day(low // DAY_MS)}")
    chart = Chart(title, calendar.axis(low, high), power, size="large")
    middle = low + (np.arange(buckets) + 0.5) * (high - low) / buckets
    measured = bucket_means(data.measured_time_ms, data.measured_w, low, high, buckets)
    readings = [Reading("Measured", measured)]
    drawn = []  # bands, then the measured power, then the forecasts: the thin one must not hide them
    for kind, predictions in data.kinds.items():
        mean, lower, upper = (
            bucket_means(predictions.target_ms, column, low, high, buckets)
            for column in (predictions.power_w, predictions.lower_w, predictions.upper_w)
        )
        chart.area(middle, np.maximum(lower, power.low), np.minimum(upper, power.high), "band", "90 % band", kind=kind)
        drawn.append((kind, mean))
        readings += [Reading("Predicted", mean, kind=kind), Reading("90 % band", lower, upper, kind=kind)]
    chart.line(*extremes(data.measured_time_ms, data.measured_w, low, high, buckets), "measured", "Measured")
    for kind, mean in drawn:
        chart.line(middle, mean, "predicted", "Predicted", kind=kind)
    at = {"from": round(middle[0]), "step": (high - low) / buckets, "start": calendar.local_start_ms}
    at["words"] = _clock_words(calendar)
    chart.read(at, readings, unit="kW", factor=0.001, digits=2)
    chart.below(details("Figures as a table", _power_table(data, calendar, low, high)))
    return chart.html()


def _clock_words(calendar: Calendar) -> str:
    return "date" if calendar.start_epoch_ms is not None else "count"


def _power_table(data: ReportData, calendar: Calendar, low: int, high: int) -> str:
    step = DAY_MS if high - low > DAY_MS else HOUR_MS
    count = -(-(high - low) // step)
    columns = [bucket_means(data.measured_time_ms, data.measured_w, low, low + count * step, count)]
    head = ["Day" if step == DAY_MS else "Hour from", "Measured mean, kW"]
    for kind, predictions in data.kinds.items():
        title = kind_title(kind, data.window_ms)
        for words, column in (
            ("mean", predictions.power_w),
            ("low", predictions.lower_w),
            ("high", predictions.upper_w),
        ):
            columns.append(bucket_means(predictions.target_ms, column, low, low + count * step, count))
            head.append(f"{title}: {words}, kW")
    rows = [
        [
            calendar.run_day(i) if step == DAY_MS else calendar.moment(low + i * step),
            *(number(column[i] / 1000, 2) for column in columns),
        ]
        for i in range(count)
        if np.isfinite(columns[0][i])
    ]
    return table(head, rows, caption="Mean power and mean ends of the 90 % band")


# ------------------------------------------------------------------------------------------------------- error over time


def error_section(data: ReportData) -> str:
    """Table of scores, and the error of each hour beside persistence."""
    calendar = Calendar(data.start_epoch_ms, data.utc_offset_ms)
    charts = [_error_chart(data, calendar, kind, rows) for kind, rows in data.kinds.items()]
    return f'{_score_table(data)}<div class="stack">{"".join(charts)}</div>'


def _score_table(data: ReportData) -> str:
    head = [
        "Forecast",
        "Points",
        "Mean abs. error",
        "Persistence",
        "Skill",
        "95 % interval",
        "Bias",
        "Winkler",
        "Winkler of persistence",
    ]
    rows = []
    for kind, score in data.scores.items():
        skill = score.skill_ratio
        rows.append(
            [
                kind_title(kind, data.window_ms),
                number(score.points),
                percent(score.mape_ratio, 2),
                percent(score.persistence_mape_ratio, 2),
                percent(skill.value if skill else None),
                f"{percent(skill.low)} to {percent(skill.high)}" if skill else "–",
                signed_percent(score.bias_ratio, 2),
                percent(score.winkler_ratio, 2),
                percent(score.persistence_winkler_ratio, 2),
            ]
        )
    note = (
        "Persistence says that power stays as it was last measured. Skill is 1 − error / error of persistence: above zero is better than "
        "doing nothing. The Winkler score is the width of the 90 % band plus a penalty for what falls outside it, relative to power: "
        "smaller is better."
    )
    return table(head, rows, caption="Scores of each kind of forecast") + f'<p class="note">{note}</p>'


def _error_chart(data: ReportData, calendar: Calendar, kind: str, rows: Predictions) -> str:
    hours = max(1, -(-data.end_ms // HOUR_MS))
    found = match(rows.target_ms, data.measured_time_ms, data.measured_w)
    at, outcome = found.index, found.measured_w
    own, rival = (
        bucket_means(rows.target_ms[at], np.abs(column[at] - outcome) / outcome, 0, hours * HOUR_MS, hours)
        for column in (rows.power_w, rows.persistence_w)
    )
    axis = round_axis(0.0, _error_top(own, rival), unit="%", factor=100.0, count=3)
    cut = bool(np.nanmax(np.concatenate((rival, [0.0]))) > axis.high)
    chart = Chart(
        f"{kind_title(kind, data.window_ms)}: error of each hour",
        calendar.axis(0, data.end_ms),
        axis,
        note="Mean absolute error relative to measured power."
        + (" Persistence’s highest hours are cut off." if cut else "")
        + (" Numbers: see Drift and rollback." if data.events else ""),
        size="small",
    )
    middle = (np.arange(hours) + 0.5) * HOUR_MS
    chart.line(middle, np.minimum(rival, axis.high), "rival", "Persistence", dash=True)
    chart.area(middle, np.zeros(hours), own, "band")
    chart.line(middle, own, "predicted", "Twin")
    for i, event in enumerate(data.events[:_MOST_FLAGS], start=1):
        chart.flag(event.time_ms, str(i))
    place = {"from": HOUR_MS // 2, "step": HOUR_MS, "start": calendar.local_start_ms, "words": _clock_words(calendar)}
    chart.read(place, [Reading("Twin", own), Reading("Persistence", rival)], unit="%", factor=100.0, digits=2)
    days = _days(data)
    of_day = [bucket_means(np.rint(middle).astype(np.int64), c, 0, len(days) * DAY_MS, len(days)) for c in (own, rival)]
    body = [[calendar.run_day(day), percent(of_day[0][day], 2), percent(of_day[1][day], 2)] for day in days]
    chart.below(details("Figures as a table", table(["Day", "Twin", "Persistence"], body, caption="Mean of the hours")))
    return chart.html()


def _error_top(own: Floats, rival: Floats) -> float:
    """Room for all of the twin's errors and for all but the rival's highest hours, which would press the rest flat."""
    rival = rival[np.isfinite(rival)]
    usual = 1.1 * float(np.quantile(rival, 0.95)) if rival.size else 0.0
    return max(float(np.nanmax(np.concatenate((own, [0.0])))), usual, 1e-4)


# -------------------------------------------------------------------------------------------------------------- coverage


def coverage_section(data: ReportData) -> str:
    """How much of what was measured lay inside the band: overall, on each day, at each level of load."""
    calendar = Calendar(data.start_epoch_ms, data.utc_offset_ms)
    found = [
        value
        for score in data.scores.values()
        for value in (*score.coverage_by_day_ratio.values(), *score.coverage_by_tercile_ratio)
    ]
    axis = round_axis(min(0.8, *found), 1.0, unit="%", factor=100.0)  # one for all: they are compared
    charts = [_coverage_chart(data, calendar, axis, kind, score) for kind, score in data.scores.items()]
    return f'<div class="grid">{"".join(charts)}</div>'


def _coverage_chart(data: ReportData, calendar: Calendar, y: Axis, kind: str, score: ForecastScore) -> str:
    groups = [(calendar.run_day(day), value) for day, value in score.coverage_by_day_ratio.items()]
    short = [text[:2] if calendar.start_epoch_ms is not None else text.split(" ")[-1] for text, _ in groups]
    if len(score.coverage_by_tercile_ratio) == len(_TERCILES):
        groups += list(zip(_TERCILES, score.coverage_by_tercile_ratio, strict=True))
        short += ["low", "mid", "high"]
    gap = len(score.coverage_by_day_ratio)  # one place is left free between days and loads
    places = np.array([i if i < gap else gap + 0.7 + 1.4 * (i - gap) for i in range(len(groups))], float)
    values = np.array([value for _, value in groups])
    ticks = tuple(Tick(float(p), text, rule=False) for p, text in zip(places, short, strict=True))
    axis = Axis(-0.6, float(places[-1]) + 0.7, ticks, "by day, then by load")
    chart = Chart(
        kind_title(kind, data.window_ms),
        axis,
        y,
        note=f"{percent(score.coverage_ratio)} of {number(score.points)} points inside the 90 % band.",
        size="small",
    )
    chart.zone(0.8, 0.97, "accept", "80–97 %")
    chart.level(0.9, "target", "90 %")
    chart.dots(places, values, "predicted", "Inside the band", stems_from=0.9)
    reading = [Reading("Inside", values)]
    chart.read(
        {"x": places.tolist(), "labels": [text for text, _ in groups]}, reading, unit="%", factor=100.0, digits=1
    )
    rows = [[text, percent(value)] for text, value in groups]
    chart.below(details("Figures as a table", table(["Part", "Inside the 90 % band"], rows)))
    return chart.html()


# -------------------------------------------------------------------------------------------------- what the twin learned


def learning_section(data: ReportData) -> str:
    """Learned power curves beside the datasheet, and the disturbance that stands beside them."""
    curves = "".join(_curve_chart(curve) for curve in data.curves)
    return f'<div class="grid wide">{curves}</div>{"".join(_disturbance_chart(data))}'


def _curve_chart(curve: CurveComparison) -> str:
    top = float(max(curve.learned_w.max(), curve.datasheet_w.max()))
    ticks = tuple(Tick(share / 4, f"{25 * share} %") for share in range(5))
    chart = Chart(
        f"Host class {curve.class_name}",
        Axis(0.0, 1.0, ticks, "CPU utilisation"),
        round_axis(0.0, top, unit="W per host"),
        note=f"{number(curve.host_count)} hosts. Learned from measured power, at the end of the run.",
    )
    chart.line(curve.utilization, curve.datasheet_w, "rival", "Datasheet", dash=True)
    chart.line(curve.utilization, curve.learned_w, "predicted", "Learned")
    chart.dots(curve.utilization, curve.learned_w, "predicted")
    places = {"x": curve.utilization.tolist(), "labels": [percent(u, 0) for u in curve.utilization]}
    chart.read(
        places, [Reading("Learned", curve.learned_w), Reading("Datasheet", curve.datasheet_w)], unit="W", digits=1
    )
    rows = [
        [percent(u, 0), number(sheet, 1), number(learned, 1), _signed(learned - sheet)]
        for u, sheet, learned in zip(curve.utilization, curve.datasheet_w, curve.learned_w, strict=True)
    ]
    head = ["Utilisation", "Datasheet, W", "Learned, W", "Difference, W"]
    chart.below(details("Figures as a table", table(head, rows)))
    return chart.html()


def _signed(value: float) -> str:
    return f"+{number(value, 1)}" if value > 0.05 else number(value, 1)


def _disturbance_chart(data: ReportData) -> Iterator[str]:
    if data.disturbance is None or not data.disturbance.time_ms.size:
        return
    calendar = Calendar(data.start_epoch_ms, data.utc_offset_ms)
    time_ms, power_w = data.disturbance.time_ms, data.disturbance.power_w
    known = power_w[np.isfinite(power_w)]
    low, high = (float(known.min()), float(known.max())) if known.size else (-1.0, 1.0)
    chart = Chart(
        "Disturbance beside the curves",
        calendar.axis(0, data.end_ms),
        round_axis(min(low, 0.0), max(high, 0.0), unit="W"),
        note="What measured power has beyond the learned curves for a while: heat, fans, meters. It decays, and is never hidden in a curve.",
    )
    chart.line(*extremes(time_ms, power_w, 0, data.end_ms, _WEEK_BUCKETS), "predicted", "All hosts together")
    chart.level(0.0, "zero")
    means = bucket_means(time_ms, power_w, 0, data.end_ms, _WEEK_BUCKETS)
    step = data.end_ms / _WEEK_BUCKETS
    at = {"from": round(step / 2), "step": step, "start": calendar.local_start_ms, "words": _clock_words(calendar)}
    chart.read(at, [Reading("Disturbance", means)], unit="W", digits=0)
    of_day = bucket_means(time_ms, np.abs(power_w), 0, len(_days(data)) * DAY_MS, len(_days(data)))
    rows = [[calendar.run_day(day), number(of_day[day])] for day in _days(data)]
    chart.below(details("Figures as a table", table(["Day", "Mean size, W"], rows)))
    yield chart.html()
