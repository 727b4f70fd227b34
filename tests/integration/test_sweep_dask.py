"""Sweeps on real Dask clusters on loopback: the same bytes as here, and nothing lost with a worker.

A worker is killed at a known point (a number of rows is kept), not after a time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from opendt.formats.parquet import write_table
from opendt.model.errors import TransportError
from opendt.optimization.sweep import dask_backend
from opendt.optimization.sweep_run import SweepError, local_threads
from tests.unit.optimization.sweep_plant import run, write_spec

TWO_HUNDRED = (
    "options: {scaling_policy: perfect}\n"
    "grid: {host_ratio: [0.5, 1], allocation: [Mem, Random]}\n"
    "sample:\n"
    "  count: 25\n"
    "  axes: {core_speed_ratio: {uniform: [0.5, 1]}, hosts.H01.power_model.idle_w: {log_uniform: [50, 150]}}\n"
    "seeds: 2\n"
)

# A cluster that lost a worker takes up to half a minute to close.
pytestmark = pytest.mark.timeout(120)


def table_bytes(table, path):
    write_table(table, path)
    return path.read_bytes()


def worker_pids(backend):
    """Process ids of the workers, each of which is asked itself."""
    return sorted(backend.executor._client.run(os.getpid).values())


def test_two_hundred_runs_on_two_workers_equal_the_local_result_byte_for_byte(tmp_path):
    path = write_spec(tmp_path, TWO_HUNDRED)
    here = run(path, tmp_path / "here", local_threads(2))
    assert here.num_rows == 200
    assert len(set(here.column("energy_j").to_pylist())) >= 50
    there = run(path, tmp_path / "there", dask_backend(local_workers=2))
    assert table_bytes(there, tmp_path / "there.parquet") == table_bytes(here, tmp_path / "here.parquet")


def test_a_worker_that_is_killed_midway_loses_nothing(tmp_path):
    path = write_spec(tmp_path, TWO_HUNDRED)
    killed, kept = [], []

    @contextmanager
    def watched():
        with dask_backend(local_workers=2) as backend:
            watched.pids = worker_pids(backend)
            yield backend
            # A cluster that is closed while a worker comes back waits for it in vain.
            backend.executor._client.wait_for_workers(2, timeout=60)
            watched.pids_after = worker_pids(backend)

    def kill_one(row):
        kept.append(row)
        if len(kept) == 40:
            killed.append(watched.pids[0])
            os.kill(killed[0], signal.SIGKILL)

    there = run(path, tmp_path / "there", watched(), kill_one)
    assert len(killed) == 1
    assert killed[0] not in watched.pids_after
    assert sorted(kept) == list(range(200))
    here = run(path, tmp_path / "here", local_threads(2))
    assert table_bytes(there, tmp_path / "there.parquet") == table_bytes(here, tmp_path / "here.parquet")


def test_a_cluster_of_ones_own_is_reached_by_its_address(tmp_path):
    from distributed import LocalCluster

    path = write_spec(tmp_path, "grid: {host_ratio: [0.5, 1]}\nseeds: 3\n")
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        there = run(path, tmp_path / "there", dask_backend(cluster.scheduler_address))
    assert there.equals(run(path, tmp_path / "here", local_threads(1)))


def test_a_row_that_fails_on_a_worker_is_told_as_here(tmp_path):
    from distributed import KilledWorker

    path = write_spec(tmp_path, "grid: {host_ratio: [0.5, 1]}\n")

    @contextmanager
    def without_workload():
        with dask_backend(local_workers=1) as backend:
            (tmp_path / "workload" / "tasks.parquet").unlink()
            words = backend.explain(KilledWorker("a row", "a worker", 10))
            assert "every worker that tried it died" in words
            assert backend.explain(ZeroDivisionError()) is None
            yield backend

    with pytest.raises(SweepError, match=r"row 0 \(host_ratio 0.5; seed 0\): workload of the worker: .*same path"):
        run(path, tmp_path / "j", without_workload())


def test_a_scheduler_that_does_not_answer_is_told(tmp_path):
    path = write_spec(tmp_path, "grid: {host_ratio: [1]}\n")
    with pytest.raises(TransportError, match=r"scheduler tcp://127.0.0.1:9: found .*Check --scheduler"):
        run(path, tmp_path / "j", dask_backend("tcp://127.0.0.1:9", connect_timeout_s=0.5))


def test_the_command_line_does_not_load_dask_for_threads(tmp_path):
    path = write_spec(tmp_path, "grid: {host_ratio: [0.5, 1]}\n")
    code = (
        "import sys; from opendt.cli.main import group; "
        f"group(['sweep', {str(path)!r}, '-o', {str(tmp_path / 'r.parquet')!r}], standalone_mode=False); "
        "print('distributed' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.splitlines()[-1] == "False"
