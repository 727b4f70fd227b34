"""Workloads written into an experiment of OpenDC's SDK dialect: a list of tasks with their fragments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opendt.model.errors import ModelError
from opendt.model.units import parse_data_mib, parse_frequency_mhz, parse_time_ms
from opendt.model.workload import Workload

if TYPE_CHECKING:
    from opendt.formats.json_cursor import Cursor

__all__ = ["inline_workload"]


def inline_workload(tasks: Cursor) -> Workload:
    """Read tasks; times are offsets from the start of the workload, bare numbers ms, MHz and MiB.

    A dependency may be given as ``parents`` of the child or as ``children`` of the parent, or both.

    Raises
    ------
    FormatError
        Naming the task and the key.
    """
    rows = sorted((_task(item) for item in tasks.items()), key=lambda row: row["submission_ms"])
    if not rows:
        raise tasks.error("at least one task", found="none")
    position = {row["ids"]: index for index, row in enumerate(rows)}
    parents: list[set[int]] = [set() for _ in rows]
    for index, row in enumerate(rows):
        for cursor in row["parents"]:
            parents[index].add(_known(cursor, position))
        for cursor in row["children"]:
            parents[_known(cursor, position)].add(index)
    columns = _columns(rows)
    if any(parents):
        columns["parent_offset"] = _borders([len(found) for found in parents])
        columns["parents"] = [parent for found in parents for parent in sorted(found)]
    try:
        return Workload.from_columns(columns)
    except ModelError as error:
        raise tasks.error(error.expected, found=f"{error.place}: {error.found}") from error


def _task(cursor: Cursor) -> dict[str, Any]:
    keys = cursor.open()
    deadline = keys.get("deadline")
    fragments = [_fragment(item) for item in keys.need("fragments").items()]
    if not fragments:
        raise keys.need("fragments").error("at least one fragment", found="none")
    row = {
        "ids": keys.integer("id"),
        "names": keys.text("name", ""),
        "submission_ms": round(keys.quantity("submissionTime", parse_time_ms, least=0)),
        "duration_ms": round(keys.quantity("duration", parse_time_ms, least=0)),
        "cpu_count": keys.integer("cpuCoreCount", least=1, most=2**32 - 1),
        "cpu_capacity_mhz": keys.quantity("cpuCapacity", parse_frequency_mhz, least=0),
        "memory_mib": round(keys.quantity("memory", parse_data_mib, least=0)),
        "gpu_count": keys.integer("gpuCoreCount", 0, most=2**32 - 1),
        "gpu_capacity_mhz": keys.quantity("gpuCapacity", parse_frequency_mhz, 0.0, 0),
        "gpu_memory_mib": round(keys.quantity("gpuMemory", parse_data_mib, 0.0, 0)),
        "deferrable": keys.flag("deferrable", False),
        "deadline_ms": -1 if deadline is None else round(deadline.quantity(parse_time_ms, 0)),
        "parents": keys.items("parents"),
        "children": keys.items("children"),
        "fragments": fragments,
    }
    keys.close()
    return row


def _fragment(cursor: Cursor) -> tuple[int, float, float]:
    keys = cursor.open()
    fragment = (
        round(keys.quantity("duration", parse_time_ms, least=0)),
        keys.quantity("cpuUsage", parse_frequency_mhz, least=0),
        keys.quantity("gpuUsage", parse_frequency_mhz, 0.0, 0),
    )
    keys.ignore("gpuMemory")
    keys.close()
    return fragment


def _known(cursor: Cursor, position: dict[int, int]) -> int:
    found = position.get(cursor.integer())
    if found is None:
        raise cursor.error("the id of a task of this workload")
    return found


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    fragments = [fragment for row in rows for fragment in row["fragments"]]
    columns: dict[str, Any] = {
        name: [row[name] for row in rows]
        for name in ("ids", "submission_ms", "duration_ms", "cpu_count", "cpu_capacity_mhz", "memory_mib")
    }
    unused = {"names": "", "gpu_count": 0, "gpu_capacity_mhz": 0, "gpu_memory_mib": 0, "deferrable": False}
    for name, absent in {**unused, "deadline_ms": -1}.items():
        if any(row[name] != absent for row in rows):
            columns[name] = [row[name] for row in rows]
    columns["fragment_offset"] = _borders([len(row["fragments"]) for row in rows])
    columns["fragment_duration_ms"] = [fragment[0] for fragment in fragments]
    columns["fragment_cpu_mhz"] = [fragment[1] for fragment in fragments]
    if any(fragment[2] for fragment in fragments):
        columns["fragment_gpu_mhz"] = [fragment[2] for fragment in fragments]
    return columns


def _borders(lengths: list[int]) -> list[int]:
    borders = [0]
    for length in lengths:
        borders.append(borders[-1] + length)
    return borders
