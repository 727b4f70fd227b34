"""The topology file is written whole or not at all, with what no model holds kept, and never over somebody's edit."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from opendt.formats.opendc import read_topology
from opendt.formats.opendc_topology import write_topology
from opendt.formats.synthetic import generate_week, synthetic_topology
from opendt.model.power import CurvePower
from opendt.orchestrator.actuator import TopologyFileActuator, is_same
from opendt.orchestrator.topology import topology_store
from tests.small import topology, write_json


@pytest.fixture
def file(tmp_path):
    return write_json(tmp_path / "topology.json", topology())


@pytest.fixture
def actuator(file, tmp_path):
    return TopologyFileActuator(file, topology_store(tmp_path / "state", "surf"))


def resized(one, **update):
    cluster = one.clusters[0]
    group = cluster.hosts[0].model_copy(update=update)
    return one.model_copy(update={"clusters": (cluster.model_copy(update={"hosts": (group, *cluster.hosts[1:])}),)})


def test_the_file_says_what_was_decided_and_both_are_kept(actuator, file):
    before = read_topology(file)
    after = resized(before, count=5, core_count=6, core_speed_mhz=1234.5)
    assert actuator.apply(after, before)
    assert read_topology(file) == after
    assert [read_topology(actuator.store.path(number)) for number in actuator.store.numbers()] == [before, after]
    assert sorted(path.name for path in file.parent.iterdir()) == ["state", "topology.json"]


@pytest.mark.parametrize("count", [0, 1, 120])
def test_every_synthetic_host_survives_the_writing(tmp_path, count):
    """What is read back is what was decided: else it would be taken for an edit by hand."""
    before = synthetic_topology()
    file = tmp_path / "topology.json"
    write_topology(before, file, {})
    before = read_topology(file)
    after = resized(before, count=count)
    assert TopologyFileActuator(file, topology_store(tmp_path / "state", "x")).apply(after, before)
    assert read_topology(file) == after


def test_a_learned_curve_survives_the_writing(actuator, file):
    before = read_topology(file)
    curve = CurvePower(utilization=(0.0, 0.3, 1.0), power_w=(90.1, 200.3, 310.7))
    after = resized(before, power_model=curve)
    assert actuator.apply(after, before)
    assert read_topology(file) == after


def test_names_of_carbon_traces_are_kept(tmp_path):
    folder = generate_week(1, tmp_path / "week")
    file = folder / "topology.json"
    before = read_topology(file)
    named = json.loads(file.read_text())["clusters"][0]["powerSource"]
    assert TopologyFileActuator(file, topology_store(tmp_path, "x")).apply(resized(before, count=3), before)
    assert json.loads(file.read_text())["clusters"][0]["powerSource"] == named
    assert read_topology(file).clusters[0].power_source.carbon == before.clusters[0].power_source.carbon


@pytest.mark.parametrize("content", [json.dumps(topology(count=9)), "{ half an ed"])
def test_an_edit_is_left_as_it_is(actuator, file, content):
    before = read_topology(file)
    file.write_text(content)
    assert not actuator.apply(resized(before, count=5), before)
    assert file.read_text() == content


def test_a_file_that_is_gone_is_not_made_again(actuator, file):
    before = read_topology(file)
    file.unlink()
    assert not actuator.apply(resized(before, count=5), before)
    assert not file.exists()


def test_what_it_says_already_is_not_written_again(actuator, file):
    before = read_topology(file)
    after = resized(before, count=5)
    assert actuator.apply(after, before)
    status = file.stat()
    assert actuator.apply(after, before)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)


def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    there = write_json(tmp_path / "real.json", topology())
    there.chmod(0o640)
    link = tmp_path / "topology.json"
    link.symlink_to(there)
    before = read_topology(link)
    assert TopologyFileActuator(link, topology_store(tmp_path / "s", "x")).apply(resized(before, count=7), before)
    assert link.is_symlink()
    assert there.stat().st_mode & 0o777 == 0o640
    assert read_topology(there).host_count == 7


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(actuator, file, monkeypatch, call):
    before = read_topology(file)
    actuator.store.keep(file.read_bytes())  # so that the first thing to fail is the file itself
    content = file.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        actuator.apply(resized(before, count=5), before)
    monkeypatch.undo()
    assert file.read_bytes() == content
    assert not list(file.parent.glob(".topology*"))
    assert actuator.apply(resized(before, count=5), before)


def test_carbon_is_no_difference():
    one = synthetic_topology()
    assert is_same(one, one)
    assert not is_same(None, one)
    assert not is_same(resized(one, count=1), one)
