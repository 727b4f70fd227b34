"""Filters, weighers and policies, one test each."""

from __future__ import annotations

import pytest

from opendt import CarbonPoint, Cluster, Gpu, PowerSource
from opendt.model import TaskStopper
from opendt.model.options import (
    ComputeFilter,
    CoreRamWeigher,
    DifferentHostFilter,
    FilterAllocation,
    InstanceCountFilter,
    InstanceCountWeigher,
    MemorizingAllocation,
    RamFilter,
    RamWeigher,
    SameHostFilter,
    TimeShiftAllocation,
    VCpuCapacityFilter,
    VCpuCapacityWeigher,
    VCpuFilter,
    VCpuWeigher,
    VGpuCapacityFilter,
    VGpuFilter,
    VGpuWeigher,
)
from tests.unit.engine.systems import column, host_group, simulate, task

UP = ComputeFilter()
SMALL, LARGE = host_group("small"), host_group("large", core_count=8, core_speed_mhz=2000.0, memory_mib=4000)


def gpus(count, speed_mhz=1000.0, **more):
    return Gpu(count=count, core_count=2, core_speed_mhz=speed_mhz, **more)


def hosts_chosen(allocation, *groups, tasks):
    simulation = simulate(*groups, tasks=tasks, allocation=allocation)
    simulation.run()
    return column(simulation, "host")


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        (VCpuFilter(), {"cpu_count": 5}),
        (RamFilter(), {"memory_mib": 1001}),
        (VCpuCapacityFilter(), {"cpu_count": 2, "cpu_capacity_mhz": 2400.0}),
        (VGpuFilter(), {"gpu_count": 3}),
        (VGpuCapacityFilter(), {"gpu_count": 2, "gpu_capacity_mhz": 3000.0}),
    ],
)
def test_a_filter_passes_the_host_that_suffices(condition, wanted):
    small = SMALL.model_copy(update={"gpu": gpus(1)})
    large = LARGE.model_copy(update={"gpu": gpus(2, 1500.0)})
    allocation = FilterAllocation(filters=(UP, condition))
    assert hosts_chosen(allocation, small, large, tasks=[task(1)]) == {1: 0}
    assert hosts_chosen(allocation, small, large, tasks=[task(1, **wanted)]) == {1: 1}


def test_the_instance_count_filter_limits_tasks_on_a_host():
    allocation = FilterAllocation(filters=(UP, InstanceCountFilter(limit=2)))
    simulation = simulate(tasks=[task(number) for number in range(3)], allocation=allocation)
    simulation.run()
    assert column(simulation, "started_ms") == {0: 0, 1: 0, 2: 10_000}


@pytest.mark.parametrize(("ratio", "started_ms"), [(1.0, 10_000), (1.5, 10_000), (2.0, 0)])
def test_cores_can_be_promised_more_than_once(ratio, started_ms):
    allocation = FilterAllocation(filters=(UP, VCpuFilter(allocation_ratio=ratio)))
    simulation = simulate(tasks=[task(1, cpu_count=4), task(2, cpu_count=4)], allocation=allocation)
    simulation.run()
    assert column(simulation, "started_ms") == {1: 0, 2: started_ms}


@pytest.mark.parametrize("hint", [SameHostFilter(), DifferentHostFilter()])
def test_host_hints_hold_without_a_hint(hint):
    assert hosts_chosen(FilterAllocation(filters=(UP, hint)), tasks=[task(1), task(2)]) == {1: 0, 2: 0}


def test_gpu_memory_is_a_limit_where_it_is_stated():
    group = host_group(gpu=gpus(1, memory_mib=1000))
    tasks = [task(number, gpu_count=1, gpu_memory_mib=600) for number in (1, 2)]
    simulation = simulate(group, tasks=tasks)
    simulation.run()
    assert column(simulation, "started_ms") == {1: 0, 2: 10_000}


@pytest.mark.parametrize(
    ("weigher", "host"),
    [
        (RamWeigher(), 1),
        (RamWeigher(multiplier=-1.0), 0),
        # The multiplier counts twice, so that its sign cancels: 500 MiB a core against 250.
        (CoreRamWeigher(), 1),
        (CoreRamWeigher(multiplier=-1.0), 1),
        (VCpuCapacityWeigher(), 1),
        (VCpuCapacityWeigher(multiplier=-1.0), 0),
        (InstanceCountWeigher(), 0),
        (VCpuWeigher(), 0),
        (VGpuWeigher(), 0),
    ],
)
def test_a_weigher_prefers_and_ties_go_to_the_first(weigher, host):
    allocation = FilterAllocation(filters=(UP,), weighers=(weigher,))
    assert hosts_chosen(allocation, SMALL, LARGE, tasks=[task(1)]) == {1: host}


@pytest.mark.parametrize(
    ("weigher", "hosts"),
    [
        (InstanceCountWeigher(multiplier=1.0), [0, 0, 0]),
        (InstanceCountWeigher(multiplier=-1.0), [0, 1, 0]),
        (VCpuWeigher(multiplier=1.0), [0, 1, 0]),
        (VCpuWeigher(multiplier=-1.0), [0, 0, 0]),
    ],
)
def test_weighers_see_what_was_placed(weigher, hosts):
    allocation = FilterAllocation(filters=(UP, VCpuFilter()), weighers=(weigher,))
    chosen = hosts_chosen(allocation, host_group(count=2), tasks=[task(number) for number in range(3)])
    assert chosen == dict(enumerate(hosts))


