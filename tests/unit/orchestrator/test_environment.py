"""Replay delivers every reading once, on the grid of the twin, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opendt.formats.opendc import write_topology
from opendt.formats.opendc_workload import write_workload
from opendt.model.errors import FormatError
from opendt.model.tasks import workload_from_tasks
from opendt.model.topology import Cluster, HostGroup, Topology
from opendt.orchestrator.environment import replay

GROUP = HostGroup(name="node", count=1, core_count=1, core_speed_mhz=1000.0, memory_mib=1000)


def folder_with(path: Path, timestamp_ms: list[int], power_w: list[float]) -> Path:
    path.mkdir()
    write_topology(Topology(clusters=(Cluster(name="dc", hosts=(GROUP,)),)), path / "topology.json")
    write_workload(workload_from_tasks([{"id": 1, "fragments": [(60_000, 100.0)]}]), path)
    columns = {"timestamp": pa.array(timestamp_ms, pa.int64()), "power_draw": pa.array(power_w, pa.float64())}
    pq.write_table(pa.table(columns), path / "consumption.parquet")
    return path


def test_windows_hold_every_reading_at_its_tick(tmp_path: Path) -> None:
    times = list(range(30_000, 700_000, 30_000))
    environment = replay(folder_with(tmp_path / "a", times, [float(t) for t in times]))
    assert environment.source.tick_ms == 30_000
    windows = list(environment.source.windows(300_000))
    assert [(w.start_ms, w.end_ms) for w in windows] == [
        (0, 300_000),
        (300_000, 600_000),
        (600_000, 900_000),
        (900_000, 1_200_000),  # by its end all is known of the one before
    ]
    joined = np.concatenate([w.measured_w for w in windows])
    assert joined[: len(times)].tolist() == [float(t) for t in times]
    assert np.isnan(joined[len(times) :]).all()


def test_gaps_stay_gaps(tmp_path: Path) -> None:
    times = [30_000, 60_000, 90_000, 120_000, 300_000]
    environment = replay(folder_with(tmp_path / "a", times, [1.0, 2.0, 3.0, 4.0, 5.0]))
    window, _ = environment.source.windows(300_000)
    assert window.measured_w.tolist()[:4] == [1.0, 2.0, 3.0, 4.0]
    assert np.isnan(window.measured_w[4:9]).all()
    assert window.measured_w[9] == 5.0


def test_an_interval_that_does_not_make_whole_hours_is_put_on_the_usual_grid(tmp_path: Path) -> None:
    environment = replay(folder_with(tmp_path / "a", [7_000 * i for i in range(1, 100)], [1.0] * 99))
    assert environment.source.tick_ms == 30_000


def test_no_readings_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"consumption\.parquet"):
        replay(folder_with(tmp_path / "a", [], []))
