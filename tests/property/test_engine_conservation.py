"""Nothing is lost: neither tasks nor joules."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.property.engine_systems import ALLOCATIONS, FAIR, systems


def check_counts(simulation) -> None:
    counts = simulation.counts
    blocked = simulation.tasks()["state"].count("blocked")
    where = [counts[name] for name in ("pending", "active", "completed", "terminated")]
    assert counts["submitted"] == sum(where) + blocked
    assert len(simulation.tasks()["id"]) == counts["pending"] + counts["active"] + blocked


@given(systems(), st.lists(st.integers(0, 20_000), min_size=1, max_size=6).map(sorted))
def test_no_task_is_lost(system, moments):
    simulation = system.start()
    ended = []
    for moment in moments:
        simulation.advance(moment)
        check_counts(simulation)
        ended += simulation.take_results()["id"].tolist()
    simulation.run()
    check_counts(simulation)
    ended += simulation.take_results()["id"].tolist()
    assert sorted(ended) == [task["id"] for task in system.tasks]
    assert simulation.is_done
    assert simulation.counts["completed"] + simulation.counts["terminated"] == len(system.tasks)


@given(systems(sharings=FAIR, idle=False))
def test_energy_of_tasks_equals_the_meter_where_idle_hosts_draw_nothing(system):
    simulation = system.start()
    simulation.run()
    attributed = simulation.take_results()["energy_j"].sum()
    assert attributed == pytest.approx(simulation.hosts()["energy_j"].sum(), rel=1e-9, abs=1e-9)


@given(systems(sharings=FAIR, failures=False))
def test_energy_of_tasks_and_of_idle_hosts_equals_the_meter(system):
    simulation = system.start()
    simulation.run()
    results, hosts = simulation.take_results(), simulation.hosts()
    groups = {group.name: group for cluster in system.topology.clusters for group in cluster.hosts}
    idle_j = 0.0
    for number, name in enumerate(hosts["group"]):
        group = groups[name]
        rest_w = group.power_model.idle_w + (group.gpu.count * group.gpu.power_model.idle_w if group.gpu else 0.0)
        on_it = (results["host"] == number) & results["completed"]
        spans = sorted(zip(results["started_ms"][on_it], results["finished_ms"][on_it], strict=True))
        borders = [0, *(time for span in merged(spans) for time in span), simulation.now_ms]
        idle_ms = sum(end - start for start, end in list(pairwise(borders))[::2])
        idle_j += rest_w * idle_ms / 1000
    assert results["energy_j"].sum() + idle_j == pytest.approx(hosts["energy_j"].sum(), rel=1e-9)


def merged(spans):
    union = []
    for start, end in spans:
        if union and start <= union[-1][1]:
            union[-1][1] = max(union[-1][1], end)
        else:
            union.append([start, end])
    return union


@given(systems(batteries=False))
def test_energy_of_hosts_equals_that_of_their_cluster(system):
    simulation = system.start()
    simulation.run()
    hosts = simulation.hosts()
    series = simulation.take_series()
    for index, cluster in enumerate(system.topology.clusters):
        mine = np.array([name == cluster.name for name in hosts["cluster"]])
        assert series["energy_j"][-1, index] <= hosts["energy_j"][mine].sum() * (1 + 1e-9)
    assert simulation.energy_j == pytest.approx(hosts["energy_j"].sum(), rel=1e-12)
    assert simulation.power_w == pytest.approx(hosts["power_w"].sum(), rel=1e-12)


@given(systems())
def test_a_battery_neither_makes_nor_loses_energy(system):
    """Grid energy = load + what is stored now - what was stored at first, up to the millisecond of overshoot."""
    simulation = system.start()
    simulation.run()
    load_j = simulation.hosts()["energy_j"].sum()
    batteries = [cluster.battery for cluster in system.topology.clusters if cluster.battery is not None]
    stored_j = sum(battery.initial_charge_kwh for battery in batteries) * 3.6e6
    room_j = sum(battery.capacity_kwh - battery.initial_charge_kwh for battery in batteries) * 3.6e6
    overshoot_j = len(batteries) * 0.001 * 5000 + 1e-9 * load_j
    assert load_j - stored_j - overshoot_j <= simulation.energy_j <= load_j + room_j + overshoot_j


@given(systems(allocations=ALLOCATIONS[:2], failures=False))
def test_work_is_conserved_where_the_policy_says_so(system):
    """Under Perfect each task gets its demand x duration, down to a millisecond of supply a fragment."""
    system.options = system.options.model_copy(update={"scaling_policy": "perfect", "checkpoint": None})
    simulation = system.start()
    simulation.run()
    results = simulation.take_results()
    most_mhz = max(group.capacity_mhz for cluster in system.topology.clusters for group in cluster.hosts)
    by_id = {task["id"]: task for task in system.tasks}
    sharings = {group.cpu_sharing.type for cluster in system.topology.clusters for group in cluster.hosts}
    for row in np.flatnonzero(results["completed"]):
        task = by_id[int(results["id"][row])]
        if any(piece[2] for piece in task["fragments"]) or sharings & {"equal_share", "fixed_share"}:
            continue  # the slower of two resources sets the time
        work = sum(round(piece[0] * task["slowdown"]) * piece[1] for piece in task["fragments"])
        lost = most_mhz * 2 * len(task["fragments"]) * 2
        assert abs(results["supplied_mhz_ms"][row] - work) <= lost


@given(systems())
def test_samples_rise_and_lie_on_the_grid(system):
    simulation = system.start()
    simulation.run()
    series = simulation.take_series()
    assert (np.diff(series["time_ms"]) >= 0).all()
    on_grid = series["time_ms"] % system.sample_interval_ms == 0
    assert on_grid[:-2].all()
    assert (np.diff(series["energy_j"], axis=0) >= -1e-9).all()
    assert (np.diff(series["emission_g"], axis=0) >= -1e-9).all()
