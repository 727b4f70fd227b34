"""What nodes hold, kept in step with the fleet's state change by change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opendt.model.fleet import Reading
from opendt.twin.fleet_view import FleetView, Hold, NodeLoad
from opendt.twin.state import FleetState, FleetUpdate, Readings
from tests.small_fleet import CLUSTERS, NODES, node, pod, snapshot


def loads(view):
    return {
        key: (one.cpu_millicores, one.memory_mib, one.count, sorted(one.pods), one.node)
        for key, one in view.loads.items()
    }


@pytest.fixture
def state():
    fleet = FleetState(clock_ms=lambda: 1_000_000)
    fleet.apply(
        *(
            FleetUpdate(one.name, state=one, nodes=tuple(each for each in NODES if each.cluster == one.name))
            for one in CLUSTERS
        )
    )
    return fleet


def test_it_follows_the_state_as_if_it_had_begun_anew(state):
    view = FleetView(state.snapshot())
    steps = [
        FleetUpdate("core", pods=(pod("core", "core-1", "a"), pod("core", "core-2", "b"))),
        FleetUpdate("core", pods=(pod("core", "core-1", "a", phase="Succeeded"), pod("core", "core-2", "b"))),
        FleetUpdate("home", pods=(pod("home", "later", "c"),)),  # its node is told of afterwards
        FleetUpdate("home", nodes=(node("home", "later"),)),
        FleetUpdate("core", gone_pods=(("opendt", "b"),)),
        FleetUpdate("edge", gone_nodes=("edge-1",)),
        FleetUpdate("edge", pods=(pod("edge", "edge-arm", "d"),), nodes=(replace(NODES[4], is_cordoned=True),)),
    ]
    for step in steps:
        state.apply(step)
        view.sync(state)
        assert loads(view) == loads(FleetView(state.snapshot()))
        assert view.snapshot.version == state.version


def test_a_state_that_has_forgotten_is_taken_anew():
    state = FleetState(clock_ms=lambda: 0, remembered=1)
    state.apply(FleetUpdate("core", nodes=NODES[:2]))
    view = FleetView(state.snapshot())
    for number in range(5):
        state.apply(FleetUpdate("core", pods=(pod("core", "core-1", f"p{number}"),)))
    view.sync(state)
    assert view.loads["core", "core-1"].cpu_millicores == 2500


def test_what_is_reserved_counts_until_its_pod_is_seen(state):
    view = FleetView(state.snapshot())
    view.reserve([Hold("plan", "a", "core", "core-1", 700, 64), Hold("plan", "b", "core", "core-2", 100, 64)])
    assert view.loads["core", "core-1"].cpu_millicores == 700
    state.apply(
        FleetUpdate("core", pods=(pod("core", "core-1", "x", cpu_millicores=650, plan_id="plan", stage_id="a"),))
    )
    view.sync(state)
    assert view.loads["core", "core-1"].cpu_millicores == 650
    assert [hold.stage_id for hold in view.holds] == ["b"]
    view.release("plan")
    assert view.loads["core", "core-2"].cpu_millicores == 0
    view.release("plan")  # nothing where there is nothing


def test_room_elsewhere_stays_reserved_while_another_pod_of_the_stage_changes(state):
    view = FleetView(state.snapshot())
    own = pod("core", "core-1", "x", cpu_millicores=650, plan_id="plan", stage_id="a", phase="Pending")
    state.apply(FleetUpdate("core", pods=(own,)))
    view.sync(state)
    view.reserve([Hold("plan", "a", "core", "core-2", 700, 64)])
    state.apply(FleetUpdate("core", pods=(replace(own, phase="Running", cpu_millicores=600),)))
    view.sync(state)
    assert view.loads["core", "core-2"].cpu_millicores == 700
    other = replace(own, name="y", uid="y", node="core-2", role="replica")
    state.apply(FleetUpdate("core", pods=(other,)))
    view.sync(state)
    assert (view.loads["core", "core-2"].cpu_millicores, list(view.holds)) == (650, [])


def test_reserving_a_stage_again_moves_it():
    view = FleetView(snapshot())
    view.reserve([Hold("plan", "a", "core", "core-1", 700, 64)])
    view.reserve([Hold("plan", "a", "core", "core-2", 700, 64)])
    assert view.loads["core", "core-1"].cpu_millicores == 0
    assert view.loads["core", "core-2"].cpu_millicores == 700


def test_shares_of_devices_are_packed():
    pods = (
        pod("core", "core-gpu", "a", gpu=1, gpu_millis=300, scheduled_ms=1),
        pod("core", "core-gpu", "b", gpu=1, gpu_millis=1000, scheduled_ms=2),
        pod("core", "core-gpu", "c", gpu=1, gpu_millis=500, scheduled_ms=3),
    )
    view = FleetView(snapshot(pods=pods))
    assert view.loads["core", "core-gpu"].device_free_millis() == [200, 0]


def test_listeners_hear_which_nodes_changed(state):
    view = FleetView(state.snapshot())
    told = []
    view.listen(told.append)
    state.apply(FleetUpdate("core", pods=(pod("core", "core-1"),)))
    view.sync(state)
    assert told == [("core", "core-1")]


def test_readings_are_taken_over_and_are_no_news(state):
    state.apply(FleetUpdate("core", pods=(pod("core", "core-1"),)))
    view = FleetView(state.snapshot())
    told = []
    view.listen(told.append)
    reading = Reading(250.0, 999_000)
    readings = Readings(cpu_usage_millicores=reading)
    state.apply(FleetUpdate("core", node_readings={"core-1": readings}, pod_readings={("opendt", "p"): readings}))
    view.sync(state)
    load = view.loads["core", "core-1"]
    assert load.node.cpu_usage_millicores == reading
    assert load.pods["core", "opendt", "p"].cpu_usage_millicores == reading
    assert told == []
    state.apply(FleetUpdate("core", nodes=(replace(NODES[0], is_cordoned=True),)))
    view.sync(state)
    assert told == [("core", "core-1")]


def test_a_cluster_that_was_seen_again_is_no_news_and_one_that_is_away_is(state):
    view = FleetView(state.snapshot())
    told = []
    view.listen(told.append)
    state.apply(FleetUpdate("core", state=replace(CLUSTERS[0], last_seen_ms=5)))
    view.sync(state)
    assert (told, view.snapshot.clusters["core"].last_seen_ms) == ([], 5)
    state.apply(FleetUpdate("core", state=replace(CLUSTERS[0], is_reachable=False)))
    view.sync(state)
    assert told == [None]


def test_what_comes_while_it_looks_is_seen_the_next_time(state, monkeypatch):
    view = FleetView(state.snapshot())
    state.apply(FleetUpdate("core", pods=(pod("core", "core-1", "a"),)))
    later = FleetUpdate("core", pods=(pod("core", "core-1", "b"),))
    look = state.snapshot

    def look_late():
        monkeypatch.undo()
        state.apply(later)
        return look()

    monkeypatch.setattr(state, "snapshot", look_late)
    view.sync(state)
    view.sync(state)
    assert loads(view) == loads(FleetView(state.snapshot()))
    assert view.loads["core", "core-1"].cpu_millicores == 1000


@pytest.mark.parametrize(
    ("shares", "free"),
    [
        ((300, 500), [200, 1000]),
        ((300, 300, 700, 700), [0, 0]),  # they came as 300, 700, 300, 700: by name the second 700 would find no room
        ((600, 600, 600), [0, 0]),  # more than there is: somebody else's pods
    ],
)
def test_no_pod_on_a_gpu_is_forgotten_whatever_order_they_came_in(shares, free):
    load = NodeLoad(node("core", "g", gpu=2))
    for number, millis in enumerate(shares):
        one = pod("core", "g", f"p{number}", gpu=1, gpu_millis=millis)
        load.pods["core", "opendt", one.name] = one
    assert load.device_free_millis() == free
