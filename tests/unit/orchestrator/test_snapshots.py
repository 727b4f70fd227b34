"""A snapshot is used whole or not at all, and can make nothing but what a twin consists of."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections import deque

import numpy as np
import pytest

from opendt.optimization.base import Context
from opendt.optimization.plugins import GROUP, modules_of_plugins
from opendt.orchestrator import snapshots
from opendt.orchestrator.factory import make_optimizers, reconnect
from opendt.orchestrator.settings_model import OpenAISettings, Settings
from opendt.orchestrator.snapshots import SnapshotStore
from opendt.twin.whatif import WhatIf
from tests.offered import offer
from tests.unit.optimization.cert_plant import HOUR_MS, SLO, TOPOLOGY, plant


@pytest.fixture
def store(tmp_path):
    return SnapshotStore(tmp_path / "twin", "west")


def state(number):
    return {"n": number, "column": np.arange(3.0), "queue": deque([1, 2])}


def test_the_newest_that_the_ledger_knows_of_is_taken(store):
    for index in (3, 7):
        store.write(index, state(index))
    found, reasons = store.newest(7)
    assert (found.index, found.state["n"], reasons) == (7, 7, [])
    assert found.state["column"].tolist() == [0.0, 1.0, 2.0]
    found, reasons = store.newest(6)
    assert found.index == 3
    assert len(reasons) == 1
    assert "window 7, expected at most 6" in reasons[0]


def test_two_are_kept(store):
    for index in range(5):
        store.write(index, state(index))
    assert store.indices() == [3, 4]


def test_one_written_behind_holds_what_was_there_when_it_was_taken(store):
    told, living = [], state(1)
    store.write_behind(1, living, told.append)
    living["n"], living["column"][0] = 2, 9.0
    store.write_behind(2, living, told.append)
    store.wait()
    assert told == [path.stat().st_size for path in sorted(store.directory.iterdir())]
    found = [store.newest(index)[0].state for index in (1, 2)]
    assert [(one["n"], one["column"][0]) for one in found] == [(1, 0.0), (2, 9.0)]


def test_a_disk_that_refuses_what_is_written_behind_is_told_of(store, monkeypatch):
    told = []
    monkeypatch.setattr(snapshots.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    store.write_behind(1, state(1), told.append)
    store.wait()
    assert [str(error) for error in told] == ["[Errno 28] No space left on device"]
    assert list(store.directory.iterdir()) == []


def test_where_there_is_none_none_is_given(store):
    assert store.newest(10) == (None, [])


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "no header"])
def test_a_damaged_one_is_passed_over_for_the_one_before(store, damage):
    store.write(1, state(1))
    store.write(2, state(2))
    path = store.directory / "0000000002.twin"
    data = path.read_bytes()
    broken = {"cut": data[:-5], "changed": data[:-5] + b"xxxxx", "empty": b"", "no header": b"\x80\x05 nothing"}
    path.write_bytes(broken[damage])
    found, reasons = store.newest(2)
    assert found.index == 1
    assert [reason.partition(":")[0] for reason in reasons] == ["0000000002.twin"]


@pytest.mark.parametrize("key", ["opendt", "engine", "python", "numpy", "format", "code"])
def test_one_of_another_version_is_refused_by_name(store, key, monkeypatch):
    versions = snapshots._versions()
    monkeypatch.setattr(snapshots, "_versions", lambda: {**versions, key: "other"})
    store.write(1, state(1))
    monkeypatch.undo()
    found, reasons = store.newest(1)
    assert found is None
    assert f"{key}: found " in reasons[0]


def test_one_of_another_datacenter_or_window_is_refused(store):
    store.write(1, state(1))
    (store.directory / "0000000001.twin").rename(store.directory / "0000000002.twin")
    assert store.newest(2)[0] is None
    store.write(1, state(1))
    assert SnapshotStore(store.directory, "east").newest(1)[0] is None


class _Foreign:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.getpid, print, eval], ids=["os.getpid", "print", "eval"])
def test_a_pickle_that_names_anything_else_makes_nothing(store, function):
    body = pickle.dumps({"x": _Foreign(function, *([] if function is os.getpid else ["1"]))})
    header = {**snapshots._versions(), "datacenter": "west", "index": 1, "size_bytes": len(body)}
    header["sha256"] = hashlib.sha256(body).hexdigest()
    store.directory.mkdir()
    (store.directory / "0000000001.twin").write_bytes(json.dumps(header).encode() + b"\n" + body)
    found, reasons = store.newest(1)
    assert found is None
    assert "which no twin is made of" in reasons[0]


def test_a_name_does_not_reach_through_our_modules_to_what_they_import(store):
    # What pickle writes for opendt.orchestrator.snapshots -> os.getpid, called.
    body = b"\x80\x05\x8c\x1dopendt.orchestrator.snapshots\x8c\x09os.getpid\x93)R."
    header = {**snapshots._versions(), "datacenter": "west", "index": 1, "size_bytes": len(body)}
    header["sha256"] = hashlib.sha256(body).hexdigest()
    store.directory.mkdir()
    (store.directory / "0000000001.twin").write_bytes(json.dumps(header).encode() + b"\n" + body)
    found, reasons = store.newest(1)
    assert found is None
    assert "which no twin is made of" in reasons[0]


@pytest.mark.parametrize("name", ["rules", "search", "llm"])
def test_whoever_may_propose_is_kept_and_goes_on(store, tmp_path, name):
    """Before and after it has proposed: a twin that cannot be taken up is derived again from its beginning."""
    secret = "sk-very-secret-key"
    openai = OpenAISettings(api_key=secret, model="none", base_url="http://127.0.0.1:9/v1", time_budget_s=0.2)
    (optimizer,) = make_optimizers(Settings(optimizers=(name,), openai=openai), TOPOLOGY)
    simulation, _ = plant()
    context = Context.of(simulation, SLO, WhatIf(simulation, HOUR_MS).baseline)
    for index in range(2):
        store.write(index, {"optimizer": optimizer})
        found, reasons = store.newest(index)
        assert reasons == []
        again = found.state["optimizer"]
        reconnect([again], Settings(optimizers=(name,), openai=openai))
        assert again.propose(context) == optimizer.propose(context)
    written = list((tmp_path / "twin").rglob("*.twin"))
    assert written
    assert all(secret.encode() not in path.read_bytes() for path in written)


def test_an_optimiser_of_others_is_kept_where_it_is_in_use(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "class Sleepy:\n    def __init__(self): self.asked = 0\n    def propose(self, context): self.asked += 1\n"
    offer(tmp_path, GROUP, "sleepy-package", {"sleepy": "sleepy_package:Sleepy"}, sleepy_package=source)
    (optimizer,) = make_optimizers(Settings(optimizers=("sleepy",)), TOPOLOGY)
    optimizer.propose(None)
    assert modules_of_plugins(("rules", "sleepy")) == {"sleepy_package"}
    store = SnapshotStore(tmp_path / "twin", "west", modules_of_plugins(("rules", "sleepy")))
    store.write(0, {"optimizer": optimizer})
    found, reasons = store.newest(0)
    assert reasons == []
    assert found.state["optimizer"].asked == 1
    found, reasons = SnapshotStore(tmp_path / "twin", "west", modules_of_plugins(("rules",))).newest(0)
    assert found is None
    assert "it names sleepy_package.Sleepy, which no twin is made of" in reasons[0]
