"""Environments: where the loop gets what happens from. The loop itself never asks in which one it is.

Built here so far: *replay*, a folder with a recorded workload and its measured power, on the recorded clock.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from opendt.engine.simulation import load_workload
from opendt.formats.carbon import read_carbon
from opendt.formats.opendc import read_topology
from opendt.formats.power import read_power
from opendt.model.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from opendt.engine.simulation import EngineWorkload
    from opendt.model.topology import Topology

__all__ = ["Environment", "Source", "Window", "replay"]

HOUR_MS: Final = 3_600_000
_DEFAULT_TICK_MS: Final = 30_000


@dataclass(frozen=True, slots=True)
class Window:
    """A window of event time that has closed.

    Attributes
    ----------
    index : int
        Number, from 0.
    start_ms, end_ms : int
        After `start_ms`, up to and including `end_ms`, ms since the first submission.
    measured_w : ndarray, shape (ticks,)
        Reading at each tick, W; NaN where there is none.
    """

    index: int
    start_ms: int
    end_ms: int
    measured_w: NDArray[np.float64]


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
    workload : EngineWorkload
        Tasks, those to come included where the environment knows them.
    source : Source
        Windows.
    input_hashes : dict
        SHA-256 of each input file, by name.
    """

    name: str
    title: str
    topology: Topology
    workload: EngineWorkload
    source: Source
    input_hashes: dict[str, str]


class _Recorded:
    """Recorded readings on a regular grid of ticks."""

    def __init__(self, timestamp_ms: NDArray[np.int64], power_w: NDArray[np.float64], tick_ms: int) -> None:
        self.tick_ms = tick_ms
        self.end_ms = int(timestamp_ms[-1])
        ticks = -(-timestamp_ms // tick_ms)  # a reading stands for the tick at or after it
        self._grid = np.full(int(ticks[-1]) + 1, np.nan)
        kept = ticks >= 0
        self._grid[ticks[kept]] = np.where(power_w[kept] >= 0, power_w[kept], np.nan)

    def windows(self, window_ms: int) -> Iterator[Window]:
        """Deliver all windows up to the last reading."""
        ticks = window_ms // self.tick_ms
        for index in range(-(-self.end_ms // window_ms)):
            measured_w = np.full(ticks, np.nan)
            part = self._grid[index * ticks + 1 : (index + 1) * ticks + 1]
            measured_w[: len(part)] = part
            yield Window(index, index * window_ms, (index + 1) * window_ms, measured_w)


def replay(folder: Path) -> Environment:
    """Replay a folder: ``tasks.parquet``, ``fragments.parquet``, ``topology.json`` and ``consumption.parquet``.

    ``carbon.parquet`` beside them is used where the topology names no carbon trace.

    Raises
    ------
    FormatError
        When a file is missing or cannot be read, or holds no readings.
    """
    topology_file, power_file = folder / "topology.json", folder / "consumption.parquet"
    topology = _with_carbon(read_topology(topology_file), folder / "carbon.parquet")
    workload = load_workload(folder)
    measured = read_power(power_file)
    timestamp_ms = np.asarray(measured.timestamp_ms, np.int64)
    if not len(timestamp_ms):
        raise FormatError(
            power_file, "", "no readings", "measured power over time", "Replay needs something to compare with."
        )
    order = np.argsort(timestamp_ms, kind="stable")
    source = _Recorded(timestamp_ms[order], np.asarray(measured.power_w, float)[order], _tick_ms(timestamp_ms[order]))
    names = ("tasks.parquet", "fragments.parquet", "topology.json", "consumption.parquet", "carbon.parquet")
    hashes = {name: _sha256(folder / name) for name in names if (folder / name).exists()}
    return Environment("replay", folder.resolve().name, topology, workload, source, hashes)


def _tick_ms(timestamp_ms: NDArray[np.int64]) -> int:
    """Interval of the readings where windows and hours are made of whole ones, else the default."""
    if len(timestamp_ms) < 2:
        return _DEFAULT_TICK_MS
    tick_ms = int(np.median(np.diff(timestamp_ms)))
    return tick_ms if tick_ms > 0 and HOUR_MS % tick_ms == 0 else _DEFAULT_TICK_MS


def _with_carbon(topology: Topology, file: Path) -> Topology:
    if any(cluster.power_source.carbon for cluster in topology.clusters) or not file.exists():
        return topology
    carbon = tuple(read_carbon(file))
    clusters = tuple(
        cluster.model_copy(update={"power_source": cluster.power_source.model_copy(update={"carbon": carbon})})
        for cluster in topology.clusters
    )
    return topology.model_copy(update={"clusters": clusters})


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
