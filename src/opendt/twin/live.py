"""The live twin: one running simulation that is kept in step with reality, window by window.

It is advanced by each window's own work and never simulated from the start again. To look ahead it is forked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opendt.engine.simulation import Simulation, to_engine
from opendt.model.change import GroupHosts, SetPowerModel
from opendt.model.options import Options
from opendt.model.power import CurvePower
from opendt.twin.curve import KNOTS, HostClass

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from opendt.engine.simulation import EngineWorkload
    from opendt.model.topology import Topology
    from opendt.model.workload import Workload

__all__ = ["LiveTwin", "Load", "Observed", "host_classes"]


@dataclass(frozen=True, slots=True)
class Load:
    """What the hosts do at successive ticks, as calibration and forecasts need it.

    Attributes
    ----------
    time_ms : ndarray, shape (ticks,)
        Times, ms since the start.
    features : ndarray, shape (ticks, classes, knots)
        Sums over busy hosts of the hat functions of a power curve at their utilisation.
    hosts_up : ndarray, shape (ticks, classes)
        Hosts that draw power.
    known_ms : ndarray, shape (ticks,)
        From when on an operator knows a row: when all fragments that ran at its tick have ended.
    """

    time_ms: NDArray[np.int64]
    features: NDArray[np.float64]
    hosts_up: NDArray[np.float64]
    known_ms: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Observed:
    """A window that the live twin has gone through.

    Attributes
    ----------
    start_ms, end_ms : int
        The window, ms since the start.
    load : Load
        Of its ticks.
    series, results : dict
        As `Simulation.take_series` and `Simulation.take_results` give them.
    """

    start_ms: int
    end_ms: int
    load: Load
    series: dict[str, NDArray[Any]]
    results: dict[str, Any]


def host_classes(topology: Topology) -> list[HostClass]:
    """Describe each host group with the power curve of its datasheet, in the engine's order of classes."""
    groups = [(cluster.name, group) for cluster in topology.clusters for group in cluster.hosts]
    names = Counter(group.name for _, group in groups)
    return [
        HostClass(
            name=group.name if names[group.name] == 1 else f"{cluster}/{group.name}",
            host_count=max(group.count, 1),
            utilization=KNOTS,
            power_w=tuple(group.power_model.watts_at(knot) for knot in KNOTS),
        )
        for cluster, group in groups
    ]


class LiveTwin:
    """A simulation in step with a datacenter.

    Parameters
    ----------
    topology : Topology
        As the datasheet describes it.
    workload : Workload
        Tasks, those to come included where they are known.
    tick_ms : int
        Interval of power readings, ms; the twin is sampled at the same times.
    seed : int
        Of the simulation.
    """

    def __init__(
        self, topology: Topology, workload: Workload | EngineWorkload, *, tick_ms: int = 30_000, seed: int = 0
    ) -> None:
        tasks = to_engine(workload)
        self.topology = topology
        self.classes = host_classes(topology)
        self.tick_ms = tick_ms
        self.simulation = Simulation(
            topology,
            Options(start_epoch_ms=tasks.first_submission_ms, seed=seed),
            sample_interval_ms=tick_ms,
            settled=True,
            with_basis=True,
        )
        self.simulation.submit(tasks)

    @property
    def now_ms(self) -> int:
        """Present time, ms since the start."""
        return self.simulation.now_ms

    def start(self) -> None:
        """Let everything happen that is due at time 0, so that a first look ahead sees the tasks that begin there."""
        self.simulation.advance(0)

    def advance(self, until_ms: int) -> Observed:
        """Go through the window that ends at `until_ms`."""
        start_ms = self.now_ms
        self.simulation.advance(until_ms)
        series = self.simulation.take_series()
        return Observed(start_ms, until_ms, load_of(series), series, self.simulation.take_results())

    def look_ahead(self, horizon_ms: int) -> Load:
        """What the hosts will do within the horizon when the workload is known: fork, advance, read."""
        future = self.simulation.fork()
        future.advance(self.now_ms + horizon_ms)
        return load_of(future.take_series())

    def class_counts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Hosts that draw power, and those that hold a task, now; a number of each class."""
        now = self.simulation.class_counts()
        return now["hosts"], now["busy"]

    def adopt_curves(self, curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> None:
        """Let the engine use learned power curves, one of each class: (utilisations, watts of one host)."""
        groups = [group.name for cluster in self.topology.clusters for group in cluster.hosts]
        # A name that several clusters use stands for hosts of several classes: the engine cannot tell them apart by it.
        self.simulation.apply(
            *(
                SetPowerModel(
                    hosts=GroupHosts(group=group),
                    power_model=CurvePower(utilization=tuple(utilization), power_w=tuple(power_w)),
                )
                for group, (utilization, power_w) in zip(groups, curves, strict=True)
                if groups.count(group) == 1
            )
        )


def load_of(series: dict[str, NDArray[Any]]) -> Load:
    """Columns of a series that was recorded with a basis."""
    return Load(series["time_ms"], series["basis"], series["class_hosts"], series["basis_known_ms"])
