"""Environments: where the loop gets what happens from. The loop itself never asks in which one it is.

*Replay* is a folder with a recorded workload and its measured power, on the recorded clock. It tells the loop no more than a
live source would: requests when they are made, fragments when they have ended, power when it was measured.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from opendt.engine.simulation import load_workload
from opendt.formats.carbon import read_carbon
from opendt.formats.opendc import read_topology
from opendt.formats.power import read_power
from opendt.model.errors import FormatError
from opendt.orchestrator.sharing import with_shared_carbon
from opendt.twin.arrivals import NO_WORK, Tasks, Work, tasks_from_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from opendt.engine.simulation import EngineWorkload
    from opendt.model.topology import CarbonPoint, Topology

__all__ = ["Environment", "Source", "Window", "readings_on_ticks", "replay"]

HOUR_MS: Final = 3_600_000
_DEFAULT_TICK_MS: Final = 30_000
_FRAGMENT_COLUMNS: Final = frozenset(
    {"ids", "fragment_offset", "fragment_duration_ms", "fragment_cpu_mhz", "fragment_gpu_mhz"}
)
_EDGE_COLUMNS: Final = frozenset({"parent_offset", "parents", "edge_mib"})


@dataclass(frozen=True, slots=True)
class Window:
    """A window of event time that has closed.

    Attributes
    ----------
    index : int
        Number, from 0.
    start_ms, end_ms : int
        After `start_ms`, up to and including `end_ms`, ms since the start; the first one includes time 0.
    measured_w : ndarray, shape (ticks,)
        Reading at each tick, W; NaN where there is none.
    tasks : Tasks, optional
        Tasks that were submitted in it.
    work : Work
        Fragments that ended in it, of these tasks or earlier ones.
    """

    index: int
    start_ms: int
    end_ms: int
    measured_w: NDArray[np.float64]
    tasks: Tasks | None = None
    work: Work = NO_WORK


class Source(Protocol):
    """Delivers windows in order of event time, each when it has closed."""

    tick_ms: int
    end_ms: int

    def windows(self, window_ms: int) -> Iterator[Window]:
        """Deliver windows of this length until nothing more comes."""


@dataclass(frozen=True)
class Environment:
    """All that the loop needs of the world.

    Attributes
    ----------
    name : str
        Kind of environment.
    title : str
        What is watched, in a word.
    topology : Topology
        As the datasheet has it.
    start_epoch_ms : int
        Time 0, ms since the epoch (UTC).
    source : Source
        Windows.
    task_count : int
        Tasks of the record.
    input_hashes : dict
        SHA-256 of each input file, by name.
    """

    name: str
    title: str
    topology: Topology
    start_epoch_ms: int
    source: Source
    task_count: int
    input_hashes: dict[str, str]


def readings_on_ticks(
    time_ms: NDArray[np.int64], power_w: NDArray[np.float64], start_ms: int, end_ms: int, tick_ms: int
) -> NDArray[np.float64]:
    """Readings of a window on its ticks: each stands for the tick at or after it; NaN where there is none."""
    grid = np.full((end_ms - start_ms) // tick_ms, np.nan)
    ticks = -(-(time_ms - start_ms) // tick_ms)
    inside = (ticks >= 1) & (ticks <= len(grid)) & (power_w >= 0)
    grid[ticks[inside] - 1] = power_w[inside]
    return grid


class _Recorded:
    """A recorded workload and recorded readings, told as they happened."""

    def __init__(
        self, workload: EngineWorkload, time_ms: NDArray[np.int64], power_w: NDArray[np.float64], tick_ms: int
    ) -> None:
        self.tick_ms = tick_ms
        self.end_ms = int(time_ms[-1])
        self._time_ms, self._power_w = time_ms, power_w
        self._columns = workload.columns()
        self._ids = [str(name) for name in self._columns["ids"]]
        self._submitted_ms = self._columns["submission_ms"] - workload.first_submission_ms

    def windows(self, window_ms: int) -> Iterator[Window]:
        """Deliver all windows up to the last reading, and one more: only by then all that ran in them has ended."""
        count = -(-self.end_ms // window_ms) + 1
        tasks = np.searchsorted(self._submitted_ms, window_ms * np.arange(count + 1), side="right")
        tasks[0] = 0
        works = self._works(window_ms, count)
        for index in range(count):
            start_ms, end_ms = index * window_ms, (index + 1) * window_ms
            readings = slice(*np.searchsorted(self._time_ms, (start_ms, end_ms), side="right"))
            measured_w = readings_on_ticks(
                self._time_ms[readings], self._power_w[readings], start_ms, end_ms, self.tick_ms
            )
            arrived = self._tasks(int(tasks[index]), int(tasks[index + 1]))
            yield Window(index, start_ms, end_ms, measured_w, arrived, next(works))

    def _tasks(self, first: int, stop: int) -> Tasks | None:
        if first == stop:
            return None
        left_out = _FRAGMENT_COLUMNS | _EDGE_COLUMNS
        columns: dict[str, Any] = {
            name: column[first:stop] for name, column in self._columns.items() if name not in left_out
        }
        return tasks_from_columns(self._ids[first:stop], columns, self._parents(first, stop))

    def _parents(self, first: int, stop: int) -> list[list[str]]:
        """Tasks that those of a window wait for, whichever window they are of."""
        if "parents" not in self._columns:
            return []
        borders = self._columns["parent_offset"][first : stop + 1]
        return [
            [self._ids[parent] for parent in self._columns["parents"][begin:end]]
            for begin, end in itertools.pairwise(borders)
        ]

    def _works(self, window_ms: int, count: int) -> Iterator[Work]:
        """Fragments by the window in which they end, for each window."""
        columns = self._columns
        offset = columns["fragment_offset"].astype(np.int64)
        duration_ms = columns["fragment_duration_ms"]
        task = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
        total_ms = np.concatenate([[0], np.cumsum(duration_ms, dtype=np.int64)])
        end_ms = self._submitted_ms[task] + total_ms[1:] - total_ms[offset[task]]
        window = np.maximum(end_ms - 1, 0) // window_ms
        order = np.argsort(window, kind="stable")
        borders = np.searchsorted(window[order], np.arange(count + 1))
        is_last = np.zeros(len(task), np.bool_)
        is_last[offset[1:][np.diff(offset) > 0] - 1] = True
        gpu = columns.get("fragment_gpu_mhz")
        for first, stop in itertools.pairwise(borders):
            part = order[first:stop]
            yield self._work(part, task[part], is_last[part], gpu) if len(part) else NO_WORK

    def _work(
        self,
        part: NDArray[np.intp],
        task: NDArray[np.intp],
        is_last: NDArray[np.bool_],
        gpu: NDArray[np.float64] | None,
    ) -> Work:
        starts = np.flatnonzero(np.diff(task, prepend=-1))
        offset = np.append(starts, len(part)).astype(np.uint32)
        return Work(
            ids=tuple(self._ids[number] for number in task[starts]),
            offset=offset,
            duration_ms=self._columns["fragment_duration_ms"][part],
            cpu_mhz=self._columns["fragment_cpu_mhz"][part].astype(np.float64),
            closed=np.logical_or.reduceat(is_last, starts),
            gpu_mhz=None if gpu is None else gpu[part].astype(np.float64),
        )


def replay(folder: Path) -> Environment:
    """Replay a folder: ``tasks.parquet``, ``fragments.parquet``, ``topology.json`` and ``consumption.parquet``.

    ``carbon.parquet`` beside them is used where the topology names no carbon trace.

    Raises
    ------
    FormatError
        When a file is missing or cannot be read, or holds no readings.
    """
    topology_file, power_file = folder / "topology.json", folder / "consumption.parquet"
    topology = with_carbon(read_topology(topology_file), folder / "carbon.parquet")
    workload = load_workload(folder)
    measured = read_power(power_file)
    timestamp_ms = np.asarray(measured.timestamp_ms, np.int64)
    if not len(timestamp_ms):
        raise FormatError(
            power_file, "", "no readings", "measured power over time", "Replay needs something to compare with."
        )
    order = np.argsort(timestamp_ms, kind="stable")
    timestamp_ms, power_w = timestamp_ms[order], np.asarray(measured.power_w, float)[order]
    source = _Recorded(workload, timestamp_ms, power_w, _tick_ms(timestamp_ms))
    names = ("tasks.parquet", "fragments.parquet", "topology.json", "consumption.parquet", "carbon.parquet")
    hashes = {name: _sha256(folder / name) for name in names if (folder / name).exists()}
    return Environment(
        name="replay",
        title=folder.resolve().name,
        topology=topology,
        start_epoch_ms=workload.first_submission_ms,
        source=source,
        task_count=len(workload),
        input_hashes=hashes,
    )


def _tick_ms(timestamp_ms: NDArray[np.int64]) -> int:
    """Interval of the readings where windows and hours are made of whole ones, else the default."""
    if len(timestamp_ms) < 2:
        return _DEFAULT_TICK_MS
    tick_ms = int(np.median(np.diff(timestamp_ms)))
    return tick_ms if tick_ms > 0 and HOUR_MS % tick_ms == 0 else _DEFAULT_TICK_MS


def with_carbon(topology: Topology, file: Path) -> Topology:
    """Give all clusters the carbon intensities of a file, unless some have their own or there is no such file."""
    if any(cluster.power_source.carbon for cluster in topology.clusters) or not file.exists():
        return topology
    carbon = tuple(read_carbon(file))
    clusters = tuple(
        cluster.model_copy(update={"power_source": cluster.power_source.model_copy(update={"carbon": carbon})})
        for cluster in topology.clusters
    )
    return with_shared_carbon(topology.model_copy(update={"clusters": clusters}))


def without_carbon(topology: Topology) -> Topology:
    """Give a topology without its carbon intensities, which are by far the largest part of it."""
    return _with_sources(topology, {})


def with_carbon_of(topology: Topology, other: Topology) -> Topology:
    """Give the clusters the carbon intensities that those of the same name have in another topology."""
    return _with_sources(topology, {cluster.name: cluster.power_source.carbon for cluster in other.clusters})


def _with_sources(topology: Topology, carbon: Mapping[str, tuple[CarbonPoint, ...]]) -> Topology:
    clusters = tuple(
        cluster.model_copy(
            update={"power_source": cluster.power_source.model_copy(update={"carbon": carbon.get(cluster.name, ())})}
        )
        for cluster in topology.clusters
    )
    return topology.model_copy(update={"clusters": clusters})


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
