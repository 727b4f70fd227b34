"""A run that never was, with everything the report can show."""

from __future__ import annotations

import functools

import numpy as np

from opendt.formats.synthetic import START_EPOCH_MS, synthesize_week
from opendt.verification.report_data import (
    CurveComparison,
    Disturbance,
    Effect,
    EventRow,
    Fact,
    Predictions,
    ProposalRow,
    ReportData,
    Series,
    SloRow,
)
from opendt.verification.score import DAY_MS, HOUR_MS, score

WINDOW_MS = 300_000
HOSTILE = '<img src=x onerror="alert(1)">&amp;</script><script>alert(2)</script>'


@functools.cache
def sample_report(seed: int = 1, days: int = 7) -> ReportData:
    """A report on a synthetic week, with forecasts that are made up from what was measured."""
    week = synthesize_week(seed)
    rng = np.random.default_rng(seed)
    keep = week.power.timestamp_ms <= days * DAY_MS
    time_ms, measured_w = week.power.timestamp_ms[keep], week.power.power_w[keep].copy()
    measured_w[5000:5030] = np.nan  # the meter was away for a quarter of an hour
    kinds, scores = {}, {}
    for kind, step_ms, share, width in (
        ("hour", HOUR_MS, 0.25, 1.6),
        ("window", WINDOW_MS, 0.6, 1.5),
        ("blind_hour", HOUR_MS, 0.97, 1.7),
    ):
        kinds[kind] = predictions(time_ms, measured_w, step_ms, share, width, rng)
        rows = kinds[kind]
        scores[kind] = score(
            rows.issued_ms,
            rows.target_ms,
            rows.power_w,
            rows.lower_w,
            rows.upper_w,
            time_ms,
            measured_w,
            rows.persistence_w,
            persistence_lower_w=rows.persistence_w * 0.9,
            persistence_upper_w=rows.persistence_w * 1.1,
        )
    return ReportData(
        title="synthetic-week",
        summary="120 hosts of 2 classes, 3 000 tasks, seed 1",
        start_epoch_ms=START_EPOCH_MS,
        utc_offset_ms=HOUR_MS,
        end_ms=days * DAY_MS,
        window_ms=WINDOW_MS,
        windows=days * 288,
        wall_s=8.4,
        measured_time_ms=time_ms,
        measured_w=measured_w,
        kinds=kinds,
        scores=scores,
        curves=curves(),
        disturbance=Disturbance(
            time_ms=time_ms, power_w=np.convolve(rng.normal(0, 60, time_ms.size), np.exp(-np.arange(240) / 80), "same")
        ),
        series=series(time_ms, measured_w, rng),
        slo_rows=slo_rows(days),
        proposals=proposals(days),
        events=(
            EventRow(
                time_ms=DAY_MS * days // 3, kind="drift", text="The learned curve has risen by 3.4 % since day 1."
            ),
            EventRow(
                time_ms=DAY_MS * days * 2 // 3,
                kind="rollback",
                text="Back to the fit of 2 hours before: 1.9 % error beside 1.1 %.",
            ),
        ),
        facts=(
            Fact("Versions", "OpenDT", "0.1.0"),
            Fact("Versions", "Python", "3.11.7"),
            Fact("Inputs", "tasks.parquet", "sha256 5f0c9ab1d2e3f40516273849506a7b8c9d0e1f2a3b4c5d6e7f8091a2b3c4d5e6"),
            Fact(
                "Inputs",
                "consumption.parquet",
                "sha256 a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90",
            ),
            Fact("Settings", "Seed", "1"),
            Fact("Settings", "Window", "300 s"),
            Fact("Settings", "Band", "90 %"),
        ),
    )


