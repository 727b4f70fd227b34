"""The report of a run: one HTML page that opens anywhere, without a network, prints, and is complete without script.

``write_report(data, path)`` writes it; :mod:`opendt.verification.report_data` says what it is made of. The same data give the
same bytes. A week at 30 s with three kinds of forecast is about one megabyte.
"""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.model.errors import ModelError
from opendt.verification.report_data import ReportData
from opendt.verification.report_forecast import (
    coverage_section,
    error_section,
    forecast_section,
    kind_title,
    learning_section,
)
from opendt.verification.report_operation import (
    energy_section,
    events_section,
    load_section,
    measured_energy_kwh,
    proposals_section,
    slo_section,
)
from opendt.verification.report_scale import Calendar, number, percent

if TYPE_CHECKING:
    from pathlib import Path

    from opendt.verification.score import ForecastScore

__all__ = ["ReportData", "render_report", "write_report"]

_KIND: Final = re.compile(r"[a-z][a-z0-9_]*")  # kinds become names in the page
_SECTIONS: Final = (
    ("forecast", "Forecasts", "Predicted and measured", "What the twin said would happen, drawn with what then did."),
    ("error", "Error", "Error", "How far off each kind of forecast was, beside the rival that costs nothing."),
    ("coverage", "Coverage", "Coverage", "A 90 % band should hold nine points in ten: not fewer, and not more."),
    (
        "learned",
        "Learned",
        "What the twin learned",
        "The power curve of each host class, as the engine uses it from now on.",
    ),
    ("energy", "Energy", "Energy and carbon", "What the run used, and what that meant for the climate."),
    ("load", "Load", "Utilisation and tasks", "What the datacenter was busy with."),
    ("slo", "Objectives", "Objectives", "Which targets held, and when they did not."),
    (
        "proposals",
        "Proposals",
        "Proposals",
        "What would make it better, each tried on a fork of the twin before it is said.",
    ),
    (
        "events",
        "Events",
        "Drift and rollback",
        "Where measured power left what had been learned, and what the twin did.",
    ),
)


def write_report(data: ReportData, path: Path) -> None:
    """Write the report; the file appears when it is complete.

    Raises
    ------
    ModelError
        If there is no forecast, a kind has no score, or its columns differ in length or order.
    OSError
        If the file cannot be written.
    """
    text = render_report(data)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def render_report(data: ReportData) -> str:
    """The page as text; raises what `write_report` raises."""
    _check(data)
    bodies = {
        "forecast": forecast_section(data),
        "error": error_section(data),
        "coverage": coverage_section(data),
        "learned": learning_section(data) if data.curves or data.disturbance else "",
        "energy": energy_section(data),
        "load": load_section(data),
        "slo": slo_section(data) if data.slo_rows else "",
        "proposals": proposals_section(data) if data.proposals else "",
        "events": events_section(data) if data.events else "",
    }
    shown = [section for section in _SECTIONS if bodies[section[0]]]
    links = "".join(f'<a href="#{key}">{escape(short)}</a>' for key, short, _, _ in shown)
    sections = "".join(
        f'<section id="{key}"><div class="head"><h2>{escape(title)}</h2><p>{escape(line)}</p></div>{bodies[key]}</section>'
        for key, _, title, line in shown
    )
    own = files("opendt.verification")
    style, script = (own.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        # Nothing may be loaded, whatever a name in the data tries.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline';script-src 'unsafe-inline';"
        'img-src data:">'
        f'<link rel="icon" href="data:,"><title>{escape(data.title)} · OpenDT</title><style>{style}</style></head><body>'
        f'<a class="skip" href="#forecast">To the forecasts</a><header class="top">{_headline(data)}</header>'
        f'<nav aria-label="Sections"><div>{links}</div></nav><main>{sections}</main>{_footer(data)}'
        f"<script>{script}</script></body></html>\n"
    )


def _check(data: ReportData) -> None:
    if not data.kinds:
        raise ModelError("report: kinds", "none", "at least one kind of forecast")
    for kind, predictions in data.kinds.items():
        if not _KIND.fullmatch(kind):
            raise ModelError("report: kinds", kind, "a name of lower-case letters, digits and underscores")
        if kind not in data.scores:
            raise ModelError(f"report: scores[{kind!r}]", "nothing", "a score for each kind of forecast")
        for name in ("issued_ms", "power_w", "lower_w", "upper_w", "persistence_w"):
            found, wanted = getattr(predictions, name).shape, predictions.target_ms.shape
            if found != wanted or not wanted[0]:
                raise ModelError(
                    f"report: kinds[{kind!r}].{name}", f"shape {found}", f"shape {wanted}, as target_ms, not empty"
                )
        if (predictions.issued_ms >= predictions.target_ms).any() or (np.diff(predictions.target_ms) < 0).any():
            raise ModelError(
                f"report: kinds[{kind!r}]", "times out of order", "rising targets, each issued before its time"
            )


# -------------------------------------------------------------------------------------------------------------- headline


