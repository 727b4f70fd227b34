"""An edit of the topology takes effect once, with a number; a broken one changes nothing; none is lost."""

from __future__ import annotations

import errno
import json
import os
import threading

import pytest

from opendt.formats.opendc import read_topology
from opendt.model.errors import InputError
from opendt.orchestrator.topology import (
    read_topology_version,
    roll_back_topology,
    topology_differences,
    topology_file,
    topology_store,
)
from opendt.orchestrator.version_store import VersionStore, content_hash
from opendt.orchestrator.versions import FileWatchers
from tests.small import topology, write_json


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class Watched:
    """A topology file that is watched with a clock of its own."""

    def __init__(self, folder):
        self.file = folder / "topology.json"
        self.state_dir = folder / "state"
        self.store = topology_store(self.state_dir, "surf")
        self.events, self.clock = [], Clock()
        if not self.file.exists():
            write_json(self.file, topology())
        self.watcher = self.again()
        self.watcher.load_initial()

    def again(self):
        """A new process."""
        return topology_file(self.file, self.state_dir, "surf", on_event=self.events.append, clock_s=self.clock)

    def write(self, **host):
        write_json(self.file, topology(**host))

    def look(self):
        """Look, wait until the file has rested, look again."""
        self.watcher.check()
        self.clock.now_s += 1
        self.watcher.check()

    def hosts(self):
        return self.watcher.current.value.host_count

    def kinds(self):
        return [event.kind for event in self.events]


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


def test_the_first_version_has_number_one(watched):
    assert watched.watcher.current.number == 1
    assert watched.hosts() == 2
    assert watched.store.path(1).read_bytes() == watched.file.read_bytes()
    assert [e.as_dict() for e in watched.events] == [
        {
            "kind": "topology_loaded",
            "datacenter": "surf",
            "time_ms": None,
            "version": 1,
            "content_hash": content_hash(watched.file.read_bytes()),
            "file": str(watched.file),
        }
    ]


def test_nothing_is_taken_when_nothing_changed(watched):
    watched.look()
    assert watched.watcher.take() is None
    assert watched.store.numbers() == [1]


def test_an_edit_is_taken_once_and_is_in_force_only_then(watched):
    watched.write(count=3)
    watched.look()
    assert watched.hosts() == 2
    version = watched.watcher.take()
    assert (version.number, version.value.host_count, watched.hosts()) == (2, 3, 3)
    assert watched.watcher.take() is None
    assert watched.kinds() == ["topology_loaded", "topology_changed"]
    assert watched.store.path(2).read_bytes() == watched.file.read_bytes()


def test_a_file_renamed_over_it_is_seen(watched, tmp_path):
    write_json(tmp_path / "new.json", topology(count=3)).replace(watched.file)
    watched.look()
    assert watched.watcher.take().value.host_count == 3


def test_a_file_of_the_same_size_and_time_is_seen(watched, tmp_path):
    before = watched.file.stat()
    new = write_json(tmp_path / "new.json", topology(count=3))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(watched.file)
    assert watched.file.stat().st_size == before.st_size
    watched.look()
    assert watched.watcher.take().value.host_count == 3


def test_the_swap_of_a_config_maps_links_is_seen(tmp_path):
    """The kubelet writes a new folder and renames the link ``..data`` to it; the file's own link never changes."""
    mount = tmp_path / "mount"
    for number in (1, 2):
        (mount / f"..{number}").mkdir(parents=True)
        write_json(mount / f"..{number}" / "topology.json", topology(count=number))
    (mount / "..data").symlink_to("..1")
    (mount / "topology.json").symlink_to("..data/topology.json")
    watched = Watched(mount)
    assert watched.hosts() == 1
    (mount / "..data_tmp").symlink_to("..2")
    (mount / "..data_tmp").replace(mount / "..data")
    watched.look()
    assert watched.watcher.take().value.host_count == 2


def test_a_half_written_file_is_not_judged(watched):
    whole = json.dumps(topology(count=5))
    watched.file.write_text(whole[:40])
    watched.watcher.check()
    watched.clock.now_s += 0.1
    watched.watcher.check()
    watched.file.write_text(whole)
    watched.look()
    assert watched.watcher.take().value.host_count == 5
    assert watched.kinds() == ["topology_loaded", "topology_changed"]


def test_a_file_that_does_not_rest_is_waited_for(watched):
    for count in range(3, 8):
        watched.write(count=count)
        watched.watcher.check()
        watched.clock.now_s += 0.15
    assert watched.watcher.take() is None
    watched.watcher.check()
    watched.clock.now_s += 0.2
    watched.watcher.check()
    assert watched.watcher.take().value.host_count == 7
    assert watched.store.numbers() == [1, 2]


