"""``opendt convert`` and ``opendt validate`` through the installed command."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opendt.formats.opendc import read_topology
from opendt.formats.opendc_workload import read_workload, write_workload
from opendt.model import Workload
from tests import small
from tests.command import opendt
from tests.data import require_data

SWF = """; UnixStartTime: 1000
 1 0 5 60 4 -1 -1 4 120 -1 1 1 1 1 1 1 -1 -1
 2 30 0 30 2 -1 -1 2 60 -1 1 1 1 1 1 1 -1 -1
 3 40 0 -1 2 -1 -1 2 60 -1 0 1 1 1 1 1 -1 -1
"""
NODES = "sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,2,P100\nb,64000,262144,2,P100\nc,96000,786432,0,\n"


def test_swf_becomes_a_workload_that_runs(tmp_path):
    (tmp_path / "log.swf").write_text(SWF)
    ended = opendt("convert", tmp_path / "log.swf", tmp_path / "made" / "here", "--core-speed-mhz", 1000)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert "swf: 2 tasks, 2 fragments, span 1 min, 1 dropped task: wrote" in ended.stderr
    workload = read_workload(tmp_path / "made" / "here")
    assert workload.ids.tolist() == [1, 2]
    assert workload.submission_ms.tolist() == [1_000_000, 1_030_000]
    assert workload.fragment_cpu_mhz.tolist() == [4000, 2000]
    small.write_json(tmp_path / "topology.json", small.topology())
    ran = opendt("simulate", "--topology", tmp_path / "topology.json", "--workload", tmp_path / "made" / "here")
    assert ran.returncode == 0


def test_a_target_is_overwritten_only_when_asked(tmp_path):
    (tmp_path / "log.swf").write_text(SWF)
    target = tmp_path / "target"
    small.write_workload(target)
    (target / "notes.txt").write_text("mine")
    before = small.tree(target)
    ended = opendt("convert", tmp_path / "log.swf", target)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: {target / 'tasks.parquet'}: found an existing file")
    assert "--force" in ended.stderr
    assert small.tree(target) == before
    assert opendt("convert", tmp_path / "log.swf", target, "--force", "--quiet").stderr == ""
    assert len(read_workload(target)) == 2
    assert small.tree(target).keys() == before.keys()


@pytest.mark.parametrize("text", ["", "1 2 3\n", SWF + "4 x\n", "; only a header\n"])
def test_a_broken_source_leaves_nothing(text, tmp_path):
    (tmp_path / "log.swf").write_text(text)
    ended = opendt("convert", tmp_path / "log.swf", tmp_path / "made" / "here")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: {tmp_path / 'log.swf'}: ")
    assert len(ended.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log.swf"]


def test_what_opendc_does_not_know_comes_back(tmp_path):
    workload = Workload.from_columns(
        {
            "ids": ["a", "b", "c"],
            "submission_ms": [0, 0, 10],
            "duration_ms": [5, 5, 5],
            "cpu_count": [1, 1, 2],
            "cpu_capacity_mhz": [1.0, 1.0, 2.0],
            "memory_mib": [1, 2, 3],
            "pinned": ["", "H01", ""],
            "slowdown": [1.0, 1.5, 1.0],
            "parent_offset": [0, 0, 0, 2],
            "parents": [0, 1],
            "edge_mib": [0.5, 8.0],
            "fragment_offset": [0, 1, 2, 3],
            "fragment_duration_ms": [5, 5, 5],
            "fragment_cpu_mhz": np.array([1.0, 1.0, 2.0], dtype=np.float32),
        }
    )
    write_workload(workload, tmp_path / "a")
    assert read_workload(tmp_path / "a").equals(workload)
    assert opendt("convert", tmp_path / "a", tmp_path / "b").returncode == 0
    assert small.tree(tmp_path / "a") == small.tree(tmp_path / "b")


def test_a_topology_goes_to_the_other_dialect_and_back(tmp_path):
    carbon = pa.table({"timestamp": pa.array([0], pa.int64()), "carbon_intensity": [100.0]})
    (tmp_path / "traces").mkdir()
    pq.write_table(carbon, tmp_path / "traces" / "a b.parquet")
    sharing = {"type": "FIXED_SHARE", "shareRatio": 0.5}
    gpu = {"coreCount": 8, "coreSpeed": 900, "virtualizationOverHeadModel": {"type": "SHARE_BASED"}}
    topology = small.topology(cpuDistributionPolicy=sharing, gpu=gpu)
    topology["clusters"][0]["powerSource"] = {"carbonTracePath": "traces/a b.parquet"}
    first = small.write_json(tmp_path / "runner.json", topology)
    (tmp_path / "deep").mkdir()
    for source, target in ((first, "deep/sdk.json"), (tmp_path / "deep/sdk.json", "back.json")):
        ended = opendt("convert", source, tmp_path / target, "--strict")
        assert ended.returncode == 0, ended.stderr
    sdk = json.loads((tmp_path / "deep/sdk.json").read_text())
    assert sdk["clusters"][0]["powerSource"]["carbon"] == {"type": "uri", "uri": "../traces/a%20b.parquet"}
    assert sdk["clusters"][0]["hosts"][0]["cpuDistribution"] == {"type": "fixedShare", "shareRatio": 0.5}
    places = (first, tmp_path / "deep/sdk.json", tmp_path / "back.json")
    one, two, three = (read_topology(place, strict=True) for place in places)
    assert one == two == three


def test_nodes_become_a_topology(tmp_path):
    (tmp_path / "nodes.csv").write_text(NODES)
    ended = opendt("convert", tmp_path / "nodes.csv", tmp_path / "t.json", "--json")
    assert json.loads(ended.stdout)["facts"] == {"groups": 2, "hosts": 3, "dialect": "runner"}
    assert read_topology(tmp_path / "t.json", strict=True).host_count == 3


def test_what_cannot_become_something_is_a_wrong_command(tmp_path):
    (tmp_path / "nodes.csv").write_text(NODES)
    assert opendt("convert", tmp_path / "nodes.csv", tmp_path / "t", "--to", "opendc").returncode == 2
    small.write_json(tmp_path / "slo.json", {"version": 1, "window_s": 300})
    ended = opendt("convert", tmp_path / "slo.json", tmp_path / "t")
    assert (ended.returncode, "found slo" in ended.stderr) == (1, True)


def test_a_synthetic_week_is_valid_and_repeats(tmp_path):
    for name in ("a", "b"):
        assert opendt("convert", "--from", "synthetic", "--seed", 3, tmp_path / name).returncode == 0
    assert small.tree(tmp_path / "a") == small.tree(tmp_path / "b")
    files = ["topology.json", "carbon.parquet", "consumption.parquet", ""]
    ended = opendt("validate", *(tmp_path / "a" / name for name in files), "--strict", "--json")
    assert [record["kind"] for record in json.loads(ended.stdout)] == ["topology", "carbon", "power", "workload"]
    assert ended.returncode == 0


def test_validate_tells_each_input_apart(tmp_path):
    experiment = small.write_experiment(tmp_path, expotModels=[])
    (tmp_path / "log.swf").write_text(SWF)
    (tmp_path / "nodes.csv").write_text(NODES)
    slo = small.write_json(tmp_path / "slo.json", {"version": 1, "window_s": 300, "energy": {"target_kwh": 2}})
    bad = small.write_json(tmp_path / "bad.json", {"clusters": []})
    good = [
        experiment,
        tmp_path / "topology.json",
        tmp_path / "workload",
        tmp_path / "log.swf",
        tmp_path / "nodes.csv",
        slo,
    ]
    ended = opendt("validate", *good, bad, tmp_path / "nowhere")
    assert ended.returncode == 1
    kinds = ["experiment", "topology", "workload", "swf", "openb-nodes", "slo"]
    assert [line.split(": ")[:2] for line in ended.stdout.splitlines()] == [
        [f"ok  {path}", kind] for path, kind in zip(good, kinds, strict=True)
    ]
    warning, *errors = ended.stderr.splitlines()
    assert "expotModels" in warning
    assert [error.split(": ")[:2] for error in errors] == [["Error", str(bad)], ["Error", str(tmp_path / "nowhere")]]
    assert opendt("validate", *good[1:]).returncode == 0
    assert opendt("validate", experiment, "--strict").returncode == 1


def test_validate_gives_the_parts_of_an_error(tmp_path):
    small.write_json(tmp_path / "t.json", small.topology(count=-1))
    ended = opendt("validate", tmp_path / "t.json", "--json", "-q")
    (record,) = json.loads(ended.stdout)
    assert record["error"]["place"] == "clusters[0].hosts[0].count"
    assert record["error"]["found"] == "-1"
    assert ended.returncode == 1


def test_real_archives_are_valid():
    names = ["swf-lcg-nasa/LCG.swf.gz", "wta-shell", "alibaba-gpu-v2023/openb_pod_list_default.csv", "surf-week"]
    names += ["wfinstances/seismology-chameleon-1100p-001.json", "specpower/spec_data_cleaned_unmelted.csv"]
    paths = [require_data(f"traces/{name}") for name in names]
    ended = opendt("validate", *paths, "--json")
    assert ended.returncode == 0, ended.stderr
    records = {record["kind"]: record["facts"] for record in json.loads(ended.stdout)}
    assert list(records) == ["swf", "wta", "openb-pods", "workload", "wfformat", "specpower"]
    assert records["wfformat"]["tasks"] == 1101
    assert records["workload"]["fragments"] == 2_323_475
