"""Carbon, failure and power traces, and workloads, as OpenDC's parquet."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opendt.formats.carbon import read_carbon, write_carbon
from opendt.formats.failures import read_failures, write_failures
from opendt.formats.opendc_workload import read_workload, write_workload
from opendt.formats.power import MeasuredPower, read_power, write_power
from opendt.model import CarbonPoint, FailureEvent, FormatError, ModelError, Workload

COLUMNS = {
    "ids": [7, 8, 9],
    "submission_ms": [0, 1000, 2000],
    "duration_ms": [60_000, 30_000, 30_000],
    "cpu_count": [4, 2, 1],
    "cpu_capacity_mhz": [8000.0, 4000.0, 2000.0],
    "memory_mib": [100, 200, 300],
    "fragment_offset": [0, 2, 3, 4],
    "fragment_duration_ms": [30_000, 30_000, 30_000, 10_000],
    "fragment_cpu_mhz": [8000.0, 4000.0, 1000.0, 500.5],
}


def test_carbon_rows_are_sorted_by_time():
    points = read_carbon("x", reader=lambda path: [(5, 2.0), (0, 1.0)])
    assert points == (
        CarbonPoint(timestamp_ms=0, intensity_g_per_kwh=1),
        CarbonPoint(timestamp_ms=5, intensity_g_per_kwh=2),
    )


@pytest.mark.parametrize("rows", [[], [(0, -1.0)], [(0, float("nan"))], [(0, float("inf"))], [(0, 1.0), (0, 2.0)]])
def test_what_is_wrong_with_a_carbon_trace_is_named(rows):
    with pytest.raises(FormatError, match=r"co2\.parquet"):
        read_carbon("co2.parquet", reader=lambda path: rows)


@pytest.mark.parametrize(
    "rows", [[], [(-1, 1, 0.5)], [(1, -1, 0.5)], [(1, 1, 0.0)], [(1, 1, 1.5)], [(1, 1, float("nan"))]]
)
def test_what_is_wrong_with_a_failure_trace_is_named(rows):
    with pytest.raises(FormatError, match=r"f\.parquet"):
        read_failures("f.parquet", reader=lambda path: rows)


def test_the_engine_reads_traces_unless_told_otherwise(monkeypatch):
    import opendt

    engine = SimpleNamespace(
        read_carbon=lambda path: [(0, 1.5)],
        read_failures=lambda path: [(1, 2, 0.5)],
        read_workload=lambda path: SimpleNamespace(
            columns=lambda: {"ids": np.array([1]), "names": [], "gpu_count": None}
        ),
    )
    monkeypatch.setitem(sys.modules, "opendt._engine", engine)
    monkeypatch.setattr(opendt, "_engine", engine, raising=False)
    assert read_carbon("x")[0].intensity_g_per_kwh == 1.5
    assert read_failures("x") == (FailureEvent(interval_ms=1, duration_ms=2, host_ratio=0.5),)
    with pytest.raises(TypeError, match="submission_ms"):
        read_workload("x")


def test_columns_that_the_engine_leaves_empty_are_none():
    columns = Workload.from_columns(COLUMNS).columns | {
        "names": [],
        "gpu_count": np.empty(0, np.uint32),
        "parents": None,
    }
    workload = read_workload("x", reader=lambda path: SimpleNamespace(columns=lambda: columns))
    assert workload.equals(Workload.from_columns(COLUMNS))


def test_written_traces_have_the_types_that_opendc_wants(tmp_path):
    write_carbon([CarbonPoint(timestamp_ms=0, intensity_g_per_kwh=1)], tmp_path / "c.parquet")
    write_failures([FailureEvent(interval_ms=1, duration_ms=2, host_ratio=0.5)], tmp_path / "f.parquet")
    carbon, failures = (pq.read_schema(tmp_path / f"{name}.parquet") for name in "cf")
    assert [(f.name, str(f.type), f.nullable) for f in carbon] == [
        ("timestamp", "timestamp[ms]", False),
        ("carbon_intensity", "double", False),
    ]
    assert [(f.name, str(f.type), f.nullable) for f in failures] == [
        ("failure_interval", "int64", False),
        ("failure_duration", "int64", False),
        ("failure_intensity", "double", False),
    ]


def test_written_workloads_have_the_types_that_opendc_wants(tmp_path):
    edges = {"parent_offset": [0, 0, 1, 3], "parents": [0, 0, 1]}
    extra = {
        "gpu_count": [0, 1, 0],
        "gpu_capacity_mhz": [0, 5, 0],
        "deferrable": [True, False, True],
        "deadline_ms": [-1, 5, -1],
    }
    usage = {"fragment_gpu_mhz": [0, 0, 5, 0]}
    write_workload(Workload.from_columns(COLUMNS | edges | extra | usage), tmp_path)
    tasks, fragments = (pq.ParquetFile(tmp_path / f"{name}.parquet").read() for name in ("tasks", "fragments"))
    assert {f.name: str(f.type) for f in tasks.schema} == {
        "id": "int32",
        "submission_time": "int64",
        "duration": "int64",
        "cpu_count": "int32",
        "cpu_capacity": "double",
        "mem_capacity": "int64",
        "gpu_count": "int32",
        "gpu_capacity": "double",
        "deferrable": "bool",
        "deadline": "int64",
        "parents": "list<element: int32>",
        "children": "list<element: int32>",
    }
    assert {f.name: str(f.type) for f in fragments.schema} == {
        "id": "int32",
        "duration": "int64",
        "cpu_usage": "double",
        "gpu_usage": "double",
    }
    assert tasks["mem_capacity"].to_pylist() == [100_000, 200_000, 300_000]
    assert tasks["parents"].to_pylist() == [[], [7], [7, 8]]
    assert tasks["children"].to_pylist() == [[8, 9], [9], []]
    assert fragments["id"].to_pylist() == [7, 7, 8, 9]


def test_ids_that_do_not_fit_are_written_as_text(tmp_path):
    write_workload(Workload.from_columns(COLUMNS | {"ids": [1, 2, 2**40]}), tmp_path)
    assert pq.read_table(tmp_path / "tasks.parquet")["id"].to_pylist() == ["1", "2", str(2**40)]


def test_a_workload_that_breaks_its_bounds_leaves_no_file(tmp_path):
    broken = Workload(**(Workload.from_columns(COLUMNS).columns | {"memory_mib": np.array([1, 2, -3])}))
    with pytest.raises(ModelError):
        write_workload(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(table, path, **options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(KeyboardInterrupt):
        write_carbon([CarbonPoint(timestamp_ms=0, intensity_g_per_kwh=1)], tmp_path / "c.parquet")
    assert list(tmp_path.iterdir()) == []


def test_power_is_read_back(tmp_path):
    power = MeasuredPower(np.array([30_000, 60_000, 120_000]), np.array([100.0, 200.0, 300.0]))
    assert power.energy_j.tolist() == [3000.0, 6000.0, 18_000.0]
    write_power(power, tmp_path / "consumption.parquet")
    again = read_power(tmp_path / "consumption.parquet")
    assert again.timestamp_ms.tolist() == power.timestamp_ms.tolist()
    assert again.power_w.tolist() == power.power_w.tolist()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"timestamp": [1, 2]}, "column power_draw"),
        ({"timestamp": [1, 1], "power_draw": [1.0, 1.0]}, "row 1, column timestamp"),
        ({"timestamp": [1, 2], "power_draw": [1.0, -1.0]}, "row 1, column power_draw: found -1"),
        ({"timestamp": [1, 2], "power_draw": [float("nan"), 1.0]}, "row 0, column power_draw: found nan"),
        ({"timestamp": [1, None], "power_draw": [1.0, 1.0]}, "row 1, column timestamp: found null"),
        ({"timestamp": ["a", "b"], "power_draw": [1.0, 1.0]}, "column timestamp: found type string"),
        ({"timestamp": [1.5, 2.0], "power_draw": [1.0, 1.0]}, "row 0, column timestamp: found 1.5"),
    ],
)
def test_what_is_wrong_with_measured_power_is_named(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "consumption.parquet")
    with pytest.raises(FormatError, match=message):
        read_power(tmp_path / "consumption.parquet")


def test_files_that_are_no_parquet_are_named(tmp_path):
    (tmp_path / "consumption.parquet").write_bytes(b"hello")
    for name in ("consumption.parquet", "none.parquet"):
        with pytest.raises(FormatError, match=name):
            read_power(tmp_path / name)
