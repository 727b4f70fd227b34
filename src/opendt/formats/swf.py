"""Standard Workload Format 2.2 of the Parallel Workloads Archive: one job a line, 18 fields, -1 for unknown.

What a job becomes: a task of `processors used` cores (or, where unknown, requested ones) with a demand of cores x
`core_speed_mhz` for its running time; memory is memory per processor (used, or requested) x cores; the stated duration is the
*requested* time where known, since that is what an operator knows. Jobs that never ran (running time or processors unknown
or 0) are left out and counted. Fields are described at https://www.cs.huji.ac.il/labs/parallel/workload/swf.html.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opendt.formats.simple_tasks import constant_tasks
from opendt.formats.textfile import read_bytes
from opendt.model.errors import FormatError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from opendt.model.workload import Workload

__all__ = ["SwfLog", "read_swf"]

_FIELDS: Final = 18
_JOB, _SUBMIT, _WAIT, _RUN, _PROCS, _MEMORY = 0, 1, 2, 3, 4, 6
_ASKED_PROCS, _ASKED_TIME, _ASKED_MEMORY, _PARTITION = 7, 8, 9, 15
_HEADER: Final = re.compile(r";\s*([A-Za-z]+)\s*:\s*(.*?)\s*")
_PARTITION_NAME: Final = re.compile(r"(-?\d+)[\s:]+(\S.*)")
_LARGEST_SECONDS: Final = 1e11
_KB_PER_MIB: Final = 1024.0


@dataclass(frozen=True, eq=False)
class SwfLog:
    """A log: its tasks, and what else it says.

    `header` maps a field to its values in order; `partitions` maps a number to a name. `wait_ms` is the measured wait of
    each task (-1 unknown) and `partition` its partition (-1 unknown), in the order of the workload. `dropped` counts jobs
    that never ran.
    """

    workload: Workload
    header: dict[str, tuple[str, ...]]
    partitions: dict[int, str]
    wait_ms: NDArray[np.int64]
    partition: NDArray[np.int64]
    dropped: int

    @property
    def max_processors(self) -> int | None:
        """Processors of the machine, where the header says it."""
        text = self.header.get("MaxProcs", ("",))[0]
        return int(text) if text.isdigit() else None


def read_swf(path: Path | str, *, core_speed_mhz: float = 2000.0, pin_partitions: bool = False) -> SwfLog:
    """Read a log, plain, .gz, .xz or .zip.

    Parameters
    ----------
    path : Path or str
        The file.
    core_speed_mhz : float
        Speed that turns processors into demand, in MHz. Logs do not say it; it cancels as long as the hosts have it too.
    pin_partitions : bool
        Pin each task to the cluster named as its partition (as in the header, else its number).

    Raises
    ------
    FormatError
        Naming the line.
    """
    try:
        text = read_bytes(path).decode("latin-1")
    except MemoryError as error:
        raise FormatError(path, "", "more than fits in memory", "a smaller log") from error
    header, partitions, jobs = _parsed(path, text)
    ran, dropped = _that_ran(jobs)
    start_ms = _unix_start_ms(path, header)
    submission_ms = start_ms + (jobs[ran, _SUBMIT] * 1000).round().astype("int64")
    names = None
    if pin_partitions:
        names = [partitions.get(int(n), str(int(n))) if n >= 0 else "" for n in jobs[ran, _PARTITION]]
    try:
        workload = _workload(jobs[ran], submission_ms, core_speed_mhz, names)
    except ModelError as error:
        raise FormatError(path, error.place, error.found, error.expected) from error
    order = submission_ms.argsort(kind="stable")
    wait = jobs[ran, _WAIT][order]
    return SwfLog(
        workload=workload,
        header=header,
        partitions=partitions,
        wait_ms=(wait * 1000).round().astype("int64").clip(-1),
        partition=jobs[ran, _PARTITION][order].astype("int64"),
        dropped=dropped,
    )


def _parsed(path: Path | str, text: str) -> tuple[dict[str, tuple[str, ...]], dict[int, str], NDArray[np.float64]]:
    import numpy as np

    header: dict[str, list[str]] = {}
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(";"):
            if match := _HEADER.fullmatch(line.rstrip()):
                header.setdefault(match[1], []).append(match[2])
        elif line and not line.isspace():
            lines.append((number, line))
    if not lines:
        raise FormatError(path, "", "no jobs", "lines of 18 fields")
    tokens = " ".join(line for _, line in lines).split()
    try:
        jobs = np.array(tokens, dtype=np.float64).reshape(-1, _FIELDS)
    except ValueError:
        raise _bad_line(path, lines) from None
    if len(jobs) != len(lines):
        raise _bad_line(path, lines)
    bad = np.flatnonzero(~(np.abs(jobs) < _LARGEST_SECONDS * 100).all(axis=1))
    if len(bad):
        number, line = lines[int(bad[0])]
        raise FormatError(path, f"line {number}", line.strip(), "18 finite numbers of a sensible size")
    named = (_PARTITION_NAME.fullmatch(value) for value in header.get("Partition", []))
    partitions = {int(match[1]): match[2] for match in named if match}
    return {name: tuple(values) for name, values in header.items()}, partitions, jobs


def _bad_line(path: Path | str, lines: list[tuple[int, str]]) -> FormatError:
    for number, line in lines:
        fields = line.split()
        if len(fields) != _FIELDS:
            return FormatError(path, f"line {number}", f"{len(fields)} fields", "18 fields of SWF 2.2")
        for place, field in enumerate(fields, start=1):
            try:
                float(field)
            except ValueError:
                return FormatError(path, f"line {number}, field {place}", field, "a number, -1 for unknown")
    return FormatError(path, "", "broken lines", "18 fields of SWF 2.2")


def _that_ran(jobs: NDArray[np.float64]) -> tuple[NDArray[np.bool_], int]:
    import numpy as np

    cores = np.where(jobs[:, _PROCS] > 0, jobs[:, _PROCS], jobs[:, _ASKED_PROCS])
    ran = (jobs[:, _RUN] > 0) & (cores > 0) & (jobs[:, _SUBMIT] >= 0)
    return ran, int(len(jobs) - ran.sum())


def _unix_start_ms(path: Path | str, header: dict[str, tuple[str, ...]]) -> int:
    text = header.get("UnixStartTime", ("0",))[0].split()
    try:
        return int(text[0]) * 1000 if text else 0
    except ValueError as error:
        raise FormatError(path, "header UnixStartTime", text[0], "unix seconds") from error


def _workload(
    jobs: NDArray[np.float64], submission_ms: NDArray[np.int64], core_speed_mhz: float, pinned: list[str] | None
) -> Workload:
    import numpy as np

    cores = np.where(jobs[:, _PROCS] > 0, jobs[:, _PROCS], jobs[:, _ASKED_PROCS])
    memory_kb = np.where(jobs[:, _MEMORY] > 0, jobs[:, _MEMORY], jobs[:, _ASKED_MEMORY]).clip(0)
    run_ms = (jobs[:, _RUN] * 1000).round().astype(np.int64)
    numbers = jobs[:, _JOB].astype(np.int64)
    columns: dict[str, Any] = {
        "cpu_count": cores,
        "cpu_capacity_mhz": cores * core_speed_mhz,
        "memory_mib": np.ceil(memory_kb * cores / _KB_PER_MIB),
        "pinned": pinned,
    }
    workload = constant_tasks(
        # Some logs number their jobs more than once: then the position in the file is the number.
        ids=numbers if len(np.unique(numbers)) == len(numbers) else np.arange(1, len(jobs) + 1),
        submission_ms=submission_ms,
        run_ms=run_ms,
        cpu_mhz=cores * core_speed_mhz,
        **columns,
    )
    order = submission_ms.argsort(kind="stable")
    asked_ms = (jobs[:, _ASKED_TIME] * 1000).round().astype(np.int64)
    return replace(workload, duration_ms=np.where(asked_ms > 0, asked_ms, run_ms)[order])