def test_several_edits_within_a_window_are_one(watched):
    for count in (3, 4, 5):
        watched.write(count=count)
        watched.look()
    version = watched.watcher.take()
    assert (version.number, version.value.host_count) == (2, 5)
    assert watched.kinds() == ["topology_loaded", "topology_changed"]


def test_an_edit_that_was_taken_back_is_none(watched):
    original = watched.file.read_bytes()
    watched.write(count=3)
    watched.look()
    watched.file.write_bytes(original)
    watched.look()
    assert watched.watcher.take() is None


def test_layout_and_order_of_keys_are_no_edit(watched):
    turned = dict(reversed(json.loads(watched.file.read_text()).items()))
    watched.file.write_text(json.dumps(turned, indent=4) + "\n")
    watched.look()
    assert watched.watcher.take() is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(topology(count=-4)), "count"),
        ('{"clusters": [', "line 1"),
        ("", "line 1"),
        (b"\xff\xfe", "bytes that are not UTF-8"),
        ('{"clusters": []}', "at least one cluster"),
        ("[" * 100_000, ""),
    ],
)
def test_a_broken_edit_changes_nothing_and_is_told_once(watched, content, reason):
    watched.file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for _ in range(3):
        watched.look()
    assert watched.watcher.take() is None
    assert watched.watcher.current.number == 1
    assert watched.kinds() == ["topology_loaded", "topology_refused"]
    refused = watched.events[-1]
    assert refused.version == 1
    assert refused.reason.startswith(f"{watched.file}: ")
    assert reason in refused.reason
    assert watched.store.numbers() == [1]
    watched.write(count=3)
    watched.look()
    assert watched.watcher.take().number == 2


def test_a_file_that_is_gone_is_told_and_may_come_back(watched):
    content = watched.file.read_bytes()
    watched.file.unlink()
    watched.look()
    assert "no such file" in watched.events[-1].reason
    watched.file.write_bytes(content)
    watched.look()
    assert watched.watcher.take() is None
    assert watched.hosts() == 2
    assert watched.kinds() == ["topology_loaded", "topology_refused"]


def test_a_restart_keeps_numbers_and_sees_what_was_edited_meanwhile(watched):
    assert watched.again().load_initial().number == 1
    watched.write(count=3)
    assert watched.again().load_initial().number == 2
    assert watched.again().load_initial().number == 2


def test_a_restart_on_a_broken_file_goes_on_with_the_last_good_version(watched):
    watched.write(count=3)
    watched.look()
    watched.watcher.take()
    watched.file.write_text("{")
    version = watched.again().load_initial()
    assert (version.number, version.value.host_count) == (2, 3)
    assert watched.kinds()[-2:] == ["topology_refused", "topology_loaded"]


def test_a_first_start_on_a_broken_file_is_refused(tmp_path):
    (tmp_path / "topology.json").write_text("{")
    with pytest.raises(InputError, match=r"topology\.json"):
        Watched(tmp_path)


def test_without_a_file_versions_come_by_offer(tmp_path):
    watcher = topology_file(None, tmp_path, "surf")
    assert watcher.load_initial() is None
    watcher.check()
    watcher.offer(json.dumps(topology(count=9)).encode(), "dc.topology")
    assert (watcher.take().origin, watcher.current.number) == ("dc.topology", 1)
    assert topology_file(None, tmp_path, "surf").load_initial().value.host_count == 9


