"""`opendt topology` lists versions, says what differs, and brings one back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opendt.cli.main import run
from opendt.formats.opendc import read_topology
from opendt.orchestrator.topology import topology_file
from tests.small import topology, write_json


@pytest.fixture
def settings(tmp_path):
    """Two versions in force, one after the other: two hosts, then three."""
    file = write_json(tmp_path / "topology.json", topology())
    watcher = topology_file(file, tmp_path / "state", "surf")
    watcher.load_initial()
    watcher.offer(json.dumps(topology(count=3)).encode(), "test")
    watcher.take()
    write_json(file, topology(count=3))
    config = tmp_path / "opendt.toml"
    config.write_text('state_dir = "state"\n[datacenter.surf]\ntopology = "topology.json"\n')
    return config


@pytest.fixture
def opendt(capsys):
    def command(*words):
        code = run(["topology", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def test_history(opendt, settings):
    code, out, _ = opendt("history", "--config", settings)
    assert code == 0
    first, second = out.splitlines()
    assert first.split()[0] == "1"
    assert first.endswith("2 hosts in 1 cluster")
    assert second.endswith("C01/H01: 2 -> 3 hosts")
    rows = json.loads(opendt("history", "--config", settings, "--json")[1])
    assert [(row["version"], row["changes"]) for row in rows] == [
        (1, ["2 hosts in 1 cluster"]),
        (2, ["C01/H01: 2 -> 3 hosts"]),
    ]


def test_history_of_nothing(opendt, tmp_path):
    (tmp_path / "opendt.toml").write_text("[datacenter.surf]\n")
    assert opendt("history", "--config", tmp_path / "opendt.toml")[:2] == (0, "")


def test_diff(opendt, settings):
    assert opendt("diff", "1", "2", "--config", settings)[1] == "C01/H01: 2 -> 3 hosts\n"
    assert opendt("diff", "2", "1", "--config", settings)[1] == "C01/H01: 3 -> 2 hosts\n"
    assert opendt("diff", "1", "--config", settings)[1] == "C01/H01: 2 -> 3 hosts\n"
    assert opendt("diff", "--config", settings) == (0, "", "no difference\n")
    assert opendt("diff", "8", "--config", settings)[0] == 1


def test_rollback(opendt, settings):
    file = settings.parent / "topology.json"
    code, out, _ = opendt("rollback", "1", "--config", settings)
    assert (code, out) == (0, f"{file}: version 1 again, now with number 3\n")
    assert read_topology(file).host_count == 2


def test_rollback_over_a_broken_file_keeps_it(opendt, settings):
    file = settings.parent / "topology.json"
    file.write_text("{ broken")
    code, _, err = opendt("rollback", "2", "--config", settings)
    assert code == 0
    assert err.startswith("Warning: what the file held did not validate; it is kept as ")
    kept = err.strip().rsplit(" ", 1)[1]
    assert read_topology(file).host_count == 3
    assert Path(kept).read_text() == "{ broken"


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("", ["history"], "datacenter: found none, expected a section [datacenter.NAME]"),
        ("[datacenter.a]\n[datacenter.b]", ["history"], "--datacenter: found no name, expected one of a, b"),
        ("[datacenter.a]", ["history", "--datacenter", "c"], "--datacenter: found c, expected one of a"),
        ("[datacenter.a]", ["rollback", "1"], "datacenter.a.topology: found nothing, expected a topology file"),
    ],
)
def test_what_is_not_there_is_named(opendt, tmp_path, text, words, message):
    (tmp_path / "opendt.toml").write_text(text)
    code, _, err = opendt(*words, "--config", tmp_path / "opendt.toml")
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
