"""Telling what a file or folder is, by its name and its first words, without reading it wholly."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Final

from opendt.formats.json_cursor import load_json
from opendt.formats.textfile import open_text
from opendt.model.errors import FormatError

__all__ = ["Kind", "detect"]


class Kind(StrEnum):
    """What an input can be; the value is its name in words and on the command line."""

    EXPERIMENT = "experiment"
    TOPOLOGY = "topology"
    SLO = "slo"
    WORKLOAD = "workload"
    SWF = "swf"
    WFFORMAT = "wfformat"
    WTA = "wta"
    OPENB_NODES = "openb-nodes"
    OPENB_PODS = "openb-pods"
    CARBON = "carbon"
    FAILURES = "failures"
    POWER = "power"
    SPECPOWER = "specpower"
    LATENCY = "latency"
    LANL = "lanl-failures"
    FTA = "fta-failures"


_OF_KEYS: Final = {
    Kind.EXPERIMENT: ("topologies", "workloads", "allocationPolicies", "exportModels", "failureModels"),
    Kind.TOPOLOGY: ("clusters", "links"),
    Kind.WFFORMAT: ("workflow", "schemaVersion", "runtimeSystem"),
    Kind.SLO: ("window_s", "energy", "carbon", "peak_power", "runtime", "utilization"),
}
_OF_COLUMNS: Final = {
    Kind.CARBON: ("carbon_intensity",),
    Kind.FAILURES: ("failure_interval",),
    Kind.POWER: ("power_draw", "timestamp"),
    Kind.WTA: ("ts_submit", "runtime"),
}
_OF_HEADER: Final = {
    Kind.OPENB_PODS: ("cpu_milli", "num_gpu"),
    Kind.OPENB_NODES: ("cpu_milli", "gpu"),
    Kind.SPECPOWER: ("ActiveIdle",),
    Kind.LANL: ("Prob Started",),
    Kind.LATENCY: ("src", "dst", "mean"),
}
_PACKED: Final = frozenset((".gz", ".xz", ".zip"))
_PARTS_OF_WORKLOAD: Final = frozenset(("tasks.parquet", "fragments.parquet", "meta.parquet", "trace.parquet"))
_SWF_FIELDS: Final = 18
_HINT: Final = "docs/reference/formats.md lists what is read."


def detect(path: Path | str) -> Kind:
    """Tell what a file or folder is.

    Parameters
    ----------
    path : Path or str
        A file, packed (.gz, .xz, .zip) or not, or a folder.

    Raises
    ------
    FormatError
        When it does not exist, cannot be opened, or is nothing that is known.
    """
    path = Path(path)
    if not path.exists():
        raise FormatError(path, "", "no such file or folder", "a path that exists", "Check the path.")
    if path.is_dir():
        return _of_folder(path)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _PACKED]
    suffix = suffixes[-1] if suffixes else ""
    if suffix == ".json":
        return _of_json(path)
    if suffix == ".parquet":
        return _of_parquet(path)
    return _of_text(path, suffix)


def _of_folder(path: Path) -> Kind:
    found = {entry.name for entry in path.iterdir()} & _PARTS_OF_WORKLOAD
    if found == {"tasks.parquet"} and _is_wta(path / "tasks.parquet"):
        return Kind.WTA
    if found:
        return Kind.WORKLOAD
    raise FormatError(
        path, "", "a folder without tasks.parquet", "a folder with a workload, or a file", "Name the files in it."
    )


def _is_wta(path: Path) -> bool:
    return set(_OF_COLUMNS[Kind.WTA]) <= set(_columns(path))


def _of_json(path: Path) -> Kind:
    value = load_json(path)
    if not isinstance(value, dict):
        raise FormatError(path, "", f"a JSON {type(value).__name__}", "an object", _HINT)
    scores = {kind: sum(key in value for key in keys) for kind, keys in _OF_KEYS.items()}
    best = max(scores, key=lambda kind: scores[kind])
    if scores[best]:
        return best
    # A misspelt key still tells what was meant; its reader then names it.
    known = {key: kind for kind, keys in _OF_KEYS.items() for key in keys}
    for key in value:
        if close := difflib.get_close_matches(key, known, n=1, cutoff=0.75):
            return known[close[0]]
    keys = ", ".join(repr(key) for key in islice(value, 5)) or "none"
    expected = (
        "those of an experiment (topologies), a topology (clusters), an slo.json (window_s) or WfFormat (workflow)"
    )
    raise FormatError(path, "", f"the keys {keys}", expected, _HINT)


def _of_parquet(path: Path) -> Kind:
    names = _columns(path)
    for kind, wanted in _OF_COLUMNS.items():
        if set(wanted) <= set(names):
            return kind
    if path.name in _PARTS_OF_WORKLOAD:
        raise FormatError(path, "", "one file of a workload", "the folder that it is in", f"Name {path.parent}.")
    expected = "those of a carbon, failure or power trace, or of WTA tasks"
    raise FormatError(path, "", f"the columns {', '.join(islice(names, 12))}", expected, _HINT)


def _columns(path: Path) -> Iterable[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return list(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(path, "", reason, "a whole parquet file", "It may be truncated: fetch it again.") from error


def _of_text(path: Path, suffix: str) -> Kind:
    if suffix == ".swf":
        return Kind.SWF
    with open_text(path) as lines:
        first = next((line for line in lines if line.strip()), "")
    header = [name.strip().strip('"') for name in first.split(",")]
    for kind, wanted in _OF_HEADER.items():
        if set(wanted) <= set(header):
            return kind
    if suffix == ".tab":
        return Kind.FTA
    if first.startswith(";") or len(first.split()) == _SWF_FIELDS:
        return Kind.SWF
    shown = first.strip()[:60]
    found = f"text that begins with {shown!r}" if shown else "an empty file"
    raise FormatError(path, "", found, "JSON, parquet, SWF, or a csv table of a known header", _HINT)
