"""The live twin goes through windows, looks ahead without moving, and lets the engine use what was learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from opendt.engine.simulation import Simulation
from opendt.model.options import Options
from opendt.model.power import LinearPower
from opendt.model.tasks import workload_from_tasks
from opendt.model.topology import Cluster, HostGroup, Topology
from opendt.twin.curve import KNOTS
from opendt.twin.live import LiveTwin, host_classes

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


def workload() -> Workload:
    return workload_from_tasks(
        {
            "id": i,
            "submission_ms": 45_000 * i,
            "cpu_count": 4,
            "fragments": [(60_000, 500.0 * (1 + (i + j) % 7)) for j in range(1 + i % 9)],
        }
        for i in range(40)
    )


def test_windows_add_up_to_one_simulation() -> None:
    twin = LiveTwin(topology(), workload())
    twin.start()
    power = np.concatenate([twin.advance(end).series["power_w"] for end in range(WINDOW_MS, 8 * WINDOW_MS, WINDOW_MS)])
    whole = Simulation(
        topology(), Options(start_epoch_ms=twin.simulation.start_epoch_ms), sample_interval_ms=30_000, settled=True
    )
    whole.submit(workload())
    whole.advance(7 * WINDOW_MS)
    assert np.array_equal(power, whole.take_series()["power_w"])


def test_looking_ahead_sees_what_comes_and_moves_nothing() -> None:
    twin = LiveTwin(topology(), workload())
    twin.start()
    twin.advance(WINDOW_MS)
    ahead = twin.look_ahead(WINDOW_MS)
    assert twin.now_ms == WINDOW_MS
    observed = twin.advance(2 * WINDOW_MS)
    assert np.array_equal(ahead.time_ms, observed.load.time_ms)
    assert np.array_equal(ahead.features, observed.load.features)
    assert np.array_equal(ahead.known_ms, observed.load.known_ms)


def test_features_price_to_the_power_of_the_engine() -> None:
    twin = LiveTwin(topology(), workload())
    twin.start()
    observed = twin.advance(4 * WINDOW_MS)
    idle_w = np.array([c.power_w[0] for c in twin.classes])
    dynamic_w = np.array([np.array(c.power_w) - c.power_w[0] for c in twin.classes])
    priced = observed.load.hosts_up @ idle_w + (observed.load.features * dynamic_w).sum(axis=(1, 2))
    assert priced == pytest.approx(observed.series["power_w"][:, 0])


def test_a_row_is_known_when_its_fragments_have_ended() -> None:
    task = {"id": 1, "cpu_count": 1, "fragments": [(100_000, 500.0), (50_000, 800.0)]}
    twin = LiveTwin(topology(), workload_from_tasks([task]))
    twin.start()
    load = twin.advance(WINDOW_MS).load
    assert load.known_ms.tolist() == [100_000, 100_000, 100_000, 150_000, *range(150_000, 300_001, 30_000)]


def test_learned_curves_change_the_power_of_the_engine() -> None:
    twin = LiveTwin(topology(), workload())
    twin.start()
    twin.advance(WINDOW_MS)
    doubled = [(list(KNOTS), [2 * watts for watts in c.power_w]) for c in twin.classes]
    before = twin.simulation.power_w
    twin.adopt_curves(doubled)
    twin.simulation.advance(twin.now_ms)
    assert twin.simulation.power_w == pytest.approx(2 * before)


def test_groups_of_one_name_in_two_clusters_are_told_apart() -> None:
    group = topology().clusters[0].hosts[0]
    both = Topology(clusters=(Cluster(name="a", hosts=(group,)), Cluster(name="b", hosts=(group,))))
    assert [c.name for c in host_classes(both)] == ["a/small", "b/small"]
