"""Series of the windows gone by: the latest in memory, all in Parquet files, as long as retention allows.

A file holds successive windows, is complete when it has its name (written beside it, made safe, renamed) and is never changed:
``FIRST-LAST-START-END.parquet`` with window numbers and ms, so that a restart finds everything without opening a file. What
retention, want of room or damage takes away is told as an event, never dropped silently.

A loop that writes snapshots calls `flush` before each: what comes after it is computed again when the process is killed.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from opendt.orchestrator.event_types import Event, ResultsDamaged, ResultsDropped, ResultsTrouble

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SimulationResultsBuffer", "WindowSeries", "series_columns"]

TIME: Final = "time_ms"
_WINDOW: Final = "window"
_NAME: Final = re.compile(r"(\d+)-(\d+)-(\d+)-(\d+)\.parquet")
_SPANS: Final = b"opendt.windows"
_PARTIAL: Final = ".partial"
_DAMAGED: Final = ".damaged"
_MOST_UNWRITTEN: Final = 4
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class WindowSeries:
    """Series of one window.

    Attributes
    ----------
    index : int
        Number of the window.
    start_ms, end_ms : int
        Its borders, ms since the epoch (UTC).
    columns : mapping
        Name -> samples; all of one length. ``time_ms`` is among them, ms since the epoch.
    """

    index: int
    start_ms: int
    end_ms: int
    columns: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    first: int
    last: int
    start_ms: int
    end_ms: int
    size_bytes: int


class _Part(NamedTuple):
    """Content of a file: window number, start and end of each window; window number of each row; columns."""

    spans: list[list[int]]
    numbers: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]


def series_columns(
    series: Mapping[str, NDArray[Any]], clusters: Sequence[str], *, origin_ms: int = 0
) -> dict[str, NDArray[Any]]:
    """Lay the series of `Simulation.take_series` out in plain columns.

    Parameters
    ----------
    series : mapping
        Columns over samples, or over samples and clusters. Those with more dimensions (``basis``) are left out.
    clusters : sequence of str
        Names in the engine's order.
    origin_ms : int
        Added to the times: ms since the epoch at which the simulation's time is 0.

    Returns
    -------
    dict
        A quantity of one cluster under its name; of several their sum under its name and each as ``CLUSTER/NAME``.
        Intensities (``…_per_…``) have no sum.
    """
    columns: dict[str, NDArray[Any]] = {TIME: series[TIME] + origin_ms}
    for name, values in series.items():
        if name == TIME or not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == len(clusters))):
            continue
        if values.ndim == 1:
            columns[name] = values
        elif len(clusters) == 1:
            columns[name] = values[:, 0]
        else:
            if "_per_" not in name:
                columns[name] = values.sum(axis=1)
            columns |= {f"{cluster}/{name}": values[:, number] for number, cluster in enumerate(clusters)}
    return columns


class SimulationResultsBuffer:
    """Keeps series of windows. One thread appends, any may read.

    Parameters
    ----------
    directory : Path or str
        Where the files are; made when it is not there.
    datacenter : str
        Named in events.
    memory_windows : int
        Windows that memory holds.
    file_windows : int
        Windows after which a file is written by itself.
    retention_ms : int, optional
        Age, by the end of the latest window, beyond which files go away.
    retention_bytes : int, optional
        Size of all files beyond which the oldest go away.
    is_durable : bool
        Force each file to the disk. Without it a file outlives the process all the same, but not for certain a loss of power:
        then it is found missing or damaged, and told as such.
    is_reader : bool
        Only look at what another process keeps there: nothing is made, moved or removed.
    on_event : callable, optional
        Told what was dropped, could not be written or is damaged.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        datacenter: str = "",
        memory_windows: int = 288,
        file_windows: int = 12,
        retention_ms: int | None = None,
        retention_bytes: int | None = 1024 * _MIB,
        is_durable: bool = True,
        is_reader: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.datacenter = datacenter
        self._memory_windows = memory_windows
        self._file_windows = min(file_windows, memory_windows)
        self._retention_ms = retention_ms
        self._retention_bytes = retention_bytes
        self._is_durable = is_durable
        self._is_reader = is_reader
        self._on_event = on_event
        self._lock = threading.RLock()
        self._memory: deque[WindowSeries] = deque()
        self._unwritten = 0  # of those in memory, the latest
        self._is_in_trouble = False
        if not is_reader:
            self.directory.mkdir(parents=True, exist_ok=True)
            for partial in self.directory.glob(f"*{_PARTIAL}"):
                partial.unlink()  # a process was killed while it wrote; its windows come again
        self._files = self._find()

    @property
    def last_index(self) -> int | None:
        """The latest window, None when there is none."""
        with self._lock:
            if self._memory:
                return self._memory[-1].index
            return self._files[-1].last if self._files else None

    def append(self, window: WindowSeries) -> bool:
        """Take a window; one that is there already (it comes again after a restart) is left out.

        Returns
        -------
        bool
            Whether it was new.
        """
        with self._lock:
            last = self.last_index
            if last is not None and window.index <= last:
                return False
            if last is not None and window.index > last + 1:
                self._tell_dropped(last + 1, window.index - 1, "they were in no file when the process ended")
            self._memory.append(window)
            self._unwritten += 1
            if self._unwritten >= self._file_windows:
                self.flush()
            self._make_room()
            return True

    def flush(self) -> bool:
        """Write what no file holds yet. Whether it is safe now; if not, it is kept and tried again with the next windows."""
        with self._lock:
            if self._unwritten:
                try:
                    self._files.append(self._write([*self._memory][-self._unwritten :]))
                except OSError as error:
                    if not self._is_in_trouble:
                        self._tell(ResultsTrouble(datacenter=self.datacenter, reason=str(error)))
                    self._is_in_trouble = True
                    return False
                self._unwritten, self._is_in_trouble = 0, False
                self._retain()
            return True

    def unwritten(self) -> list[WindowSeries]:
        """Windows that no file holds yet, oldest first: what a snapshot must hold for them not to be lost."""
        with self._lock:
            return [*self._memory][len(self._memory) - self._unwritten :]

    def latest(self, count: int = 1) -> list[WindowSeries]:
        """The last windows, oldest first; fewer when there are fewer."""
        with self._lock:
            memory = list(self._memory)
            files = self._before_memory()
        found = memory[max(len(memory) - count, 0) :]
        before = memory[0].index if memory else None
        for file in reversed(files):
            if len(found) >= count:
                break
            try:
                found = [*_windows(self._read(file, before)), *found]
            except FileNotFoundError:  # taken by retention meanwhile, with all before it
                break
        return found[max(len(found) - count, 0) :]

    def timeseries(
        self, since_ms: int | None = None, until_ms: int | None = None, columns: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Series of a stretch of time, both ends included; NaN where a window lacks a column that another has.

        Parameters
        ----------
        since_ms, until_ms : int, optional
            Ends, ms since the epoch; all that there is unless given.
        columns : sequence of str, optional
            Only these, and ``time_ms``.
        """
        since = -(2**63) if since_ms is None else since_ms
        until = 2**63 - 1 if until_ms is None else until_ms
        with self._lock:
            memory = list(self._memory)
            files = self._before_memory()
        before = memory[0].index if memory else None
        wanted = (file for file in files if file.end_ms >= since and file.start_ms <= until)
        held: list[Mapping[str, NDArray[Any]]] = []
        for file in wanted:
            try:
                part = self._read(file, before)
            except FileNotFoundError:  # taken by retention meanwhile, with all before it: no hole in what is given
                held.clear()
            else:
                held += [] if part is None else [part.columns]
        held += [window.columns for window in memory if window.end_ms >= since and window.start_ms <= until]
        parts = [_within(part, since, until, columns) for part in held]
        return _joined([part for part in parts if len(part[TIME])])

    def close(self) -> None:
        """Write what no file holds yet."""
        self.flush()

    def _before_memory(self) -> list[_File]:
        """Files with windows that memory does not hold; the lock is held."""
        first = self._memory[0].index if self._memory else None
        return [file for file in self._files if first is None or file.first < first]

    def _find(self) -> list[_File]:
        files = []
        for path in self.directory.iterdir() if self.directory.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match:
                first, last, start_ms, end_ms = map(int, match.groups())
                with suppress(FileNotFoundError):  # its owner took it away meanwhile
                    files.append(_File(path, first, last, start_ms, end_ms, path.stat().st_size))
        return sorted(files, key=lambda file: file.first)

    def _write(self, windows: list[WindowSeries]) -> _File:
        import pyarrow as pa
        import pyarrow.parquet as pq

        first, last = windows[0], windows[-1]
        name = f"{first.index}-{last.index}-{first.start_ms}-{last.end_ms}.parquet"
        columns = _joined([dict(window.columns) for window in windows])
        lengths = [len(window.columns[TIME]) for window in windows]
        numbers = np.repeat(np.array([window.index for window in windows], np.int64), lengths)
        spans = json.dumps([[window.index, window.start_ms, window.end_ms] for window in windows])
        table = pa.table({_WINDOW: numbers, **columns}).replace_schema_metadata({_SPANS: spans.encode()})
        target, partial = self.directory / name, self.directory / f"{name}{_PARTIAL}"
        try:
            with partial.open("wb") as stream:
                pq.write_table(table, stream, compression="zstd", use_dictionary=[_WINDOW], write_statistics=False)
                stream.flush()
                if self._is_durable:
                    os.fsync(stream.fileno())
            size_bytes = partial.stat().st_size
            partial.replace(target)
            if self._is_durable:
                _sync(self.directory)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        return _File(target, first.index, last.index, first.start_ms, last.end_ms, size_bytes)

    def _read(self, file: _File, before: int | None) -> _Part | None:
        """What a file holds of the windows before that one; None when it is damaged.

        Raises
        ------
        FileNotFoundError
            When retention has taken it meanwhile.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(file.path).read(use_threads=False)
            spans = json.loads((table.schema.metadata or {})[_SPANS])
            columns = {name: table[name].to_numpy() for name in table.column_names}
            numbers = columns.pop(_WINDOW)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            self._put_aside(file, error)
            return None
        if before is None or file.last < before:
            return _Part(spans, numbers, columns)
        rows = slice(int(np.searchsorted(numbers, before)))
        kept = {name: values[rows] for name, values in columns.items()}
        return _Part([span for span in spans if span[0] < before], numbers[rows], kept)

    def _put_aside(self, file: _File, error: Exception) -> None:
        with self._lock:
            if file not in self._files:
                return  # another reader was first
            self._files.remove(file)
            if not self._is_reader:
                with suppress(OSError):  # a folder that cannot be written: it is found again at the next start
                    file.path.replace(file.path.with_name(file.path.name + _DAMAGED))
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        self._tell(ResultsDamaged(datacenter=self.datacenter, file=str(file.path), reason=reason))

    def _retain(self) -> None:
        newest_ms = self._files[-1].end_ms
        size_bytes = sum(file.size_bytes for file in self._files)
        while len(self._files) > 1:
            oldest = self._files[0]
            is_old = self._retention_ms is not None and newest_ms - oldest.end_ms > self._retention_ms
            if not is_old and (self._retention_bytes is None or size_bytes <= self._retention_bytes):
                return
            oldest.path.unlink(missing_ok=True)
            self._files.pop(0)
            size_bytes -= oldest.size_bytes
            reason = "older than retention allows" if is_old else "more than retention allows"
            self._tell_dropped(oldest.first, oldest.last, reason)

    def _make_room(self) -> None:
        """Let go of what files hold, and of the oldest beyond all bounds when nothing can be written."""
        while len(self._memory) > max(self._memory_windows, self._unwritten):
            self._memory.popleft()
        if self._unwritten > _MOST_UNWRITTEN * self._memory_windows:
            oldest = self._memory.popleft()
            self._unwritten -= 1
            self._tell_dropped(oldest.index, oldest.index, "they cannot be written and memory is full")

    def _tell_dropped(self, first: int, last: int, reason: str) -> None:
        self._tell(ResultsDropped(datacenter=self.datacenter, first_window=first, last_window=last, reason=reason))

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)


def _windows(part: _Part | None) -> Iterator[WindowSeries]:
    """Take a file's content apart."""
    if part is None:
        return
    for index, start_ms, end_ms in part.spans:
        rows = slice(*np.searchsorted(part.numbers, [index, index + 1]))
        yield WindowSeries(index, start_ms, end_ms, {name: values[rows] for name, values in part.columns.items()})


def _within(
    part: Mapping[str, NDArray[Any]], since: int, until: int, columns: Sequence[str] | None
) -> dict[str, NDArray[Any]]:
    time_ms = part[TIME]
    rows = slice(int(np.searchsorted(time_ms, since)), int(np.searchsorted(time_ms, until, side="right")))
    names = part if columns is None else [TIME, *(name for name in columns if name in part and name != TIME)]
    return {name: part[name][rows] for name in names}


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Put parts one behind the other, with NaN where one lacks a column."""
    if not parts:
        return {TIME: np.empty(0, np.int64)}
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: np.concatenate([part.get(name, np.full(len(part[TIME]), np.nan)) for part in parts]) for name in names
    }


def _sync(folder: Path) -> None:
    """Make a rename safe."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
