"""Small cases of our own with the figures that the reference simulator gives for them.

They need no data beside the repository. Figures are those of its specification (the 2025 version where the two differ)
or follow from it by the arithmetic shown.
"""

from __future__ import annotations

import math

import pyarrow.parquet as pq
import pytest

from opendt import (
    AsymptoticPower,
    Battery,
    CarbonPoint,
    Cluster,
    ConstantPower,
    CubicPower,
    Gpu,
    HostGroup,
    LinearPower,
    MsePower,
    Options,
    PowerSource,
    Simulation,
    SqrtPower,
    SquarePower,
    Topology,
    workload_from_tasks,
)
from opendt.engine import run_scenario, to_engine
from opendt.formats.opendc_policies import prefab
from opendt.model import Checkpoint, FailureEvent, TraceFailures
from opendt.model.options import ComputeFilter, FilterAllocation, RamFilter, VCpuFilter
from opendt.model.topology import (
    BestEffort,
    ConstantOverhead,
    EqualShare,
    FirstFit,
    FixedShare,
    MaxMinFairness,
    NoOverhead,
    RunningMean,
    RunningMedian,
    RunningQuartiles,
    ShareBasedOverhead,
    SingleThreshold,
)

CROWDED = FilterAllocation(filters=(ComputeFilter(), VCpuFilter(allocation_ratio=16.0)))


def host(**changes) -> HostGroup:
    """Four cores of 1000 MHz; 100 W at rest, 200 W at full load."""
    fields = {
        "name": "H01",
        "count": 1,
        "core_count": 4,
        "core_speed_mhz": 1000.0,
        "memory_mib": 1000,
        "power_model": LinearPower(idle_w=100.0, max_w=200.0),
    }
    return HostGroup(**(fields | changes))


def run(group, tasks, *, source=None, battery=None, sample_interval_ms=None, **options) -> Simulation:
    cluster = Cluster(name="C01", hosts=(group,), power_source=source or PowerSource(), battery=battery)
    simulation = Simulation(Topology(clusters=(cluster,)), Options(**options), sample_interval_ms=sample_interval_ms)
    simulation.submit(workload_from_tasks(tasks))
    simulation.run()
    return simulation


def task(number, duration_ms, cpu_mhz, **more):
    return {"id": number, "fragments": [(duration_ms, cpu_mhz)], **more}


@pytest.mark.parametrize(
    ("sharing", "supplies_mhz", "power_w"),
    [
        (MaxMinFairness(), [1000, 1500, 1500], 200),
        (FirstFit(), [1000, 2000, 1000], 200),
        (EqualShare(), [4000 / 3, 4000 / 3, 4000 / 3], 200),
        # Each gets its share even when the sum exceeds the supply; the host itself is asked for one share.
        (FixedShare(share_ratio=0.5), [2000, 2000, 2000], 150),
        # The turn passes on only when it is divided anew: here never.
        (BestEffort(update_interval_ms=100_000), [1000, 2000, 1000], 200),
        # Turns start at 1, 2, 3 for two seconds each: 1000/2000/1000, 0/2000/2000 and 1000/0/3000.
        (BestEffort(update_interval_ms=2_000), [2000 / 3, 4000 / 3, 2000], 200),
    ],
)
def test_demands_of_1000_2000_3000_share_4000_mhz(sharing, supplies_mhz, power_w):
    tasks = [task(number, 6_000, 1000.0 * number) for number in (1, 2, 3)]
    simulation = run(host(cpu_sharing=sharing), tasks, allocation=CROWDED)
    results = simulation.take_results()
    assert dict(zip(results["id"], results["supplied_mhz_ms"] / 6_000, strict=True)) == pytest.approx(
        dict(zip((1, 2, 3), supplies_mhz, strict=True))
    )
    assert results["finished_ms"].tolist() == [6_000] * 3
    assert simulation.energy_j == pytest.approx(power_w * 6.0)


def test_equal_shares_keep_the_host_at_full_power_when_tasks_have_left():
    tasks = [task(1, 1_000, 500.0), task(2, 1_000, 500.0, submission_ms=9_000)]
    assert run(host(cpu_sharing=EqualShare()), tasks).energy_j == pytest.approx(200 * 10.0)


def test_snapshots_lengthen_a_task_of_600_s_to_609_s():
    simulation = run(host(), [task(1, 600_000, 2000.0)], checkpoint=Checkpoint(interval_ms=60_000, duration_ms=1_000))
    results = simulation.take_results()
    assert results["finished_ms"].tolist() == [609_000]
    assert results["checkpoint_delay_ms"].tolist() == [9_000]


