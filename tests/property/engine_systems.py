"""Random small systems for the properties of the engine, and all that can be seen of one after it ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from opendt import (
    Battery,
    CarbonPoint,
    Cluster,
    Gpu,
    HostGroup,
    LinearPower,
    Link,
    MsePower,
    Options,
    PowerSource,
    Simulation,
    Topology,
    workload_from_tasks,
)
from opendt.model import Checkpoint, FailureEvent, TraceFailures
from opendt.model.options import (
    ComputeFilter,
    FilterAllocation,
    MemorizingAllocation,
    RamFilter,
    RamWeigher,
    TimeShiftAllocation,
    VCpuFilter,
    VGpuFilter,
)
from opendt.model.topology import (
    BestEffort,
    ConstantOverhead,
    DoubleThreshold,
    EqualShare,
    FirstFit,
    FixedShare,
    MaxMinFairness,
    RunningMean,
    ShareBasedOverhead,
    SingleThreshold,
)

FAIR = (MaxMinFairness(), FirstFit(), BestEffort(update_interval_ms=700))
UNFAIR = (EqualShare(), FixedShare(share_ratio=0.5))
FILTERS = (ComputeFilter(), VCpuFilter(), RamFilter(allocation_ratio=1.5), VGpuFilter())
ALLOCATIONS = (
    FilterAllocation(filters=FILTERS, weighers=(RamWeigher(),)),
    FilterAllocation(filters=FILTERS, subset_size=0),
    # Cores are promised four times over: tasks contend.
    FilterAllocation(filters=(ComputeFilter(), VCpuFilter(allocation_ratio=4.0)), weighers=(RamWeigher(),)),
    MemorizingAllocation(filters=FILTERS),
    TimeShiftAllocation(filters=FILTERS, forecast_size=4, memorize=False),
)
CLUSTERS = ("alpha", "beta")


@dataclass
class System:
    """What a simulation is made of; prints as Python that makes it again."""

    topology: Topology
    options: Options
    tasks: list[dict[str, Any]] = field(default_factory=list)
    sample_interval_ms: int | None = 500

    def start(self, *, submit: bool = True) -> Simulation:
        simulation = Simulation(self.topology, self.options, sample_interval_ms=self.sample_interval_ms)
        if submit:
            simulation.submit(workload_from_tasks(self.tasks))
        return simulation


@st.composite
def host_groups(draw, name: str, sharings: tuple, *, idle: bool) -> HostGroup:
    idle_w = float(draw(st.integers(1, 150))) if idle else 0.0
    model = draw(st.sampled_from(["linear", "mse"]))
    max_w = idle_w + draw(st.integers(10, 200))
    power = (
        LinearPower(idle_w=idle_w, max_w=max_w)
        if model == "linear"
        else MsePower(idle_w=idle_w, max_w=max_w, calibration_factor=draw(st.sampled_from([1.0, 1.4, 2.0])))
    )
    gpu_power = LinearPower(idle_w=idle_w / 2, max_w=idle_w / 2 + 120.0)
    overheads = st.sampled_from([None, ConstantOverhead(ratio=0.25), ShareBasedOverhead()])
    overhead = draw(overheads)
    gpu = Gpu(
        count=draw(st.integers(1, 2)),
        core_count=2,
        core_speed_mhz=1000.0,
        power_model=gpu_power,
        sharing=draw(st.sampled_from(sharings)),
        **({} if overhead is None else {"overhead": overhead}),
    )
    return HostGroup(
        name=name,
        count=draw(st.integers(1, 3)),
        core_count=draw(st.integers(1, 4)),
        core_speed_mhz=float(draw(st.sampled_from([1000, 1700, 2000]))),
        memory_mib=draw(st.sampled_from([512, 1024])),
        power_model=power,
        cpu_sharing=draw(st.sampled_from(sharings)),
        gpu=gpu if draw(st.booleans()) else None,
    )


@st.composite
def clusters(draw, name: str, sharings: tuple, *, idle: bool, batteries: bool) -> Cluster:
    groups = [draw(host_groups(f"{name}-{i}", sharings, idle=idle)) for i in range(draw(st.integers(1, 2)))]
    steps = draw(st.lists(st.integers(0, 400), max_size=6))
    carbon = [CarbonPoint(timestamp_ms=i * 2500 - 1000, intensity_g_per_kwh=float(g)) for i, g in enumerate(steps)]
    policy = draw(
        st.sampled_from(
            [
                SingleThreshold(carbon_threshold=200.0),
                DoubleThreshold(lower_threshold=100.0, upper_threshold=300.0),
                RunningMean(starting_threshold=150.0, window_size=3),
            ]
        )
    )
    battery = Battery(
        name="cell",
        capacity_kwh=draw(st.sampled_from([1e-5, 1e-3])),
        charging_w=80.0,
        initial_charge_kwh=1e-5,
        policy=policy,
    )
    return Cluster(
        name=name,
        hosts=tuple(groups),
        power_source=PowerSource(carbon=tuple(carbon)),
        battery=battery if batteries and draw(st.booleans()) else None,
    )


@st.composite
def task_lists(draw, cluster_names: tuple[str, ...], *, first_ms: int = 0) -> list[dict[str, Any]]:
    fragment = st.tuples(
        st.sampled_from([0, 1, 333, 500, 1000, 2500]),
        st.sampled_from([0.0, 100.0, 1000.0, 1333.3, 4000.0, 9000.0]),
        st.sampled_from([0.0, 0.0, 500.0, 3000.0]),
    )
    tasks = []
    for number in range(draw(st.integers(1, 8))):
        task = {
            "id": number,
            "submission_ms": first_ms + draw(st.sampled_from([0, 0, 1, 500, 1000, 3999])),
            "cpu_count": draw(st.integers(1, 4)),
            "memory_mib": draw(st.sampled_from([0, 100, 400, 700])),
            "gpu_count": draw(st.sampled_from([0, 0, 0, 1])),
            "fragments": draw(st.lists(fragment, min_size=1, max_size=4)),
            "slowdown": draw(st.sampled_from([1.0, 1.0, 1.37])),
            "deferrable": draw(st.booleans()),
            "deadline_ms": first_ms + draw(st.sampled_from([2000, 9000, 30000])),
        }
        if draw(st.integers(0, 3)) == 0:
            task["pinned"] = draw(st.sampled_from(cluster_names))
        if number and draw(st.integers(0, 2)) == 0:
            parents = draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=2, unique=True))
            task["parents"] = {parent: float(draw(st.sampled_from([0, 3, 64]))) for parent in parents}
        tasks.append(task)
    return tasks


@st.composite
def systems(
    draw,
    *,
    sharings: tuple = FAIR + UNFAIR,
    idle: bool = True,
    batteries: bool = True,
    failures: bool = True,
    allocations: tuple = ALLOCATIONS,
) -> System:
    names = CLUSTERS[: draw(st.integers(1, 2))]
    topology = Topology(
        clusters=tuple(draw(clusters(name, sharings, idle=idle, batteries=batteries)) for name in names),
        links=(
            (Link(**{"from": "alpha", "to": "beta"}, latency_ms=40.0, bandwidth_mib_per_s=64.0),)
            if len(names) == 2 and draw(st.booleans())
            else ()
        ),
    )
    ratios = st.sampled_from([0.3, 1.0])
    events = st.builds(
        FailureEvent, interval_ms=st.integers(1, 4000), duration_ms=st.integers(1, 2000), host_ratio=ratios
    )
    failing = failures and draw(st.booleans())
    options = Options(
        seed=draw(st.integers(0, 9)),
        scaling_policy=draw(st.sampled_from(["no_delay", "perfect"])),
        allocation=draw(st.sampled_from(allocations)),
        scheduling_quantum_ms=draw(st.sampled_from([1, 400, 1000])),
        max_failures=draw(st.integers(1, 4)),
        failures=TraceFailures(events=tuple(draw(st.lists(events, min_size=1, max_size=3)))) if failing else None,
        checkpoint=draw(st.sampled_from([None, None, Checkpoint(interval_ms=600, duration_ms=50)])),
        failed_hosts_draw_idle=draw(st.booleans()),
    )
    return System(topology, options, draw(task_lists(names)))


def seen(simulation: Simulation) -> dict[str, Any]:
    """Everything that can be read, with numbers as bytes; takes the series and results recorded so far."""
    columns = {
        "series": simulation.take_series(),
        "results": simulation.take_results(),
        "hosts": simulation.hosts(),
        "tasks": simulation.tasks(),
    }
    found: dict[str, Any] = {
        f"{kind}.{name}": values.tobytes() if isinstance(values, np.ndarray) else list(values)
        for kind, named in columns.items()
        for name, values in named.items()
    }
    totals = (simulation.now_ms, simulation.power_w, simulation.energy_j, simulation.emission_g)
    found["totals"] = np.array(totals, dtype=float).tobytes()
    found["counts"] = simulation.counts
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what differs: shorter to read than the bytes."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
