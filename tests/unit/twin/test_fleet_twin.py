"""The twin of a plan's nodes: what waits, what contends, what travels, and that it equals the twin of the whole fleet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from opendt.model.errors import ModelError
from opendt.model.fleet import Reading
from opendt.twin.fleet_sim import SimulatedStage, SubTwin
from opendt.twin.fleet_view import FleetView, Hold
from tests.small_fleet import NODES, NOW_MS, node, pod, snapshot


def simulated(on, millicores=1000, run_ms=5000.0, **values):
    return SimulatedStage(
        node=on, cpu_millicores=millicores, memory_mib=128, startup_ms=1000.0, run_ms=run_ms, **values
    )


def test_a_stage_starts_and_runs():
    twin = SubTwin(FleetView(snapshot()), [("core", "core-1")])
    (times,) = twin.run([simulated(("core", "core-1"), delay_ms=20.0)])
    assert (times.admitted_ms, times.finish_ms) == (20, 6020)


def test_output_travels_by_latency_and_size():
    twin = SubTwin(FleetView(snapshot()), [("core", "core-1"), ("edge", "edge-1")])
    chain = [simulated(("core", "core-1")), simulated(("edge", "edge-1"), needs=(0,), sends_mb=(10.0,))]
    first, second = twin.run(chain)
    # Half of 30 ms and 10 MB at 100 MB/s.
    assert second.finish_ms - first.finish_ms == 115 + 6000


def test_data_from_elsewhere_is_fetched_beside_what_the_parents_send():
    twin = SubTwin(FleetView(snapshot()), [("core", "core-1"), ("edge", "edge-1")])
    late = simulated(("edge", "edge-1"), needs=(0,), sends_mb=(10.0,), delay_ms=700.0)
    first, second = twin.run([simulated(("core", "core-1")), late])
    assert second.finish_ms - first.finish_ms == 700 + 6000


def test_a_stage_waits_until_a_pod_that_is_known_to_end_has_ended():
    full = (pod("core", "core-1", cpu_millicores=3500),)
    twin = SubTwin(FleetView(snapshot(pods=full)), [("core", "core-1")], lambda _: 4000.0)
    (times,) = twin.run([simulated(("core", "core-1"))])
    assert times.finish_ms == pytest.approx(4000 + 6000, abs=3)


def test_use_beyond_requests_slows_a_stage_down():
    busy = node("core", "core-1", cpu_usage_millicores=Reading(3600.0, NOW_MS))
    view = FleetView(snapshot(nodes=(busy,)))
    (times,) = SubTwin(view, [("core", "core-1")]).run([simulated(("core", "core-1"), 2000)])
    # 4000 of which others demand 3600: each gets at most half.
    assert times.finish_ms == pytest.approx(1000 + 5000, abs=3)
    (times,) = SubTwin(view, [("core", "core-1")]).run([simulated(("core", "core-1"), 4000)])
    assert times.finish_ms == pytest.approx(1000 + 2 * 5000, abs=3)


@pytest.mark.parametrize("how", ["ended", "deleted", "starting"])
def test_who_has_just_gone_or_come_is_not_taken_for_the_system(how):
    busy = node("core", "core-1", cpu_usage_millicores=Reading(2000.0, NOW_MS))
    one = pod("core", "core-1", cpu_millicores=2000, scheduled_ms=NOW_MS - 30_000, started_ms=NOW_MS - 30_000)
    if how == "ended":
        view = FleetView(snapshot((busy,), (replace(one, phase="Succeeded", finished_ms=NOW_MS - 5_000),)))
    elif how == "deleted":
        view = FleetView(snapshot((busy,), (one,)))
        view.apply(snapshot((busy,)), pods=[(one, None)])
    else:
        view = FleetView(snapshot((busy,), (replace(one, phase="Pending", started_ms=-1),)))
    (times,) = SubTwin(view, [("core", "core-1")]).run([simulated(("core", "core-1"), 2000)])
    assert times.finish_ms == 6000


@pytest.mark.parametrize(
    ("came_ms", "ended_ms", "finish_ms"),
    [(-30_000, -1, 6000), (5_000, 10_000, 11_000)],
    ids=["nobody says when it ended", "it came after the reading"],
)
def test_only_who_may_be_in_a_reading_explains_it(came_ms, ended_ms, finish_ms):
    busy = node("core", "core-1", cpu_usage_millicores=Reading(2000.0, NOW_MS - 20_000))
    one = pod("core", "core-1", cpu_millicores=2000, scheduled_ms=NOW_MS - 20_000 + came_ms, started_ms=-1)
    over = replace(one, phase="Failed", finished_ms=-1 if ended_ms < 0 else NOW_MS - 20_000 + ended_ms)
    view = FleetView(snapshot((busy,), (one,)))
    view.apply(snapshot((busy,), (over,)), pods=[(one, over)])
    (times,) = SubTwin(view, [("core", "core-1")]).run([simulated(("core", "core-1"), 4000)])
    assert times.finish_ms == pytest.approx(finish_ms, abs=3)


def test_what_left_is_forgotten_though_no_readings_come():
    view = FleetView(snapshot((node("core", "core-1", cpu_usage_millicores=Reading(10.0, 0)),)))
    for number in range(200):
        one = pod("core", "core-1", f"p{number}")
        now = replace(view.snapshot, time_ms=NOW_MS + 10_000 * number)
        view.apply(now, pods=[(None, one)])
        view.apply(now, pods=[(one, None)])
    assert len(view.loads["core", "core-1"].left) <= 13


def test_the_system_takes_what_is_reserved_for_it_from_nobody():
    busy = node("core", "core-1", reserved_millicores=500, cpu_usage_millicores=Reading(500.0, NOW_MS))
    (times,) = SubTwin(FleetView(snapshot((busy,))), [("core", "core-1")]).run([simulated(("core", "core-1"), 4000)])
    assert times.finish_ms == 6000


def test_who_left_before_a_reading_explains_nothing_of_it():
    busy = node("core", "core-1", cpu_usage_millicores=Reading(2000.0, NOW_MS))
    one = pod("core", "core-1", phase="Succeeded", cpu_millicores=2000, finished_ms=NOW_MS - 90_000)
    twin = SubTwin(FleetView(snapshot((busy,), (one,))), [("core", "core-1")])
    (times,) = twin.run([simulated(("core", "core-1"), 4000)])
    assert times.finish_ms == pytest.approx(1000 + 2 * 5000, abs=3)


def test_stale_use_is_not_believed():
    busy = node("core", "core-1", cpu_usage_millicores=Reading(3600.0, NOW_MS - 3_600_000))
    (times,) = SubTwin(FleetView(snapshot(nodes=(busy,))), [("core", "core-1")]).run(
        [simulated(("core", "core-1"), 4000)]
    )
    assert times.finish_ms == 6000


def test_what_is_reserved_is_not_free():
    view = FleetView(snapshot())
    view.reserve([Hold("other", "a", "core", "core-1", 3500, 100)])
    (times,) = SubTwin(view, [("core", "core-1")]).run([simulated(("core", "core-1"))])
    assert times.admitted_ms > 3_600_000


def test_a_stage_larger_than_its_node_is_refused():
    twin = SubTwin(FleetView(snapshot()), [("home", "home-1")])
    with pytest.raises(ModelError, match="found 3000 millicores and 128 MiB, expected at most its 2000 and 8192"):
        twin.run([simulated(("home", "home-1"), 3000)])
    with pytest.raises(ModelError, match="a node of the fleet as last seen"):
        SubTwin(FleetView(snapshot()), [("home", "nowhere")])


@pytest.mark.parametrize("seed", range(8))
def test_the_twin_of_some_nodes_equals_the_twin_of_all(seed):
    rng = np.random.default_rng(seed)
    pods = tuple(
        pod(
            one.cluster,
            one.name,
            f"p{number}",
            cpu_millicores=int(rng.integers(100, 900)),
            phase="Running" if rng.random() < 0.8 else "Pending",
            scheduled_ms=NOW_MS - int(rng.integers(0, 9000)),
        )
        for one in NODES
        for number in range(int(rng.integers(0, 6)))
    )
    view = FleetView(snapshot(pods=pods))
    left = {one.uid: float(rng.integers(100, 20_000)) for one in pods}
    stages = []
    for number in range(5):
        place = NODES[int(rng.integers(0, 3))]
        needs = tuple(int(need) for need in range(number) if rng.random() < 0.5)
        stages.append(
            simulated(
                (place.cluster, place.name),
                int(rng.integers(200, 2000)),
                float(rng.integers(100, 9000)),
                needs=needs,
                sends_mb=tuple(float(rng.integers(0, 40)) for _ in needs),
                delay_ms=float(rng.integers(0, 300)),
            )
        )
    touched = [one.node for one in stages]
    whole = SubTwin(view, view.loads, lambda one: left[one.uid])
    some = SubTwin(view, touched, lambda one: left[one.uid])
    assert some.run(stages) == whole.run(stages)
    assert some.run(stages) == some.run(stages)  # a fork each; the twin stays as it was
