"""Demands made of others keep what they promise: work, order, times of day."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.engine.simulation import EngineWorkload
from opendt.model.errors import ModelError
from opendt.optimization.demand import coarsened, resampled_days, scaled_load

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
EPOCH_MS = 1_700_000_000_000


def workload(tasks, **columns):
    """Tasks of (submission in ms, fragments of (ms, MHz))."""
    offset = np.cumsum([0, *(len(fragments) for _, fragments in tasks)])
    pieces = [piece for _, fragments in tasks for piece in fragments]
    return EngineWorkload.from_columns(
        {
            "ids": np.arange(len(tasks), dtype=np.int64) + 100,
            "submission_ms": np.array([EPOCH_MS + at for at, _ in tasks], dtype=np.int64),
            "duration_ms": np.array([sum(ms for ms, _ in fragments) for _, fragments in tasks], dtype=np.int64),
            "cpu_count": np.arange(1, len(tasks) + 1, dtype=np.uint32),
            "cpu_capacity_mhz": np.ones(len(tasks)),
            "memory_mib": np.ones(len(tasks), dtype=np.int64),
            "fragment_offset": offset.astype(np.uint32),
            "fragment_duration_ms": np.array([ms for ms, _ in pieces], dtype=np.uint32),
            "fragment_cpu_mhz": np.array([mhz for _, mhz in pieces], dtype=np.float64),
        }
        | columns
    )


def tasks_of(made):
    """(submission in ms, cores, fragments) of each task."""
    columns = made.columns()
    offset = columns["fragment_offset"]
    pieces = list(zip(columns["fragment_duration_ms"].tolist(), columns["fragment_cpu_mhz"].tolist(), strict=True))
    return [
        (int(at) - EPOCH_MS, int(cores), pieces[first:stop])
        for at, cores, first, stop in zip(
            columns["submission_ms"], columns["cpu_count"], offset[:-1], offset[1:], strict=True
        )
    ]


FRAGMENTS = st.lists(st.tuples(st.integers(1, 5_000), st.floats(0, 4000)), min_size=1, max_size=12)
WORKLOADS = st.lists(st.tuples(st.integers(0, 3 * DAY_MS), FRAGMENTS), min_size=1, max_size=8).map(
    lambda tasks: workload(sorted(tasks, key=lambda task: task[0]))
)


@given(WORKLOADS, st.integers(1, 20_000))
def test_coarser_steps_keep_the_work_and_the_duration_of_every_task(made, step_ms):
    for one, other in zip(tasks_of(made), tasks_of(coarsened(made, step_ms)), strict=True):
        assert one[:2] == other[:2]
        assert sum(ms for ms, _ in one[2]) == sum(ms for ms, _ in other[2])
        work = sum(ms * mhz for ms, mhz in one[2])
        assert sum(ms * mhz for ms, mhz in other[2]) == pytest.approx(work, rel=1e-9, abs=1e-6)
        assert len(other[2]) <= len(one[2])


def test_successive_fragments_become_one_of_their_mean():
    made = coarsened(workload([(0, [(10, 100.0), (30, 300.0), (20, 50.0)]), (5, [(20, 7.0)])]), 40)
    assert [pieces for _, _, pieces in tasks_of(made)] == [[(40, 250.0), (20, 50.0)], [(20, 7.0)]]


@given(WORKLOADS, st.floats(0.2, 3.5), st.integers(0, 5))
def test_a_load_is_so_many_times_the_tasks(made, factor, seed):
    scaled = scaled_load(made, factor, seed)
    assert len(scaled) == max(1, int(factor) * len(made) + round((factor - int(factor)) * len(made)))
    known = tasks_of(made)
    assert all(task in known for task in tasks_of(scaled))
    assert len(set(scaled.columns()["ids"].tolist())) == len(scaled)
    assert scaled.content_hash() == scaled_load(made, factor, seed).content_hash()


def test_a_whole_factor_repeats_every_task():
    made = workload([(0, [(10, 1.0)]), (7, [(20, 2.0)])])
    assert tasks_of(scaled_load(made, 2.0)) == [task for task in tasks_of(made) for _ in range(2)]


def test_days_come_in_the_order_asked_for():
    made = workload(
        [(0, [(10, 1.0)]), (HOUR_MS, [(10, 2.0)]), (DAY_MS + 5, [(10, 3.0)]), (2 * DAY_MS + 7, [(DAY_MS, 4.0)])]
    )
    week = tasks_of(resampled_days(made, [2, 1, 1], until_ms=3 * DAY_MS))
    assert [(at, cores) for at, cores, _ in week] == [
        (0, 1),  # what was running at the beginning
        (7, 4),
        (DAY_MS + 5, 3),
        (2 * DAY_MS + 5, 3),
    ]
    assert week[1][2] == [(DAY_MS, 4.0)], "it runs on over the next day"


def test_what_reaches_beyond_the_end_is_cut():
    made = workload([(0, [(10, 1.0)]), (DAY_MS - 60, [(40, 2.0), (40, 3.0), (40, 4.0)])])
    assert tasks_of(resampled_days(made, [0], until_ms=DAY_MS))[1][2] == [(40, 2.0), (20, 3.0)]
    assert [at for at, _, _ in tasks_of(resampled_days(made, [0], until_ms=DAY_MS - 60))] == [0]


def test_deadlines_move_with_their_tasks():
    made = workload(
        [(0, [(10, 1.0)]), (5, [(10, 2.0)]), (DAY_MS, [(10, 1.0)])],
        deadline_ms=np.array([-1, EPOCH_MS + 100, -1], dtype=np.int64),
    )
    moved = resampled_days(made, [1, 0], until_ms=2 * DAY_MS).columns()
    assert moved["submission_ms"].tolist() == [EPOCH_MS, EPOCH_MS, EPOCH_MS + DAY_MS + 5]
    assert moved["deadline_ms"].tolist() == [-1, -1, EPOCH_MS + DAY_MS + 100]


def test_what_cannot_be_made_is_refused():
    made = workload([(0, [(10, 1.0)]), (5, [(10, 2.0)])])
    with pytest.raises(ModelError, match=r"days\[1\]: found 3, expected a day of the record, 0 to 0"):
        resampled_days(made, [0, 3], until_ms=DAY_MS)
    with pytest.raises(ModelError, match="load: found 0"):
        scaled_load(made, 0.0)
    with pytest.raises(ModelError, match="step_ms: found 0"):
        coarsened(made, 0)
    flow = workload(
        [(0, [(10, 1.0)]), (5, [(10, 2.0)])],
        parent_offset=np.array([0, 0, 1], dtype=np.uint32),
        parents=np.array([0], dtype=np.uint32),
    )
    with pytest.raises(ModelError, match="tasks that depend on others"):
        scaled_load(flow, 2.0)
