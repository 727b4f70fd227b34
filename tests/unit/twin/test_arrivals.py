"""Work of some tasks is picked out of the work of many."""

from __future__ import annotations

import numpy as np
import pytest

from opendt.model.errors import EngineError
from opendt.twin.arrivals import NO_WORK, Work, tasks_from_columns


def work(gpu=False):
    return Work(
        ids=("a", "b", "c"),
        offset=np.array([0, 2, 2, 5], np.uint32),
        duration_ms=np.array([1, 2, 3, 4, 5], np.uint32),
        cpu_mhz=np.array([10.0, 20.0, 30.0, 40.0, 50.0]),
        closed=np.array([True, False, True]),
        gpu_mhz=np.array([1.0, 2.0, 3.0, 4.0, 5.0]) if gpu else None,
    )


@pytest.mark.parametrize(
    ("tasks", "durations"),
    [([0], [1, 2]), ([1], []), ([2, 0], [3, 4, 5, 1, 2]), ([], []), ([0, 1, 2], [1, 2, 3, 4, 5])],
)
def test_the_chosen_tasks_keep_their_fragments(tasks, durations):
    chosen = work(gpu=True).select(tasks)
    assert chosen.ids == tuple("abc"[i] for i in tasks)
    assert chosen.duration_ms.tolist() == durations
    assert chosen.cpu_mhz.tolist() == [10.0 * duration for duration in durations]
    assert chosen.gpu_mhz.tolist() == [float(duration) for duration in durations]
    assert chosen.closed.tolist() == [[True, False, True][i] for i in tasks]
    assert np.diff(chosen.offset).tolist() == [[2, 0, 3][i] for i in tasks]
    assert chosen.offset.dtype == np.uint32


def test_without_accelerators_there_is_no_column_of_them():
    assert work().select([0, 2]).gpu_mhz is None
    assert NO_WORK.select([]).ids == ()


def test_tasks_are_open_and_without_fragments():
    tasks = tasks_from_columns(
        ["x", "y"], {"submission_ms": np.array([5, 7]), "cpu_count": np.array([1, 2], np.uint32)}
    )
    assert tasks.ids == ("x", "y")
    columns = tasks.workload.columns()
    assert columns["fragment_offset"].tolist() == [0, 0, 0]
    assert columns["duration_ms"].tolist() == [-1, -1]


def test_columns_that_do_not_fit_together_are_refused():
    with pytest.raises(EngineError):
        tasks_from_columns(["x", "y"], {"submission_ms": np.array([5]), "cpu_count": np.array([1, 2], np.uint32)})
