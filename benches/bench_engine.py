"""The engine on the SURF week, seen from Python: loading, a whole run, and what a live twin does to it."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

from data import surf_week
from harness import Context, Samples, bench

if TYPE_CHECKING:
    from opendt.engine.simulation import EngineWorkload, Simulation
    from opendt.model.topology import Topology

WEEK_MS = 7 * 86_400_000
NOON_MS = 3 * 86_400_000 + 12 * 3_600_000  # a busy moment in the middle of the week
WINDOW_MS = 300_000
TICK_MS = 30_000
WINDOWS = 288  # a day of them: one alone is too short for the clock, and not like the next


@cache
def week() -> EngineWorkload:
    """Tasks of the week, loaded once."""
    from opendt.engine.simulation import load_workload

    return load_workload(surf_week())


@cache
def topology() -> Topology:
    """The week's 277 hosts with their carbon trace."""
    from opendt.formats.opendc import read_topology

    return read_topology(surf_week() / "topology.json")


def start(where: Topology, tasks: EngineWorkload, *, with_basis: bool = False) -> Simulation:
    """Make a simulation at its first submission, sampled as the twin samples it."""
    from opendt.engine.simulation import Simulation
    from opendt.model.options import Options

    options = Options(start_epoch_ms=tasks.first_submission_ms)
    simulation = Simulation(where, options, sample_interval_ms=TICK_MS, with_basis=with_basis, settled=with_basis)
    simulation.submit(tasks)
    return simulation


def live_twin(weeks_before: int = 0) -> Simulation:
    """The live simulation of the twin in the middle of the week, after so many weeks of the same tasks."""
    tasks = week()
    simulation = start(topology(), tasks, with_basis=True)
    for number in range(weeks_before):
        simulation.advance((number + 1) * WEEK_MS)
        simulation.take_series()
        simulation.take_results()
        simulation.submit(tasks.shifted(tasks.first_submission_ms + (number + 1) * WEEK_MS))
    simulation.advance(weeks_before * WEEK_MS + NOON_MS)
    simulation.take_series()
    simulation.take_results()
    return simulation


@bench
def surf_load(context: Context) -> Samples:
    """Read, group and validate the two files."""
    from opendt.engine.simulation import load_workload

    folder = surf_week()
    return {"surf-load": context.repeat(lambda: load_workload(folder))}


@bench
def surf_loop(context: Context) -> Samples:
    """Run the week, loaded, with power every 30 s."""
    return {
        "surf-loop": context.repeat_fresh(lambda: start(topology(), week()), lambda simulation: simulation.run()),
        "surf-loop-energy-j": [_whole_week().energy_j],
    }


def _whole_week() -> Simulation:
    simulation = start(topology(), week())
    simulation.run()
    return simulation


@bench
def window(context: Context) -> Samples:
    """Five-minute windows of the live simulation, early and after four weeks of history, alternating."""
    twins = {"window": live_twin(), "window-four-weeks": live_twin(weeks_before=4)}
    samples: dict[str, list[float]] = {key: [] for key in twins}
    reading: list[float] = []
    for _ in range(context.repeats + 1):
        for key, twin in twins.items():
            samples[key].append(_windows(twin.fork()))
        reading.append(_windows(twins["window"].fork(), read=True))
    return {key: values[1:] for key, values in samples.items()} | {"window-with-reading": reading[1:]}


def _windows(twin: Simulation, *, read: bool = False) -> float:
    """Mean milliseconds of a window over a day of them; with `read` its samples and results are taken, too."""
    first = twin.now_ms
    started = time.perf_counter()
    for number in range(WINDOWS):
        twin.advance(first + (number + 1) * WINDOW_MS)
        if read:
            twin.take_series()
            twin.take_results()
    return (time.perf_counter() - started) * 1000 / WINDOWS


@bench
def fork(context: Context) -> Samples:
    """Forks of the live simulation, and an hour of what-if on one."""
    twin = live_twin()
    until_ms = twin.now_ms + 3_600_000
    milliseconds = context.repeat(twin.fork, inner=1000)

    def advance(forks: list[Simulation]) -> None:
        for one in forks:
            one.advance(until_ms)

    hours = context.repeat_fresh(lambda: [twin.fork() for _ in range(50)], advance)
    after_weeks = context.repeat(live_twin(weeks_before=4).fork, inner=1000)
    return {
        "fork": [sample * 1000 for sample in milliseconds],
        "fork-four-weeks": [sample * 1000 for sample in after_weeks],
        "what-if-hour": [sample / 50 for sample in hours],
    }


@bench
def snapshot(context: Context) -> Samples:
    """The live simulation to bytes without its workload, and back."""
    from opendt.engine.simulation import Simulation

    twin, tasks = live_twin(), [week()]
    data = twin.snapshot(workloads=False)
    return {
        "snapshot": context.repeat(lambda: twin.snapshot(workloads=False)),
        "restore": context.repeat(lambda: Simulation.restore(data, tasks)),
        "snapshot-kb": [len(data) / 1000],
    }


@bench
def battery(context: Context) -> Samples:
    """Run the week with a battery that fills and empties several times a day."""
    from opendt.model.topology import Battery, SingleThreshold

    (cluster,) = topology().clusters
    store = Battery(
        name="battery",
        capacity_kwh=20.0,
        charging_w=10_000.0,
        policy=SingleThreshold(carbon_threshold=_median_intensity()),
    )
    where = topology().model_copy(update={"clusters": (cluster.model_copy(update={"battery": store}),)})
    return {"battery": context.repeat_fresh(lambda: start(where, week()), lambda simulation: simulation.run())}


def _median_intensity() -> float:
    """Half of the time is dirtier than this."""
    import statistics

    (cluster,) = topology().clusters
    return statistics.median(point.intensity_g_per_kwh for point in cluster.power_source.carbon)


@bench
def apply_every_window(context: Context) -> Samples:
    """Run the week with another power curve in each window, as calibration sets it."""
    from opendt.model.change import SetPowerModel
    from opendt.model.power import CurvePower

    def curve(idle_w: float) -> SetPowerModel:
        return SetPowerModel(
            power_model=CurvePower(utilization=(0.0, 0.1, 0.5, 1.0), power_w=(idle_w, idle_w + 30, 150.0, 180.0))
        )

    changes = [curve(25.0 + 0.01 * number) for number in range(100)]

    def run(simulation: Simulation) -> None:
        for number in range(WEEK_MS // WINDOW_MS):
            simulation.advance(number * WINDOW_MS)
            simulation.apply(changes[number % len(changes)])
        simulation.run()

    twin = live_twin()
    return {
        "apply-every-window": context.repeat_fresh(lambda: start(topology(), week()), run),
        "apply": context.repeat(lambda: twin.apply(changes[0]), inner=100),
    }
