"""``opendt simulate`` through the installed command: dialects, threads, words and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess

import pyarrow.parquet as pq
import pytest

from tests import small
from tests.command import FACE, opendt

# Two topologies, two policies and two seeds: eight runs.
DESIGN = {
    "topologies": [{"pathToFile": "topology.json"}, {"pathToFile": "larger.json"}],
    "allocationPolicies": [{"type": "prefab", "policyName": name} for name in ("Mem", "Random")],
    "runs": 2,
    "initialSeed": 7,
}
INLINE = {
    "name": "inline",
    "topologies": [{"importFrom": "sdk.json"}],
    "workloads": [
        {
            "type": "inline",
            "tasks": [
                {
                    "id": 1,
                    "submissionTime": "0 s",
                    "duration": "2 min",
                    "cpuCoreCount": 2,
                    "cpuCapacity": "4 GHz",
                    "memory": "1 GiB",
                    "fragments": [{"duration": "2 min", "cpuUsage": "4 GHz"}],
                    "children": [2],
                },
                {
                    "id": 2,
                    "submissionTime": 0,
                    "duration": 60_000,
                    "cpuCoreCount": 1,
                    "cpuCapacity": 2000,
                    "memory": 100,
                    "fragments": [{"duration": 60_000, "cpuUsage": 2000}],
                },
            ],
        }
    ],
    "exportModels": [{"exportInterval": "30 seconds"}],
}


@pytest.fixture
def design(tmp_path):
    small.write_json(tmp_path / "larger.json", small.topology(count=5))
    return small.write_experiment(tmp_path, **DESIGN)


def test_threads_change_no_byte(design, tmp_path):
    for threads in (1, 4):
        assert opendt("simulate", design, "-p", threads, "-o", tmp_path / f"p{threads}").returncode == 0
    one, four = small.tree(tmp_path / "p1"), small.tree(tmp_path / "p4")
    files = [name for name in one if name.endswith(".parquet")]
    assert len(files) == 8 * 5
    assert one == four


def test_what_goes_where(design, tmp_path):
    ended = opendt("simulate", design, "-o", tmp_path / "out")
    assert ended.returncode == 0
    header, *rows = ended.stdout.splitlines()
    assert header.split()[:3] == ["scenario", "seed", "tasks"]
    assert [row.split()[:5] for row in rows] == [[str(s), str(k), "3", "3", "0"] for s in range(4) for k in range(2)]
    assert ended.stderr == f"wrote 8 runs to {tmp_path / 'out' / 'small'}\n"


def test_quiet_says_nothing(design, tmp_path):
    ended = opendt("simulate", design, "--quiet", "-o", tmp_path / "out")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_json_gives_the_totals(design, tmp_path):
    results = json.loads(opendt("simulate", design, "--json", "-q", "-o", tmp_path / "out").stdout)
    assert [(result["scenario"], result["seed"]) for result in results] == [(s, k) for s in range(4) for k in range(2)]
    # On two hosts of four cores the third task waits for the first: from 2 s to 60 s.
    assert (results[0]["makespan_ms"], results[0]["p95_wait_ms"]) == (120_000, 58_000)
    assert results[0]["mean_wait_ms"] == pytest.approx(58_000 / 3)
    # On five hosts nothing waits.
    assert (results[-1]["makespan_ms"], results[-1]["mean_wait_ms"]) == (62_000, 0)
    service = pq.read_table(tmp_path / "out/small/raw-output/0/seed=0/service.parquet")
    assert service["tasks_completed"][-1].as_py() == 3


def test_results_are_replaced_by_a_second_run(design, tmp_path):
    for _ in range(2):
        assert opendt("simulate", design, "-o", tmp_path / "out").returncode == 0
    assert not [name for name in small.tree(tmp_path / "out") if "partial" in name]


def test_the_sdk_dialect_with_an_inline_workload(tmp_path):
    small.write_json(tmp_path / "topology.json", small.topology())
    assert opendt("convert", tmp_path / "topology.json", tmp_path / "sdk.json", "--to", "sdk").returncode == 0
    experiment = small.write_json(tmp_path / "experiment.json", INLINE)
    ended = opendt("simulate", experiment, "--strict", "--json", "-o", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    (totals,) = json.loads(ended.stdout)
    assert (totals["tasks_completed"], totals["makespan_ms"]) == (2, 180_000)
    # Two hosts idle at 100 W for 180 s; 200 W more at full load, which is half of one for 120 s, a quarter for 60 s.
    assert totals["energy_j"] == pytest.approx(2 * 100 * 180 + 200 * (0.5 * 120 + 0.25 * 60))


def test_a_quick_look(tmp_path):
    small.write_experiment(tmp_path)
    words = ("--topology", tmp_path / "topology.json", "--workload", tmp_path / "workload")
    before = small.tree(tmp_path)
    ended = opendt("simulate", *words)
    assert ended.returncode == 0
    assert ended.stderr == "simulated 3 tasks on 2 hosts for 2 min\n"
    assert len(ended.stdout.splitlines()) == 2
    assert small.tree(tmp_path) == before
    assert "wrote host, task" in opendt("simulate", *words, "-o", tmp_path / "out").stderr
    assert {file.stem for file in (tmp_path / "out").iterdir()} == {"host", "task", "powerSource", "battery", "service"}


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_keeps_what_is_complete(threads, tmp_path):
    # Two short runs, then one of a million samples and more that is still at work when the signal comes.
    long = small.fragments(duration=[30_000, 30_000, 60_000, 2**32 - 1])
    small.write_workload(tmp_path / "long", fragments_table=long)
    workloads = [{"pathToFile": "workload"}, {"pathToFile": "long"}]
    exports = [{"exportInterval": 1}]
    experiment = small.write_experiment(tmp_path, workloads=workloads, exportModels=exports)
    words = [*FACE, "simulate", experiment, "-p", str(threads), "-o", tmp_path / "out"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        raw = tmp_path / "out" / "small" / "raw-output"
        # Until the first run is complete and the second has begun, or everything has ended.
        while process.poll() is None and not ((raw / "0" / "seed=0").exists() and list(raw.glob("1/.seed=0.partial*"))):
            pass
        process.send_signal(signal.SIGINT)
        out, words = process.communicate(timeout=20)
    assert process.returncode == 130, words
    assert out == ""
    assert f"stopped: 1 of 2 runs are complete in {tmp_path / 'out' / 'small'}" in words
    assert "Traceback" not in words
    kept = small.tree(tmp_path / "out")
    assert {name.rsplit("/", 1)[0] for name in kept} == {"small/raw-output/0/seed=0"}