@pytest.mark.parametrize(
    ("model", "utilization", "power_w"),
    [
        (ConstantPower(power_w=123.0), 0.5, 123.0),
        (LinearPower(idle_w=25.0, max_w=174.0), 0.5, 99.5),
        (SqrtPower(idle_w=25.0, max_w=174.0), 0.25, 99.5),
        (SquarePower(idle_w=25.0, max_w=174.0), 0.5, 62.25),
        (CubicPower(idle_w=25.0, max_w=174.0), 0.5, 43.625),
        (MsePower(idle_w=25.0, max_w=174.0, calibration_factor=1.0), 0.5, 99.5),
        (MsePower(idle_w=25.0, max_w=174.0, calibration_factor=4.0), 0.794, 202.4),
        (
            AsymptoticPower(idle_w=25.0, max_w=174.0, asym_util=0.3, dvfs=True),
            1.0,
            25 + 149 * (1 - math.exp(-1 / 0.3) / 2),
        ),
        (
            AsymptoticPower(idle_w=25.0, max_w=174.0, asym_util=0.3, dvfs=False),
            0.5,
            25 + 74.5 * (1.5 - math.exp(-0.5 / 0.3)),
        ),
        (
            AsymptoticPower(idle_w=25.0, max_w=174.0, asym_util=0.3, dvfs=True),
            0.5,
            25 + 74.5 * (1.125 - math.exp(-0.125 / 0.3)),
        ),
    ],
)
def test_power_models(model, utilization, power_w):
    simulation = run(host(power_model=model), [task(1, 10_000, 4000.0 * utilization)])
    assert simulation.energy_j / 10 == pytest.approx(power_w, abs=0.02)
    assert model.watts_at(utilization) == pytest.approx(simulation.energy_j / 10, rel=1e-12)


def test_two_gpus_at_a_thirty_second_beside_150_w_draw_562_5_w():
    gpu = Gpu(count=2, core_count=4, core_speed_mhz=1000.0)
    piece = {"id": 1, "fragments": [(8_000, 2000.0, 250.0)]}
    simulation = run(host(gpu=gpu), [piece])
    assert simulation.energy_j / 8 == pytest.approx(150 + 206.25 + 206.25)


@pytest.mark.parametrize(
    ("overhead", "supply_mhz"),
    [
        (NoOverhead(), 4000),
        (ConstantOverhead(ratio=0.25), 3000),
        (ConstantOverhead(ratio=0.05), 3800),
        (ShareBasedOverhead(), 2000),
    ],
)
def test_virtualisation_takes_its_part_of_a_gpu(overhead, supply_mhz):
    gpu = Gpu(count=1, core_count=4, core_speed_mhz=1000.0, overhead=overhead)
    busy = {"id": 1, "fragments": [(10_000, 100.0, 5000.0)]}
    simulation = run(host(gpu=gpu), [busy, task(2, 10_000, 100.0)])
    results = simulation.take_results()
    assert results["gpu_supplied_mhz_ms"].sum() / 10_000 == pytest.approx(supply_mhz)
    # Power follows the demand before the loss: the device is full.
    assert simulation.energy_j / 10 == pytest.approx(105 + 400)


def test_work_of_10_s_at_4000_mhz_takes_13333_ms_on_3000():
    simulation = run(host(core_count=3), [task(1, 10_000, 4000.0)], scaling_policy="perfect")
    assert simulation.take_results()["finished_ms"].tolist() == [13_333]


def test_fragments_without_work_take_no_time_under_perfect_scaling():
    idle = {"id": 1, "fragments": [(1_000, 1000.0), (5_000, 0.0), (1_000, 2000.0)]}
    assert run(host(), [idle], scaling_policy="perfect").now_ms == 2_000
    assert run(host(), [idle]).now_ms == 7_000


def test_three_tasks_share_fluidly_with_a_floor_a_fragment():
    tasks = [
        {
            "id": number,
            "fragments": [(120_000, mhz), (120_000, mhz / 2), (60_000, 0.0), (120_000, 1.5 * mhz)],
        }
        for number, mhz in ((0, 1000.0), (1, 2000.0), (2, 3000.0))
    ]
    simulation = run(host(), tasks, allocation=CROWDED, scaling_policy="perfect")
    results = simulation.take_results()
    assert dict(zip(results["id"].tolist(), results["finished_ms"].tolist(), strict=True)) == {
        0: 370_714,
        1: 486_428,
        2: 549_427,
    }


def test_placement_waits_for_the_next_whole_second():
    results = run(
        host(),
        [task(0, 500, 100.0), task(1, 1_000, 100.0, submission_ms=1), task(2, 1_000, 100.0, submission_ms=2_000)],
    ).take_results()
    started = dict(zip(results["id"].tolist(), results["started_ms"].tolist(), strict=True))
    assert started == {0: 0, 1: 1_000, 2: 2_000}


