"""Hostile inputs, through the installed command: one clear message, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import small
from tests.command import opendt


def broken(folder: Path, **parts) -> Path:
    """Write the small experiment with some of its parts replaced: a table, a dict or bytes each."""
    experiment = small.write_experiment(folder)
    for name, part in parts.items():
        path = {
            "tasks": folder / "workload" / "tasks.parquet",
            "fragments": folder / "workload" / "fragments.parquet",
            "topology": folder / "topology.json",
            "experiment": experiment,
            "carbon": folder / "carbon.parquet",
            "failures": folder / "failures.parquet",
        }[name]
        if isinstance(part, pa.Table):
            pq.write_table(part, path)
        elif isinstance(part, bytes):
            path.write_bytes(part)
        elif part is None:
            path.unlink()
        else:
            small.write_json(path, part)
    return experiment


def refused(ended, *words: str, code: int = 1) -> None:
    """Check that a command was refused with one error line that has these words."""
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    errors = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in errors[0]
    if code == 1:
        assert re.search(r"found .+, expected .+", errors[0]), errors[0]


NAN, INF = float("nan"), float("inf")
OF_TASKS = {
    "nan": ({"cpu_capacity": pa.array([1.0, NAN, 1.0])}, "row 1, column cpu_capacity"),
    "negative": ({"cpu_count": pa.array([1, 1, -4], pa.int32())}, "row 2, column cpu_count"),
    "huge": ({"mem_capacity": pa.array([2**62, 1, 1], pa.int64())}, "row 0, column mem_capacity"),
    "wrong type": ({"submission_time": pa.array(["a", "b", "c"])}, "column submission_time"),
    "null": ({"duration": pa.array([None, 1, 1], pa.int64())}, "row 0, column duration"),
    "twice": ({"id": pa.array([1, 2, 2], pa.int32())}, "row 2, column id"),
    "circle": ({"parents": pa.array([[2], [3], [1]], pa.list_(pa.int32()))}, "circle"),
    "own parent": ({"parents": pa.array([[1], [], []], pa.list_(pa.int32()))}, "1 waits for 1"),
    "unknown parent": ({"parents": pa.array([[9], [], []], pa.list_(pa.int32()))}, "row 0 (task '1'), column parents"),
    "edges without parents": ({"edge_mib": pa.array([[1.0], [], []])}, "edge_mib"),
    "slowdown": ({"slowdown": pa.array([1.0, 0.0, 1.0])}, "row 1, column slowdown"),
}
OF_FRAGMENTS = {
    "nan": ({"cpu_usage": pa.array([1.0, 1.0, 1.0, NAN])}, "row 3, column cpu_usage"),
    "infinite": ({"cpu_usage": pa.array([INF, 1.0, 1.0, 1.0])}, "row 0, column cpu_usage"),
    "negative": ({"duration": pa.array([1, -1, 1, 1], pa.int64())}, "row 1, column duration"),
    "huge": ({"duration": pa.array([1, 1, 2**40, 1], pa.int64())}, "row 2, column duration"),
    "unknown task": ({"id": pa.array([1, 1, 2, 7], pa.int32())}, "row 3, column id"),
    "other identifiers": ({"id": pa.array(["1", "1", "2", "3"])}, "column id"),
}


@pytest.mark.parametrize("case", OF_TASKS)
def test_bad_tasks(case, tmp_path):
    columns, place = OF_TASKS[case]
    experiment = broken(tmp_path / "in", tasks=small.tasks(**columns))
    refused(opendt("simulate", experiment, "-o", tmp_path / "out"), "tasks.parquet", place)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", OF_FRAGMENTS)
def test_bad_fragments(case, tmp_path):
    columns, place = OF_FRAGMENTS[case]
    experiment = broken(tmp_path / "in", fragments=small.fragments(**columns))
    refused(opendt("simulate", experiment, "-o", tmp_path / "out"), "fragments.parquet", place)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_truncated_parquet(share, tmp_path):
    small.write_experiment(tmp_path)
    whole = (tmp_path / "workload" / "fragments.parquet").read_bytes()
    experiment = broken(tmp_path / "in", fragments=whole[: int(len(whole) * share)])
    refused(opendt("simulate", experiment, "-o", tmp_path / "out"), "fragments.parquet")
    assert not (tmp_path / "out").exists()


def misspelt(host_key: str, wrong: str) -> dict:
    topology = small.topology()
    host = topology["clusters"][0]["hosts"][0]
    host[wrong] = host.pop(host_key)
    return topology


OF_TOPOLOGY = {
    "no file": (None, ["topologies[0].pathToFile", "topology.json"]),
    "empty file": (b"", ["topology.json", "line 1, column 1"]),
    "not json": (b'{"clusters": [', ["topology.json", "line 1"]),
    "not text": (b"\xff\xfe\x00", ["topology.json", "UTF-8"]),
    "a list": ([], ["topology.json", "an object"]),
    "a key twice": (b'{"clusters": [], "clusters": []}', ["topology.json", "'clusters' twice"]),
    "nested without end": (b"[" * 200_000, ["topology.json"]),
    "no clusters": ({"clusters": []}, ["clusters", "at least one cluster"]),
    "no hosts": ({"clusters": [{"hosts": []}]}, ["clusters[0].hosts", "at least one host"]),
    "misspelt": (misspelt("cpu", "cpus"), ["clusters[0].hosts[0].cpu", "Did you mean it by 'cpus'?"]),
    "negative": (small.topology(count=-2), ["clusters[0].hosts[0].count", "-2"]),
    "huge": (small.topology(count=2**40), ["clusters[0].hosts[0].count", str(2**40)]),
    "wrong type": (small.topology(memory={"memorySize": True}), ["memory.memorySize", "True"]),
    "wrong unit": (small.topology(cpu={"coreCount": 4, "coreSpeed": "2 GB"}), ["cpu.coreSpeed", "2 GB"]),
    "NaN": (b'{"clusters": [{"name": NaN}]}', ["topology.json", "NaN"]),
    "unknown model": (small.topology(cpuPowerModel={"modelType": "liner"}), ["modelType", "Did you mean 'linear'?"]),
}


@pytest.mark.parametrize("case", OF_TOPOLOGY)
def test_bad_topologies(case, tmp_path):
    topology, words = OF_TOPOLOGY[case]
    experiment = broken(tmp_path / "in", topology=topology)
    refused(opendt("simulate", experiment, "-o", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


OF_EXPERIMENT = {
    "no topologies": ({"workloads": []}, ["experiment.json", "topologies"]),
    "missing workload": (
        small.experiment(workloads=[{"pathToFile": "nowhere"}]),
        ["workloads[0].pathToFile", "nowhere"],
    ),
    "no runs": (small.experiment(runs=0), ["runs", "0"]),
    "wrong type": (small.experiment(initialSeed="first"), ["initialSeed", "'first'"]),
    "unknown policy": (
        small.experiment(allocationPolicies=[{"type": "prefab", "policyName": "Fastest"}]),
        ["allocationPolicies[0].policyName", "Fastest"],
    ),
    "unknown file": (
        small.experiment(exportModels=[{"filesToExport": ["hosts"]}]),
        ["exportModels[0].filesToExport[0]", "'hosts'"],
    ),
    "unknown column": (
        small.experiment(exportModels=[{"computeExportConfig": {"hostExportColumns": ["power"]}}]),
        ["power"],
    ),
    "missing failures": (
        small.experiment(failureModels=[{"type": "trace-based", "pathToFile": "none.parquet"}]),
        ["failureModels[0].pathToFile", "none.parquet"],
    ),
}


@pytest.mark.parametrize("case", OF_EXPERIMENT)
def test_bad_experiments(case, tmp_path):
    keys, words = OF_EXPERIMENT[case]
    experiment = broken(tmp_path / "in", experiment=keys)
    refused(opendt("simulate", experiment, "-o", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_a_misspelt_key_is_told_and_with_strict_refused(tmp_path):
    experiment = small.write_experiment(tmp_path, expotModels=[])
    ended = opendt("simulate", experiment, "-o", tmp_path / "out")
    assert ended.returncode == 0
    assert "unknown key 'expotModels'" in ended.stderr
    assert "Did you mean 'exportModels'?" in ended.stderr
    refused(opendt("simulate", experiment, "--strict", "-o", tmp_path / "strict"), "expotModels")
    assert not (tmp_path / "strict").exists()


def test_a_pin_on_no_host_is_named(tmp_path):
    experiment = broken(tmp_path / "in", tasks=small.tasks(pinned=pa.array(["", "H77", ""])))
    refused(opendt("simulate", experiment, "-o", tmp_path / "out"), "H77")
    assert not (tmp_path / "out").exists()


def test_places_that_are_none(tmp_path):
    experiment = small.write_experiment(tmp_path)
    refused(opendt("simulate", tmp_path / "nowhere.json"), "nowhere.json")
    refused(opendt("simulate", tmp_path), str(tmp_path))
    refused(opendt("simulate", "--topology", tmp_path, "--workload", tmp_path / "workload"), str(tmp_path))
    refused(opendt("simulate", "--topology", tmp_path / "topology.json", "--workload", experiment), "experiment.json")
    refused(opendt("simulate", "--topology", tmp_path / "topology.json", "--workload", tmp_path), "tasks.parquet")


def test_an_output_that_is_a_file(tmp_path):
    experiment = small.write_experiment(tmp_path)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    before = small.tree(tmp_path)
    refused(opendt("simulate", experiment, "-o", taken), str(taken), "a file")
    pair = ("--topology", tmp_path / "topology.json", "--workload", tmp_path / "workload")
    refused(opendt("simulate", *pair, "-o", taken), str(taken))
    refused(opendt("convert", tmp_path / "workload", taken), str(taken), "a file")
    assert small.tree(tmp_path) == before


def test_an_output_that_holds_something_else_is_left_alone(tmp_path):
    experiment = small.write_experiment(tmp_path)
    place = tmp_path / "out" / "small" / "raw-output" / "0" / "seed=0"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("mine")
    refused(opendt("simulate", experiment, "-o", tmp_path / "out"), "thesis.txt")
    assert small.tree(tmp_path / "out") == {"small/raw-output/0/seed=0/thesis.txt": b"mine"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_places_without_permission(tmp_path):
    experiment = small.write_experiment(tmp_path / "in")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    refused(opendt("simulate", experiment, "-o", closed / "out"), str(closed))
    refused(opendt("convert", tmp_path / "in" / "workload", closed / "out"), str(closed))
    assert list(closed.iterdir()) == []
    (tmp_path / "in" / "topology.json").chmod(0)
    refused(opendt("simulate", experiment, "-o", tmp_path / "out"), "topology.json")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses everybody")
def test_an_output_that_nobody_may_write(tmp_path):
    experiment = small.write_experiment(tmp_path)
    refused(opendt("simulate", experiment, "-o", "/proc/out"), "/proc/out")
    refused(opendt("convert", tmp_path / "workload", "/proc/out"), "/proc/out")
    pair = ("--topology", tmp_path / "topology.json", "--workload", tmp_path / "workload")
    refused(opendt("simulate", *pair, "-o", "/proc/out"), "/proc")


WRONG_WORDS = [
    ["simulate"],
    ["simulate", "x.json", "--topology", "y.json"],
    ["simulate", "--topology", "y.json"],
    ["simulate", "x.json", "-p", "0"],
    ["simulate", "x.json", "--ram-ratio", "nan"],
    ["simulate", "x.json", "--ram-ratio", "-1"],
    ["validate"],
    ["convert"],
    ["convert", "one"],
    ["convert", "a", "b", "c"],
    ["convert", "a", "b", "--from", "word"],
    ["convert", "a", "b", "--core-speed-mhz", "nan"],
    ["convert", "--from", "synthetic", "a", "b"],
    ["convert", "--from", "synthetic", "--seed", "-1", "b"],
]


@pytest.mark.parametrize("words", WRONG_WORDS, ids=" ".join)
def test_a_wrong_command_line_is_2(words, tmp_path):
    refused(opendt(*words, cwd=tmp_path), code=2)
    assert list(tmp_path.iterdir()) == []


def test_json_stays_json_when_there_are_warnings(tmp_path):
    experiment = small.write_experiment(tmp_path, expotModels=[])
    ended = opendt("simulate", experiment, "--json", "-o", tmp_path / "out")
    assert [result["tasks_completed"] for result in json.loads(ended.stdout)] == [3]
    assert "expotModels" in ended.stderr
