"""The fleet as last seen: whole versions for readers who never wait, and what changed for those who keep an index."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.model.fleet import ClusterState, LatencyMatrix, NodeState, PodState, Reading
from opendt.twin.state import FleetState, FleetUpdate, Readings


def node(name, cluster="a", **more):
    known = {"arch": "amd64", "exec_formats": ("native",), "cpu_millicores": 4000, "memory_mib": 8192, "gpu": 0}
    power = {"gpu_memory_mib": 0, "gpu_model": "", "core_speed_mhz": 2000.0, "idle_w": 10.0, "max_w": 50.0}
    return NodeState(cluster=cluster, name=name, **{**known, **power, **more})


def pod(name, cluster="a", **more):
    known = {"namespace": "opendt", "uid": f"u-{name}", "node": "n1", "phase": "Running"}
    return PodState(cluster=cluster, name=name, **{**known, "cpu_millicores": 100, "memory_mib": 64, **more})


def fleet(**more):
    return FleetState(clock_ms=itertools.count(1000).__next__, **more)


def test_a_version_is_whole_and_stays_as_it_was():
    state = fleet()
    state.apply(FleetUpdate("a", nodes=(node("n1"),), pods=(pod("p1"),), state=ClusterState("a")))
    before = state.snapshot()
    state.apply(FleetUpdate("a", nodes=(node("n2"),), pods=(pod("p1", phase="Succeeded"),), gone_nodes=("n1",)))
    after = state.snapshot()
    assert (set(before.nodes), before.pods["a", "opendt", "p1"].phase) == ({("a", "n1")}, "Running")
    assert (set(after.nodes), after.pods["a", "opendt", "p1"].phase) == ({("a", "n2")}, "Succeeded")
    assert (before.version, after.version) == (1, 2)
    assert after.time_ms > before.time_ms
    with pytest.raises(TypeError):
        before.nodes["a", "n9"] = node("n9")


def test_what_repeats_what_is_known_is_no_version():
    state = fleet()
    state.apply(FleetUpdate("a", nodes=(node("n1"),)))
    seen = state.snapshot()
    assert state.apply(FleetUpdate("a", nodes=(node("n1"),), gone_pods=(("opendt", "unknown"),))) == 1
    assert state.snapshot().nodes is seen.nodes


def test_a_whole_list_drops_what_is_not_in_it_of_its_own_cluster_only():
    state = fleet()
    state.apply(
        FleetUpdate("a", nodes=(node("n1"), node("n2")), pods=(pod("p1"), pod("p2"))),
        FleetUpdate("b", nodes=(node("n1", "b"),), pods=(pod("p1", "b"),)),
    )
    state.apply(FleetUpdate("a", nodes=(node("n2"),), has_all_nodes=True, has_all_pods=True))
    seen = state.snapshot()
    assert set(seen.nodes) == {("a", "n2"), ("b", "n1")}
    assert set(seen.pods) == {("b", "opendt", "p1")}


def test_readings_stay_when_the_object_changes_and_older_ones_do_not_come_back():
    state = fleet()
    state.apply(FleetUpdate("a", nodes=(node("n1"),), pods=(pod("p1"),)))
    newer, older = Reading(900.0, 2000), Reading(100.0, 1000)
    for reading in (newer, older):
        update = Readings(cpu_usage_millicores=reading, memory_usage_mib=reading)
        state.apply(FleetUpdate("a", node_readings={"n1": update}, pod_readings={("opendt", "p1"): update}))
    state.apply(FleetUpdate("a", nodes=(node("n1", is_cordoned=True),), pods=(pod("p1", resource_version="9"),)))
    assert state.node("a", "n1").cpu_usage_millicores == newer
    assert state.node("a", "n1").is_cordoned
    assert state.pod("a", "opendt", "p1").memory_usage_mib == newer
    assert newer.age_ms(2500) == 500


def test_the_memory_peak_is_the_greatest_reading_until_the_worker_says_its_own():
    state = fleet()
    state.apply(FleetUpdate("a", pods=(pod("p1"),)))
    for time_ms, value in enumerate((50.0, 80.0, 30.0)):
        reading = Readings(memory_usage_mib=Reading(value, time_ms), cpu_seconds=float(time_ms))
        state.apply(FleetUpdate("a", pod_readings={("opendt", "p1"): reading}))
    assert state.pod("a", "opendt", "p1").memory_peak_mib == 80.0
    assert state.pod("a", "opendt", "p1").cpu_seconds == 2.0
    done = pod("p1", phase="Succeeded", finished_ms=5, memory_peak_mib=81.5, cpu_seconds=2.5)
    state.apply(FleetUpdate("a", pods=(done,)))
    late = Readings(memory_usage_mib=Reading(99.0, 9), cpu_seconds=9.0)
    state.apply(FleetUpdate("a", pod_readings={("opendt", "p1"): late}))
    seen = state.pod("a", "opendt", "p1")
    assert (seen.memory_peak_mib, seen.cpu_seconds) == (81.5, 2.5)


def test_a_pod_of_the_same_name_begins_anew():
    state = fleet()
    state.apply(FleetUpdate("a", pods=(replace(pod("p1"), cpu_seconds=7.0),)))
    state.apply(FleetUpdate("a", pods=(pod("p1", uid="another"),)))
    assert state.pod("a", "opendt", "p1").cpu_seconds is None


def test_readings_of_what_is_not_known_are_dropped():
    state = fleet()
    reading = Readings(cpu_usage_millicores=Reading(1.0, 1))
    assert state.apply(FleetUpdate("a", node_readings={"n1": reading}, pod_readings={("x", "y"): reading})) == 0


def test_links_and_origins_are_part_of_a_version():
    state = fleet()
    state.set_latency(LatencyMatrix({("a", "b"): 35.0}))
    state.set_job_origins({"j1": "a", "j2": "b"})
    state.forget_jobs(["j1"])
    seen = state.snapshot()
    assert seen.version == 3
    assert seen.latency.between("a", "b") == 35.0
    assert dict(seen.job_origins) == {"j2": "b"}


def test_what_is_forgotten_is_said():
    state = fleet(remembered=5)
    for number in range(10):
        state.apply(FleetUpdate("a", nodes=(node(f"n{number}"),)))
    assert not state.changes_since(0).is_complete
    assert state.changes_since(0).version == 10
    recent = state.changes_since(9)
    assert recent.is_complete
    assert [after.name for _, after in recent.nodes] == ["n9"]
    assert state.changes_since(10).nodes == ()
    with pytest.raises(ValueError, match="found 11, expected at most 10"):
        state.changes_since(11)


STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=3),
        st.lists(st.integers(0, 5), max_size=2),
        st.booleans(),
    ),
    max_size=20,
)


@given(STEPS, st.integers(1, 5))
def test_an_index_kept_by_changes_equals_the_snapshot(steps, every):
    state = fleet()
    index, version = {}, 0
    for turn, (cluster, changed, gone, is_all) in enumerate(steps):
        pods = tuple({f"p{name}": pod(f"p{name}", cluster, resource_version=str(rv)) for name, rv in changed}.values())
        names = {each.name for each in pods}
        dropped = tuple(("opendt", f"p{name}") for name in gone if f"p{name}" not in names)
        state.apply(FleetUpdate(cluster, pods=pods, gone_pods=dropped, has_all_pods=is_all))
        if turn % every == 0 or turn == len(steps) - 1:
            changes = state.changes_since(version)
            version = changes.version
            for before, after in changes.pods:
                one = after or before
                key = (one.cluster, one.namespace, one.name)
                assert index.get(key) == before
                index[key] = after
                if after is None:
                    del index[key]
    assert index == dict(state.snapshot().pods)


def test_readers_do_not_wait_while_somebody_writes():
    state = fleet()
    state.apply(FleetUpdate("a", nodes=(node("n1"),)))
    seen = []
    with state._writing:  # a writer that takes forever
        reader = threading.Thread(target=lambda: seen.append((state.snapshot(), state.changes_since(0))))
        reader.start()
        reader.join(30)
        assert not reader.is_alive()
    assert seen[0][0].version == seen[0][1].version == 1


def test_readers_see_each_version_whole_while_writers_write():
    """Every batch stamps all pods of its cluster alike, so a torn version would show two stamps in one cluster."""
    state = fleet()
    rounds, size = 300, 20
    broken, stop = [], threading.Event()

    def write(cluster):
        for stamp in range(rounds):
            state.apply(
                FleetUpdate(cluster, pods=tuple(pod(f"p{n}", cluster, stamp_ms=stamp) for n in range(size))),
            )

    def read():
        last, index, version = 0, {}, 0
        while not stop.is_set():
            seen = state.snapshot()
            stamps = {cluster: set() for cluster in "abc"}
            for key, each in seen.pods.items():
                stamps[key[0]].add(each.stamp_ms)
            changes = state.changes_since(version)
            version = changes.version
            for _, after in changes.pods:
                index[after.cluster, after.name] = after.stamp_ms
            counts = {cluster: len({s for (c, _), s in index.items() if c == cluster}) for cluster in "abc"}
            if seen.version < last or max(map(len, stamps.values())) > 1 or max(counts.values()) > 1:
                broken.append((seen.version, stamps, counts))
            last = seen.version

    writers = [threading.Thread(target=write, args=(cluster,)) for cluster in "abc"]
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert broken == []
    assert state.version == 3 * rounds
    assert {each.stamp_ms for each in state.snapshot().pods.values()} == {rounds - 1}
