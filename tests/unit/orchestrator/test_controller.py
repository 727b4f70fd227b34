"""What users of an orchestrator see: versions, state, refusals, restarts, and when edits take effect."""

from __future__ import annotations

import io
import json

import pytest

from opendt.formats.opendc_topology_writer import topology_json, write_topology
from opendt.model.errors import InputError, LedgerError
from opendt.model.power import LinearPower
from opendt.model.topology import Cluster, HostGroup, Topology
from opendt.orchestrator.controller import OpenDTOrchestrator
from opendt.orchestrator.events import EventBus
from opendt.orchestrator.settings_model import DatacenterSettings, Settings
from opendt.telemetry.messages import CONFIG, POWER, RESULTS, SIM_TOPOLOGY, TOPOLOGY, WORKLOAD
from opendt.telemetry.source import Partition
from opendt.verification.ledger import Ledger
from tests.unit.telemetry.streams import Memory, doc, heartbeat, power, stream, task

NAME = "west"
WINDOW_MS = 300_000
ORIGIN = 1_000_000
TICKS = WINDOW_MS // 30_000
MOMENT = {Partition(CONFIG, 0), Partition(TOPOLOGY, 0)}


def topology(hosts=4):
    model = LinearPower(idle_w=100.0, max_w=200.0)
    group = HostGroup(
        name="node", count=hosts, core_count=8, core_speed_mhz=1000.0, memory_mib=8_000, power_model=model
    )
    return Topology(clusters=(Cluster(name="dc", hosts=(group,)),))


def as_file(value):
    return json.dumps(topology_json(value, {})).encode()


def slo(target_kwh):
    return json.dumps({"version": 1, "energy": {"target_kwh": target_kwh}}).encode()


class Watchers:
    """Knows who is to be looked at; tests put edits into the mailbox themselves."""

    def __init__(self):
        self.files = []

    def add(self, file):
        self.files.append(file)

    def remove(self, file):
        self.files.remove(file)


class Site:
    """A folder with files of topology and objectives, a ledger, and orchestrators that follow one after the other."""

    def __init__(self, folder):
        self.folder = folder
        self.topology, self.slo = folder / "topology.json", folder / "slo.json"
        write_topology(topology(), self.topology)
        self.slo.write_bytes(slo(2.0))
        self.ledger = Ledger.open(folder / "ledger.sqlite")
        self.sink = Memory()
        self.bus = EventBus()
        self.watchers = Watchers()

    def orchestrator(self, **settings):
        section = DatacenterSettings(name=NAME, topology=self.topology, slo=self.slo)
        options = {
            "lateness_s": 0,
            "snapshot_every_windows": 3,
            "futures": 0,
            "datacenter": {NAME: section},
            **settings,
        }
        made = Settings(state_dir=self.folder / "state", **options)
        return OpenDTOrchestrator(
            made, ledger=self.ledger, sink=self.sink, bus=self.bus, watchers=self.watchers, clock_s=lambda: 0.0
        )

    def started(self, **settings):
        one = self.orchestrator(**settings)
        one.start()
        return one

    def export(self):
        stream = io.BytesIO()
        self.ledger.export(stream)
        return stream.getvalue()

    def told(self, kind):
        return [notice.event for notice in self.bus.recent() if notice.event.kind == kind]

    def results(self):
        return [json.loads(record.value) for record in self.sink.topics.get(RESULTS, [])]


@pytest.fixture
def site(tmp_path):
    one = Site(tmp_path)
    yield one
    one.ledger.close()


def workload(count):
    """Windows of a workload: a task each, two fragments long, told of whole, and the heartbeat that lets the window close."""
    for window in range(count):
        begin = ORIGIN + window * WINDOW_MS
        submitted = begin + (1_000 if window else 0)
        yield task(window, submitted, [(60_000, 4_000.0), (120_000, 2_000.0 + 100 * window)], cpu_count=4)
        yield heartbeat(begin + WINDOW_MS + 1)


def readings(count, watts=480.0):
    """A reading every 30 s, and the one after, which lets the last window close."""
    for tick in range(1, count * TICKS + 2):
        yield power(ORIGIN + tick * 30_000, watts + tick % 7)


def windows(first, stop):
    """Records of windows, at the offsets that they have in their topics."""
    streams = {WORKLOAD: (list(workload(stop)), 2), POWER: (list(readings(stop)), TICKS)}
    records = []
    for topic, (values, per_window) in streams.items():
        records += stream(topic, *values[first * per_window :], first=first * per_window, key=NAME)
    return records


def feed(one, first, stop):
    for partition in MOMENT:
        one.assembler.note_end(partition)
    one.take(windows(first, stop))
    return one.turn_windows()


def resume(one, stop):
    """Give what a source would give after a restart: everything from the offsets asked for on."""
    offsets = one.resume_offsets()
    for partition in MOMENT:
        one.assembler.note_end(partition)
    one.take([record for record in windows(0, stop) if record.offset >= offsets.get(Partition(record.topic, 0), 0)])
    return one.turn_windows()


