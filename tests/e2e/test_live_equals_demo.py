"""A datacenter that is followed live gives the numbers of ``opendt demo`` on the same data, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from opendt.formats.opendc_workload import write_workload
from opendt.formats.synthetic import generate_week, synthesize_week
from opendt.telemetry.log import LogDirectory, LogSource
from opendt.telemetry.message_models import ResultMessage
from opendt.telemetry.messages import RESULTS
from opendt.verification.ledger import Ledger
from tests.command import opendt
from tests.data import require_data
from tests.live import IS_SOAK, NAME, Live, read_all

HOUR_MS = 3_600_000
HORIZON_MS = {"hour": HOUR_MS, "window": 300_000, "blind_hour": HOUR_MS}
COLUMNS = ("power_w", "lower_w", "upper_w")


def _demo(trace: Path, folder: Path, *words: object) -> dict[str, dict[int, tuple[Any, ...]]]:
    """What the demo said, of each kind by target: moment of issue, power and band."""
    done = opendt("demo", "--trace", trace, "-o", folder, "-q", *words)
    assert done.returncode == 0, done.stderr
    table = pq.ParquetFile(folder / "predictions.parquet").read()
    said: dict[str, dict[int, tuple[Any, ...]]] = {kind: {} for kind in HORIZON_MS}
    for kind, target_ms, *rest in zip(
        *(table[name].to_pylist() for name in ("forecast", "target_ms", "issued_ms", *COLUMNS)), strict=True
    ):
        said[kind][target_ms] = tuple(rest)
    return said


def _compare(live: Live, said: dict[str, dict[int, tuple[Any, ...]]]) -> None:
    """Everything in the ledger stands in the demo's file too, and the demo has no more than what was not over in the end."""
    with Ledger.open(live.ledger_url, read_only=True) as ledger:
        first, last = next(ledger.windows(NAME, 0, 0)), ledger.last_window(NAME)
        assert last is not None
        origin_ms, end_ms = first.start_ms, last.end_ms - first.start_ms
        for kind, horizon_ms in HORIZON_MS.items():
            recorded = {}
            for row in ledger.predictions(NAME, kind=kind):
                for number, values in enumerate(zip(*(row.values[name] for name in COLUMNS), strict=True)):
                    target_ms = row.first_target_ms - origin_ms + number * row.tick_ms
                    recorded[target_ms] = (row.issued_ms - origin_ms, *values)
            until_ms = min(max(recorded), max(said[kind]))
            common = {target: values for target, values in recorded.items() if target <= until_ms}
            assert common == {target: values for target, values in said[kind].items() if target <= until_ms}
            assert until_ms >= end_ms - 2 * horizon_ms


def test_a_day_through_messages_gives_what_the_demo_gives(tmp_path: Path) -> None:
    trace = generate_week(11, tmp_path / "week")
    said = _demo(trace, tmp_path / "demo", "--hours", 24)
    live = Live(tmp_path / "live", trace / "topology.json", log=tmp_path / "log")
    live.replay(trace, "--hours", 24)
    live.drain()
    assert live.window() >= 287
    _compare(live, said)
    with Ledger.open(live.ledger_url, read_only=True) as ledger:
        _only_the_blind_hour_is_on_time(ledger)
    _results_say_so_too(tmp_path / "log")


def _week_of_jobs(folder: Path) -> Path:
    """A week in which every third task waits for one of an hour before, and for the one before it."""
    week = synthesize_week(11)
    trace = generate_week(11, folder)
    count = len(week.workload)
    edges = [[task - 40, task - 1] if task % 3 == 0 and task >= 40 else [] for task in range(count)]
    columns = {
        "parent_offset": np.concatenate([[0], np.cumsum([len(those) for those in edges])]).astype(np.uint32),
        "parents": np.array([parent for those in edges for parent in those], np.uint32),
    }
    write_workload(replace(week.workload, **columns), trace)
    return trace


def test_tasks_that_wait_for_earlier_ones_do_so_live_as_in_the_demo(tmp_path: Path) -> None:
    trace = _week_of_jobs(tmp_path / "jobs")
    said = _demo(trace, tmp_path / "demo", "--hours", 5)
    free = _demo(generate_week(11, tmp_path / "free"), tmp_path / "free-demo", "--hours", 5)
    assert said["window"] != free["window"], "to wait makes a difference"
    live = Live(tmp_path / "live", trace / "topology.json", log=tmp_path / "log")
    live.replay(trace, "--hours", 5)
    live.drain()
    _compare(live, said)


def _only_the_blind_hour_is_on_time(ledger: Ledger) -> None:
    """A forecast is one when it is recorded with the window that ended as it was issued; all else came when it was known."""
    counts = dict.fromkeys(HORIZON_MS, 0)
    for recorded in ledger.entries(NAME):
        entry = recorded.entry
        for row in entry.predictions:
            counts[row.kind] += 1
            if row.kind == "blind_hour":
                assert row.issued_ms == entry.end_ms
                assert row.first_target_ms > entry.end_ms
            else:
                last_target_ms = row.first_target_ms + row.tick_ms * (len(row.values["power_w"]) - 1)
                assert last_target_ms <= entry.end_ms
    assert counts["blind_hour"] == 24
    assert counts["hour"] >= 22
    assert counts["window"] >= 280


def _results_say_so_too(log: Path) -> None:
    source = LogSource(LogDirectory(log), "reader")
    marks = set()
    for record in read_all(source, [RESULTS]):
        for forecast in ResultMessage.model_validate_json(record.value).forecasts:
            marks.add((forecast.kind, forecast.hindcast))
    assert marks == {("hour", True), ("window", True), ("blind_hour", False)}


@pytest.mark.skipif(not IS_SOAK, reason="the whole week; with OPENDT_SOAK=1")
def test_the_surf_week_through_messages_gives_what_the_demo_gives(tmp_path: Path) -> None:
    trace = require_data("traces/surf-week")
    said = _demo(trace, tmp_path / "demo")
    live = Live(tmp_path / "live", trace / "topology.json", log=tmp_path / "log")
    live.replay(trace)
    live.drain()
    assert live.window() >= 2_000
    _compare(live, said)
