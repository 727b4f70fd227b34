"""One consumer of a group has the partitions; its offsets are stored, all or none."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from opendt.model.errors import TransportError
from opendt.telemetry.log import LogDirectory, LogSink
from opendt.telemetry.source import Partition
from tests.unit.telemetry.log_streams import Clock, open_source, write

T = Partition("t", 0)
U = Partition("u", 0)


@pytest.fixture
def log(tmp_path):
    sink = LogSink(tmp_path)
    write(sink, b"t0", b"t1")
    write(sink, b"u0", topic="u")
    return tmp_path


def test_the_second_of_a_group_gets_partitions_when_the_first_closes(log):
    first, told_first = open_source(log)
    second, told_second = open_source(log)
    assert len(first.poll()) == 2
    assert second.poll() == []
    assert told_second == []
    assert not second.is_at_end(T)
    first.close()
    assert told_first == [("assigned", T), ("revoked", T)]
    assert len(second.poll()) == 2
    assert told_second == [("assigned", T)]


def test_groups_do_not_disturb_each_other(log):
    one, _ = open_source(log, group="one")
    two, _ = open_source(log, group="two")
    assert one.poll() == two.poll() != []


CONSUMER = """
import sys
from opendt.telemetry.log import LogSource
source = LogSource(sys.argv[1], "g")
source.subscribe(["t"], on_assigned=lambda p: {}, on_revoked=lambda p: None)
print(len(source.poll()), flush=True)
sys.stdin.read()
"""


def test_a_consumer_that_is_killed_leaves_its_partitions_to_the_next(log):
    holder = subprocess.Popen(
        [sys.executable, "-c", CONSUMER, log], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "2\n"
        source, _ = open_source(log)
        assert source.poll() == []
        holder.kill()
        holder.wait(timeout=50)
        assert len(source.poll()) == 2


def test_committed_offsets_are_there_for_tools_and_do_not_move_the_next_consumer(log):
    source, _ = open_source(log, ["t", "u"])
    source.poll()
    source.commit({T: 2, U: 1})
    source.close()
    assert LogDirectory(log).committed("g") == {T: 2, U: 1}
    assert LogDirectory(log).committed("other") == {}
    source, _ = open_source(log, ["t"])
    assert len(source.poll()) == 2  # the ledger says where to begin
    source.commit({T: 1})
    source.close()
    assert LogDirectory(log).committed("g") == {T: 1, U: 1}


def test_offsets_are_stored_at_most_so_often_and_at_the_end(log, monkeypatch):
    clock = Clock()
    stored = []
    real = LogDirectory.store_offsets
    monkeypatch.setattr(
        LogDirectory, "store_offsets", lambda *given: (stored.append((clock.now, given[2][T])), real(*given))
    )
    source, _ = open_source(log, clock=clock, commit_interval_s=1.0)
    for step in range(25):
        clock.now = step / 10
        source.poll()
        source.commit({T: step})
    source.close()
    assert [offset for _, offset in stored] == [0, 10, 20, 24]
    assert [moment for moment, _ in stored] == pytest.approx([0.1, 1.1, 2.1, 2.4])


def test_offsets_are_replaced_whole_or_not_at_all(log, monkeypatch):
    directory = LogDirectory(log)
    directory.store_offsets("g", {T: 1})

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(TransportError, match=r"g\.json: cannot store the offsets: No space left"):
            directory.store_offsets("g", {T: 2})
    assert directory.committed("g") == {T: 1}
    assert sorted(path.name for path in (log / "groups").iterdir()) == ["g.json"]


def test_offsets_of_partitions_that_are_not_ours_are_refused(log):
    source, _ = open_source(log)
    with pytest.raises(TransportError, match="offsets of t/0 committed by group 'g', expected partitions that it was"):
        source.commit({T: 1})
    source.poll()
    with pytest.raises(TransportError, match="offsets of u/0"):
        source.commit({T: 1, U: 1})
    source.close()
    assert LogDirectory(log).committed("g") == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"offsets": 3}', json.dumps({"offsets": [["t", 0]]})])
def test_an_offsets_file_that_is_none_is_named(log, text):
    (log / "groups").mkdir()
    (log / "groups" / "g.json").write_text(text)
    with pytest.raises(TransportError, match=r"g\.json: found .*expected .*Delete the file"):
        LogDirectory(log).committed("g")


def test_subscribing_again_gives_back_what_was_held(log):
    source, told = open_source(log)
    source.poll()
    again = []
    source.subscribe(["u"], on_assigned=lambda p: again.append(list(p)) or {}, on_revoked=lambda p: None)
    assert told == [("assigned", T), ("revoked", T)]
    assert [record.value for record in source.poll()] == [b"u0"]
    assert again == [[U]]
