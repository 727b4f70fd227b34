"""An edit of the objectives takes effect once, with a number; a broken one changes nothing."""

from __future__ import annotations

import json

import pytest

from opendt.model.errors import InputError
from opendt.orchestrator.slo import slo_file, slo_store


@pytest.fixture
def events():
    return []


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "slo.json", 2.0)


def write(path, target_kwh, **more):
    path.write_text(json.dumps({"version": 1, "energy": {"target_kwh": target_kwh}} | more))
    return path


@pytest.fixture
def watcher(tmp_path, file, events):
    clock = iter(range(0, 10_000, 10))
    watcher = slo_file(file, tmp_path / "state", "surf", on_event=events.append, clock_s=lambda: next(clock))
    watcher.load_initial()
    return watcher


def look(watcher):
    watcher.check()
    watcher.check()


def test_an_edit_takes_effect_when_it_is_taken(watcher, file, events, tmp_path):
    write(file, 3.0)
    look(watcher)
    assert watcher.current.value.energy.target_kwh == 2.0
    assert watcher.take().value.energy.target_kwh == 3.0
    assert [(event.kind, event.version) for event in events] == [("slo_loaded", 1), ("slo_changed", 2)]
    assert slo_store(tmp_path / "state", "surf").numbers() == [1, 2]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"energie": {}}, "energie"),
        ({"window_s": 600}, "window_s: found 600, expected 300, the window of the settings"),
        ({"version": 2}, "version"),
    ],
)
def test_a_broken_edit_changes_nothing(watcher, file, events, more, reason):
    write(file, 3.0, **more)
    look(watcher)
    assert watcher.take() is None
    assert watcher.current.value.energy.target_kwh == 2.0
    assert events[-1].kind == "slo_refused"
    assert events[-1].reason.startswith(f"{file}: ")
    assert reason in events[-1].reason


def test_without_a_file_there_are_none(tmp_path):
    watcher = slo_file(None, tmp_path, "surf")
    assert watcher.load_initial() is None
    assert watcher.take() is None


def test_a_first_start_on_a_broken_file_is_refused(tmp_path):
    file = write(tmp_path / "slo.json", -1.0)
    with pytest.raises(InputError, match=r"slo\.json: energy\.target_kwh"):
        slo_file(file, tmp_path / "state", "surf").load_initial()