def carbon(*intensities, step_ms=60_000):
    return PowerSource(
        carbon=tuple(CarbonPoint(timestamp_ms=i * step_ms, intensity_g_per_kwh=g) for i, g in enumerate(intensities))
    )


def test_emission_is_split_at_each_change_of_intensity():
    simulation = run(host(), [task(1, 90_000, 4000.0)], source=carbon(100.0, 400.0))
    assert simulation.emission_g == pytest.approx(200 * (60 * 100 + 30 * 400) / 3.6e6)


def test_a_battery_carries_the_whole_load_until_it_is_empty():
    # 200 W for 30 s = 6000 J; after that the grid; at the cleaner row it charges with 300 W for 20 s.
    battery = Battery(
        name="B",
        capacity_kwh=6000 / 3.6e6,
        charging_w=300.0,
        initial_charge_kwh=6000 / 3.6e6,
        policy=SingleThreshold(carbon_threshold=200.0),
    )
    simulation = run(
        host(), [task(1, 120_000, 4000.0)], source=carbon(300.0, 100.0), battery=battery, sample_interval_ms=10_000
    )
    series = simulation.take_series()
    power_w = dict(zip(series["time_ms"].tolist(), series["power_w"][:, 0].tolist(), strict=True))
    assert [power_w[ms] for ms in (20_000, 40_000, 70_000, 100_000)] == [0.0, 200.0, 500.0, 200.0]
    # What was taken out went back in; the overshoot is below a millisecond of power.
    assert simulation.energy_j == pytest.approx(200 * 120, abs=0.6)


@pytest.mark.parametrize(
    ("policy", "charging_rows"),
    [
        # Means at the rows: 275, 283, 233, 217, 183; only 100 lies below its own.
        (RunningMean(starting_threshold=250.0, window_size=3), [2]),
        # Medians 275, 300, 300, 250, 200: at 200 the median itself discharges.
        (RunningMedian(starting_threshold=250.0, window_size=3), [2]),
        # First quartiles 262.5, 275, 200, 175, 150: only 100 lies below its own.
        (RunningQuartiles(starting_threshold=250.0, window_size=3), [2]),
    ],
)
def test_running_windows_decide_when_a_battery_charges(policy, charging_rows):
    battery = Battery(name="B", capacity_kwh=1.0, charging_w=300.0, policy=policy)
    rows = (300.0, 300.0, 100.0, 250.0, 200.0)
    simulation = run(
        host(), [task(1, 300_000, 4000.0)], source=carbon(*rows), battery=battery, sample_interval_ms=30_000
    )
    series = simulation.take_series()
    power_w = dict(zip(series["time_ms"].tolist(), series["power_w"][:, 0].tolist(), strict=True))
    charging = [row for row in range(len(rows)) if power_w[row * 60_000 + 30_000] == 500.0]
    assert charging == charging_rows


def test_a_failed_host_draws_100_w_for_300_s_and_its_task_starts_again():
    failures = TraceFailures(
        events=(FailureEvent(interval_ms=120_000, duration_ms=300_000, host_ratio=1.0),), repeat=False
    )
    simulation = run(host(), [task(1, 600_000, 4000.0)], failures=failures)
    results = simulation.take_results()
    assert results["finished_ms"].tolist() == [1_020_000]
    assert results["failures"].tolist() == [1]
    assert results["failure_delay_ms"].tolist() == [120_000]
    assert simulation.energy_j == pytest.approx(200 * 720 + 100 * 300)
    silent = run(host(), [task(1, 600_000, 4000.0)], failures=failures, failed_hosts_draw_idle=False)
    assert silent.energy_j == pytest.approx(200 * 720)


def test_the_interval_of_a_failure_counts_from_the_end_of_the_one_before():
    event = FailureEvent(interval_ms=60_000, duration_ms=30_000, host_ratio=1.0)
    failures = TraceFailures(events=(event, event), repeat=False)
    simulation = run(host(), [task(1, 100_000, 1000.0)], failures=failures)
    # Struck at 60 and at 90 + 60 s, started anew at 180 s.
    assert simulation.take_results()["finished_ms"].tolist() == [280_000]


def test_failures_start_where_they_are_told_and_repeat():
    short = FailureEvent(interval_ms=10_000, duration_ms=1_000, host_ratio=1.0)
    long = FailureEvent(interval_ms=10_000, duration_ms=5_000, host_ratio=1.0)
    tasks = [task(1, 15_000, 1000.0)]
    rotated = TraceFailures(events=(short, long), start_point=1, repeat=True)
    results = run(host(), tasks, failures=rotated, max_failures=4).take_results()
    # Ends of the outages: 15, 26, 41, 52 s; the fourth failure, at 51 s, is the last that is allowed.
    assert results["completed"].tolist() == [False]
    assert results["finished_ms"].tolist() == [51_000]
    once = TraceFailures(events=(short, long), start_point=1, repeat=False)
    assert run(host(), tasks, failures=once).take_results()["finished_ms"].tolist() == [41_000]


