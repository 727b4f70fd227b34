"""OpenDC's workload: a folder with ``tasks.parquet`` and ``fragments.parquet``.

It is read by the engine's own reader and written here. ``mem_capacity`` is in kB of 1000 to the MiB, as the reference
reads it. Columns that OpenDC does not have (``pinned``, ``slowdown``, ``edge_mib``) are written beside its own when a
workload has them; OpenDC ignores them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opendt.model.errors import ModelError
from opendt.model.workload import Workload

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_workload", "write_workload"]

_KB_PER_MIB: Final = 1000
_LARGEST_ID: Final = 2**31 - 1
_LARGEST_MIB: Final = 10**12


def read_workload(path: Path | str, *, reader: Callable[[str], Any] | None = None) -> Workload:
    """Read a workload folder; tasks without fragments are left out, as the reference does.

    Parameters
    ----------
    path : Path or str
        Folder.
    reader : callable, optional
        Gives a handle whose ``columns()`` are those of `Workload`; the engine's by default.

    Raises
    ------
    FormatError
        When a file is missing, damaged or out of bounds; names file, row and column.
    """
    columns: dict[str, Any] = (reader or _engine_reader())(str(path)).columns()
    return Workload(**{name: column for name, column in columns.items() if column is not None and len(column)})


def write_workload(workload: Workload, folder: Path | str) -> None:
    """Write a workload in OpenDC's newest form (v5); each file appears when it is complete.

    Raises
    ------
    ModelError
        When `workload` breaks its own bounds, or a memory size is too large for the format.
    """
    from opendt.formats.parquet import write_table

    workload.validate()
    ids = _ids(workload)
    tasks, fragments = _task_table(workload, ids), _fragment_table(workload, ids)
    write_table(fragments, Path(folder) / "fragments.parquet")
    write_table(tasks, Path(folder) / "tasks.parquet")


def _ids(workload: Workload) -> pa.Array:
    """Identifiers: int32 where they fit, as OpenDC wants them, else text."""
    import numpy as np
    import pyarrow as pa

    if isinstance(workload.ids, list):
        return pa.array(workload.ids, pa.string())
    if len(workload) and int(np.abs(workload.ids).max()) > _LARGEST_ID:
        return pa.array(workload.ids).cast(pa.string())
    return pa.array(workload.ids, pa.int32())


def _task_table(workload: Workload, ids: pa.Array) -> pa.Table:
    import pyarrow as pa

    if len(workload) and int(workload.memory_mib.max()) > _LARGEST_MIB:
        raise ModelError(
            "memory_mib", str(workload.memory_mib.max()), f"at most {_LARGEST_MIB} MiB, as the format holds"
        )
    columns = {
        "id": ids,
        "submission_time": pa.array(workload.submission_ms, pa.int64()),
        "duration": pa.array(workload.duration_ms, pa.int64()),
        "cpu_count": pa.array(workload.cpu_count, pa.int32()),
        "cpu_capacity": pa.array(workload.cpu_capacity_mhz, pa.float64()),
        "mem_capacity": pa.array(workload.memory_mib * _KB_PER_MIB, pa.int64()),
    }
    required = len(columns)
    optional = {
        "name": (workload.names, pa.string()),
        "gpu_count": (workload.gpu_count, pa.int32()),
        "gpu_capacity": (workload.gpu_capacity_mhz, pa.float64()),
        "deferrable": (workload.deferrable, pa.bool_()),
        "deadline": (workload.deadline_ms, pa.int64()),
        "pinned": (workload.pinned, pa.string()),
        "slowdown": (workload.slowdown, pa.float64()),
    }
    columns |= {name: pa.array(column, kind) for name, (column, kind) in optional.items() if column is not None}
    columns |= _dependency_columns(workload, ids)
    fields = [pa.field(name, column.type, nullable=i >= required) for i, (name, column) in enumerate(columns.items())]
    return pa.table(columns, schema=pa.schema(fields))


def _dependency_columns(workload: Workload, ids: pa.Array) -> dict[str, pa.Array]:
    """Both directions, since OpenDC releases a child through its parent's list of children."""
    import numpy as np
    import pyarrow as pa

    if workload.parent_offset is None or workload.parents is None:
        return {}
    child = np.repeat(np.arange(len(workload)), np.diff(workload.parent_offset))
    order = np.argsort(workload.parents, kind="stable")
    child_offset = np.concatenate(([0], np.cumsum(np.bincount(workload.parents, minlength=len(workload)))))
    parent_offset = pa.array(workload.parent_offset, pa.int32())
    columns = {
        "parents": pa.ListArray.from_arrays(parent_offset, ids.take(pa.array(workload.parents, pa.int64()))),
        "children": pa.ListArray.from_arrays(pa.array(child_offset, pa.int32()), ids.take(pa.array(child[order]))),
    }
    if workload.edge_mib is not None:
        columns["edge_mib"] = pa.ListArray.from_arrays(parent_offset, pa.array(workload.edge_mib))
    return columns


def _fragment_table(workload: Workload, ids: pa.Array) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    task = np.repeat(np.arange(len(workload)), np.diff(workload.fragment_offset))
    columns = {
        "id": ids.take(pa.array(task)),
        "duration": pa.array(workload.fragment_duration_ms, pa.int64()),
        "cpu_usage": pa.array(workload.fragment_cpu_mhz.astype(np.float64)),
    }
    if workload.fragment_gpu_mhz is not None:
        columns["gpu_usage"] = pa.array(workload.fragment_gpu_mhz.astype(np.float64))
    fields = [pa.field(name, column.type, nullable=name == "gpu_usage") for name, column in columns.items()]
    return pa.table(columns, schema=pa.schema(fields))


def _engine_reader() -> Callable[[str], Any]:
    from opendt import _engine

    reader: Callable[[str], Any] = _engine.read_workload
    return reader
