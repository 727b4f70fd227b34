"""The live twin: one running simulation that is kept in step with reality, window by window.

It is advanced by each window's own work and never simulated from the start again. To look ahead it is forked.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.engine.simulation import Simulation
from opendt.model.change import GroupHosts, SetPowerModel
from opendt.model.options import Options
from opendt.model.power import CurvePower
from opendt.twin.curve import KNOTS, HostClass
from opendt.twin.metrics import Totals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from opendt.model.change import Change
    from opendt.model.topology import Topology
    from opendt.twin.arrivals import Tasks, Work

__all__ = ["LiveTwin", "Load", "Observed", "Present", "host_classes"]

DAY_MS: Final = 86_400_000


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
    """

    time_ms: NDArray[np.int64]
    features: NDArray[np.float64]
    hosts_up: NDArray[np.float64]

    def after(self, time_ms: int) -> Load:
        """The ticks after a time."""
        first = int(np.searchsorted(self.time_ms, time_ms, side="right"))
        return Load(self.time_ms[first:], self.features[first:], self.hosts_up[first:])

    def padded(self, ticks: int) -> Load:
        """As many ticks as asked for, the last one repeated; times go on at the last interval."""
        more = ticks - len(self.time_ms)
        interval_ms = int(self.time_ms[-1] - self.time_ms[-2]) if len(self.time_ms) > 1 else int(self.time_ms[-1])
        later = self.time_ms[-1] + interval_ms * np.arange(1, more + 1)
        return Load(
            np.concatenate([self.time_ms, later]),
            np.concatenate([self.features, np.repeat(self.features[-1:], more, axis=0)]),
            np.concatenate([self.hosts_up, np.repeat(self.hosts_up[-1:], more, axis=0)]),
        )

    @classmethod
    def joined(cls, parts: Sequence[Load]) -> Load:
        """Successive parts as one."""
        return cls(
            np.concatenate([part.time_ms for part in parts]),
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.hosts_up for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Observed:
    """A window that a simulation has gone through.

    Attributes
    ----------
    start_ms, end_ms : int
        The window, ms since the start.
    load : Load
        Of its ticks.
    series, results : dict
        As `Simulation.take_series` and `Simulation.take_results` give them.
    start, end : Totals
        At its borders.
    """

    start_ms: int
    end_ms: int
    load: Load
    series: dict[str, NDArray[Any]]
    results: dict[str, Any]
    start: Totals
    end: Totals


@dataclass(frozen=True, slots=True)
class Present:
    """The system as it is taken to be now.

    Attributes
    ----------
    simulation : Simulation
        A fork at the end of the window, for questions about what comes.
    window : Observed
        The window that ends now; its last ticks may rest on held demands.
    unknown : Load
        Ticks up to now that rest on held demands.
    class_counts : tuple of ndarray, shape (classes,)
        Hosts that draw power, and those that hold a task, now.
    """

    simulation: Simulation
    window: Observed
    unknown: Load
    class_counts: tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(slots=True)
class _Parts:
    """What was recorded piece by piece."""

    series: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    def joined(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return _join(self.series), _join(self.results)


def _join(parts: list[dict[str, Any]]) -> dict[str, Any]:
    filled = [part for part in parts if len(next(iter(part.values())))] or parts[:1]
    if len(filled) == 1:
        return filled[0]
    return {name: _concatenated([part[name] for part in filled]) for name in filled[0]}


def _concatenated(columns: list[Any]) -> Any:
    return list(chain.from_iterable(columns)) if isinstance(columns[0], list) else np.concatenate(columns)


def groups_of(topology: Topology) -> list[tuple[str, str]]:
    """Cluster and name of each host group, in the engine's order of classes."""
    return [(cluster.name, group.name) for cluster in topology.clusters for group in cluster.hosts]


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
    """A simulation in step with a datacenter, and forks of it that are in step with the present.

    What a task does is known when it has been done: the simulation advances as far as nothing has to be guessed
    (`confirm`). From there to the present a fork goes on, in which tasks hold the demand they last showed (`present`).

    Parameters
    ----------
    topology : Topology
        As the datasheet describes it.
    start_epoch_ms : int
        Time 0, ms since the epoch (UTC).
    tick_ms : int
        Interval of power readings, ms; the twin is sampled at the same times.
    window_ms : int
        Length of a window, ms.
    patience_ms : int
        A task that has not told what it does for so long is taken to do what it did before, ms: a producer that died must not
        keep the twin from learning. Longer than any fragment.
    seed : int
        Of the simulation.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        start_epoch_ms: int,
        tick_ms: int = 30_000,
        window_ms: int = 300_000,
        patience_ms: int = DAY_MS,
        seed: int = 0,
    ) -> None:
        self.classes = host_classes(topology)
        self.tick_ms = tick_ms
        self.window_ms = window_ms
        self.patience_ms = patience_ms
        self.simulation = Simulation(
            topology,
            Options(start_epoch_ms=start_epoch_ms, seed=seed),
            sample_interval_ms=tick_ms,
            settled=True,
            with_basis=True,
        )
        self._groups = groups_of(topology)
        self._open: dict[str, tuple[int, int]] = {}
        self._window = _Parts()
        self._window_start = Totals.of(self.simulation)
        self._completed: Observed | None = None
        self._changes: list[tuple[int, tuple[Change, ...]]] = []

    # -- what happened -----------------------------------------------------------------------------------------------

    def submit(self, tasks: Tasks) -> None:
        """Take tasks that were submitted after the last window that closed; they wait for parents that have not ended.

        Raises
        ------
        EngineError
            When a task was due in the past or names a host that does not exist; nothing is taken then.
        """
        waits = [(task, *self._open[parent]) for task, parent in tasks.earlier_parents if parent in self._open]
        number = self.simulation.submit_open(tasks.workload, waits)
        self._open.update((name, (number, index)) for index, name in enumerate(tasks.ids))

    def feed(self, work: Work) -> int:
        """Take fragments that have ended; gives how many tasks of them are not in the system (any more)."""
        known = [position for position, name in enumerate(work.ids) if name in self._open]
        strangers = len(work.ids) - len(known)
        if strangers:
            work = work.select(known)
        if work.ids:
            handles = np.array([self._open[name] for name in work.ids], dtype=np.uint32)
            workloads, indices = np.ascontiguousarray(handles[:, 0]), np.ascontiguousarray(handles[:, 1])
            columns = (work.offset, work.duration_ms, work.cpu_mhz, work.closed, work.gpu_mhz)
            self.simulation.feed(workloads, indices, *columns)
        return strangers

    def schedule(self, time_ms: int, changes: Sequence[Change]) -> None:
        """Let changes take effect at a time that the simulation has not passed, ms since the start.

        Raises
        ------
        EngineError
            When they cannot be applied to the system as it is; nothing is taken then.
        """
        trial = self.at(time_ms)
        trial.apply(*changes)
        self._changes.append((time_ms, tuple(changes)))

    # -- how far it is known ------------------------------------------------------------------------------------------

    def confirm(self, end_ms: int) -> Iterator[Observed]:
        """Advance as far towards `end_ms` as everything is known; gives every window that is completed on the way.

        What is done with the twin between two windows (`adopt_curves`) has its effect from there on.
        """
        known_ms = max(self._known_until(end_ms), end_ms - self.patience_ms)
        while True:
            border_ms = self._window_start.time_ms + self.window_ms
            if border_ms > known_ms:
                break
            self._advance(border_ms)
            yield self._close_window(border_ms)
        self._advance(known_ms)

    def _known_until(self, end_ms: int) -> int:
        probe = self.simulation.fork(with_basis=False)
        probe.set_sampling(None)
        self._walk(probe, end_ms)
        held_ms = probe.held_since_ms
        return end_ms if held_ms is None else min(end_ms, held_ms - 1)

    def _advance(self, until_ms: int) -> None:
        if until_ms < self.simulation.now_ms:
            return
        self._walk(self.simulation, until_ms)
        self._changes = [change for change in self._changes if change[0] > until_ms]
        # Only patience leads beyond what is known: from there on the guess counts as what happened.
        self.simulation.forget_guesses()
        for name in self._take(self.simulation, self._window)["id"]:
            self._open.pop(name, None)

    def _walk(self, simulation: Simulation, until_ms: int) -> None:
        """Advance a simulation, with the changes that take effect on the way."""
        for time_ms, changes in self._changes:
            if simulation.now_ms <= time_ms <= until_ms:
                simulation.advance(time_ms)
                simulation.apply(*changes)
        simulation.advance(until_ms)

    def _close_window(self, end_ms: int) -> Observed:
        series, results = self._window.joined()
        self._window = _Parts()
        start, self._window_start = self._window_start, Totals.of(self.simulation)
        self._completed = Observed(start.time_ms, end_ms, load_of(series), series, results, start, self._window_start)
        return self._completed

    def rows_since(self, time_ms: int) -> Load:
        """Load of the ticks after `time_ms` that are known and belong to no completed window yet."""
        return load_of(self._window.joined()[0]).after(time_ms)

    # -- the present ---------------------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """Until when everything is known, ms since the start."""
        return self.simulation.now_ms

    @property
    def completed_ms(self) -> int:
        """End of the last window that `confirm` gave, ms since the start."""
        return self._window_start.time_ms

    def present(self, end_ms: int) -> Present:
        """The system at the end of the window that has just closed, with demands held where they are not known yet."""
        start_ms = end_ms - self.window_ms
        fork = self.simulation.fork()
        if self._completed is not None and self._completed.end_ms == end_ms:
            self._take(fork, nothing := _Parts())
            return Present(fork, self._completed, load_of(nothing.joined()[0]), self._class_counts(fork))
        known = _Parts(list(self._window.series), list(self._window.results))
        earlier, guessed = _Parts(), _Parts()
        start = self._window_start
        if start.time_ms < start_ms:
            self._walk(fork, start_ms)
            start = Totals.of(fork)
            self._take(fork, earlier)
            known = _Parts()
        self._walk(fork, end_ms)
        self._take(fork, guessed)
        series, results = _Parts(known.series + guessed.series, known.results + guessed.results).joined()
        window = Observed(start_ms, end_ms, load_of(series), series, results, start, Totals.of(fork))
        unknown = _join(earlier.series + guessed.series)
        return Present(fork, window, load_of(unknown), self._class_counts(fork))

    def fork(self) -> LiveTwin:
        """A twin of its own from here on, for what would have been."""
        other = copy.copy(self)
        own = {name: copy.copy(getattr(self, name)) for name in ("classes", "_groups", "_open", "_changes")}
        window = _Parts(list(self._window.series), list(self._window.results))
        vars(other).update(own, simulation=self.simulation.fork(), _window=window)
        return other

    @property
    def is_changing(self) -> bool:
        """Whether changes are to take effect that have not yet."""
        return bool(self._changes)

    def at(self, time_ms: int) -> Simulation:
        """The system at a time to come, with demands held where they are not known: a fork."""
        fork = self.simulation.fork(with_basis=False)
        self._walk(fork, time_ms)
        return fork

    # -- host classes --------------------------------------------------------------------------------------------------

    def extend(self, topology: Topology) -> bool:
        """Make room for host groups that a later topology adds; True when there are any."""
        known = set(self._groups)
        classes = zip(groups_of(topology), host_classes(topology), strict=True)
        added = [(group, host_class) for group, host_class in classes if group not in known]
        self._groups += [group for group, _ in added]
        self.classes += [host_class for _, host_class in added]
        self._window.series = [self._widened(series) for series in self._window.series]
        return bool(added)

    def adopt_curves(self, curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> None:
        """Let the engine use learned power curves, one of each class: (utilisations, watts of one host)."""
        there = set(self.simulation.class_names())
        names = Counter(group for _, group in self._groups)
        # A name that several clusters use stands for hosts of several classes: the engine cannot tell them apart by it.
        self.simulation.apply(
            *(
                SetPowerModel(
                    hosts=GroupHosts(group=key[1]),
                    power_model=CurvePower(utilization=tuple(utilization), power_w=tuple(power_w)),
                )
                for key, (utilization, power_w) in zip(self._groups, curves, strict=True)
                if names[key[1]] == 1 and key in there
            )
        )

    def _take(self, simulation: Simulation, parts: _Parts) -> dict[str, Any]:
        """Move what was recorded to `parts`; gives the results."""
        series, results = simulation.take_series(), simulation.take_results()
        if series["class_hosts"].shape[1] != len(self._groups):
            place = self._places(simulation)
            series |= {name: self._folded(series[name], place) for name in ("basis", "class_hosts")}
        parts.series.append(series)
        parts.results.append(results)
        return results

    def fold(self, load: Load, simulation: Simulation) -> Load:
        """Give the load of a fork in our host classes: hosts that were added to a group have a class of their own there."""
        if load.hosts_up.shape[1] == len(self._groups):
            return load
        place = self._places(simulation)
        return Load(load.time_ms, self._folded(load.features, place), self._folded(load.hosts_up, place))

    def _folded(self, column: NDArray[np.float64], place: list[int]) -> NDArray[np.float64]:
        folded = np.zeros((len(column), len(self._groups), *column.shape[2:]))
        for ours, theirs in zip(place, np.moveaxis(column, 1, 0), strict=False):
            folded[:, ours] += theirs
        return folded

    def _widened(self, series: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        missing = len(self._groups) - series["class_hosts"].shape[1]
        if not missing:
            return series
        padding = {"basis": ((0, 0), (0, missing), (0, 0)), "class_hosts": ((0, 0), (0, missing))}
        return series | {name: np.pad(series[name], width) for name, width in padding.items()}

    def _places(self, simulation: Simulation) -> list[int]:
        """Our class of each class of the engine: hosts that were added to a group or changed have classes of their own there."""
        place = {group: number for number, group in enumerate(self._groups)}
        return [place[name] for name in simulation.class_names()]

    def _class_counts(self, simulation: Simulation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        now = simulation.class_counts()
        place = self._places(simulation)
        count = len(self._groups)
        hosts, busy = (np.bincount(place, now[name], count).astype(np.float64) for name in ("hosts", "busy"))
        return hosts, busy


def load_of(series: dict[str, NDArray[Any]]) -> Load:
    """Columns of a series that was recorded with a basis."""
    return Load(series["time_ms"], series["basis"], series["class_hosts"])
