from __future__ import annotations

import hashlib

import numpy as np
import pytest

from opendt.formats.opendc import read_topology
from opendt.formats.opendc_dialect import OpenDCReading
from opendt.formats.power import read_power
from opendt.formats.synthetic import (
    SAMPLE_MS,
    START_EPOCH_MS,
    WEEK_MS,
    generate_week,
    synthesize_week,
    synthetic_topology,
)


@pytest.fixture(scope="module")
def week():
    return synthesize_week(1)


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first, again, other = (
        digest(generate_week(seed, tmp_path / name)) for seed, name in ((7, "a"), (7, "b"), (8, "c"))
    )
    assert list(first) == [
        "carbon.parquet",
        "consumption.parquet",
        "fragments.parquet",
        "tasks.parquet",
        "topology.json",
    ]
    assert first == again
    assert all(first[name] != other[name] for name in first if name != "topology.json")


def test_the_folder_is_read_back(tmp_path, week):
    generate_week(1, tmp_path)
    reading = OpenDCReading(strict=True, carbon_reader=lambda path: [(0, 1.0)])
    topology = read_topology(tmp_path / "topology.json", reading=reading)
    assert topology.clusters[0].hosts == week.topology.clusters[0].hosts
    power = read_power(tmp_path / "consumption.parquet")
    assert np.array_equal(power.power_w, week.power.power_w)
    assert np.array_equal(power.timestamp_ms, np.arange(1, WEEK_MS // SAMPLE_MS) * SAMPLE_MS)


def test_tasks_fill_a_week_from_its_first_moment(week):
    workload = week.workload
    workload.validate()
    assert workload.submission_ms.min() == START_EPOCH_MS
    assert workload.span_ms <= WEEK_MS
    assert 1_000 < len(workload) < 20_000
    assert 100_000 < workload.fragment_count < 1_500_000
    assert workload.fragment_duration_ms.min() >= 30_000
    assert workload.fragment_duration_ms.max() <= 300_000
    assert (workload.submission_ms % 1000 == 0).all()


def test_every_task_takes_a_whole_node_and_fits_one_class_whatever_the_memory_ratio(week):
    for cores in np.unique(week.workload.cpu_count).tolist():
        tasks = week.workload.cpu_count == cores
        (memory_mib,) = np.unique(week.workload.memory_mib[tasks]).tolist()
        for ratio in (1.0, 1.5):
            fitting = [
                g
                for g in week.topology.clusters[0].hosts
                if g.core_count >= cores and g.memory_mib * ratio >= memory_mib
            ]
            assert [group.core_count for group in fitting] == [cores]


def test_no_more_tasks_of_a_class_run_than_it_has_hosts(week):
    workload = week.workload
    for group in week.topology.clusters[0].hosts:
        mine = workload.cpu_count == group.core_count
        start = workload.submission_ms[mine]
        end = start + workload.run_ms[mine]
        times, change = np.concatenate((start, end)), np.concatenate((np.ones(len(start)), -np.ones(len(end))))
        # At one moment tasks end before others begin.
        running = np.cumsum(change[np.lexsort((change, times))])
        assert 0.5 * group.count < running.max() <= group.count


def test_demand_fits_the_host(week):
    workload = week.workload
    of_task = np.repeat(np.arange(len(workload)), np.diff(workload.fragment_offset))
    assert (workload.fragment_cpu_mhz <= workload.cpu_capacity_mhz[of_task]).all()
    assert (workload.fragment_cpu_mhz > 0).all()


def test_working_days_are_busier_than_the_weekend_and_durations_have_a_heavy_tail(week):
    later = week.workload.submission_ms > START_EPOCH_MS
    day = (week.workload.submission_ms[later] - START_EPOCH_MS) // 86_400_000
    per_day = np.bincount(day, minlength=7)
    assert per_day[:5].mean() > 1.4 * per_day[5:].mean()
    run = np.sort(week.workload.run_ms)
    assert run[-len(run) // 20 :].sum() > 0.3 * run.sum()


def mean_power_by_hand(week, curves, sample):
    """Sum over running tasks, second by second, of the power of their curve, and of idle hosts."""
    workload, total = week.workload, 0.0
    begin = START_EPOCH_MS + sample * SAMPLE_MS
    idle = sum(group.count * curves[group.core_count].watts_at(0) for group in week.topology.clusters[0].hosts)
    for task in range(len(workload)):
        at = int(workload.submission_ms[task])
        if at >= begin + SAMPLE_MS:
            continue
        curve = curves[int(workload.cpu_count[task])]
        for row in range(workload.fragment_offset[task], workload.fragment_offset[task + 1]):
            end = at + int(workload.fragment_duration_ms[row])
            shared = min(end, begin + SAMPLE_MS) - max(at, begin)
            if shared > 0:
                u = float(workload.fragment_cpu_mhz[row]) / float(workload.cpu_capacity_mhz[task])
                total += (curve.watts_at(u) - curve.watts_at(0)) * shared / SAMPLE_MS
            if end >= begin + SAMPLE_MS:
                break
            at = end
    return idle + total


def test_measured_power_is_that_of_the_true_curves_with_small_noise(week):
    from opendt.formats.synthetic import _host_classes

    truth = {host.group.core_count: host.true_power for host in _host_classes()}
    sheet = {host.group.core_count: host.group.power_model for host in _host_classes()}
    samples = range(0, WEEK_MS // SAMPLE_MS - 1, 1500)
    measured = week.power.power_w[list(samples)]
    by_truth = np.array([mean_power_by_hand(week, truth, sample) for sample in samples])
    by_sheet = np.array([mean_power_by_hand(week, sheet, sample) for sample in samples])
    error_of_truth = np.abs(measured - by_truth) / measured
    assert error_of_truth.max() < 0.08
    assert 0.001 < error_of_truth.mean() < 0.03
    assert (np.abs(measured - by_sheet) / measured).mean() > 2 * error_of_truth.mean()


def test_carbon_covers_the_week_with_a_margin(week):
    assert week.carbon[0].timestamp_ms <= START_EPOCH_MS
    assert week.carbon[-1].timestamp_ms >= START_EPOCH_MS + WEEK_MS
    assert {b.timestamp_ms - a.timestamp_ms for a, b in zip(week.carbon, week.carbon[1:], strict=False)} == {900_000}
    assert len({point.intensity_g_per_kwh for point in week.carbon}) > 100


def test_the_datasheet_topology_is_that_of_the_week(week):
    assert synthetic_topology() == week.topology