def test_an_all_negative_weigher_keeps_the_widened_range_of_2025():
    """With both hosts loaded VCpu weighs 1 - 2 and 1 - 3: the range runs to 0, so Ram decides where it would not."""
    loads = [task(1, cpu_count=2, pinned="a"), task(2, cpu_count=3, pinned="b")]
    allocation = FilterAllocation(filters=(UP,), weighers=(VCpuWeigher(), RamWeigher(multiplier=0.75)))
    groups = (host_group("a", memory_mib=1000), host_group("b", memory_mib=1001))
    assert hosts_chosen(allocation, *groups, tasks=[*loads, task(3, submission_ms=5)])[3] == 1


def test_a_random_choice_repeats_with_its_seed():
    allocation = FilterAllocation(filters=(UP, VCpuFilter()), subset_size=0)
    tasks = [task(number) for number in range(12)]

    def chosen(seed):
        simulation = simulate(host_group(count=6), tasks=tasks, allocation=allocation, seed=seed)
        simulation.run()
        return column(simulation, "host")

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    assert len(set(chosen(1).values())) > 2


def test_a_task_that_no_host_could_take_is_terminated_and_blocks_nobody():
    tasks = [task(1, gpu_count=9), task(2, cpu_count=9), task(3, memory_mib=9999), task(4)]
    allocation = FilterAllocation(filters=(UP, VCpuFilter(), RamFilter(), VGpuFilter()))
    simulation = simulate(host_group(gpu=gpus(1)), tasks=tasks, allocation=allocation)
    simulation.run()
    assert column(simulation, "completed") == {1: False, 2: False, 3: False, 4: True}


def test_filters_respect_the_head_of_the_queue_and_memorizing_overtakes():
    tasks = [task(1, cpu_count=3), task(2, cpu_count=3), task(3, cpu_count=1)]
    started = {}
    for name, allocation in {
        "filter": FilterAllocation(filters=(UP, VCpuFilter())),
        "memorizing": MemorizingAllocation(filters=(UP, VCpuFilter())),
    }.items():
        simulation = simulate(tasks=tasks, allocation=allocation)
        simulation.run()
        started[name] = column(simulation, "started_ms")
    assert started == {"filter": {1: 0, 3: 10_000, 2: 10_000}, "memorizing": {1: 0, 3: 0, 2: 10_000}}


def test_memorizing_ends_on_mixed_sizes():
    groups = (host_group("a", core_count=2), host_group("b", core_count=8), host_group("c", core_count=3))
    tasks = [task(number, 1_000 + 37 * number, cpu_count=1 + number * 5 % 8) for number in range(60)]
    simulation = simulate(*groups, tasks=tasks, allocation=MemorizingAllocation(filters=(UP, VCpuFilter())))
    simulation.run()
    assert all(column(simulation, "completed").values())


HOUR_MS = 3_600_000


def shifted(*intensities, memorize=False, stopper=None, forecast=True, **more):
    rows = [CarbonPoint(timestamp_ms=i * HOUR_MS, intensity_g_per_kwh=float(g)) for i, g in enumerate(intensities)]
    cluster = Cluster(name="dc", hosts=(host_group(),), power_source=PowerSource(carbon=tuple(rows)))
    allocation = TimeShiftAllocation(
        filters=(UP, VCpuFilter()),
        forecast_size=4,
        forecast=forecast,
        memorize=memorize,
        task_stopper=stopper,
        window_size=3,
    )
    jobs = [task(1, HOUR_MS, 1000.0, deferrable=True, **more)]
    simulation = simulate(clusters=(cluster,), tasks=jobs, allocation=allocation)
    simulation.run()
    return simulation


@pytest.mark.parametrize("memorize", [False, True])
def test_a_deferrable_task_waits_for_the_cleanest_hour(memorize):
    # The next three rows of hour 0 are 300, 100, 400: the element at round(3 x 0.2) is 300, and 200 is below it.
    assert column(shifted(200, 300, 100, 400, 400, memorize=memorize, deadline_ms=9 * HOUR_MS), "started_ms") == {1: 0}
    # Of (450, 100, 400) it is 400, which 400 is not below; nor is 450 at hour 1; at hour 2 it is 100 against (400, 400).
    dirty = shifted(400, 450, 100, 400, 400, memorize=memorize, deadline_ms=9 * HOUR_MS)
    assert column(dirty, "started_ms") == {1: 2 * HOUR_MS}


def test_a_deadline_ends_the_wait():
    dirty = shifted(400, 300, 200, 100, 90, 80, 70, deadline_ms=2 * HOUR_MS)
    assert column(dirty, "started_ms") == {1: HOUR_MS}


def test_the_end_of_the_trace_ends_the_wait():
    assert column(shifted(100, 200, 300, deadline_ms=99 * HOUR_MS, submission_ms=1), "completed") == {1: True}
    assert column(shifted(deadline_ms=99 * HOUR_MS), "started_ms") == {1: 0}


def test_without_a_forecast_the_running_mean_decides():
    # Short tasks want an intensity below the mean and above the one before: 240 after 230, below (300 + 230 + 240) / 3.
    dirty = shifted(300, 300, 230, 240, 500, forecast=False, deadline_ms=99 * HOUR_MS)
    assert column(dirty, "started_ms") == {1: 3 * HOUR_MS}


def test_the_task_stopper_pauses_what_runs_in_dirty_hours():
    stopper = TaskStopper(forecast_size=4)
    # At hour 1 500 exceeds 90, of (70, 80, 90); no later hour is clean until the last.
    simulation = shifted(60, 500, 90, 80, 70, stopper=stopper, deadline_ms=9 * HOUR_MS, submission_ms=HOUR_MS // 2)
    results = simulation.take_results()
    assert results["pauses"].tolist() == [1]
    assert results["started_ms"].tolist() == [4 * HOUR_MS]
    assert results["finished_ms"].tolist() == [4 * HOUR_MS + HOUR_MS // 2]
    assert results["supplied_mhz_ms"].tolist() == pytest.approx([1000.0 * HOUR_MS])
