"""The live twin follows what is known, stands in the present on guesses, and lets the engine use what was learned."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest

from opendt.engine.simulation import Simulation
from opendt.model.change import GroupHosts, RemoveHosts
from opendt.model.errors import EngineError
from opendt.model.power import LinearPower
from opendt.model.tasks import workload_from_tasks
from opendt.model.topology import Cluster, HostGroup, Topology
from opendt.twin.arrivals import Tasks, Work, tasks_from_columns
from opendt.twin.curve import KNOTS
from opendt.twin.live import LiveTwin, Observed, host_classes

if TYPE_CHECKING:
    from opendt.model.workload import Workload

WINDOW_MS = 300_000


def topology() -> Topology:
    groups = (
        HostGroup(
            name="small",
            count=3,
            core_count=4,
            core_speed_mhz=1000.0,
            memory_mib=1000,
            power_model=LinearPower(idle_w=50.0, max_w=90.0),
        ),
        HostGroup(
            name="large",
            count=2,
            core_count=8,
            core_speed_mhz=1000.0,
            memory_mib=1000,
            power_model=LinearPower(idle_w=100.0, max_w=200.0),
        ),
    )
    return Topology(clusters=(Cluster(name="dc", hosts=groups),))


def workload(*, is_graph: bool = False) -> Workload:
    """Tasks of which some overlap; in a graph, a third waits for one of the same window and one of an earlier window."""
    return workload_from_tasks(
        {
            "id": i,
            "submission_ms": 45_000 * i,
            "cpu_count": 4,
            "fragments": [(60_000, 500.0 * (1 + (i + j) % 7)) for j in range(1 + i % 9)],
        }
        | ({"parents": [i - 9, i - 1]} if is_graph and i >= 9 and i % 3 == 0 else {})
        for i in range(40)
    )


def arrivals(workload: Workload, start_ms: int, end_ms: int) -> tuple[Tasks | None, Work]:
    """What a window tells of a workload whose first task comes at time 0: requests, and fragments that ended."""
    offset = workload.fragment_offset.astype(np.int64)
    chosen = np.flatnonzero(
        ((workload.submission_ms > start_ms) | (start_ms == 0)) & (workload.submission_ms <= end_ms)
    )
    names = ("submission_ms", "cpu_count")
    columns = {name: getattr(workload, name)[chosen] for name in names}
    edges = np.arange(len(offset)) * 0 if workload.parent_offset is None else workload.parent_offset
    targets = np.empty(0, int) if workload.parents is None else workload.parents
    parents = [[str(workload.ids[parent]) for parent in targets[edges[i] : edges[i + 1]]] for i in chosen]
    tasks = tasks_from_columns([str(workload.ids[i]) for i in chosen], columns, parents) if len(chosen) else None
    ids, borders, picked, closed = [], [0], [], []
    for task in range(len(offset) - 1):
        part = np.arange(offset[task], offset[task + 1])
        ends = workload.submission_ms[task] + np.cumsum(workload.fragment_duration_ms[part].astype(np.int64))
        ended = part[(ends > start_ms) & (ends <= end_ms)]
        if len(ended):
            ids.append(str(workload.ids[task]))
            picked.extend(ended)
            borders.append(len(picked))
            closed.append(ended[-1] == part[-1])
    work = Work(
        ids=tuple(ids),
        offset=np.array(borders, np.uint32),
        duration_ms=workload.fragment_duration_ms[picked].astype(np.uint32),
        cpu_mhz=workload.fragment_cpu_mhz[picked].astype(float),
        closed=np.array(closed, np.bool_),
    )
    return tasks, work


def follow(twin: LiveTwin, workload: Workload, windows: range) -> list[Observed]:
    observed = []
    for index in windows:
        tasks, work = arrivals(workload, index * WINDOW_MS, (index + 1) * WINDOW_MS)
        if tasks is not None:
            twin.submit(tasks)
        assert twin.feed(work) == 0
        observed += twin.confirm((index + 1) * WINDOW_MS)
    return observed


def new_twin(**settings: int) -> LiveTwin:
    return LiveTwin(topology(), start_epoch_ms=int(workload().submission_ms[0]), **settings)


def whole(*, is_graph: bool = False) -> Simulation:
    simulation = Simulation(topology(), sample_interval_ms=30_000, settled=True, with_basis=True)
    simulation.submit(workload(is_graph=is_graph))
    return simulation


@pytest.mark.parametrize("is_graph", [False, True])
def test_windows_add_up_to_one_simulation(is_graph: bool) -> None:
    twin = new_twin()
    observed = follow(twin, workload(is_graph=is_graph), range(12))
    assert [one.end_ms for one in observed] == list(range(WINDOW_MS, observed[-1].end_ms + 1, WINDOW_MS))
    simulation = whole(is_graph=is_graph)
    simulation.advance(observed[-1].end_ms)
    series = simulation.take_series()
    for name in ("time_ms", "power_w", "basis", "tasks_active"):
        assert np.array_equal(np.concatenate([one.series[name] for one in observed]), series[name]), name
    energy_j = sum(one.end.energy_j - one.start.energy_j for one in observed)
    assert energy_j == pytest.approx(simulation.energy_j)
    ends = [end for one in observed for end in one.results["finished_ms"].tolist()]
    assert ends == simulation.take_results()["finished_ms"].tolist()


def test_a_task_waits_for_a_parent_that_came_windows_before() -> None:
    tasks = [
        {"id": 1, "cpu_count": 1, "fragments": [(4 * WINDOW_MS - 100_000, 500.0)]},
        {"id": 2, "cpu_count": 1, "submission_ms": WINDOW_MS + 1, "fragments": [(60_000, 700.0)], "parents": [1]},
        {
            "id": 3,
            "cpu_count": 1,
            "submission_ms": 4 * WINDOW_MS + 1_000,
            "fragments": [(60_000, 900.0)],
            "parents": [1],
        },
    ]
    observed = follow(LiveTwin(topology(), start_epoch_ms=0), workload_from_tasks(tasks), range(6))
    results = [one.results for one in observed]
    started = {name: time for one in results for name, time in zip(one["id"], one["started_ms"], strict=True)}
    assert started == {"1": 0, "2": 4 * WINDOW_MS - 100_000, "3": 4 * WINDOW_MS + 1_000}  # 3 came when 1 had ended


def test_a_restored_twin_still_knows_who_waits() -> None:
    twin = new_twin()
    follow(twin, workload(is_graph=True), range(3))
    copy = pickle.loads(pickle.dumps(twin))
    ends = [[one.end.energy_j for one in follow(any_, workload(is_graph=True), range(3, 12))] for any_ in (twin, copy)]
    assert ends[0] == ends[1]


def test_it_is_known_as_far_as_the_fragments_that_run_have_ended() -> None:
    task = {"id": 1, "cpu_count": 1, "fragments": [(100_000, 500.0), (300_000, 800.0)]}
    one = workload_from_tasks([task])
    twin = LiveTwin(topology(), start_epoch_ms=0)
    assert follow(twin, one, range(1)) == []
    assert twin.now_ms == 100_000 - 1
    known = twin.rows_since(0)
    assert known.time_ms.tolist() == [30_000, 60_000, 90_000]
    present = twin.present(WINDOW_MS)
    assert present.unknown.time_ms.tolist() == list(range(120_000, WINDOW_MS + 1, 30_000))
    assert present.window.series["demand_mhz"][:, 0].tolist() == [500.0] * 10  # held
    first, _ = follow(twin, one, range(1, 2))
    assert first.series["demand_mhz"][:, 0].tolist() == [500.0] * 3 + [800.0] * 7
    assert twin.now_ms == 2 * WINDOW_MS


def test_a_window_is_whole_in_the_present_wherever_the_twin_stands() -> None:
    task = {"id": 1, "cpu_count": 1, "fragments": [(20_000, 500.0), (3 * WINDOW_MS, 800.0)]}
    twin = LiveTwin(topology(), start_epoch_ms=0)
    for index in range(3):
        follow(twin, workload_from_tasks([task]), range(index, index + 1))
        window = twin.present((index + 1) * WINDOW_MS).window
        assert (window.start_ms, window.end_ms) == (index * WINDOW_MS, (index + 1) * WINDOW_MS)
        assert window.load.time_ms.tolist() == list(range(window.start_ms + 30_000, window.end_ms + 1, 30_000))
        assert window.end.energy_j - window.start.energy_j == pytest.approx((3 * 50 + 2 * 100 + 5.0) * 300)


def test_patience_ends_with_a_task_that_tells_nothing() -> None:
    task = {"id": 1, "cpu_count": 1, "fragments": [(20_000, 500.0), (9 * WINDOW_MS, 800.0)]}
    twin = LiveTwin(topology(), start_epoch_ms=0, patience_ms=2 * WINDOW_MS)
    observed = follow(twin, workload_from_tasks([task]), range(4))
    assert [one.end_ms for one in observed] == [WINDOW_MS, 2 * WINDOW_MS, 3 * WINDOW_MS, 4 * WINDOW_MS]
    assert twin.simulation.held_since_ms is None  # the guess is the truth by now


def test_what_is_told_of_tasks_that_are_not_there_is_counted() -> None:
    twin = new_twin()
    _, work = arrivals(workload(), 0, WINDOW_MS)
    assert twin.feed(work) == len(work.ids)


def test_features_price_to_the_power_of_the_engine() -> None:
    twin = new_twin()
    for observed in follow(twin, workload(), range(5)):
        idle_w = np.array([c.power_w[0] for c in twin.classes])
        dynamic_w = np.array([np.array(c.power_w) - c.power_w[0] for c in twin.classes])
        priced = observed.load.hosts_up @ idle_w + (observed.load.features * dynamic_w).sum(axis=(1, 2))
        assert priced == pytest.approx(observed.series["power_w"][:, 0])


def test_learned_curves_change_the_power_of_the_engine() -> None:
    twin = new_twin()
    follow(twin, workload(), range(2))
    doubled = [(list(KNOTS), [2 * watts for watts in c.power_w]) for c in twin.classes]
    before = twin.simulation.power_w
    twin.adopt_curves(doubled)
    twin.simulation.advance(twin.now_ms)
    assert twin.simulation.power_w == pytest.approx(2 * before)


def test_a_change_takes_effect_at_its_time_in_the_present_and_in_what_becomes_known() -> None:
    twin = new_twin()
    follow(twin, workload(), range(2))
    twin.schedule(2 * WINDOW_MS, [RemoveHosts(hosts=GroupHosts(group="small"), count=1)])
    hosts_up = twin.present(2 * WINDOW_MS).class_counts[0].tolist()
    assert hosts_up in ([2.0, 2.0], [3.0, 2.0])  # a busy host leaves with its last task
    observed = follow(twin, workload(), range(2, 12))
    up = np.concatenate([one.load.hosts_up[:, 0] for one in observed])
    assert up[0] == 3.0
    assert up[-1] == 2.0
    with pytest.raises(EngineError, match="nowhere"):
        twin.schedule(12 * WINDOW_MS, [RemoveHosts(hosts=GroupHosts(group="nowhere"))])


def test_a_pickled_twin_goes_on_as_if_nothing_had_happened() -> None:
    twin = new_twin()
    follow(twin, workload(), range(3))
    twin.schedule(3 * WINDOW_MS, [RemoveHosts(hosts=GroupHosts(group="large"), count=1)])
    copy = pickle.loads(pickle.dumps(twin))
    one, other = (follow(each, workload(), range(3, 7)) for each in (twin, copy))
    for name, column in one[-1].series.items():
        assert np.array_equal(column, other[-1].series[name]), name
    assert one[-1].end == other[-1].end


def test_groups_of_one_name_in_two_clusters_are_told_apart() -> None:
    group = topology().clusters[0].hosts[0]
    both = Topology(clusters=(Cluster(name="a", hosts=(group,)), Cluster(name="b", hosts=(group,))))
    assert [c.name for c in host_classes(both)] == ["a/small", "b/small"]
