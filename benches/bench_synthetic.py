"""The engine on made loads that a recorded week does not exercise: size, contention, and how cost grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import Context, Samples, bench

if TYPE_CHECKING:
    from opendt.engine.simulation import EngineWorkload, Simulation
    from opendt.model.options import Options
    from opendt.model.topology import Topology

HOUR_MS = 3_600_000
TICK_MS = 30_000
CORE_MHZ = 2100.0
SIZES = (1, 2, 4, 8)


def hosts(count: int, core_count: int = 16) -> Topology:
    """One cluster of equal hosts."""
    from opendt.model.power import MsePower
    from opendt.model.topology import Cluster, HostGroup, Topology

    node = HostGroup(
        name="node",
        count=count,
        core_count=core_count,
        core_speed_mhz=CORE_MHZ,
        memory_mib=131_072,
        power_model=MsePower(idle_w=25.0, max_w=174.0, calibration_factor=4.0),
    )
    return Topology(clusters=(Cluster(name="dc", hosts=(node,)),))


def load(
    *,
    tasks: int,
    fragments: int,
    span_ms: int,
    fragment_s: tuple[int, int],
    cores: tuple[int, ...] = (16,),
    use: tuple[float, float] = (0.1, 1.0),
    memory_mib: tuple[int, ...] = (1024,),
) -> EngineWorkload:
    """Tasks that arrive evenly over a span, each with so many fragments of random length and demand.

    `use` bounds the demand as a share of the cores asked for. Always the same numbers: the generator is seeded.
    """
    import numpy as np

    from opendt.engine.simulation import to_engine
    from opendt.model.workload import Workload

    draw = np.random.default_rng(1)
    count = draw.choice(np.array(cores), tasks)
    duration_ms = draw.integers(*fragment_s, tasks * fragments, endpoint=True) * 1000
    mhz = np.repeat(count, fragments) * CORE_MHZ * draw.uniform(*use, tasks * fragments)
    columns: dict[str, Any] = {
        "ids": np.arange(tasks),
        "submission_ms": np.sort(draw.integers(0, span_ms + 1, tasks)),
        "duration_ms": duration_ms.reshape(tasks, fragments).sum(axis=1),
        "cpu_count": count,
        "cpu_capacity_mhz": count * CORE_MHZ,
        "memory_mib": draw.choice(np.array(memory_mib), tasks),
        "fragment_offset": np.arange(tasks + 1) * fragments,
        "fragment_duration_ms": duration_ms,
        "fragment_cpu_mhz": mhz.astype(np.float32),
    }
    return to_engine(Workload.from_columns(columns))


def start(where: Topology, tasks: EngineWorkload, options: Options | None = None) -> Simulation:
    """Make a simulation that is sampled every 30 s."""
    from opendt.engine.simulation import Simulation
    from opendt.model.options import Options

    options = (options or Options()).model_copy(update={"start_epoch_ms": tasks.first_submission_ms})
    simulation = Simulation(where, options, sample_interval_ms=TICK_MS)
    simulation.submit(tasks)
    return simulation


def runs(context: Context, where: Topology, tasks: EngineWorkload, options: Options | None = None) -> list[float]:
    """Milliseconds of whole runs."""
    return context.repeat_fresh(lambda: start(where, tasks, options), lambda simulation: simulation.run())


@bench
def long_tasks(context: Context) -> Samples:
    """A thousand tasks of ten thousand fragments on as many hosts."""
    tasks = load(tasks=1000, fragments=10_000, span_ms=24 * HOUR_MS, fragment_s=(10, 60))
    return {"long-tasks": runs(context, hosts(1000), tasks)}


@bench
def many_tasks(context: Context) -> Samples:
    """A hundred thousand tasks placed by free memory per core; the hosts are nearly full most of the time."""
    from opendt.model.options import ComputeFilter, CoreRamWeigher, FilterAllocation, Options, RamFilter, VCpuFilter

    tasks = load(
        tasks=100_000,
        fragments=1,
        span_ms=12 * HOUR_MS,
        fragment_s=(60, 7200),
        cores=(1, 2, 4, 8),
        memory_mib=(512, 2048, 8192, 16_384),
    )
    core_mem = FilterAllocation(
        filters=(ComputeFilter(), VCpuFilter(), RamFilter()), weighers=(CoreRamWeigher(),), subset_size=1
    )
    return {"many-tasks": runs(context, hosts(1000, core_count=32), tasks, Options(allocation=core_mem))}


@bench
def contention(context: Context) -> Samples:
    """A thousand tasks that share sixteen hosts and conserve their work."""
    from opendt.model.options import ComputeFilter, FilterAllocation, Options, RamFilter, RamWeigher, VCpuFilter

    tasks = load(tasks=1000, fragments=100, span_ms=HOUR_MS, fragment_s=(30, 30), cores=(1, 2, 4), use=(0.2, 1.0))
    crowded = FilterAllocation(
        filters=(ComputeFilter(), VCpuFilter(allocation_ratio=16.0), RamFilter(allocation_ratio=2.0)),
        weighers=(RamWeigher(),),
        subset_size=1,
    )
    return {"contention": runs(context, hosts(16), tasks, Options(allocation=crowded, scaling_policy="perfect"))}


@bench
def growth(context: Context) -> Samples:
    """Cost of a day against the length of the trace, and against the number of hosts that are as busy."""
    samples: dict[str, list[float]] = {}
    for size in SIZES:
        longer = load(tasks=500, fragments=1000 * size, span_ms=HOUR_MS, fragment_s=(30, 30))
        samples[f"growth-trace-{size}"] = runs(context, hosts(500), longer)
        wider = load(tasks=250 * size, fragments=1000, span_ms=HOUR_MS, fragment_s=(30, 30))
        samples[f"growth-hosts-{size}"] = runs(context, hosts(250 * size), wider)
    return samples
