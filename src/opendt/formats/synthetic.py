"""A week of a datacenter that never was: workload, carbon and measured power from one seed, with no download.

What it is made of:

* *Arrivals*: an inhomogeneous Poisson process, by thinning, with a working-day and a weekly rhythm; each arrival brings
  a batch of geometric size (job arrays). A task that would find no free host of its class is never submitted, as if its
  user had looked first; so nothing queues, as in the SURF week.
* *Durations*: log-normal with a Pareto tail (heavy-tailed, as in the Parallel Workloads Archive), cut at the week's end.
* *Utilisation*: fragments of 30 s to 5 min around a level of the task, which changes now and then.
* *Hosts*: compute nodes (many cores) and memory nodes (few cores, much memory). Every task takes a whole node and fits
  only one class: compute tasks ask for more cores than memory nodes have, memory tasks for more memory than compute
  nodes have. So the power is the same sum over running tasks whichever host the scheduler picks.
* *Measured power*: of a hidden plant. Each class has a true power curve that differs from the datasheet in
  `synthetic_topology`; on top come a slow drift of the whole, a thermal disturbance that decays, and sensor noise. A
  sample is the mean over the 30 s before it, as a meter that counts energy gives.

How far to trust it: the rhythm and the shapes are plausible, not fitted to any site. It is there to try the loop and to
test that it finds a plant it was not told, not to predict one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from opendt.model.power import CurvePower, MsePower
from opendt.model.topology import CarbonPoint, Cluster, HostGroup, Topology
from opendt.model.workload import Workload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from opendt.formats.power import MeasuredPower

__all__ = ["SyntheticWeek", "generate_week", "synthesize_week", "synthetic_topology"]

WEEK_MS: Final = 7 * 86_400_000
SAMPLE_MS: Final = 30_000
START_EPOCH_MS: Final = 1_709_510_400_000  # Monday 4 March 2024, 00:00 UTC
_SLOTS: Final = WEEK_MS // SAMPLE_MS
_LONGEST_FRAGMENT_SLOTS: Final = 10
_HOUR_S: Final = 3600.0


@dataclass(frozen=True)
class _HostClass:
    """One class of hosts, what its tasks ask for, and what its power really is."""

    group: HostGroup
    task_memory_mib: int
    batches_per_hour: float
    true_power: CurvePower


@dataclass(frozen=True, eq=False)
class SyntheticWeek:
    """What a seed gives."""

    topology: Topology
    workload: Workload
    carbon: tuple[CarbonPoint, ...]
    power: MeasuredPower


_GRID: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def _host_classes() -> tuple[_HostClass, ...]:
    compute = HostGroup(
        name="compute",
        count=72,
        core_count=32,
        core_speed_mhz=2600.0,
        memory_mib=131_072,
        power_model=MsePower(idle_w=70.0, max_w=330.0, calibration_factor=1.6),
    )
    memory = HostGroup(
        name="memory",
        count=48,
        core_count=16,
        core_speed_mhz=2100.0,
        memory_mib=524_288,
        power_model=MsePower(idle_w=55.0, max_w=210.0, calibration_factor=1.4),
    )
    compute_truth = (82.0, 131.0, 162.0, 186.0, 207.0, 226.0, 246.0, 266.0, 287.0, 307.0, 322.0)
    memory_truth = (61.0, 88.0, 104.0, 117.0, 129.0, 141.0, 154.0, 168.0, 183.0, 196.0, 204.0)
    return (
        _HostClass(compute, 98_304, 6.0, CurvePower(utilization=_GRID, power_w=compute_truth)),
        _HostClass(memory, 262_144, 4.0, CurvePower(utilization=_GRID, power_w=memory_truth)),
    )


def synthetic_topology() -> Topology:
    """Return the hosts of the week as their datasheets describe them."""
    return Topology(clusters=(Cluster(name="C01", hosts=tuple(host.group for host in _host_classes())),))


def generate_week(seed: int, out_dir: Path | str) -> Path:
    """Write a week to a folder: the same seed gives the same bytes.

    Files: ``tasks.parquet``, ``fragments.parquet``, ``carbon.parquet``, ``consumption.parquet``, ``topology.json``.

    Parameters
    ----------
    seed : int
        Any whole number >= 0.
    out_dir : Path or str
        Folder; it is made if it is not there.

    Returns
    -------
    Path
        The folder.
    """
    from opendt.formats.carbon import write_carbon
    from opendt.formats.opendc_topology import write_topology
    from opendt.formats.opendc_workload import write_workload
    from opendt.formats.power import write_power

    week, folder = synthesize_week(seed), Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_workload(week.workload, folder)
    write_carbon(week.carbon, folder / "carbon.parquet")
    write_power(week.power, folder / "consumption.parquet")
    write_topology(week.topology, folder / "topology.json", {"C01": "carbon.parquet"})
    return folder


def synthesize_week(seed: int) -> SyntheticWeek:
    """Make a week in memory; see the module for what it is made of."""
    import numpy as np

    # One generator for each part, so that a change of one leaves the others as they were.
    arrivals, profiles, plant, grid = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4))
    classes = _host_classes()
    tasks = [_tasks_of_class(arrivals, host) for host in classes]
    start_s = np.concatenate([part[0] for part in tasks])
    slots = np.concatenate([part[1] for part in tasks])
    kind = np.repeat(np.arange(len(classes)), [len(part[0]) for part in tasks])
    order = np.lexsort((kind, start_s))
    start_s, slots, kind = start_s[order], slots[order], kind[order]

    offset, length_slots, utilization = _fragments(profiles, slots)
    of_task = np.repeat(np.arange(len(slots)), np.diff(offset))
    workload, utilization = _workload(classes, start_s, kind, offset, length_slots, utilization, of_task)
    true_w = _true_power_w(classes, workload, kind[of_task], of_task, utilization)
    return SyntheticWeek(synthetic_topology(), workload, _carbon(grid), _measured(plant, true_w))


def _tasks_of_class(rng: np.random.Generator, host: _HostClass) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start in s and length in slots of the tasks of one class, of which as many run at once as there are hosts."""
    import heapq

    import numpy as np

    running = round(host.group.count * 0.55)
    first = np.zeros(running, dtype=np.int64)
    later = _arrival_seconds(rng, host.batches_per_hour)
    arrival_s = np.concatenate((first, later))
    wanted = _durations_slots(rng, len(arrival_s))
    # What runs at the start has run before: a share of it is left.
    wanted[:running] = np.maximum(4, wanted[:running] * rng.uniform(0.2, 3.0, running)).astype(np.int64)
    ends: list[int] = []
    kept = np.zeros(len(arrival_s), dtype=bool)
    for index, (start, length) in enumerate(zip(arrival_s.tolist(), wanted.tolist(), strict=True)):
        while ends and ends[0] <= start:
            heapq.heappop(ends)
        if len(ends) < host.group.count:
            kept[index] = True
            heapq.heappush(ends, start + length * SAMPLE_MS // 1000)
    left = (WEEK_MS // 1000 - arrival_s) // (SAMPLE_MS // 1000)
    return arrival_s[kept], np.minimum(wanted, left)[kept]


def _arrival_seconds(rng: np.random.Generator, batches_per_hour: float) -> NDArray[np.int64]:
    """Arrivals after the start, to the second, rising; each batch repeats its instant."""
    import numpy as np

    peak = batches_per_hour * 2.4
    count = rng.poisson(peak * WEEK_MS / 3.6e6)
    times = np.sort(rng.uniform(60.0, WEEK_MS / 1000 - 600.0, count))
    hour, day = (times / _HOUR_S) % 24.0, (times // 86_400).astype(np.int64)
    rhythm = 0.45 + 0.75 * np.exp(-(((hour - 14.5) / 4.5) ** 2)) + 0.15 * np.exp(-(((hour - 22.0) / 2.0) ** 2))
    rate = batches_per_hour * rhythm * np.where(day >= 5, 0.5, 1.0) * 1.6
    batches = times[rng.uniform(0.0, peak, count) < rate]
    sizes = np.minimum(rng.geometric(0.45, len(batches)), 12)
    return np.repeat(batches.astype(np.int64), sizes)


def _durations_slots(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Lengths in slots of 30 s: log-normal with median 50 min, one in twelve with a Pareto tail from 3 h."""
    import numpy as np

    body = rng.lognormal(np.log(50 * 60.0), 1.2, count)
    tail = 3 * _HOUR_S * (1.0 + rng.pareto(1.3, count))
    seconds = np.where(rng.uniform(size=count) < 1 / 12, tail, body)
    slots: NDArray[np.int64] = np.clip(seconds * 1000 // SAMPLE_MS, 4, 96 * 120).astype(np.int64)
    return slots


def _fragments(
    rng: np.random.Generator, slots: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Borders of the tasks' fragments, and length in slots and utilisation of each fragment."""
    import numpy as np

    borders = np.concatenate(([0], np.cumsum(slots)))
    total = int(borders[-1])
    task = np.repeat(np.arange(len(slots)), slots)
    within = np.arange(total) - borders[:-1][task]
    restless = rng.uniform(0.02, 0.35, len(slots))
    begins = (within % _LONGEST_FRAGMENT_SLOTS == 0) | (rng.uniform(size=total) < restless[task])
    at = np.flatnonzero(begins)
    length = np.diff(np.append(at, total))
    task = task[at]
    offset = np.searchsorted(task, np.arange(len(slots) + 1))

    level, jitter = _levels(rng, len(slots)), rng.uniform(0.002, 0.06, len(slots))
    # A new phase now and then, and always at a task's first fragment: its level holds until the next one.
    fresh = rng.uniform(size=len(at)) < 0.015
    fresh[offset[:-1]] = True
    drawn = np.where(within[at] == 0, level[task], np.clip(level[task] * rng.uniform(0.3, 1.3, len(at)), 0.0, 1.0))
    phase = drawn[np.maximum.accumulate(np.where(fresh, np.arange(len(at)), 0))]
    return offset, length, np.clip(phase + jitter[task] * rng.standard_normal(len(at)), 0.01, 1.0)


def _levels(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Utilisation that each task tends to: busy, bound by something else, or running on few of its cores."""
    import numpy as np

    chosen = rng.choice(3, count, p=[0.45, 0.3, 0.25])
    busy, bound = rng.beta(14.0, 1.5, count), rng.beta(3.0, 4.0, count)
    few = rng.integers(1, 9, count) / 16.0
    levels: NDArray[np.float64] = np.choose(chosen, (busy, bound, few))
    return levels


def _workload(
    classes: tuple[_HostClass, ...],
    start_s: NDArray[np.int64],
    kind: NDArray[np.int64],
    offset: NDArray[np.int64],
    length_slots: NDArray[np.int64],
    utilization: NDArray[np.float64],
    of_task: NDArray[np.int64],
) -> tuple[Workload, NDArray[np.float64]]:
    """Columns of the workload, and utilisation after demand was rounded to whole MHz."""
    import numpy as np

    cores = np.array([host.group.core_count for host in classes])[kind]
    capacity_mhz = np.array([host.group.capacity_mhz for host in classes])[kind]
    memory_mib = np.array([host.task_memory_mib for host in classes])[kind]
    demand_mhz = np.round(utilization * capacity_mhz[of_task])
    duration_ms = length_slots * SAMPLE_MS
    ends = np.concatenate(([0], np.cumsum(duration_ms)))
    workload = Workload.from_columns(
        {
            "ids": np.arange(1, len(kind) + 1),
            "submission_ms": START_EPOCH_MS + start_s * 1000,
            "duration_ms": np.diff(ends[offset]),
            "cpu_count": cores,
            "cpu_capacity_mhz": capacity_mhz,
            "memory_mib": memory_mib,
            "fragment_offset": offset,
            "fragment_duration_ms": duration_ms,
            "fragment_cpu_mhz": demand_mhz.astype(np.float32),
        }
    )
    return workload, demand_mhz / capacity_mhz[of_task]


def _true_power_w(
    classes: tuple[_HostClass, ...],
    workload: Workload,
    kind: NDArray[np.int64],
    of_task: NDArray[np.int64],
    utilization: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Mean power in W of the plant without drift, disturbance and noise, over each 30 s of the week.

    Exact: steps of power at the starts and ends of fragments, integrated, and read at the borders of the samples.
    """
    import numpy as np

    above_idle_w = np.zeros(len(utilization))
    idle_w = 0.0
    for index, host in enumerate(classes):
        watts, chosen = np.array(host.true_power.power_w), kind == index
        above_idle_w[chosen] = np.interp(utilization[chosen], host.true_power.utilization, watts) - watts[0]
        idle_w += host.group.count * watts[0]
    duration_ms = workload.fragment_duration_ms.astype(np.int64)
    end_ms = np.cumsum(duration_ms)
    begin_of_task = (end_ms - duration_ms)[workload.fragment_offset[:-1]]
    shift = workload.submission_ms - START_EPOCH_MS - begin_of_task
    end_ms = end_ms + shift[of_task]
    times = np.concatenate((end_ms - duration_ms, end_ms))
    order = np.argsort(times, kind="stable")
    power_w = np.cumsum(np.concatenate((above_idle_w, -above_idle_w))[order])
    times = times[order].astype(np.float64)
    energy = np.concatenate(([0.0], np.cumsum(power_w[:-1] * np.diff(times))))
    borders = np.arange(_SLOTS) * float(SAMPLE_MS)
    result: NDArray[np.float64] = idle_w + np.diff(np.interp(borders, times, energy)) / SAMPLE_MS
    return result


def _measured(rng: np.random.Generator, true_w: NDArray[np.float64]) -> MeasuredPower:
    """Add what the meter sees beside the curves, and round to whole watts.

    Drift of the whole: standard deviation 1.2 %, relaxing in 50 h. Disturbance: impulses of heat, about one in two hours
    and 150 W each, that decay in 40 min. Sensor noise: standard deviation 30 W.
    """
    import numpy as np

    from opendt.formats.power import MeasuredPower

    count = len(true_w)
    drift = 0.012 * _relaxing(rng.standard_normal(count), 50 * _HOUR_S)
    impulses_w = np.where(rng.uniform(size=count) < SAMPLE_MS / 7.2e6, rng.normal(0.0, 150.0, count), 0.0)
    disturbance_w = _decaying(impulses_w, 40 * 60.0)
    noise_w = rng.normal(0.0, 30.0, count)
    timestamp_ms = np.arange(1, count + 1, dtype=np.int64) * SAMPLE_MS
    return MeasuredPower(timestamp_ms, np.round(true_w * (1.0 + drift) + disturbance_w + noise_w))


def _relaxing(shocks: NDArray[np.float64], relaxation_s: float) -> NDArray[np.float64]:
    """Ornstein-Uhlenbeck process of standard deviation 1, from 0."""
    import math

    keep = math.exp(-SAMPLE_MS / 1000 / relaxation_s)
    return _decaying(shocks * math.sqrt(1.0 - keep * keep), relaxation_s)


def _decaying(shocks: NDArray[np.float64], relaxation_s: float) -> NDArray[np.float64]:
    import math
    from itertools import accumulate

    import numpy as np

    keep = math.exp(-SAMPLE_MS / 1000 / relaxation_s)
    return np.fromiter(accumulate(shocks.tolist(), lambda state, shock: state * keep + shock), float, len(shocks))


def _carbon(rng: np.random.Generator) -> tuple[CarbonPoint, ...]:
    """Quarter-hourly intensity from a day before the week to a day after it: sun at noon, a peak in the evening."""
    import numpy as np

    step_ms = 900_000
    times = START_EPOCH_MS + np.arange(-96, 8 * 96) * step_ms
    hour = (times / 3.6e6) % 24.0
    sun = 120.0 * np.exp(-(((hour - 13.0) / 3.0) ** 2))
    evening = 60.0 * np.exp(-(((hour - 19.5) / 2.0) ** 2))
    weather = np.cumsum(rng.normal(0.0, 4.0, len(times)))
    weather -= np.linspace(0.0, weather[-1], len(times))
    intensity = np.round(np.clip(320.0 - sun + evening + weather, 20.0, 800.0), 2)
    return tuple(
        CarbonPoint(timestamp_ms=t, intensity_g_per_kwh=v)
        for t, v in zip(times.tolist(), intensity.tolist(), strict=True)
    )
