"""Workflow Trace Archive parquet: tasks of workflows with parents, running and submission times.

What a task becomes: ``resource_amount_requested`` cores (at least 1) with a demand of cores x `core_speed_mhz` for
``runtime`` ms, submitted at ``ts_submit`` (ms); parents from ``parents`` and ``children``. Memory is ``memory_requested``
in kB where it is known (not -1). Workflows are told apart in the names: ``workflow_id``. See https://wta.atlarge-research.com.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opendt.formats.simple_tasks import constant_tasks
from opendt.model.errors import FormatError, ModelError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from opendt.model.workload import Workload

__all__ = ["read_wta"]

_KB_PER_MIB: Final = 1024


def read_wta(path: Path | str, *, core_speed_mhz: float = 2000.0) -> Workload:
    """Read ``tasks.parquet`` of a trace, or the folder it is in.

    Parameters
    ----------
    path : Path or str
        File or folder.
    core_speed_mhz : float
        Speed that turns cores into demand, in MHz.

    Raises
    ------
    FormatError
        Naming row and column; also for parents that do not exist and for circles.
    """
    import numpy as np

    from opendt.formats.parquet import column_numpy, read_columns

    file = Path(path) / "tasks.parquet" if Path(path).is_dir() else Path(path)
    needed = ("id", "ts_submit", "runtime", "resource_amount_requested")
    wanted = {
        **dict.fromkeys(needed, True),
        **dict.fromkeys(("parents", "children", "memory_requested", "workflow_id"), False),
    }
    table = read_columns(file, wanted)
    number = {name: column_numpy(file, table, name, "float64") for name in needed}
    ids = column_numpy(file, table, "id", "int64")
    for name, least in (("ts_submit", 0.0), ("runtime", 0.0), ("resource_amount_requested", -1.0)):
        bad = np.flatnonzero(~((number[name] >= least) & (number[name] < 2.0**52)))
        if len(bad):
            place = f"row {bad[0]}, column {name}"
            raise FormatError(file, place, str(number[name][bad[0]]), f"a number >= {least:g}")
    cores = np.maximum(1.0, np.ceil(number["resource_amount_requested"]))
    names = table["workflow_id"].to_pylist() if "workflow_id" in table.column_names else None
    try:
        return constant_tasks(
            ids=ids,
            submission_ms=number["ts_submit"].astype(np.int64),
            run_ms=number["runtime"].astype(np.int64),
            cpu_mhz=cores * core_speed_mhz,
            cpu_count=cores,
            cpu_capacity_mhz=cores * core_speed_mhz,
            memory_mib=_memory_mib(file, table, len(ids)),
            names=None if names is None else [f"workflow {name}" for name in names],
            edges=_edges(file, table, ids),
        )
    except ModelError as error:
        raise FormatError(file, error.place, error.found, error.expected) from error


def _memory_mib(file: Path, table: pa.Table, tasks: int) -> NDArray[Any]:
    import numpy as np

    from opendt.formats.parquet import column_numpy

    if "memory_requested" not in table.column_names:
        return np.zeros(tasks)
    memory = column_numpy(file, table, "memory_requested", "float64")
    memory_mib: NDArray[Any] = np.ceil(np.nan_to_num(memory, nan=0.0, posinf=0.0).clip(0) / _KB_PER_MIB)
    return memory_mib


def _edges(file: Path, table: pa.Table, ids: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Child and parent, as rows, of each dependency that either column names."""
    import numpy as np

    rows_of: dict[str, list[NDArray[Any]]] = {"child": [], "parent": []}
    for column, owner, other in (("parents", "child", "parent"), ("children", "parent", "child")):
        if column in table.column_names:
            owners, others = _listed(file, table, column, ids)
            rows_of[owner].append(owners)
            rows_of[other].append(others)
    empty = [np.empty(0, dtype=np.int64)]
    return np.concatenate(rows_of["child"] or empty), np.concatenate(rows_of["parent"] or empty)


def _listed(file: Path, table: pa.Table, column: str, ids: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Row of each list's owner and row of each task that the list names."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = table[column].combine_chunks()
    if pa.types.is_null(lists.type):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    inner = lists.type.value_type if pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type) else None
    if inner is None or not (pa.types.is_integer(inner) or pa.types.is_floating(inner)):
        raise FormatError(file, f"column {column}", f"type {lists.type}", "a column of lists of task ids")
    owners = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    named = pc.list_flatten(lists).to_numpy(zero_copy_only=False).astype(np.float64)
    order = np.argsort(ids, kind="stable")
    at = np.searchsorted(ids[order], named).clip(max=max(len(ids) - 1, 0))
    unknown = np.flatnonzero(ids[order][at] != named)
    if len(unknown):
        row = owners[unknown[0]]
        raise FormatError(file, f"row {row}, column {column}", str(named[unknown[0]]), "ids of tasks of this file")
    return owners, order[at]