def test_children_are_released_when_all_parents_have_completed():
    tasks = [
        task(1, 2_000, 100.0),
        task(2, 5_500, 100.0),
        task(3, 1_000, 100.0, parents=[1, 2]),
        task(4, 1_000, 100.0, parents=[1]),
    ]
    results = run(host(), tasks).take_results()
    assert dict(zip(results["id"].tolist(), results["started_ms"].tolist(), strict=True)) == {
        1: 0,
        2: 0,
        3: 6_000,
        4: 2_000,
    }


def test_descendants_of_a_terminated_task_are_terminated():
    tasks = [
        task(1, 1_000, 100.0, cpu_count=99),
        task(2, 1_000, 100.0, parents=[1]),
        task(3, 1_000, 100.0, parents=[2], submission_ms=4_000),
        task(4, 1_000, 100.0),
    ]
    simulation = run(host(), tasks)
    results = simulation.take_results()
    completed = dict(zip(results["id"].tolist(), results["completed"].tolist(), strict=True))
    assert completed == {1: False, 2: False, 3: False, 4: True}
    assert simulation.counts["terminated"] == 3


@pytest.mark.parametrize(("ratio", "second_start_ms"), [(1.5, 0), (1.0, 10_000)])
def test_the_memory_ratio_of_prefabs_is_that_of_2025_unless_told(ratio, second_start_ms):
    tasks = [task(1, 10_000, 100.0, memory_mib=750), task(2, 10_000, 100.0, memory_mib=750)]
    results = run(host(), tasks, allocation=prefab("Mem", ratio)).take_results()
    assert results["started_ms"].tolist() == [0, second_start_ms]
    assert prefab("Mem") == prefab("Mem", 1.5)
    assert RamFilter(allocation_ratio=ratio) in prefab("Mem", ratio).filters


def test_hosts_of_a_group_are_numbered_from_the_second_on():
    simulation = run(host(count=3), [task(1, 1_000, 100.0)])
    assert simulation.hosts()["name"] == ["H01", "H01-0", "H01-1"]


def test_idle_hosts_draw_power_from_the_start_to_the_end_of_the_last_task():
    simulation = run(host(count=2), [task(1, 1_000, 4000.0, submission_ms=4_000)])
    assert simulation.energy_j == pytest.approx(5 * 100 + 4 * 100 + 1 * 200)


def test_a_sample_at_the_end_of_a_fragment_shows_it_when_fragments_are_not_shorter_than_ticks():
    pieces = {"id": 1, "fragments": [(60_000, 1000.0), (60_000, 3000.0)]}
    shown = {}
    for interval_ms in (60_000, 30_000):
        series = run(host(), [pieces], sample_interval_ms=interval_ms).take_series()
        shown[interval_ms] = float(series["power_w"][series["time_ms"] == 60_000][0, 0])
    assert shown == {60_000: 125.0, 30_000: 175.0}


def test_six_gpus_are_no_more_trouble_than_four():
    gpu = Gpu(count=6, core_count=4, core_speed_mhz=1000.0)
    simulation = run(host(gpu=gpu), [{"id": 1, "fragments": [(10_000, 4000.0, 12_000.0)]}])
    assert simulation.energy_j / 10 == pytest.approx(200 + 6 * 300)


def test_two_clusters_have_a_carbon_trace_each():
    clusters = tuple(
        Cluster(name=name, hosts=(host(name=name),), power_source=carbon(intensity))
        for name, intensity in (("north", 100.0), ("south", 500.0))
    )
    simulation = Simulation(Topology(clusters=clusters), Options())
    simulation.submit(workload_from_tasks([task(1, 10_000, 4000.0, pinned="south")]))
    simulation.run()
    assert simulation.emission_g == pytest.approx(10 * (100 * 100 + 200 * 500) / 3.6e6)


@pytest.mark.parametrize(("repeat", "times_ms"), [(True, [5_000, 10_000, 10_000]), (False, [5_000, 10_000])])
def test_a_tick_at_the_end_repeats_the_closing_sample_unless_told(tmp_path, repeat, times_ms):
    topology = Topology(clusters=(Cluster(name="C01", hosts=(host(),)),))
    workload = to_engine(workload_from_tasks([task(1, 10_000, 4000.0)]))
    options = Options(repeat_closing_sample=repeat)
    run_scenario(topology, options, workload, tmp_path / "out", files={"service": None}, interval_ms=5_000)
    assert pq.read_table(tmp_path / "out/service.parquet")["timestamp"].to_pylist() == times_ms
