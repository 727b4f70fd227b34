"""Failures of hosts: OpenDC's parquet, and archives of real failures turned into the same form.

OpenDC's rows are ``failure_interval`` (ms since the *end* of the previous failure), ``failure_duration`` (ms) and
``failure_intensity`` (share of the hosts, in (0, 1]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from opendt.model.errors import FormatError
from opendt.model.options import FailureEvent

__all__ = ["events_from_outages", "read_failures", "read_fta_outages", "read_lanl_outages", "write_failures"]

Reader = Callable[[str], Iterable[tuple[int, int, float]]]
Outage = tuple[int, int]
"""Start and end of one host's outage, in ms of any one clock."""


def read_failures(path: Path | str, *, reader: Reader | None = None) -> tuple[FailureEvent, ...]:
    """Read a failure trace.

    Parameters
    ----------
    path : Path or str
        Parquet file.
    reader : callable, optional
        Gives (interval in ms, duration in ms, share) for each row of a file; the engine's by default.

    Raises
    ------
    FormatError
        When the file is no such trace or a value is out of bounds; names the row.
    """
    events = []
    for row, (interval_ms, duration_ms, host_ratio) in enumerate((reader or _engine_reader())(str(path))):
        for name, value in (("failure_interval", interval_ms), ("failure_duration", duration_ms)):
            if value < 0:
                raise FormatError(path, f"row {row}, column {name}", value, "a number of ms >= 0")
        if not 0 < host_ratio <= 1:
            raise FormatError(path, f"row {row}, column failure_intensity", host_ratio, "a share in (0, 1]")
        events.append(FailureEvent(interval_ms=interval_ms, duration_ms=duration_ms, host_ratio=host_ratio))
    if not events:
        raise FormatError(path, "", "no rows", "at least one failure")
    return tuple(events)


def write_failures(events: Iterable[FailureEvent], path: Path | str) -> None:
    """Write a failure trace; the file appears when it is complete."""
    import pyarrow as pa

    from opendt.formats.parquet import write_table

    rows = list(events)
    columns = {
        "failure_interval": ([event.interval_ms for event in rows], pa.int64()),
        "failure_duration": ([event.duration_ms for event in rows], pa.int64()),
        "failure_intensity": ([event.host_ratio for event in rows], pa.float64()),
    }
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, (_, kind) in columns.items()])
    write_table(pa.table({name: pa.array(*column) for name, column in columns.items()}, schema=schema), Path(path))


def events_from_outages(outages: Iterable[Outage], host_count: int) -> tuple[FailureEvent, ...]:
    """Turn outages of single hosts into failure events.

    Events of the engine do not overlap, so outages that overlap or touch become one event: it lasts from the first
    start to the last end, and hits the share of hosts whose host-time is the same (at least one host).
    """
    if host_count < 1:
        raise ValueError(f"host_count must be at least 1, not {host_count}")
    events: list[FailureEvent] = []
    clock: int | None = None
    for start, end, down in _merged(sorted(outages)):
        hosts = max(1, round(down / max(end - start, 1)))
        interval = start - (start if clock is None else clock)
        events.append(
            FailureEvent(interval_ms=interval, duration_ms=end - start, host_ratio=min(1.0, hosts / host_count))
        )
        clock = end
    return tuple(events)


def _merged(outages: Iterable[Outage]) -> Iterable[tuple[int, int, int]]:
    """Start, end and summed host-time of groups of outages that overlap or touch."""
    group: tuple[int, int, int] | None = None
    for start, end in outages:
        if group is not None and start <= group[1]:
            group = (group[0], max(group[1], end), group[2] + end - start)
            continue
        if group is not None:
            yield group
        group = (start, end, end - start)
    if group is not None:
        yield group


def read_fta_outages(path: Path | str, *, node_prefix: str = "") -> list[Outage]:
    """Read the ``event_trace.tab`` of a Failure Trace Archive system, plain, .gz or .xz.

    Event type 0 is unavailable, from ``event_start_time`` to ``event_stop_time`` in unix seconds.

    Parameters
    ----------
    path : Path or str
        The file.
    node_prefix : str, optional
        Keep only nodes whose name starts so, for example ``G1/site1/c1/``.
    """
    from opendt.formats.textfile import open_text

    outages: list[Outage] = []
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.startswith("#") or not line.strip():
                continue
            parts = [part.strip() for part in line.split("\t")]
            if len(parts) < 8:
                raise FormatError(path, f"line {number}", f"{len(parts)} columns", "at least 8, split by tabs")
            if parts[5] != "0" or not parts[4].startswith(node_prefix):
                continue
            outages.append(_seconds(path, number, parts[6], parts[7]))
    return outages


def _seconds(path: Path | str, number: int, start: str, stop: str) -> Outage:
    try:
        outage = (round(float(start) * 1000), round(float(stop) * 1000))
    except (ValueError, OverflowError) as error:
        raise FormatError(path, f"line {number}", f"{start} to {stop}", "two times in unix seconds") from error
    if outage[1] < outage[0]:
        raise FormatError(path, f"line {number}", f"{start} to {stop}", "an end that is not before its start")
    return outage


def read_lanl_outages(path: Path | str, *, system: int | None = None) -> list[Outage]:
    """Read the failure data that Los Alamos National Laboratory released (LA-UR-05-7318), csv, plain or .xz.

    ``Prob Started`` and ``Prob Fixed`` are local minutes (m/d/Y H:M), taken here as UTC: only differences count. Rows
    that end before they start, or lack a time, are in the original and are left out.

    Parameters
    ----------
    path : Path or str
        The file.
    system : int, optional
        Keep only this system (2 to 24).
    """
    import csv
    from datetime import UTC, datetime

    from opendt.formats.textfile import open_text

    def minutes(text: str) -> int | None:
        try:
            return int(datetime.strptime(text, "%m/%d/%Y %H:%M").replace(tzinfo=UTC).timestamp() * 1000)
        except ValueError:
            return None

    outages: list[Outage] = []
    with open_text(path) as lines:
        rows = csv.DictReader(lines)
        missing = {"System", "Prob Started", "Prob Fixed"} - set(rows.fieldnames or ())
        if missing:
            raise FormatError(path, "header", f"no column {sorted(missing)[0]}", "the columns of LA-UR-05-7318")
        for row in rows:
            if system is not None and row["System"] != str(system):
                continue
            start, end = minutes(row["Prob Started"] or ""), minutes(row["Prob Fixed"] or "")
            if start is not None and end is not None and end >= start:
                outages.append((start, end))
    return outages


def _engine_reader() -> Reader:
    from opendt import _engine

    reader: Reader = _engine.read_failures
    return reader
