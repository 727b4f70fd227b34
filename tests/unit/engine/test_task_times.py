"""CPU times of tasks in the result files: as the reference counts them, or complete."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from opendt import Cluster, Options, Topology, workload_from_tasks
from opendt.engine import run_scenario, to_engine
from opendt.model.options import ComputeFilter, FilterAllocation
from tests.unit.engine.systems import host_group, task

TIMES = ("cpu_time_active", "cpu_time_idle", "cpu_time_steal")


def times(folder, *, reference):
    """Sum over all rows of each column, by task."""
    topology = Topology(clusters=(Cluster(name="dc", hosts=(host_group(),)),))
    options = Options(reference_task_times=reference, allocation=FilterAllocation(filters=(ComputeFilter(),)))
    # Two tasks want 3000 of 4000 MHz each for 7.5 s, between samples at 5 and 10 s; a third has a quarter of the host.
    tasks = [task(1, 7_500, 3000.0), task(2, 7_500, 3000.0), task(3, 2_000, 1000.0, submission_ms=20_000)]
    workload = to_engine(workload_from_tasks(tasks))
    run_scenario(topology, options, workload, folder, files={"task": None}, interval_ms=5_000)
    rows = pq.read_table(folder / "task.parquet").to_pylist()
    return {
        number: tuple(sum(row[name] for row in rows if row["task_id"] == number) for name in TIMES)
        for number in (1, 2, 3)
    }


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        # Whole seconds up to the last sample of the task: 2.5 used, 1.25 stolen of 5; the third is never sampled.
        (True, {1: (2, 3, 1), 2: (2, 3, 1), 3: (0, 0, 0)}),
        # Milliseconds to the end: half of the host for 7.5 s instead of three quarters.
        (False, {1: (3_750, 3_750, 1_875), 2: (3_750, 3_750, 1_875), 3: (500, 1_500, 0)}),
    ],
)
def test_task_times(tmp_path, reference, expected):
    assert times(tmp_path / "out", reference=reference) == expected
