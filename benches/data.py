"""The recorded week that benches run on, and its columns as the two yardsticks want them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Column = np.ndarray[tuple[int], np.dtype[Any]]

ROOT = Path(__file__).resolve().parent.parent

# Of the week's topology.json; the yardsticks check nothing and read nothing but the two parquet files.
HOSTS = 277
CAPACITY_MHZ = 16 * 2100.0
IDLE_W = 25.0
MAX_W = 174.0
SAMPLE_MS = 30_000


def surf_week() -> Path:
    """Folder of the SURF week under OPENDT_DATA (default ../shared, beside the checkout).

    Raises
    ------
    FileNotFoundError
        When it is not there.
    """
    folder = Path(os.environ.get("OPENDT_DATA", ROOT.parent / "shared")) / "traces" / "surf-week"
    if not (folder / "fragments.parquet").exists():
        message = f"no SURF week at {folder}; set OPENDT_DATA to the folder that holds traces/surf-week"
        raise FileNotFoundError(message)
    return folder


@dataclass(frozen=True)
class Week:
    """Tasks that have fragments, by submission, and their fragments one after another."""

    submission_ms: Column  # i64, relative to the first of these tasks, as the engine counts
    offset: Column  # i64, one more than tasks: where each task's fragments begin
    duration_ms: Column  # i64
    usage_mhz: Column  # f64


def load_week(folder: Path) -> Week:
    """Read the week's two files, drop tasks without fragments, order by submission (ties in the order of the file)."""
    import numpy as np
    import pyarrow.parquet as pq

    tasks = pq.ParquetFile(folder / "tasks.parquet").read(columns=["id", "submission_time"])
    fragments = pq.ParquetFile(folder / "fragments.parquet", read_dictionary=["id"]).read(
        columns=["id", "duration", "cpu_usage"]
    )
    ids = fragments["id"].combine_chunks()
    names, code = ids.dictionary.to_pylist(), ids.indices.to_numpy()
    # Stable: within a task fragments keep their order.
    order = np.argsort(code, kind="stable")
    count = np.bincount(code, minlength=len(names))
    begin = np.concatenate([[0], np.cumsum(count)])

    number = {name: index for index, name in enumerate(names)}
    submitted = tasks["submission_time"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    known = [(int(submitted[row]), number[name]) for row, name in enumerate(tasks["id"].to_pylist()) if name in number]
    known.sort(key=lambda pair: pair[0])
    picks = np.concatenate([order[begin[task] : begin[task + 1]] for _, task in known])
    return Week(
        submission_ms=np.array([time for time, _ in known], dtype=np.int64) - known[0][0],
        offset=np.concatenate([[0], np.cumsum([count[task] for _, task in known])]).astype(np.int64),
        duration_ms=fragments["duration"].to_numpy()[picks].astype(np.int64),
        usage_mhz=fragments["cpu_usage"].to_numpy()[picks].astype(np.float64),
    )


def export_week(week: Week, path: Path) -> None:
    """Write the week as ``benches/heap_loop`` reads it: two counts, then the four columns, little-endian."""
    import numpy as np

    with path.open("wb") as file:
        np.array([len(week.submission_ms), len(week.duration_ms)], dtype="<i8").tofile(file)
        week.submission_ms.astype("<i8").tofile(file)
        week.offset.astype("<i8").tofile(file)
        week.duration_ms.astype("<i8").tofile(file)
        week.usage_mhz.astype("<f8").tofile(file)
