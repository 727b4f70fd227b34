"""Network latency between sites: lists, tables and matrices of round trips in ms.

Read are the AWS matrix (``src,dst,mean,std``), the tables that IBM Cloud publishes in Markdown (the newest, or of a day), and the
matrix of a fleet, which is also written::

    latencies:
      - {from: dc-core, to: edge-microdc, latency_ms: 35}

There an entry holds both ways unless the other direction has one of its own; ``jitter_ms`` and ``loss_ratio`` are left to whoever
makes the network. A *link* of a topology is one way: half the mean of both directions' round trips. Pairs of a site with
itself are left out, since inside a cluster transfers take no time.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from opendt.formats.textfile import open_text
from opendt.formats.yamlfile import read_document
from opendt.model.errors import FormatError, shown
from opendt.model.fleet import LatencyMatrix
from opendt.model.topology import Link

__all__ = [
    "latency_links",
    "matrix_of_sites",
    "read_ibm_latency",
    "read_latency",
    "read_latency_matrix",
    "read_round_trips",
    "write_latency_matrix",
]

_KEYS: Final = frozenset({"from", "to", "latency_ms", "jitter_ms", "loss_ratio"})
_DAY: Final = re.compile(r"##\s+(\d{1,2} \w{3} \d{4})\s*")
_RULE: Final = re.compile(r"\|[\s:|-]+\|\s*")


def read_latency(path: Path | str) -> dict[tuple[str, str], float]:
    """Read a list, (from, to) -> mean round trip in ms.

    Raises
    ------
    FormatError
        Naming line and column.
    """
    found: dict[tuple[str, str], float] = {}
    with open_text(path) as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in ("src", "dst", "mean") if name not in (reader.fieldnames or ())]
        if missing:
            raise FormatError(path, "header", "no such column", f"a column {missing[0]}")
        for row in reader:
            try:
                round_trip_ms = float(row["mean"] or "")
            except ValueError:
                round_trip_ms = math.nan
            if not 0 <= round_trip_ms < math.inf:
                raise FormatError(path, f"line {reader.line_num}, column mean", repr(row["mean"]), "ms >= 0")
            found[row["src"], row["dst"]] = round_trip_ms
    return found


def latency_links(
    round_trip_ms: Mapping[tuple[str, str], float],
    sites: Mapping[str, str],
    *,
    bandwidth_mib_per_s: float | None = None,
) -> tuple[Link, ...]:
    """Make the links between clusters.

    Parameters
    ----------
    round_trip_ms : mapping
        (from, to) -> mean round trip in ms, as `read_latency` gives it.
    sites : mapping of str to str
        Cluster -> site.
    bandwidth_mib_per_s : float, optional
        Bandwidth of every link in MiB/s; unlimited unless given.

    Raises
    ------
    KeyError
        When no direction between two of the sites is known.
    """
    clusters = list(sites)
    pairs = ((a, b) for place, a in enumerate(clusters) for b in clusters[place + 1 :])
    return tuple(
        Link(
            from_=a,
            to=b,
            latency_ms=_mean(_directions(round_trip_ms, sites[a], sites[b])) / 2,
            bandwidth_mib_per_s=bandwidth_mib_per_s,
        )
        for a, b in pairs
    )


def _directions(round_trip_ms: Mapping[tuple[str, str], float], a: str, b: str) -> list[float]:
    found = [round_trip_ms[pair] for pair in ((a, b), (b, a)) if pair in round_trip_ms]
    if not found:
        raise KeyError(
            f"no latency between {a!r} and {b!r}; the sites are {sorted({s for p in round_trip_ms for s in p})}"
        )
    return found


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def read_round_trips(path: Path | str) -> dict[tuple[str, str], float]:
    """Read round trips of any of the forms by the file's ending: .yaml, .json (a matrix), .md (IBM), else a list (AWS).

    Raises
    ------
    FormatError
        Naming line or key.
    """
    ending = Path(path).suffix
    if ending == ".md":
        return read_ibm_latency(path)
    if ending in {".yaml", ".yml", ".json"}:
        return dict(read_latency_matrix(path).round_trip_ms)
    return read_latency(path)


def read_ibm_latency(path: Path | str, day: str | None = None) -> dict[tuple[str, str], float]:
    """Read the inter-region table of IBM Cloud's documentation, (from, to) -> mean round trip in ms.

    Parameters
    ----------
    path : path
        ``network-latency.md``.
    day : str, optional
        Heading of the table, such as ``16 Aug 2026``; the first one, which is the newest, unless given.

    Raises
    ------
    FormatError
        When there is no such table, or a cell is no number.
    """
    days: list[str] = []
    columns: list[str] | None = None
    found: dict[tuple[str, str], float] = {}
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            heading = _DAY.fullmatch(line)
            if heading:
                days.append(heading[1])
            if not days or (day is not None and days[-1] != day):
                continue
            if not line.startswith("|"):
                if found:
                    return found
                columns = None
            elif columns is None:
                columns = _cells(line)[1:]
            elif not _RULE.fullmatch(line):
                found |= _ibm_row(path, number, columns, _cells(line))
    if not found:
        raise FormatError(path, "", f"days {', '.join(days) or 'none'}", f"a table of {day or 'any day'}")
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("*").strip() for cell in line.strip().strip("|").split("|")]


def _ibm_row(path: Path | str, number: int, columns: list[str], cells: list[str]) -> dict[tuple[str, str], float]:
    if len(cells) != len(columns) + 1:
        raise FormatError(path, f"line {number}", f"{len(cells)} cells", f"{len(columns) + 1}, as in the table's head")
    row = {}
    for name, cell in zip(columns, cells[1:], strict=True):
        if cell:
            row[cells[0], name] = _round_trip(path, f"line {number}, column {name}", cell)
    return row


def _round_trip(path: Path | str, place: str, value: Any) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise FormatError(path, place, shown(value), "ms >= 0")
    return found


def read_latency_matrix(
    path: Path | str, *, default_ms: float = 50.0, bandwidth_mb_per_s: float = 125.0
) -> LatencyMatrix:
    """Read the matrix of a fleet; both directions of a pair are in it afterwards.

    Parameters
    ----------
    path : path
        YAML or JSON with a list ``latencies``.
    default_ms, bandwidth_mb_per_s : float
        For pairs that are not there, and for all.

    Raises
    ------
    FormatError
        Naming the entry.
    """
    value = read_document(path)
    rows = value.get("latencies") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        raise FormatError(path, "latencies", shown(rows), "a list of {from, to, latency_ms}")
    given: dict[tuple[str, str], float] = {}
    for index, row in enumerate(rows):
        place = f"latencies[{index}]"
        if not isinstance(row, dict) or not {"from", "to", "latency_ms"} <= row.keys():
            raise FormatError(path, place, shown(row), "from, to and latency_ms")
        unknown = sorted(row.keys() - _KEYS)
        if unknown:
            raise FormatError(path, f"{place}.{unknown[0]}", "a key that is not known", ", ".join(sorted(_KEYS)))
        one, other = row["from"], row["to"]
        if not (isinstance(one, str) and isinstance(other, str)) or one == other:
            raise FormatError(path, place, f"from {shown(one)} to {shown(other)}", "the names of two clusters")
        if (one, other) in given:
            raise FormatError(path, place, f"from {one} to {other} once more", "each direction of a pair once")
        given[one, other] = _round_trip(path, f"{place}.latency_ms", row["latency_ms"])
    both = {(b, a): ms for (a, b), ms in given.items()} | given
    return LatencyMatrix(both, default_ms=default_ms, bandwidth_mb_per_s=bandwidth_mb_per_s)


def matrix_of_sites(round_trip_ms: Mapping[tuple[str, str], float], sites: Mapping[str, str]) -> LatencyMatrix:
    """Give clusters the round trips of the sites that they are taken to be at (two may be at one site, 0 ms apart).

    Parameters
    ----------
    round_trip_ms : mapping
        Of sites, as one of the readers gives it; a direction that is not there is as the other.
    sites : mapping of str to str
        Cluster -> site.

    Raises
    ------
    KeyError
        When no direction between two of the sites is known.
    """
    found: dict[tuple[str, str], float] = {}
    for a, site in sites.items():
        for b, other in sites.items():
            if a != b:
                same = 0.0 if site == other else None
                found[a, b] = _directions(round_trip_ms, site, other)[0] if same is None else same
    return LatencyMatrix(found)


def write_latency_matrix(round_trip_ms: Mapping[tuple[str, str], float], path: Path | str) -> None:
    """Write the matrix of a fleet, an entry a pair, or two where its directions differ."""
    lines = ["latencies:"]
    for (one, other), ms in round_trip_ms.items():
        back = round_trip_ms.get((other, one))
        first = (one, other) == min((one, other), (other, one)) or back is None
        if one != other and (first or back != ms):
            lines.append(f"  - {{from: {_quoted(one)}, to: {_quoted(other)}, latency_ms: {ms:g}}}")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _quoted(name: str) -> str:
    return (
        name if re.fullmatch(r"[a-z][a-z0-9-]*", name) else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )
