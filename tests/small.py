"""A datacenter of two hosts with three tasks, as files: the smallest inputs that use every part of the formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def topology(**host: Any) -> dict[str, Any]:
    """Give a topology of the runner dialect; `host` replaces keys of its only host group."""
    group: dict[str, Any] = {
        "name": "H01",
        "count": 2,
        "cpu": {"coreCount": 4, "coreSpeed": 2000},
        "memory": {"memorySize": 4096},
        "cpuPowerModel": {"modelType": "linear", "idlePower": 100, "maxPower": 300},
    }
    return {"clusters": [{"name": "C01", "hosts": [group | host]}]}


def tasks(**columns: Any) -> pa.Table:
    """Give the table of tasks; `columns` replaces or adds some."""
    table: dict[str, Any] = {
        "id": pa.array([1, 2, 3], pa.int32()),
        "submission_time": pa.array([0, 1000, 2000], pa.int64()),
        "duration": pa.array([60_000, 60_000, 60_000], pa.int64()),
        "cpu_count": pa.array([4, 4, 4], pa.int32()),
        "cpu_capacity": pa.array([8000.0, 8000.0, 8000.0]),
        "mem_capacity": pa.array([1000, 1000, 1000], pa.int64()),
    }
    return pa.table(table | columns)


def fragments(**columns: Any) -> pa.Table:
    """Give the table of fragments; `columns` replaces or adds some."""
    table: dict[str, Any] = {
        "id": pa.array([1, 1, 2, 3], pa.int32()),
        "duration": pa.array([30_000, 30_000, 60_000, 60_000], pa.int64()),
        "cpu_usage": pa.array([4000.0, 8000.0, 6000.0, 2000.0]),
    }
    return pa.table(table | columns)


def write_workload(folder: Path, tasks_table: pa.Table | None = None, fragments_table: pa.Table | None = None) -> Path:
    """Write both files of a workload."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(tasks() if tasks_table is None else tasks_table, folder / "tasks.parquet")
    pq.write_table(fragments() if fragments_table is None else fragments_table, folder / "fragments.parquet")
    return folder


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file."""
    path.write_text(json.dumps(value))
    return path


def experiment(**keys: Any) -> dict[str, Any]:
    """Give an experiment of the runner dialect on ``topology.json`` and the folder ``workload`` beside it."""
    return {
        "name": "small",
        "topologies": [{"pathToFile": "topology.json"}],
        "workloads": [{"type": "ComputeWorkload", "pathToFile": "workload"}],
        "exportModels": [{"exportInterval": 10}],
    } | keys


def write_experiment(folder: Path, **keys: Any) -> Path:
    """Write an experiment with all it needs."""
    write_workload(folder / "workload")
    write_json(folder / "topology.json", topology())
    return write_json(folder / "experiment.json", experiment(**keys))


def tree(folder: Path) -> dict[str, bytes]:
    """Give name -> content of all files below a folder, also hidden ones."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