def test_what_cannot_be_kept_is_tried_again_at_the_next_window(watched, monkeypatch):
    watched.write(count=3)
    watched.look()

    def full(*_args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(VersionStore, "keep", full)
        assert watched.watcher.take() is None
        assert watched.watcher.take() is None
    assert watched.hosts() == 2
    assert watched.watcher.take().number == 2
    assert watched.kinds() == ["topology_loaded", "topology_refused", "topology_changed"]


def test_carbon_beside_the_file_is_found_by_its_versions(tmp_path):
    from opendt.formats.carbon import write_carbon
    from opendt.model.topology import CarbonPoint

    write_carbon([CarbonPoint(timestamp_ms=0, intensity_g_per_kwh=100.0)], tmp_path / "carbon.parquet")
    content = topology()
    content["clusters"][0]["powerSource"] = {"carbonTracePath": "carbon.parquet"}
    write_json(tmp_path / "topology.json", content)
    watched = Watched(tmp_path)
    assert len(watched.watcher.current.value.clusters[0].power_source.carbon) == 1
    assert read_topology_version(watched.store, 1, watched.file) == watched.watcher.current.value


def test_a_rollback_is_an_edit_with_a_number_of_its_own(watched):
    original = watched.file.read_bytes()
    watched.write(count=3)
    watched.look()
    watched.watcher.take()
    assert roll_back_topology(watched.file, watched.store, 1) == (3, None)
    assert watched.file.read_bytes() == original
    watched.look()
    version = watched.watcher.take()
    assert (version.number, version.value.host_count) == (3, 2)
    assert [kept.number for kept in watched.store.history()] == [1, 2, 3]


def test_a_rollback_loses_no_edit_that_nobody_has_taken(watched):
    watched.write(count=3)
    valid = watched.file.read_bytes()
    assert roll_back_topology(watched.file, watched.store, 1).number == 3
    assert watched.store.path(2).read_bytes() == valid
    watched.file.write_text("{ broken")
    result = roll_back_topology(watched.file, watched.store, 2)
    assert result.set_aside.read_text() == "{ broken"
    assert read_topology(watched.file).host_count == 3


def test_a_rollback_writes_through_a_link_and_keeps_the_mode(watched, tmp_path):
    real = tmp_path / "real.json"
    watched.write(count=3)
    watched.file.replace(real)
    real.chmod(0o640)
    watched.file.symlink_to(real)
    roll_back_topology(watched.file, watched.store, 1)
    assert watched.file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert read_topology(real).host_count == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_rollback_to_what_is_not_there_is_refused(watched):
    before = watched.file.read_bytes()
    with pytest.raises(InputError, match="one of 1 to 1"):
        roll_back_topology(watched.file, watched.store, 7)
    assert watched.file.read_bytes() == before


def test_a_file_system_without_hard_links_will_do(watched, monkeypatch):
    def refused(*_args):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    watched.store.keep(b"2")
    assert watched.store.keep(b"3") == 3
    assert [path.name for path in sorted(watched.store.directory.iterdir())] == ["0001.json", "0002.json", "0003.json"]


def test_a_full_disk_leaves_no_pieces_and_the_file_as_it_was(watched, monkeypatch):
    watched.write(count=3)
    before = watched.file.read_bytes()

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        roll_back_topology(watched.file, watched.store, 1)
    assert watched.file.read_bytes() == before
    assert [path.name for path in watched.store.directory.iterdir()] == ["0001.json"]


def test_two_processes_never_take_one_number(tmp_path):
    stores = [VersionStore(tmp_path / "kept") for _ in range(4)]
    start = threading.Barrier(4)

    def keep(store, offset):
        start.wait()
        for number in range(20):
            store.keep(json.dumps({"n": offset + number}).encode())

    threads = [threading.Thread(target=keep, args=(store, 100 * n)) for n, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = stores[0]
    assert store.numbers() == list(range(1, 81))
    assert len({kept.content_hash for kept in store.history()}) == 80


def test_the_thread_looks_at_files_until_it_is_stopped(watched):
    looks, enough = [], threading.Event()

    def look():
        looks.append(threading.current_thread().name)
        if len(looks) == 3:
            enough.set()

    watched.watcher.check = look
    watchers = FileWatchers(poll_s=0.001)
    watchers.add(watched.watcher)
    assert enough.wait(20)
    watchers.remove(watched.watcher)
    watchers.stop()
    assert set(looks) == {"opendt-files"}


def changed(path, **host):
    return read_topology(write_json(path, topology(**host)))


def test_differences_are_told_in_words(tmp_path):
    path = tmp_path / "t.json"
    old = changed(path)
    cpu = {"coreCount": 8, "coreSpeed": 2400.5}
    new = changed(path, count=1200, cpu=cpu, memory={"memorySize": 8192}, frequencyExponent=3.0)
    assert topology_differences(old, old) == []
    assert topology_differences(old, new) == [
        "C01/H01: 2 -> 1,200 hosts, 4 -> 8 cores, 2,000 -> 2,400.5 MHz, 4,096 -> 8,192 MiB, frequency exponent differs"
    ]
    power = {"modelType": "sqrt", "idlePower": 90, "maxPower": 300}
    assert topology_differences(old, changed(path, cpuPowerModel=power)) == ["C01/H01: power model differs"]


def test_groups_and_clusters_that_come_and_go_are_told(tmp_path):
    one, two = topology(), topology(name="H02", count=1)
    both = {"clusters": [one["clusters"][0], {"name": "C02", "hosts": two["clusters"][0]["hosts"]}]}
    old = read_topology(write_json(tmp_path / "one.json", one))
    renamed = read_topology(write_json(tmp_path / "two.json", two))
    more = read_topology(write_json(tmp_path / "both.json", both))
    assert topology_differences(old, renamed) == [
        "C01/H01: gone (2 hosts of 4 cores at 2,000 MHz)",
        "C01/H02: new (1 host of 4 cores at 2,000 MHz)",
    ]
    assert topology_differences(old, more) == ["C02: new (1 host)"]
    assert topology_differences(more, old) == ["C02: gone (1 host)"]
