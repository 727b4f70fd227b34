"""`opendt plan-capacity` says how few hosts a record needs, and shows every number that it simulated."""

from __future__ import annotations

import json

import pytest

from opendt.cli.main import run
from tests.small import fragments, tasks, topology, write_json, write_workload

NO_WAIT = {
    "version": 1,
    "window_s": 300,
    "runtime": {"task_wait_p95": {"target_s": 5, "tolerance_ratio": 0.0}},
}


@pytest.fixture
def opendt(capsys, tmp_path):
    """Three tasks, each as large as a host, that overlap."""

    def command(*words, hosts=8, slo=NO_WAIT):
        folder = write_workload(tmp_path / "record", tasks(), fragments())
        write_json(folder / "topology.json", topology(count=hosts))
        file = write_json(tmp_path / "slo.json", slo)
        code = run(["plan-capacity", "--trace", str(folder), "--slo", str(file), *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def test_the_fewest_hosts_are_told_with_all_that_was_simulated(opendt):
    code, out, err = opendt()
    assert code == 0
    assert "fewest that meet all objectives: 3 hosts (now 8)" in err
    rows = out.splitlines()
    met = {row.split("  ")[0].split(" (")[0]: row.rstrip().endswith("all") for row in rows[1:]}
    assert met["3 hosts"]
    assert not met["2 hosts"]
    assert met["no change"]


def test_json_holds_the_same(opendt):
    answer = json.loads(opendt("--json")[1])
    assert answer["meets"]
    assert answer["fewest"]["metrics"]["hosts_up"] == 3
    assert answer["exceptions"] == []
    assert any(not trial["meets"] for trial in answer["simulated"])


def test_too_few_hosts_are_exit_code_1_unless_more_are_allowed(opendt):
    code, out, err = opendt(hosts=2)
    assert code == 1
    assert out
    assert "--max-ratio allows more hosts" in err
    code, _, err = opendt("--max-ratio", "2", hosts=2)
    assert code == 0
    assert "fewest that meet all objectives: 3 hosts (now 2)" in err


def test_twice_the_load_needs_more_hosts(opendt):
    assert json.loads(opendt("--load", "2", "--json")[1])["fewest"]["metrics"]["hosts_up"] == 6


def test_other_demands_made_of_the_record_are_looked_at_as_well(opendt):
    answer = json.loads(opendt("--resampled", "2", "--seed", "4", "--json")[1])
    assert answer["meets"]


def test_bad_input_is_named(opendt):
    code, _, err = opendt(slo={"version": 1, "window_s": 0})
    assert (code, err.count("\n")) == (1, 1)
    assert "window_s" in err
