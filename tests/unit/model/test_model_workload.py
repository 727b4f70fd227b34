from __future__ import annotations

import numpy as np
import pytest

from opendt.model import ModelError, Workload

COLUMNS = {
    "ids": [7, 8, 9],
    "submission_ms": [0, 1000, 2000],
    "duration_ms": [60_000, 30_000, 30_000],
    "cpu_count": [4, 2, 1],
    "cpu_capacity_mhz": [8000.0, 4000.0, 2000.0],
    "memory_mib": [100, 200, 300],
    "fragment_offset": [0, 2, 3, 4],
    "fragment_duration_ms": [30_000, 30_000, 30_000, 10_000],
    "fragment_cpu_mhz": [8000.0, 4000.0, 1000.0, 500.0],
}
EDGES = {"parent_offset": [0, 0, 1, 3], "parents": [0, 0, 1], "edge_mib": [1.0, 2.0, 3.0]}


def make(**changes):
    return Workload.from_columns(COLUMNS | changes)


def test_columns_get_the_types_of_the_engine():
    workload = make(**EDGES)
    types = {name: column.dtype.name for name, column in workload.columns.items()}
    assert types == {
        "ids": "int64",
        "submission_ms": "int64",
        "duration_ms": "int64",
        "cpu_count": "uint32",
        "cpu_capacity_mhz": "float64",
        "memory_mib": "int64",
        "fragment_offset": "uint32",
        "fragment_duration_ms": "uint32",
        "fragment_cpu_mhz": "float64",
        "parent_offset": "uint32",
        "parents": "uint32",
        "edge_mib": "float64",
    }


def test_columns_of_the_right_type_are_not_copied():
    usage = np.array([1, 2, 3, 4], dtype=np.float32)
    assert make(fragment_cpu_mhz=usage).fragment_cpu_mhz is usage


def test_what_it_says_about_itself():
    workload = make()
    assert len(workload) == 3
    assert workload.fragment_count == 4
    assert workload.run_ms.tolist() == [60_000, 30_000, 10_000]
    assert workload.span_ms == 60_000
    assert workload.core_seconds == 4 * 60 + 2 * 30 + 1 * 10


def test_select_takes_tasks_with_their_fragments_and_keeps_inner_dependencies():
    workload = make(ids=["a", "b", "c"], names=["x", "y", "z"], **EDGES)
    chosen = workload.select([2, 1])
    chosen.validate()
    assert chosen.ids == ["c", "b"]
    assert chosen.names == ["z", "y"]
    assert chosen.fragment_cpu_mhz.tolist() == [500.0, 1000.0]
    assert chosen.parent_offset.tolist() == [0, 1, 1]
    assert chosen.parents.tolist() == [1]
    assert chosen.edge_mib.tolist() == [3.0]
    assert workload.select(np.ones(3, dtype=bool)).equals(workload)


def test_select_of_nothing_is_an_empty_workload():
    empty = make(**EDGES).select(np.zeros(3, dtype=bool))
    empty.validate()
    assert len(empty) == 0
    assert empty.span_ms == 0


def test_equality_is_of_values():
    assert make().equals(make())
    assert not make().equals(make(memory_mib=[1, 2, 3]))
    assert not make().equals(make(deferrable=[True, False, False]))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"colour": [1]}, "colour"),
        ({"memory_mib": None}, "memory_mib"),
        ({"memory_mib": [1, 2]}, "memory_mib"),
        ({"memory_mib": [1, 2, -3]}, "memory_mib[2]"),
        ({"cpu_count": [1, 2, -3]}, "cpu_count[2]"),
        ({"cpu_count": [1, 2, 2**32]}, "cpu_count[2]"),
        ({"cpu_count": [1, 2, 2.5]}, "cpu_count[2]"),
        ({"cpu_count": [1, 2, float("nan")]}, "cpu_count[2]"),
        ({"cpu_count": [[1, 2, 3]]}, "cpu_count"),
        ({"cpu_count": ["1", "2", "3"]}, "cpu_count"),
        ({"cpu_capacity_mhz": [1.0, float("nan"), 1.0]}, "cpu_capacity_mhz[1]"),
        ({"fragment_cpu_mhz": [1.0, 1.0, 1.0, float("inf")]}, "fragment_cpu_mhz[3] (task 9)"),
        ({"fragment_cpu_mhz": [1.0, 1.0, -1.0, 1.0]}, "fragment_cpu_mhz[2] (task 8)"),
        ({"fragment_duration_ms": [1, 2, 3, 2**32]}, "fragment_duration_ms[3]"),
        ({"fragment_offset": [0, 2, 3]}, "fragment_offset"),
        ({"fragment_offset": [0, 3, 2, 4]}, "fragment_offset"),
        ({"fragment_offset": [0, 2, 3, 5]}, "fragment_offset"),
        ({"fragment_offset": [0, 2, 2, 4]}, "task 8"),
        ({"ids": [7, 8, 7]}, "ids"),
        ({"ids": ["a", "b", "a"]}, "ids"),
        ({"ids": ["a", 1, "b"]}, "ids[1]"),
        ({"slowdown": [1.0, 0.0, 1.0]}, "slowdown[1]"),
        ({"deadline_ms": [-1, -2, 5]}, "deadline_ms[1]"),
        ({"parents": [0], "parent_offset": None}, "parents"),
        ({"edge_mib": [1.0]}, "edge_mib"),
        (EDGES | {"edge_mib": [1.0]}, "edge_mib"),
        (EDGES | {"parents": [0, 0, 3], "edge_mib": None}, "parents"),
        ({"parents": [0, 2, 1], "parent_offset": [0, 0, 2, 3]}, "parents of task 8"),
        ({"parents": [0], "parent_offset": [0, 1, 1, 1]}, "parents of task 7"),
    ],
)
def test_what_is_wrong_is_named(changes, place):
    with pytest.raises(ModelError) as caught:
        make(**changes)
    assert caught.value.place == place
