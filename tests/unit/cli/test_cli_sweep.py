"""``opendt sweep`` as a person meets it: what it prints, writes, refuses, and keeps when it is stopped."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from opendt.cli.sweep import Lines
from tests import small
from tests.command import FACE, opendt
from tests.unit.optimization.sweep_plant import write_spec

BODY = "grid: {host_ratio: [0.5, 1], allocation: [Mem, Random]}\nseeds: 2\n"
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_a_sweep_becomes_a_table_a_picture_and_a_journal(tmp_path):
    path = write_spec(tmp_path, BODY)
    done = opendt("sweep", path, "-o", tmp_path / "out" / "r.parquet", "--threads", 2)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["least", "in", "row", "median", "most", "in", "row"]
    assert lines[1].startswith("energy, kWh")
    assert "wrote 8 rows" in done.stderr
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["r-plots", "r.parquet", "r.parquet.journal"]
    assert [file.name for file in (tmp_path / "out" / "r-plots").iterdir()] == ["host_ratio--allocation.svg"]
    assert pq.read_table(tmp_path / "out" / "r.parquet").num_rows == 8


def test_the_table_has_the_name_of_the_spec(tmp_path):
    write_spec(tmp_path, BODY)
    done = opendt("sweep", "sweep.yaml", "--json", "-q", "--no-plots", cwd=tmp_path)
    assert json.loads(done.stdout) == {
        "rows": 8,
        "simulated": 8,
        "table": "sweep.parquet",
        "plots": [],
        "journal": "sweep.parquet.journal",
    }
    assert done.stderr == ""
    again = opendt("sweep", "sweep.yaml", "--json", "--no-plots", cwd=tmp_path)
    assert json.loads(again.stdout)["simulated"] == 0
    assert "8 of 8 rows are done already" in again.stderr


def test_another_spec_is_refused_until_forced(tmp_path):
    target = tmp_path / "r.parquet"
    opendt("sweep", write_spec(tmp_path, BODY), "-o", target)
    before = target.read_bytes()
    path = write_spec(tmp_path, BODY.replace("0.5", "0.6"))
    refused = opendt("sweep", path, "-o", target)
    assert refused.returncode == 1
    assert "spec.grid.host_ratio [0.5, 1] (now [0.6, 1])" in refused.stderr
    assert target.read_bytes() == before
    assert opendt("sweep", path, "-o", target, "--force").returncode == 0
    assert target.read_bytes() != before


def test_a_file_that_is_no_sweep_of_ours_is_not_overwritten(tmp_path):
    path = write_spec(tmp_path, BODY)
    (tmp_path / "r.parquet").write_text("dear to someone")
    refused = opendt("sweep", path, "-o", tmp_path / "r.parquet")
    assert refused.returncode == 1
    assert "existing file without the journal of a sweep" in refused.stderr
    assert (tmp_path / "r.parquet").read_text() == "dear to someone"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--threads", 2, "--local-cluster", 2), 2, "one of --threads, --scheduler and --local-cluster"),
        (("--local-cluster", 0), 2, "0 is not in the range"),
    ],
)
def test_a_command_line_that_contradicts_itself_is_refused(tmp_path, words, code, said):
    done = opendt("sweep", write_spec(tmp_path, BODY), *words, cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr


def test_a_wrong_spec_is_told_in_a_line(tmp_path):
    done = opendt("sweep", write_spec(tmp_path, "grid: {hosts.H02.count: [1]}\n"), cwd=tmp_path)
    assert done.returncode == 1
    assert "sweep.yaml: row 0: hosts.H02.count: found 1, expected an axis hosts.GROUP.KEY with" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(tmp_path):
    path = write_spec(tmp_path, "grid: {host_ratio: [0.5, 1]}\nseeds: 3000\n")
    target, journal = tmp_path / "r.parquet", tmp_path / "r.parquet.journal"
    command = [*FACE, "sweep", str(path), "-o", str(target), "--threads", "1", "--no-plots"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no row was finished"
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130, words
    kept = len(journal.read_text().splitlines()) - 1
    assert 0 < kept < 6000
    assert f"stopped: {kept} of 6000 rows are kept in {journal}; the same command goes on" in words
    assert not target.exists()
    done = opendt(*command[len(FACE) :], "--json")
    assert json.loads(done.stdout)["simulated"] == 6000 - kept
    assert pq.read_table(target).column("row").to_pylist() == list(range(6000))


def test_lines_tell_the_time_that_is_left_at_the_pace_since_the_start():
    now, said = [0.0], []
    step = Lines(50, 100, lambda: now[0], said.append)
    for _ in range(50):
        now[0] += 2.0
        step()
    assert said == [
        "60 of 100 rows, 1.33 min left",
        "70 of 100 rows, 1 min left",
        "80 of 100 rows, 40 s left",
        "90 of 100 rows, 20 s left",
    ]


def test_the_example_runs(tmp_path):
    for name in ("sweep.yaml", "sweep_topology.json"):
        shutil.copy(EXAMPLES / name, tmp_path / name)
    small.write_workload(tmp_path / "week")
    done = opendt("sweep", "sweep.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    record = json.loads(done.stdout)
    assert record["rows"] == 72
    assert len(record["plots"]) == 6
    table = pq.read_table(tmp_path / "sweep.parquet")
    assert set(table.column("tasks_completed").to_pylist()) == {3}
