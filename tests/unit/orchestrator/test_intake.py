"""What streams tell becomes what the loop takes: the twin's clock, ticks, identifiers as text."""

from __future__ import annotations

import numpy as np
import pytest

from opendt.orchestrator.intake import window_of
from opendt.telemetry.source import Partition
from opendt.telemetry.windows import WindowAssembler
from tests.unit.telemetry.streams import ORIGIN, heartbeat, parts, power, stream, task


def closed(workload, readings=(), count=1):
    one = WindowAssembler("d", window_ms=300_000, lateness_ms=0, power_patience_ms=0)
    one.add(stream("dc.workload", *workload, heartbeat(ORIGIN + 300_000 * count + 1)))
    if readings:
        one.add(stream("dc.power", *readings, heartbeat(ORIGIN + 300_000 * count + 1)))
    else:
        one.note_end(Partition("dc.power", 0))
    return [window_of(one.next(), 30_000) for _ in range(count)]


def test_times_count_from_the_start_and_identifiers_are_text():
    tasks = [task(7, ORIGIN), task("x", ORIGIN + 1_000, cpu_count=4, mem_capacity=512)]
    (window,) = closed(tasks)
    assert (window.index, window.start_ms, window.end_ms) == (0, 0, 300_000)
    assert window.tasks.ids == ("7", "x")
    columns = window.tasks.workload.columns()
    assert columns["cpu_count"].tolist() == [1, 4]
    assert columns["memory_mib"].tolist() == [0, 512]


def test_readings_stand_on_their_ticks():
    (window,) = closed([task(1, ORIGIN)], [power(ORIGIN + 30_000, 5.0), power(ORIGIN + 61_000, 6.0)])
    assert len(window.measured_w) == 10
    np.testing.assert_array_equal(window.measured_w[:4], [5.0, np.nan, 6.0, np.nan])


def test_work_is_told_by_task_with_its_end():
    rows = parts(ORIGIN + 60_000, (1, 0, 60_000, 10.0, True), (2, 0, 60_000, 20.0, False))
    first, second = closed([task(1, ORIGIN), task(2, ORIGIN), rows], count=2)
    found = dict(zip(first.work.ids, zip(np.diff(first.work.offset), first.work.closed, strict=True), strict=True))
    assert found == {"1": (1, True), "2": (1, False)}
    assert sorted(first.work.cpu_mhz.tolist()) == [10.0, 20.0]
    assert second.tasks is None
    assert second.work.ids == ()


@pytest.mark.parametrize("parent_first", [True, False])
def test_parents_of_the_same_window_are_edges_and_earlier_ones_are_named(parent_first):
    child = task("child", ORIGIN + 310_000, parents=["parent", "earlier"])
    parent = task("parent", ORIGIN + 310_000)
    later = [parent, child] if parent_first else [child, parent]
    _, second = closed([task("earlier", ORIGIN), *later], count=3)[:2]
    columns = second.tasks.workload.columns()
    place = second.tasks.ids.index("child")
    begin, end = columns["parent_offset"][place : place + 2]
    assert [second.tasks.ids[number] for number in columns["parents"][begin:end]] == ["parent"]
    assert second.tasks.earlier_parents == ((place, "earlier"),)