def predictions(time_ms, measured_w, step_ms, share, width, rng):
    """The truth with a share of persistence's error mixed in, and a band that is about right."""
    target_ms = time_ms
    issued_ms = (target_ms - 1) // step_ms * step_ms
    last = np.searchsorted(time_ms, issued_ms, side="right") - 1
    filled_w = np.where(np.isfinite(measured_w), measured_w, np.nanmean(measured_w))
    persistence_w = np.where(last >= 0, filled_w[last], np.nan)
    noise = rng.normal(0, 0.006, target_ms.size)
    known = np.where(np.isfinite(persistence_w), persistence_w, filled_w)
    power_w = filled_w + share * (known - filled_w) + noise * filled_w
    lead = np.sqrt((target_ms - issued_ms) / step_ms)
    spread_w = width * share * np.abs(known - filled_w).mean() * (0.4 + lead) + 0.008 * filled_w
    return Predictions(
        issued_ms=issued_ms,
        target_ms=target_ms,
        power_w=power_w,
        lower_w=power_w - spread_w,
        upper_w=power_w + spread_w,
        persistence_w=persistence_w,
    )


def curves():
    knots = np.array([0.0, 0.02, 0.06, 0.15, 0.3, 0.45, 0.6, 0.75, 0.88, 0.96, 1.0])
    compute = np.interp(knots, np.linspace(0, 1, 11), [82, 131, 162, 186, 207, 226, 246, 266, 287, 307, 322])
    memory = np.interp(knots, np.linspace(0, 1, 11), [61, 88, 104, 117, 129, 141, 154, 168, 183, 196, 204])
    return (
        CurveComparison(
            class_name="compute",
            host_count=72,
            utilization=knots,
            datasheet_w=70 + 260 * (2 * knots - knots**1.6),
            learned_w=compute,
        ),
        CurveComparison(
            class_name="memory",
            host_count=48,
            utilization=knots,
            datasheet_w=55 + 155 * (2 * knots - knots**1.4),
            learned_w=memory,
        ),
    )


def series(time_ms, measured_w, rng):
    filled_w = np.where(np.isfinite(measured_w), measured_w, np.nanmean(measured_w)) * 1.004
    energy_j = np.cumsum(filled_w) * 30.0
    hour = time_ms / HOUR_MS % 24
    intensity = 320 - 120 * np.exp(-(((hour - 12) / 3) ** 2)) + 60 * np.exp(-(((hour - 18.5) / 2) ** 2))
    load = (filled_w - filled_w.min()) / np.ptp(filled_w)
    return Series(
        time_ms=time_ms,
        energy_j=energy_j,
        emission_g=np.cumsum(filled_w * 30.0 / 3.6e6 * intensity),
        intensity_g_per_kwh=intensity,
        utilization_ratio=0.12 + 0.5 * load,
        tasks_active=np.rint(20 + 80 * load).astype(np.int64),
        tasks_pending=rng.poisson(np.where(load > 0.85, 3, 0.02)).astype(np.int64),
    )


def slo_rows(days):
    windows = days * 288
    missed = [int(day * DAY_MS + (11 * 12 + i) * WINDOW_MS) for day in range(min(days, 5)) for i in range(14)]
    return (
        SloRow(
            name="Energy per window",
            target="at most 1.6 kWh (+10 %)",
            measured="1.31 kWh on average",
            met_windows=windows - len(missed),
            checked_windows=windows,
            breached_ms=missed,
        ),
        SloRow(
            name="Wait of tasks, 95th percentile",
            target="at most 60 s (+10 %)",
            measured="0 s on average",
            met_windows=windows,
            checked_windows=windows,
        ),
        SloRow(name="Makespan", target="at most 6 h", measured="–", met_windows=0, checked_windows=0),
    )


def proposals(days):
    effects = (
        Effect(name="Energy", unit="kWh", before=15.71, after=14.32),
        Effect(name="Mean power", unit="W", before=15_710.0, after=14_320.0),
        Effect(name="Wait", unit="s", before=0.0, after=4.2),
        Effect(name="Makespan", unit="h", before=2.1, after=2.1),
    )
    return tuple(
        ProposalRow(
            time_ms=(i * DAY_MS * days) // 12 + 5 * HOUR_MS,
            source="rules",
            reason=HOSTILE if i == 3 else "Energy of the window is 32 % over its target, and 40 of 120 hosts are idle.",
            change=f"Take {8 + i} idle hosts of class compute out of service",
            effects=effects if i % 3 else effects[:2],
            slos_hold=(True, False, None)[i % 3],
            status="proposed",
        )
        for i in range(12)
    )
