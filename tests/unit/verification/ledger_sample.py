"""Windows as a twin would record them, small, and each a function of its number."""

from __future__ import annotations

import numpy as np

from opendt.verification.ledger_rows import (
    DocumentRow,
    EventRow,
    ObservationRow,
    PositionRow,
    PredictionRow,
    VerdictRow,
    VersionRow,
    WindowEntry,
)

ORIGIN_MS = 1_700_000_000_000
WINDOW_MS = 300_000
TICK_MS = 30_000
TOPOLOGY = VersionRow(1, 0, {"clusters": [{"name": "dc", "hosts": 4}]}, "file")
SLO = VersionRow(1, 0, {"targets": {"energy_kwh": 3.5}}, "file")


def entry(index: int, datacenter: str = "surf", **changes: object) -> WindowEntry:
    """A window with all kinds of rows; `changes` replace fields."""
    draw = np.random.default_rng([index, len(datacenter)])
    start_ms = ORIGIN_MS + index * WINDOW_MS
    end_ms = start_ms + WINDOW_MS
    kinds = {"window": 10} | ({"blind_hour": 120} if index % 12 == 0 else {})
    fields: dict[str, object] = {
        "datacenter": datacenter,
        "index": index,
        "start_ms": start_ms,
        "end_ms": end_ms,
        "input_hash": f"{index:064x}",
        "metrics": {"energy_kwh": float(draw.normal(3, 1)), "tasks": index, "p95_wait_s": float("nan")},
        "slo": [{"name": "energy", "met": index % 2 == 0, "burn_rate": 0.25}],
        "score": None if index == 3 else float(draw.normal()),
        "predictions": [prediction(kind, end_ms, ticks, draw) for kind, ticks in kinds.items()],
        "observation": ObservationRow(
            start_ms + TICK_MS * np.arange(1, 11),
            np.where(np.arange(10) == index % 10, np.nan, draw.normal(30e3, 99, 10)),
        ),
        "verdicts": [VerdictRow("window", start_ms, 9, 0.01, -0.002, 0.9, 0.02, float("nan"))] if index else [],
        "proposals": [DocumentRow(f"p{index}", {"hosts": 3, "reason": "zu viel\0Ω"})] if index % 4 == 1 else [],
        "certificates": [DocumentRow(f"c{index}", {"e": 20.5}, f"p{index}")] if index % 4 == 1 else [],
        "decisions": [DocumentRow(f"d{index}", {"what": "advise"}, f"p{index}")] if index % 4 == 1 else [],
        "events": [EventRow("window_closed", end_ms, {"tasks": index}), EventRow("late", end_ms, {}, "warning")],
        "positions": [
            PositionRow("dc.workload", 1, index * 5, index * 5 + 4, end_ms + 1),
            PositionRow("dc.power", 0, index * 10, index * 10, end_ms),
        ],
        "topology_version": 1,
        "slo_version": 1,
    }
    return WindowEntry(**(fields | changes))


def prediction(kind: str, issued_ms: int, ticks: int, draw: np.random.Generator) -> PredictionRow:
    values = {name: draw.normal(30e3, 500, ticks) for name in ("power_w", "lower_w", "upper_w")}
    return PredictionRow(kind, issued_ms, issued_ms + TICK_MS, TICK_MS, values, "ab" * 32, "0.2.0")


def fill(ledger, windows: int, datacenter: str = "surf") -> None:
    """Record versions and the first windows."""
    ledger.record_topology_version(datacenter, TOPOLOGY)
    ledger.record_slo_version(datacenter, SLO)
    for index in range(windows):
        ledger.record_window(entry(index, datacenter))