def test_a_window_that_closes_is_recorded_told_and_shown(site):
    one = site.started()
    assert one.state.as_dict()["status"] == "running"
    assert feed(one, 0, 4) == 4
    last = site.ledger.last_window(NAME)
    assert (last.index, last.end_ms, last.topology_version, last.slo_version) == (3, ORIGIN + 4 * WINDOW_MS, 1, 1)
    assert [(result["window"], result["end"]) for result in site.results()] == [
        (index, ORIGIN + (index + 1) * WINDOW_MS) for index in range(4)
    ]
    state = one.state.read()
    assert (state.cycle_count, state.window_index, state.window_end_ms) == (4, 3, last.end_ms)
    assert state.last_metrics["energy_kwh"] == last.metrics["energy_kwh"]
    assert state.window_baseline_score == last.score
    assert state.window_best_score is None
    assert state.energy_kwh == pytest.approx(sum(row.metrics["energy_kwh"] for row in site.ledger.windows(NAME)))
    assert state.current_topology["clusters"][0]["hosts"][0]["count"] == 4
    assert state.slo_targets["energy"]["target_kwh"] == 2.0
    one.stop("told to")
    assert one.state.as_dict()["status"] == "stopped"
    assert [event.as_dict()["reason"] for event in site.told("stopped")] == ["told to"]


def test_series_hold_the_windows_that_are_confirmed(site):
    one = site.started()
    feed(one, 0, 4)
    columns = one.simulation_timeseries()
    times = columns["time_ms"].tolist()
    assert times == list(range(ORIGIN + 30_000, times[-1] + 1, 30_000))
    assert len(times) % TICKS == 0
    part = one.simulation_timeseries(ORIGIN + WINDOW_MS, ORIGIN + WINDOW_MS + 60_000)
    assert part["time_ms"].tolist() == [ORIGIN + WINDOW_MS + step for step in (0, 30_000, 60_000)]


def test_what_holds_first_is_what_the_files_say(site):
    one = site.orchestrator()
    assert one.load_initial_topology() == topology()
    assert one.load_initial_slo().energy.target_kwh == 2.0
    assert [version.row.source for version in site.ledger.topology_versions(NAME)] == ["topology.json"]
    write_topology(topology(9), site.topology)
    assert site.orchestrator().load_initial_topology() == topology(), "the first version is that of window 0"


@pytest.mark.parametrize(("name", "load"), [("topology", "load_initial_topology"), ("slo", "load_initial_slo")])
def test_a_file_that_never_was_good_is_refused_by_name(site, name, load):
    file = getattr(site, name)
    file.write_text("{")
    with pytest.raises(InputError, match=str(file)):
        getattr(site.orchestrator(), load)()
    assert site.ledger.datacenters() == []


def test_a_topology_may_come_as_a_message(site):
    bare = {NAME: DatacenterSettings(name=NAME)}
    one = site.started(datacenter=bare)
    announced = doc(timestamp=ORIGIN, topology=topology_json(topology(7), {}), source="operator")
    one.take(stream(TOPOLOGY, announced, key=NAME))
    assert feed(one, 0, 1) == 1
    assert [version.row.source for version in site.ledger.topology_versions(NAME)] == ["dc.topology"]
    assert next(site.ledger.windows(NAME)).metrics["hosts_up"] == 7.0


def test_nothing_is_simulated_without_a_topology(site):
    one = site.started(datacenter={NAME: DatacenterSettings(name=NAME)})
    with pytest.raises(InputError, match=r"a message on dc\.topology before the first task"):
        feed(one, 0, 1)
    assert site.ledger.last_window(NAME) is None


def test_a_second_orchestrator_of_a_datacenter_is_refused(site):
    first = site.started()
    with Ledger.open(site.folder / "ledger.sqlite") as other:
        made = site.orchestrator()
        made.ledger = other
        with pytest.raises(LedgerError, match=r"west is followed by process \d+ already"):
            made.start()
    assert len(site.told("lease_refused")) == 1
    assert feed(first, 0, 1) == 1


def test_an_edit_of_the_topology_holds_from_the_next_window_on(site):
    one = site.started()
    one.start_topology_watcher()
    (file,) = site.watchers.files
    feed(one, 0, 2)
    file.offer(as_file(topology(6)), str(site.topology))
    feed(one, 2, 5)
    hosts = [row.metrics["hosts_up"] for row in site.ledger.windows(NAME)]
    assert hosts == [4.0, 4.0, 4.0, 6.0, 6.0], "taken when window 2 closed, in force from window 3 on"
    assert [row.topology_version for row in site.ledger.windows(NAME)] == [1, 1, 1, 2, 2]
    assert one.state.read().current_topology["clusters"][0]["hosts"][0]["count"] == 6
    told = [json.loads(record.value)["version"] for record in site.sink.topics[SIM_TOPOLOGY]]
    assert told == [1, 2]


