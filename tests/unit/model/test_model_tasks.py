"""Small workloads from mappings."""

from __future__ import annotations

import numpy as np
import pytest

from opendt.model.errors import ModelError
from opendt.model.tasks import workload_from_tasks

PIECE = [(1_000, 500.0)]


def test_defaults_are_left_out_or_neutral():
    workload = workload_from_tasks([{"id": 7, "fragments": [(1_000, 500.0), (2_000, 0)]}])
    assert workload.ids.tolist() == [7]
    assert workload.cpu_count.tolist() == [1]
    assert workload.duration_ms.tolist() == [3_000]
    assert workload.fragment_cpu_mhz.tolist() == [500.0, 0.0]
    assert set(workload.columns) == {
        "ids",
        "submission_ms",
        "duration_ms",
        "cpu_count",
        "cpu_capacity_mhz",
        "memory_mib",
        "fragment_offset",
        "fragment_duration_ms",
        "fragment_cpu_mhz",
    }


def test_every_key_reaches_its_column():
    first = {"id": "a", "fragments": PIECE}
    second = {
        "id": "b",
        "fragments": [(1_000, 500.0, 250.0)],
        "submission_ms": 5,
        "deadline_ms": 99,
        "duration_ms": 42,
        "cpu_count": 2,
        "memory_mib": 3,
        "gpu_count": 4,
        "gpu_memory_mib": 5,
        "cpu_capacity_mhz": 6.0,
        "gpu_capacity_mhz": 7.0,
        "slowdown": 1.5,
        "pinned": "dc",
        "name": "second",
        "deferrable": True,
        "parents": {"a": 12.5},
    }
    columns = workload_from_tasks([first, second]).columns
    shown = {name: np.asarray(values).tolist() for name, values in columns.items()}
    assert shown == {
        "ids": ["a", "b"],
        "names": ["", "second"],
        "submission_ms": [0, 5],
        "duration_ms": [1_000, 42],
        "cpu_count": [1, 2],
        "cpu_capacity_mhz": [0.0, 6.0],
        "memory_mib": [0, 3],
        "gpu_count": [0, 4],
        "gpu_capacity_mhz": [0.0, 7.0],
        "gpu_memory_mib": [0, 5],
        "deferrable": [False, True],
        "deadline_ms": [-1, 99],
        "slowdown": [1.0, 1.5],
        "pinned": ["", "dc"],
        "parent_offset": [0, 0, 1],
        "parents": [0],
        "edge_mib": [12.5],
        "fragment_offset": [0, 1, 2],
        "fragment_duration_ms": [1_000, 1_000],
        "fragment_cpu_mhz": [500.0, 500.0],
        "fragment_gpu_mhz": [0.0, 250.0],
    }


def test_no_tasks_are_a_workload_too():
    assert len(workload_from_tasks([])) == 0


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"fragments": PIECE}], r"tasks\[0\].id: found nothing"),
        ([{"id": 1}], r"tasks\[0\].fragments: found nothing"),
        ([{"id": 1.5, "fragments": PIECE}], r"tasks\[0\].id: found 1.5, expected a whole number or text"),
        ([{"id": True, "fragments": PIECE}], r"tasks\[0\].id: found True"),
        ([{"id": 1, "fragments": PIECE, "cores": 2}], r"tasks\[0\].cores: found a key of this name.*cpu_count"),
        ([{"id": 1, "fragments": []}], "task 1.fragments: found no fragments"),
        ([{"id": 1, "fragments": [(1.5, 2)]}], r"task 1.fragments\[0\] duration_ms: found 1.5, expected a whole"),
        ([{"id": 1, "fragments": [(1, -2)]}], r"task 1.fragments\[0\] cpu_mhz: found -2"),
        ([{"id": 1, "fragments": [(1, 2, float("nan"))]}], r"gpu_mhz: found nan"),
        ([{"id": 1, "fragments": [7]}], r"task 1.fragments\[0\]: found 7, expected \(duration_ms"),
        ([{"id": 1, "fragments": PIECE, "cpu_count": -1}], "task 1.cpu_count: found -1"),
        ([{"id": 1, "fragments": PIECE, "slowdown": 0}], "slowdown.*expected a finite number > 0"),
        ([{"id": 1, "fragments": PIECE, "pinned": 3}], "task 1.pinned: found 3, expected text"),
        ([{"id": 1, "fragments": PIECE, "deferrable": "yes"}], "task 1.deferrable: found yes"),
        ([{"id": 1, "fragments": PIECE, "parents": [9]}], "task 1.parents: found 9, expected the id of another"),
        ([{"id": 1, "fragments": PIECE, "parents": "ab"}], "task 1.parents: found ab, expected a list"),
        ([{"id": 1, "fragments": PIECE, "parents": [1, 1]}], "each parent once"),
        ([{"id": 1, "fragments": PIECE, "parents": [1]}], "dependencies without a cycle"),
        ([{"id": 1, "fragments": PIECE}, {"id": "1", "fragments": PIECE}], "identifiers of both kinds"),
        ([{"id": 1, "fragments": PIECE}, {"id": 1, "fragments": PIECE}], "1 more than once"),
        ([7], r"tasks\[0\]: found 7, expected a mapping"),
    ],
)
def test_what_is_wrong_is_named(tasks, message):
    with pytest.raises(ModelError, match=message):
        workload_from_tasks(tasks)
