"""Hosts are taken away only where tasks find others: for memory and accelerators as well as for cores."""

from __future__ import annotations

import pytest

from opendt.engine import Simulation
from opendt.model.change import GroupHosts, NamedHosts, RemoveHosts
from opendt.model.options import ComputeFilter, FilterAllocation, Options, RamFilter, VCpuFilter
from opendt.model.power import LinearPower
from opendt.model.slo import Slo
from opendt.model.tasks import workload_from_tasks
from opendt.model.topology import Cluster, Gpu, HostGroup, Topology
from opendt.optimization.base import Context
from opendt.optimization.room import keeps_homes, keeps_room
from opendt.optimization.rule_based import RuleBasedOptimizer
from opendt.optimization.rules import RuleSettings
from opendt.twin.metrics import WindowMetrics

HOUR_MS = 3_600_000
NOW_MS = 60_000
# Memory is not overcommitted: what a host has is what its tasks can ask for.
OPTIONS = Options(start_epoch_ms=0, allocation=FilterAllocation(filters=(ComputeFilter(), VCpuFilter(), RamFilter())))
SLO = Slo.model_validate({"version": 1, "energy": {"target_kwh": 1.0}})


def hosts(name, count, *, cores=4, memory_mib=1000, idle_w=100.0, gpu_memory_mib=None):
    gpu = None
    if gpu_memory_mib is not None:
        gpu = Gpu(count=1, core_count=8, core_speed_mhz=1000.0, memory_mib=gpu_memory_mib)
    power = LinearPower(idle_w=idle_w, max_w=idle_w + 100.0)
    return HostGroup(
        name=name,
        count=count,
        core_count=cores,
        core_speed_mhz=1000.0,
        memory_mib=memory_mib,
        power_model=power,
        gpu=gpu,
    )


def task(name, *, cores=1, memory_mib=10, gpu_memory_mib=0):
    """A task of an hour; on an accelerator where it asks for its memory."""
    gpu = {"gpu_count": 1, "gpu_memory_mib": gpu_memory_mib} if gpu_memory_mib else {}
    return {"id": name, "cpu_count": cores, "memory_mib": memory_mib, "fragments": [(HOUR_MS, 1000.0 * cores)], **gpu}


def running(tasks, *groups):
    """A minute after these tasks were submitted, in this order."""
    simulation = Simulation(Topology(clusters=(Cluster(name="c", hosts=groups),)), OPTIONS)
    simulation.submit(workload_from_tasks(tasks))
    simulation.advance(NOW_MS)
    return simulation


def states(simulation):
    tasks = simulation.tasks()
    return dict(zip(tasks["id"], tasks["state"], strict=True))


def asked(simulation, settings=None, **measured):
    window = WindowMetrics(start_ms=0, end_ms=NOW_MS, **measured)
    before = simulation.snapshot()
    proposal = RuleBasedOptimizer(settings).propose(Context.of(simulation, SLO, window))
    assert simulation.snapshot() == before
    return {} if proposal is None else {change.hosts.group: change.count for change in proposal.changes}


def take(group, count):
    return RemoveHosts(hosts=GroupHosts(group=group), count=count)


def test_room_for_a_queue_is_counted_in_memory_as_well():
    fat = task("fat", memory_mib=4000)
    blocking = task("blocking", memory_mib=3000)  # fits only where "fat" runs, and holds up those behind it
    small = [task(f"small-{n}", memory_mib=1000) for n in range(6)]  # a whole thin host each, by memory
    plant = running([fat, blocking, *small], hosts("fat", 1, memory_mib=4000), hosts("thin", 8))
    assert states(plant) == {"fat": "running", "blocking": "queued"} | {f"small-{n}": "queued" for n in range(6)}
    # By cores, two of the thin hosts would hold all that waits.
    assert asked(plant, utilization_ratio=0.1) == {"thin": 1}
    assert keeps_room(plant, [take("thin", 2)], [])
    assert not keeps_room(plant, [take("thin", 3)], [])


