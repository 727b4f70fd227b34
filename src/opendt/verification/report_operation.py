"""Sections of the report on the datacenter itself: energy, carbon, load, objectives, proposals and events."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.verification.report_chart import Chart, Reading, details, table
from opendt.verification.report_reduce import bucket_means
from opendt.verification.report_scale import Axis, Calendar, Tick, number, percent, round_axis
from opendt.verification.score import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from opendt.verification.report_data import Effect, ProposalRow, ReportData, Series, SloRow

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = [
    "energy_section",
    "events_section",
    "load_section",
    "measured_energy_kwh",
    "proposals_section",
    "slo_section",
]

_J_PER_KWH: Final = 3.6e6
_BUCKETS: Final = 672
_FIRST_PROPOSALS: Final = 8
_MOST_PROPOSALS: Final = 200
_MOST_EVENTS: Final = 200


# ------------------------------------------------------------------------------------------------------ energy and carbon


def energy_section(data: ReportData) -> str:
    """Energy and carbon of each day, and the grid's intensity."""
    calendar = Calendar(data.start_epoch_ms, data.utc_offset_ms)
    if data.series is None:
        return ""
    days = range(-(-data.end_ms // DAY_MS))
    borders = np.minimum(np.array([day * DAY_MS for day in [*days, len(days)]], float), data.end_ms)
    simulated = _per_day(data.series, data.series.energy_j, borders) / _J_PER_KWH
    measured = measured_energy_kwh(data, borders)
    carbon = _per_day(data.series, data.series.emission_g, borders) / 1000.0
    ticks = tuple(Tick(day + 0.5, calendar.run_day(day, short=True), rule=False) for day in days)
    axis = Axis(0.0, float(len(days)), ticks)
    words = [calendar.run_day(day) for day in days]
    charts = _energy_chart(axis, words, simulated, measured) + _carbon_chart(axis, words, carbon)
    return f'<div class="grid wide">{charts}</div>{_intensity_chart(data, data.series, calendar)}'


def measured_energy_kwh(data: ReportData, borders_ms: Floats) -> Floats:
    """Measured energy between borders, in kWh: each sample is the mean of the interval it ends; gaps count nothing."""
    if data.measured_time_ms.size < 2:
        return np.full(len(borders_ms) - 1, np.nan)
    steps_ms = np.diff(data.measured_time_ms, prepend=2 * data.measured_time_ms[0] - data.measured_time_ms[1])
    usual_ms = float(np.median(steps_ms))
    energy_j = np.where(np.isfinite(data.measured_w), data.measured_w, 0.0) * np.minimum(steps_ms, usual_ms) / 1000.0
    total = np.concatenate(([0.0], np.cumsum(energy_j)))
    return np.diff(total[np.searchsorted(data.measured_time_ms, borders_ms, "right")]) / _J_PER_KWH


def _per_day(series: Series, total: Floats, borders_ms: Floats) -> Floats:
    """Increase of a running total between borders; before the first sample it is zero."""
    time = np.concatenate(([0.0], series.time_ms.astype(float)))
    return np.diff(np.interp(borders_ms, time, np.concatenate(([0.0], total))))


def _energy_chart(axis: Axis, words: list[str], simulated: Floats, measured: Floats) -> str:
    place = np.arange(len(words), dtype=float)
    top = float(np.nanmax(np.concatenate((simulated, measured))))
    chart = Chart("Energy per day", axis, round_axis(0.0, top, unit="kWh"), note="A last day may be a short one.")
    chart.bars(place + 0.2, place + 0.49, measured, "ink", "Measured")
    chart.bars(place + 0.51, place + 0.8, simulated, "accent", "Twin")
    readings = [Reading("Measured", measured), Reading("Twin", simulated)]
    chart.read({"x": (place + 0.5).tolist(), "labels": words}, readings, unit="kWh")
    rows = [[word, number(m, 1), number(s, 1)] for word, m, s in zip(words, measured, simulated, strict=True)]
    rows.append(["Total", number(float(measured.sum()), 1), number(float(simulated.sum()), 1)])
    chart.below(details("Figures as a table", table(["Day", "Measured, kWh", "Twin, kWh"], rows)))
    return chart.html()


def _carbon_chart(axis: Axis, words: list[str], carbon_kg: Floats) -> str:
    place = np.arange(len(words), dtype=float)
    chart = Chart(
        "Carbon per day", axis, round_axis(0.0, float(carbon_kg.max()), unit="kg CO₂"), note="Of the twin's energy."
    )
    chart.bars(place + 0.28, place + 0.72, carbon_kg, "warm", "Emission")
    chart.read({"x": (place + 0.5).tolist(), "labels": words}, [Reading("Emission", carbon_kg)], unit="kg CO₂")
    rows = [[word, number(value, 1)] for word, value in zip(words, carbon_kg, strict=True)]
    rows.append(["Total", number(float(carbon_kg.sum()), 1)])
    chart.below(details("Figures as a table", table(["Day", "Emission, kg CO₂"], rows)))
    return chart.html()


def _intensity_chart(data: ReportData, series: Series, calendar: Calendar) -> str:
    known = series.intensity_g_per_kwh[np.isfinite(series.intensity_g_per_kwh)]
    if not known.size:
        return ""
    chart = Chart(
        "Carbon intensity of the grid",
        calendar.axis(0, data.end_ms),
        round_axis(0.0, float(known.max()), unit="g CO₂ / kWh"),
        size="small",
    )
    _over_time(data, chart, calendar, [("Intensity", series.intensity_g_per_kwh, "warm")], unit="g/kWh", digits=0)
    return chart.html()


# -------------------------------------------------------------------------------------------------------------------- load


def load_section(data: ReportData) -> str:
    """Utilisation and tasks over time."""
    if data.series is None or not data.series.time_ms.size:
        return ""
    calendar, series = Calendar(data.start_epoch_ms, data.utc_offset_ms), data.series
    axis = calendar.axis(0, data.end_ms)
    top = float(np.nanmax(series.utilization_ratio, initial=0.0))
    use = Chart(
        "CPU utilisation",
        axis,
        round_axis(0.0, max(top, 0.1), unit="%", factor=100.0),
        note="Mean of the hosts that are up.",
    )
    _over_time(data, use, calendar, [("Utilisation", series.utilization_ratio, "predicted")], unit="%", factor=100.0)
    most = float(max(series.tasks_active.max(), series.tasks_pending.max(), 1))
    tasks = Chart("Tasks", axis, round_axis(0.0, most, unit="tasks"), note="Running, and waiting for a host.")
    lines = [("Running", series.tasks_active, "predicted"), ("Waiting", series.tasks_pending, "warm")]
    _over_time(data, tasks, calendar, lines, unit="", digits=0)
    return f'<div class="stack">{use.html()}{tasks.html()}</div>'


def _over_time(
    data: ReportData,
    chart: Chart,
    calendar: Calendar,
    lines: Sequence[tuple[str, Floats | Integers, str]],
    *,
    unit: str,
    factor: float = 1.0,
    digits: int = 1,
) -> None:
    """Draw series as means of quarter hours, with readings and a table by day."""
    if data.series is None:
        return
    step, days = data.end_ms / _BUCKETS, -(-data.end_ms // DAY_MS)
    middle = (np.arange(_BUCKETS) + 0.5) * step
    readings, by_day = [], []
    for name, column, style in lines:
        values = np.asarray(column, np.float64)
        means = bucket_means(data.series.time_ms, values, 0, data.end_ms, _BUCKETS)
        chart.line(middle, means, style, name, dash=style == "warm" and len(lines) > 1)
        readings.append(Reading(name, means))
        by_day.append(bucket_means(data.series.time_ms, values, 0, days * DAY_MS, days))
    words = "date" if calendar.start_epoch_ms is not None else "count"
    at = {"from": round(step / 2), "step": step, "start": calendar.local_start_ms, "words": words}
    chart.read(at, readings, unit=unit, factor=factor, digits=digits)
    head = ["Day", *(f"{name}, {unit}" if unit else name for name, _, _ in lines)]
    rows = [
        [calendar.run_day(day), *(number(column[day] * factor, max(digits, 1)) for column in by_day)]
        for day in range(days)
    ]
    chart.below(details("Figures as a table", table(head, rows, caption="Means of each day")))


# -------------------------------------------------------------------------------------------------------------- objectives


def slo_section(data: ReportData) -> str:
    """Objectives: target, measured, in how many windows met, and when not."""
    calendar = Calendar(data.start_epoch_ms, data.utc_offset_ms)
    rows = "".join(_slo_row(data, row) for row in data.slo_rows)
    axis = calendar.axis(0, data.end_ms)
    named = [tick for tick in axis.ticks if tick.label]
    days = "".join(f'<span style="left:{100 * axis.share(t.value):.2f}%">{escape(t.label)}</span>' for t in named)
    return f'<div class="slos">{rows}<div class="slo-days" aria-hidden="true">{days}</div></div>'


def _slo_row(data: ReportData, row: SloRow) -> str:
    checked, breached = row.checked_windows, row.checked_windows - row.met_windows
    share = row.met_windows / checked if checked else float("nan")
    if not checked:
        mark = '<span class="mark none">– not checked</span>'
    elif breached:
        mark = f'<span class="mark bad">✕ breached in {number(breached)} of {number(checked)} windows</span>'
    else:
        mark = f'<span class="mark good">✓ met in all {number(checked)} windows</span>'
    under = "good" if checked else "none"
    width = 1000 * data.window_ms / data.end_ms
    bars = "".join(f"M{1000 * start / data.end_ms:.1f} 0h{width:.2f}v10h-{width:.2f}z" for start in row.breached_ms)
    name = escape(row.name)
    return (
        f'<article class="slo"><div><h3>{name}</h3>{mark}</div><dl><div><dt>Target</dt><dd>{escape(row.target)}</dd></div>'
        f"<div><dt>Measured</dt><dd>{escape(row.measured)}</dd></div><div><dt>Windows met</dt><dd>{percent(share)}</dd></div></dl>"
        f'<svg class="strip" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="When {name} was breached">'
        f'<path class="a {under}" d="M0 0H1000V10H0z"/><path class="a bad" d="{bars}"/></svg></article>'
    )


# --------------------------------------------------------------------------------------------------- proposals and events


def proposals_section(data: ReportData) -> str:
    """What was proposed, why, and what the simulation says it would do."""
    calendar = Calendar(data.start_epoch_ms, data.utc_offset_ms)
    shown = list(data.proposals)[:_MOST_PROPOSALS]
    cards = [_proposal(calendar, proposal) for proposal in shown]
    first, rest = cards[:_FIRST_PROPOSALS], cards[_FIRST_PROPOSALS:]
    more = details(f"{len(rest)} more", f'<div class="proposals">{"".join(rest)}</div>') if rest else ""
    left_out = len(data.proposals) - len(shown)
    note = f'<p class="note">{number(left_out)} later ones are in the result files.</p>' if left_out else ""
    return f'<div class="proposals">{"".join(first)}</div>{more}{note}'


def _proposal(calendar: Calendar, proposal: ProposalRow) -> str:
    verdict = {
        True: '<span class="mark good">✓ objectives would hold</span>',
        False: '<span class="mark bad">✕ an objective would be breached</span>',
        None: '<span class="mark none">– objectives not simulated</span>',
    }[proposal.slos_hold]
    effects = "".join(_effect(effect) for effect in proposal.effects)
    return (
        f'<article class="proposal"><header><time>{escape(calendar.moment(proposal.time_ms))}</time>'
        f'<span class="tag">{escape(proposal.source)}</span><span class="tag">{escape(proposal.status)}</span></header>'
        f"<h3>{escape(proposal.change)}</h3><p>{escape(proposal.reason)}</p>"
        f"{f'<dl>{effects}</dl>' if effects else ''}{verdict}</article>"
    )


def _effect(effect: Effect) -> str:
    digits = _digits(effect.before, effect.after)
    change = (effect.after - effect.before) / abs(effect.before) if effect.before else float("nan")
    if not np.isfinite(change):
        word = ""
    elif abs(change) < 5e-4:
        word = " <small>unchanged</small>"
    else:
        word = f" <small>{'▲' if change > 0 else '▼'} {percent(abs(change))}</small>"
    return (
        f"<div><dt>{escape(effect.name)}, {escape(effect.unit)}</dt>"
        f"<dd>{number(effect.before, digits)} → {number(effect.after, digits)}{word}</dd></div>"
    )


def _digits(*values: float) -> int:
    """Decimals that show three digits of the largest value."""
    largest = max((abs(v) for v in values if np.isfinite(v)), default=0.0)
    return 0 if largest >= 100 or largest == 0 else 1 if largest >= 10 else 2


def events_section(data: ReportData) -> str:
    """Drift, steps and rollbacks, numbered as the flags in the charts of errors."""
    calendar = Calendar(data.start_epoch_ms, data.utc_offset_ms)
    words = {"drift": "Drift", "step": "Step", "rollback": "Rollback", "meter": "Meter", "note": "Note"}
    rows: Sequence[Sequence[str]] = [
        [str(i), calendar.moment(event.time_ms), words[event.kind], event.text]
        for i, event in enumerate(data.events[:_MOST_EVENTS], start=1)
    ]
    left_out = len(data.events) - len(rows)
    note = f'<p class="note">{number(left_out)} later ones are in the result files.</p>' if left_out else ""
    return (
        table(["No.", "When", "What", "In words"], rows, caption="What the twin noticed about itself", words=4) + note
    )