def _headline(data: ReportData) -> str:
    calendar = Calendar(data.start_epoch_ms, data.utc_offset_ms)
    kind, score = next(iter(data.scores.items()))
    rival = score.persistence_mape_ratio
    lead = f"{kind_title(kind, data.window_ms)}, the twin’s power was off by <strong>{percent(score.mape_ratio, 2)}</strong> on average"
    if rival is not None:
        lead += f"; saying that nothing changes is off by {percent(rival, 2)}"
    when = ""
    if data.start_epoch_ms is not None:
        when = f"{calendar.date(0)} to {calendar.date(data.end_ms - 1)}, {calendar.zone}"
    about = " · ".join(escape(part) for part in (data.summary, when) if part)
    return (
        f'<p class="brand">{_LOGO}<span>OpenDT</span> run report</p><h1>{escape(data.title)}</h1>'
        f'<p class="about">{about}</p><p class="lead">{lead}.</p><div class="cards">{_cards(data)}</div>'
    )


_LOGO: Final = (
    '<svg viewBox="0 0 24 24" width="22" height="22" aria-hidden="true"><path d="M12 2.5a9.5 9.5 0 1 0 9.5 9.5" fill="none" '
    'stroke="currentColor" stroke-width="2.4" stroke-linecap="round"/><circle cx="12" cy="12" r="3.6" fill="currentColor"/></svg>'
)


def _cards(data: ReportData) -> str:
    worst = max(score.mape_ratio for score in data.scores.values())
    worst = max([worst, *(score.persistence_mape_ratio or 0.0 for score in data.scores.values())])
    cards = [_error_card(kind_title(kind, data.window_ms), score, worst) for kind, score in data.scores.items()]
    cards.append(_coverage_card(data))
    energy_kwh = float(np.nansum(measured_energy_kwh(data, np.array([0.0, data.end_ms]))))
    if data.series is not None and data.series.time_ms.size:
        twin_kwh = float(data.series.energy_j[-1]) / 3.6e6
        carbon_kg = float(data.series.emission_g[-1]) / 1000
        cards.append(_card("Energy", number(energy_kwh), "kWh measured", f"the twin counts {number(twin_kwh)} kWh"))
        if carbon_kg > 0:
            grams = number(1000 * carbon_kg / twin_kwh) if twin_kwh > 0 else "–"
            cards.append(_card("Carbon", number(carbon_kg), "kg CO₂", f"{grams} g for each kWh"))
    else:
        cards.append(_card("Energy", number(energy_kwh), "kWh measured", ""))
    if data.slo_rows:
        met, checked = (
            sum(counts) for counts in zip(*((r.met_windows, r.checked_windows) for r in data.slo_rows), strict=True)
        )
        judged = [row for row in data.slo_rows if row.checked_windows]
        whole = sum(row.met_windows == row.checked_windows for row in judged)
        words = f"{whole} of {len(judged)} held in every window"
        cards.append(_card("Objectives", percent(met / checked if checked else None), "of checks met", words))
    speed = data.end_ms / 1000 / data.wall_s if data.wall_s > 0 else float("nan")
    days = number(data.end_ms / 86_400_000, 1).removesuffix(".0")
    words = f"{days} days, {number(data.windows)} windows, {number(speed)} × real time"
    cards.append(_card("Speed", number(data.wall_s, 1 if data.wall_s < 100 else 0), "s for the whole run", words))
    return "".join(cards)


def _card(title: str, value: str, unit: str, words: str, extra: str = "") -> str:
    return (
        f'<article class="card"><h2>{escape(title)}</h2><p class="value">{escape(value)} <small>{escape(unit)}</small></p>'
        f"{extra}<p>{escape(words)}</p></article>"
    )


def _error_card(title: str, score: ForecastScore, worst: float) -> str:
    """Error beside persistence, as two bars of one scale."""
    own, rival = score.mape_ratio, score.persistence_mape_ratio
    if rival is None:
        return _card(title, percent(own, 2), "error", "no rival: nothing was measured before")
    bars = "".join(
        f'<span><i class="{style}" style="width:{100 * value / worst if worst > 0 else 0:.1f}%"></i></span>'
        for style, value in (("own", own), ("rival", rival))
    )
    skill = score.skill_ratio.value if score.skill_ratio else float("nan")
    words = f"persistence {percent(rival, 2)}, skill {percent(skill)}"
    return _card(title, percent(own, 2), "error", words, f'<div class="versus" aria-hidden="true">{bars}</div>')


def _coverage_card(data: ReportData) -> str:
    score = next(iter(data.scores.values()))
    others = ", ".join(
        f"{kind_title(kind, data.window_ms).lower()} {percent(one.coverage_ratio)}"
        for kind, one in list(data.scores.items())[1:]
    )
    return _card("Inside the 90 % band", percent(score.coverage_ratio), "of points", others)


# ---------------------------------------------------------------------------------------------------------------- footer


def _footer(data: ReportData) -> str:
    groups: dict[str, list[str]] = {}
    for fact in data.facts:
        line = f"<div><dt>{escape(fact.name)}</dt><dd>{escape(fact.value)}</dd></div>"
        groups.setdefault(fact.group, []).append(line)
    lists = "".join(
        f"<section><h3>{escape(name)}</h3><dl>{''.join(lines)}</dl></section>" for name, lines in groups.items()
    )
    return (
        f'<footer><h2>How this was made</h2><div class="facts">{lists}</div><p class="note">Errors are pointwise, without any search '
        "for a lag, and every prediction was made before its power was seen. This file needs no network and no script.</p></footer>"
    )