def test_an_edit_of_the_objectives_holds_from_the_next_window_on(site):
    one = site.started()
    one.start_slo_watcher()
    (file,) = site.watchers.files
    feed(one, 0, 1)
    file.offer(slo(0.5), str(site.slo))
    feed(one, 1, 4)
    assert [row.slo_version for row in site.ledger.windows(NAME)] == [1, 1, 2, 2]
    assert one.state.read().slo_targets["energy"]["target_kwh"] == 0.5


@pytest.mark.parametrize("broken", [b"{", b'{"clusters": []}', as_file(topology()).replace(b'"dc"', b'"other"')])
def test_a_broken_edit_changes_nothing_and_says_why(site, broken):
    one = site.started()
    one.start_topology_watcher()
    feed(one, 0, 1)
    site.watchers.files[0].offer(broken, str(site.topology))
    feed(one, 1, 4)
    assert [row.metrics["hosts_up"] for row in site.ledger.windows(NAME)] == [4.0] * 4
    (refused,) = site.told("topology_refused")
    assert refused.as_dict()["reason"]
    assert one.topology == topology()


def test_watchers_are_given_back(site):
    one = site.started()
    one.start_topology_watcher()
    one.start_slo_watcher()
    assert len(site.watchers.files) == 2
    one.stop("over")
    assert site.watchers.files == []


def test_a_setting_is_taken_and_what_is_none_is_refused(site):
    one = site.started()
    changes = [
        {"setting_key": "mode", "new_value": "advise"},
        {"setting_key": "mode", "new_value": "yolo"},
        {"setting_key": "window_s", "new_value": 60},
        {"setting_key": "proposal.accept", "new_value": "p-1"},
    ]
    settings = [doc(timestamp=ORIGIN + 1, source="a person", **change) for change in changes]
    one.take(stream(CONFIG, *settings, key=NAME))
    feed(one, 0, 2)
    reasons = [event.as_dict()["reason"] for event in site.told("setting_refused")]
    assert [reason.partition(", expected ")[0] for reason in reasons] == ["found 'p-1'", "found 'yolo'", "found 60"]
    assert "the id of a proposal that waits for a person" in reasons[0]
    assert one.state.read().mode == "advise"


@pytest.mark.parametrize("has_snapshot", [True, False])
def test_after_a_kill_the_same_is_derived_again(site, tmp_path, has_snapshot):
    (tmp_path / "other").mkdir()
    undisturbed = Site(tmp_path / "other")
    feed(undisturbed.started(), 0, 10)
    one = site.started()
    feed(one, 0, 8)
    one._snapshots.wait()
    one._stack.close()
    if not has_snapshot:
        for path in (site.folder / "state" / "snapshots" / NAME).iterdir():
            path.unlink()
    again = site.started()
    assert again.is_catching_up
    assert bool(site.told("snapshot_restored")) == has_snapshot
    assert bool(site.told("snapshot_rebuilt")) != has_snapshot
    assert again.state.read().cycle_count == (6 if has_snapshot else 0)
    assert resume(again, 10) == (4 if has_snapshot else 10)
    assert not again.is_catching_up
    assert site.export() == undisturbed.export()
    assert {result["window"] for result in site.results()} == set(range(10))
    assert again.state.read().energy_kwh == pytest.approx(
        sum(row.metrics["energy_kwh"] for row in site.ledger.windows(NAME))
    )
    series = again.simulation_timeseries()["time_ms"]
    assert series.tolist() == list(range(ORIGIN + 30_000, int(series[-1]) + 1, 30_000)), (
        "no window twice, none left out"
    )
    undisturbed.ledger.close()


def test_an_end_leaves_a_snapshot_of_the_last_window(site):
    one = site.started()
    feed(one, 0, 5)
    one.stop("over")
    again = site.started()
    assert not again.is_catching_up
    assert again.state.read().cycle_count == 5
    assert resume(again, 7) == 2
    assert [row.index for row in site.ledger.windows(NAME)] == list(range(7))


def test_streams_that_say_something_else_than_what_is_recorded_stop_the_process(site):
    one = site.started()
    feed(one, 0, 2)
    one._stack.close()
    again = site.started()
    for partition in MOMENT:
        again.assembler.note_end(partition)
    again.take(stream(WORKLOAD, *workload(2), key=NAME))
    again.take(stream(POWER, *readings(2, watts=481.0), key=NAME))
    with pytest.raises(LedgerError, match="window 0: is recorded with another content"):
        again.turn_windows()


def test_the_only_datacenter_of_the_settings_is_meant(site):
    assert site.orchestrator().datacenter == NAME
    two = {name: DatacenterSettings(name=name) for name in ("east", "west")}
    with pytest.raises(InputError, match="expected one of east, west"):
        site.orchestrator(datacenter=two)