def test_room_for_running_tasks_is_kept_where_their_accelerators_are():
    plain = [task(f"plain-{n}", cores=4) for n in range(5)]
    trains = [task(f"train-{n}", cores=1, gpu_memory_mib=800) for n in range(5)]
    groups = (hosts("plain", 20), hosts("gpu", 10, gpu_memory_mib=1000))
    plant = running([*plain, *trains], *groups)
    on = dict(zip(plant.tasks()["id"], plant.tasks()["host"].tolist(), strict=True))
    assert all(on[f"train-{n}"] >= 20 for n in range(5))
    without_reserve = RuleSettings(reserve_hosts=0, reserve_ratio=0.0)
    found = asked(plant, without_reserve, utilization_ratio=0.1)
    assert found["gpu"] == 10 - len({on[f"train-{n}"] for n in range(5)})
    found = asked(plant, utilization_ratio=0.1)
    busy = [f"gpu-{host - 21}" if host > 20 else "gpu" for host in sorted({on[f"train-{n}"] for n in range(5)})]
    # With any one of the busy accelerators out of service, its task finds another.
    removals = [take(group, count) for group, count in found.items()]
    assert all(keeps_room(plant, removals, [host]) for host in busy)
    assert not keeps_room(plant, [take("gpu", 10 - len(busy))], busy[:1])


def test_a_long_queue_of_what_fits_nowhere_leaves_nothing_to_spare():
    fat = task("fat", memory_mib=4000)
    blocked = [task(f"blocked-{n}", memory_mib=3000) for n in range(33)]
    plant = running([fat, *blocked], hosts("fat", 1, memory_mib=4000), hosts("thin", 20))
    assert asked(plant, utilization_ratio=0.1) == {}
    plant = running([fat, *blocked[:20]], hosts("fat", 1, memory_mib=4000), hosts("thin", 20))
    assert asked(plant, utilization_ratio=0.1)["thin"] > 0


def test_a_downscale_leaves_a_home_for_the_task_that_only_one_group_can_run():
    # The group with accelerators wastes most, and would go first and altogether.
    groups = (hosts("plain", 8, cores=8), hosts("gpu", 2, cores=8, idle_w=900.0, gpu_memory_mib=1000))
    plant = running([task("train", gpu_memory_mib=900)], *groups)
    settings = RuleSettings(downscale_ratio=0.9, max_removed_ratio=0.9)
    assert asked(plant, settings, energy_kwh=2.0, utilization_ratio=0.5) == {"gpu": 1, "plain": 7}
    plain = running([task("train")], *groups)
    assert asked(plain, settings, energy_kwh=2.0, utilization_ratio=0.5) == {"gpu": 2, "plain": 7}


@pytest.mark.parametrize(
    ("removals", "kept"),
    [
        ([], True),
        ([take("gpu", 1)], True),
        ([take("gpu", 2)], False),
        ([take("plain", 3)], True),
        ([take("fat", 1)], False),
        ([take("gpu", 1), take("plain", 3)], True),
    ],
)
def test_homes_are_those_that_the_scheduler_would_give(removals, kept):
    tasks = [task("train-0", gpu_memory_mib=900), task("train-1", gpu_memory_mib=900), task("fat", memory_mib=3000)]
    waiting = [task(f"more-{n}", memory_mib=3000) for n in range(3)]
    plant = running(
        [*tasks, *waiting], hosts("plain", 3), hosts("gpu", 2, gpu_memory_mib=1000), hosts("fat", 1, memory_mib=4000)
    )
    assert states(plant)["more-0"] == "queued"
    before = plant.snapshot()
    assert keeps_homes(plant, removals) is kept
    assert plant.snapshot() == before


def test_tasks_that_displaced_hosts_leave_behind_are_asked_for_too():
    plant = running([task("a", cores=4), task("b", cores=4)], hosts("node", 4))
    (first, second) = plant.tasks()["host"].tolist()
    names = [plant.hosts()["name"][number] for number in (first, second)]
    assert keeps_room(plant, [take("node", 1)], names[:1])
    assert not keeps_room(plant, [take("node", 2)], names[:1])
    assert keeps_room(plant, [take("node", 2)], [])
    assert not keeps_room(plant, [RemoveHosts(hosts=NamedHosts(names=tuple(names)), evict=True), take("node", 1)], [])


def test_tasks_to_come_play_no_part():
    plant = running(
        [task("now", cores=4), *({**task(f"later-{n}", cores=4), "submission_ms": 120_000} for n in range(9))],
        hosts("node", 5),
    )
    assert keeps_room(plant, [take("node", 4)], [])
