"""Series of all windows can be had again, from memory and files alike, and nothing goes away without a word."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from opendt.orchestrator.buffer import SimulationResultsBuffer, WindowSeries, series_columns

WINDOW_MS = 300_000
TICK_MS = 30_000


def window(index, **more):
    start_ms = index * WINDOW_MS
    time_ms = np.arange(start_ms + TICK_MS, start_ms + WINDOW_MS + 1, TICK_MS)
    columns = {"time_ms": time_ms, "power_w": time_ms / 1000.0, "hosts_up": np.full(10, index)}
    return WindowSeries(index, start_ms, start_ms + WINDOW_MS, columns | more)


@pytest.fixture
def events():
    return []


@pytest.fixture
def make(tmp_path, events):
    def buffer(**settings):
        return SimulationResultsBuffer(
            tmp_path / "results",
            datacenter="surf",
            on_event=events.append,
            **{"memory_windows": 4, "file_windows": 2} | settings,
        )

    return buffer


def files(buffer):
    return sorted(path.name for path in buffer.directory.iterdir())


def assert_complete(buffer, first, last):
    got = buffer.timeseries()
    expected = np.arange(first * WINDOW_MS + TICK_MS, (last + 1) * WINDOW_MS + 1, TICK_MS)
    np.testing.assert_array_equal(got["time_ms"], expected)
    np.testing.assert_array_equal(got["power_w"], expected / 1000.0)
    assert got["hosts_up"].dtype == np.int64
    assert [w.index for w in buffer.latest(last - first + 1)] == list(range(first, last + 1))


def test_memory_is_bounded_and_everything_can_be_had(make, events):
    buffer = make()
    for index in range(25):
        assert buffer.append(window(index))
        assert len(buffer._memory) <= 5
    assert_complete(buffer, 0, 24)
    assert [w.index for w in buffer.latest(2)] == [23, 24]
    assert [w.index for w in buffer.latest(7)] == list(range(18, 25))
    assert len(buffer.latest(100)) == 25
    assert buffer.latest(0) == []
    assert events == []


def test_a_stretch_includes_both_ends(make):
    buffer = make()
    for index in range(20):
        buffer.append(window(index))
    got = buffer.timeseries(WINDOW_MS, 2 * WINDOW_MS + TICK_MS, ["power_w", "none"])
    assert list(got) == ["time_ms", "power_w"]
    np.testing.assert_array_equal(got["time_ms"], np.arange(WINDOW_MS, 2 * WINDOW_MS + TICK_MS + 1, TICK_MS))
    assert len(buffer.timeseries(10**9)["time_ms"]) == 0


def test_a_restart_finds_what_was_flushed_and_takes_the_rest_again(make, events):
    buffer = make()
    for index in range(9):
        buffer.append(window(index))  # 8 is in no file: the process is killed here
    again = make()
    assert again.last_index == 7
    for index in range(6, 12):  # from a snapshot after window 5
        assert again.append(window(index)) == (index > 7)
    assert_complete(again, 0, 11)
    assert events == []


def test_a_gap_after_a_restart_is_told(make, events):
    buffer = make()
    for index in range(4):
        buffer.append(window(index))
    make().append(window(6))
    assert [(e.kind, e.first_window, e.last_window) for e in events] == [("results_dropped", 4, 5)]


def test_flush_makes_everything_safe(make):
    buffer = make(file_windows=4)
    for index in range(3):
        buffer.append(window(index))
    assert files(buffer) == []
    assert buffer.flush()
    assert buffer.flush()
    assert files(buffer) == [f"0-2-0-{3 * WINDOW_MS}.parquet"]
    assert_complete(make(), 0, 2)


def test_a_torn_write_leaves_nothing(make):
    buffer = make()
    for index in range(4):
        buffer.append(window(index))
    (buffer.directory / "4-5-0-1.parquet.partial").write_bytes(b"PAR1 and then the power went")
    again = make()
    assert again.last_index == 3
    assert len(files(again)) == 2
    assert_complete(again, 0, 3)


def test_a_damaged_file_is_put_aside_with_an_event(make, events):
    buffer = make()
    for index in range(8):
        buffer.append(window(index))
    again = make()
    damaged = next(buffer.directory.glob("2-3-*"))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    times = again.timeseries()["time_ms"]
    assert len(times) == 60
    assert len(again.timeseries()["time_ms"]) == 60
    assert [(e.kind, e.datacenter, e.file) for e in events] == [("results_damaged", "surf", str(damaged))]
    assert damaged.with_name(damaged.name + ".damaged").exists()


def test_retention_by_age_is_told(make, events):
    buffer = make(retention_ms=4 * WINDOW_MS)
    for index in range(12):
        buffer.append(window(index))
    assert [(e.first_window, e.last_window) for e in events] == [(0, 1), (2, 3), (4, 5)]
    assert_complete(buffer, 6, 11)


def test_retention_by_size_is_told_and_spares_the_latest(make, events):
    buffer = make(retention_bytes=1)
    for index in range(8):
        buffer.append(window(index))
    assert len(files(buffer)) == 1
    assert [e.last_window for e in events] == [1, 3, 5]


def test_what_cannot_be_written_stays_in_memory_until_there_is_room(make, events, monkeypatch):
    buffer = make()

    def full(*_args, **_settings):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("pyarrow.parquet.write_table", full)
        for index in range(10):
            buffer.append(window(index))
        assert not buffer.flush()
    assert [(e.kind, "No space left" in e.reason) for e in events] == [("results_trouble", True)]
    assert files(buffer) == []
    assert_complete(buffer, 0, 9)
    assert buffer.flush()
    assert_complete(make(), 0, 9)


def test_memory_is_bounded_even_when_nothing_can_be_written(make, events, monkeypatch):
    def full(*_args, **_settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    buffer = make()
    for index in range(30):
        buffer.append(window(index))
    assert [e.first_window for e in events if e.kind == "results_dropped"] == list(range(30 - 16))
    assert_complete(buffer, 14, 29)


def test_what_retention_takes_while_somebody_reads_leaves_no_hole(make):
    buffer = make()
    for index in range(12):
        buffer.append(window(index))
    next(buffer.directory.glob("2-3-*")).unlink()  # and 0-1, which was read before, a moment earlier
    np.testing.assert_array_equal(buffer.timeseries()["time_ms"][0], 4 * WINDOW_MS + TICK_MS)
    assert [w.index for w in buffer.latest(100)] == list(range(4, 12))


def test_columns_may_come_and_go(make):
    buffer = make()
    buffer.append(window(0))
    buffer.append(window(1, extra=np.ones(10)))
    buffer.append(window(2))
    for source in (buffer, make()):
        got = source.timeseries(None, 2 * WINDOW_MS)["extra"]
        np.testing.assert_array_equal(got, [np.nan] * 10 + [1.0] * 10)


def test_reading_while_the_loop_writes(make):
    buffer, done, wrong = make(retention_ms=40 * WINDOW_MS), threading.Event(), []

    def read():
        while not done.is_set():
            times = buffer.timeseries(columns=[])["time_ms"]
            if len(times) and np.any(np.diff(times) != TICK_MS):
                wrong.append(times)

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(60):
        buffer.append(window(index))
    done.set()
    reader.join()
    assert wrong == []


def test_series_of_several_clusters_are_summed_and_told_apart():
    series = {
        "time_ms": np.array([0, 10]),
        "power_w": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "intensity_g_per_kwh": np.array([[5.0, 6.0], [5.0, 6.0]]),
        "hosts_up": np.array([7, 7]),
        "basis": np.zeros((2, 2, 3)),
    }
    columns = series_columns(series, ["a", "b"], origin_ms=100)
    assert {name: values.tolist() for name, values in columns.items()} == {
        "time_ms": [100, 110],
        "power_w": [3.0, 7.0],
        "a/power_w": [1.0, 3.0],
        "b/power_w": [2.0, 4.0],
        "a/intensity_g_per_kwh": [5.0, 5.0],
        "b/intensity_g_per_kwh": [6.0, 6.0],
        "hosts_up": [7, 7],
    }
    one = series_columns({"time_ms": np.array([0]), "power_w": np.array([[1.0]])}, ["a"])
    assert one["power_w"].tolist() == [1.0]


WRITER = """
import sys
from itertools import count
import numpy as np
from opendt.orchestrator.buffer import SimulationResultsBuffer, WindowSeries
buffer = SimulationResultsBuffer(sys.argv[1], memory_windows=4, file_windows=2)
for n in count():
    time_ms = np.arange(n * 300_000 + 30_000, (n + 1) * 300_000 + 1, 30_000)
    buffer.append(WindowSeries(n, n * 300_000, (n + 1) * 300_000, {"time_ms": time_ms, "power_w": time_ms / 1000.0}))
"""


def test_a_process_killed_while_it_writes_leaves_whole_files_only(tmp_path, events):
    folder = tmp_path / "results"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)])
    try:
        deadline_s = time.monotonic() + 40
        while not folder.exists() or len(list(folder.glob("*.parquet"))) < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline_s
    finally:
        process.kill()
        process.wait()
    buffer = SimulationResultsBuffer(folder, on_event=events.append)
    last = buffer.last_index
    times = buffer.timeseries()["time_ms"]
    np.testing.assert_array_equal(times, np.arange(TICK_MS, (last + 1) * WINDOW_MS + 1, TICK_MS))
    assert last >= 9
    assert events == []
    assert list(folder.glob("*.partial")) == []
