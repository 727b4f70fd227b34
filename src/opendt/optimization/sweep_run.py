"""Simulates the rows of a sweep on any executor, keeps each as it ends, and makes one table of them.

Rows may end in any order and on any machine; the table is in the order of the spec and says the same.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opendt.model.errors import EngineError, FormatError, ModelError, OpenDTError
from opendt.optimization.sweep_axes import Resolver
from opendt.optimization.sweep_design import Row, rows_of
from opendt.optimization.sweep_spec import read_spec

if TYPE_CHECKING:
    import pyarrow as pa

    from opendt._engine import Workload as EngineWorkload
    from opendt.model.topology import Topology
    from opendt.optimization.sweep_journal import Journal

__all__ = [
    "TOTALS",
    "Backend",
    "RowJob",
    "Sweep",
    "SweepError",
    "local_threads",
    "open_sweep",
    "result_table",
    "run_sweep",
    "simulate_row",
]

TOTALS: Final = {
    "tasks_total": "int64",
    "tasks_completed": "int64",
    "tasks_terminated": "int64",
    "makespan_ms": "int64",
    "energy_j": "double",
    "emission_g": "double",
    "mean_utilization_ratio": "double",
    "mean_wait_ms": "double",
    "p95_wait_ms": "int64",
}
"""Columns of what was simulated; their meaning is that of `opendt.engine.experiment.ScenarioResult`."""

_WORKLOADS_IN_MEMORY: Final = 4
_SAMPLE_INTERVAL_MS: Final = 300_000


class SweepError(OpenDTError):
    """A row could not be simulated; those that were finished are kept."""


@dataclass(frozen=True)
class RowJob:
    """All that a worker needs to simulate a row; the workload it reads itself, and proves that it is the same."""

    topology_json: bytes
    options_json: bytes
    workload_path: str
    workload_hash: str
    engine: str


@dataclass(frozen=True)
class Backend:
    """Where rows are simulated.

    `simulate` is what the executor is given, and `in_flight` rows of it at a time; `explain` says in
    words what went wrong with the executor itself, or gives None for an error that is none of its own.
    """

    executor: Executor
    in_flight: int
    simulate: Callable[[RowJob], dict[str, Any]]
    explain: Callable[[BaseException], str | None] = lambda _error: None


@dataclass(frozen=True)
class Sweep:
    """A sweep with its inputs read and all of its rows found sound."""

    rows: list[Row]
    axes: tuple[str, ...]
    resolver: Resolver
    folder: Path
    workloads: dict[str, tuple[str, int]]
    identity: dict[str, Any]
    warnings: tuple[str, ...]

    def job(self, row: Row) -> RowJob:
        """Make the job of a row."""
        found = self.resolver.resolve(row)
        content_hash, begin_ms = self.workloads[found.workload_path]
        options = found.options.model_copy(update={"start_epoch_ms": begin_ms})
        return RowJob(
            topology_json=found.topology.model_dump_json().encode(),
            options_json=options.model_dump_json().encode(),
            workload_path=str((self.folder / found.workload_path).resolve()),
            workload_hash=content_hash,
            engine=self.identity["engine"],
        )

    def configuration(self, row: Row) -> dict[str, Any]:
        """The resolved configuration of a row; traces, which may be long, are told by their length and hash."""
        found = self.resolver.resolve(row)
        content_hash, begin_ms = self.workloads[found.workload_path]
        topology = found.topology.model_dump(
            mode="json", exclude={"clusters": {"__all__": {"power_source": {"carbon"}}}}
        )
        for record, cluster in zip(topology["clusters"], found.topology.clusters, strict=True):
            record["power_source"]["carbon"] = _trace(cluster.power_source.carbon)
        options = found.options.model_copy(update={"start_epoch_ms": begin_ms}).model_dump(mode="json")
        if options["failures"] is not None and "events" in options["failures"]:
            options["failures"]["events"] = _trace(options["failures"]["events"])
        workload = {"path": found.workload_path, "content_hash": content_hash}
        return {"topology": topology, "topology_path": found.topology_path, "options": options, "workload": workload}


def open_sweep(path: Path | str) -> Sweep:
    """Read a sweep and everything it names, and find out that each row is one that can be simulated.

    Raises
    ------
    FormatError
        When the spec, a topology or a workload cannot be read, or an axis or one of its values is not possible.
    """
    try:
        return _opened(Path(path))
    except ModelError as error:
        raise FormatError(path, error.place, error.found, error.expected, error.hint) from error


def _opened(path: Path) -> Sweep:
    from opendt._engine import __version__ as engine_version
    from opendt._engine import read_workload
    from opendt.formats.opendc_dialect import OpenDCReading
    from opendt.formats.opendc_topology import read_topology

    spec, folder, reading = read_spec(path), path.parent, OpenDCReading(strict=False)
    resolver = Resolver(spec, folder, lambda file: read_topology(file, reading=reading))
    rows = rows_of(spec)
    workloads: dict[str, tuple[str, int]] = {}
    topologies: dict[str, str] = {}
    loses_work = False
    for row in rows:
        found = resolver.resolve(row)
        if found.workload_path not in workloads:
            workload = read_workload(folder / found.workload_path)
            workloads[found.workload_path] = (workload.content_hash(), workload.first_submission_ms)
        if found.topology_path not in topologies:
            topologies[found.topology_path] = _hash_of(resolver.topology(found.topology_path))
        loses_work |= found.options.scaling_policy == "no_delay" and _is_less(row)
    warnings = tuple(reading.warnings)
    if loses_work:
        words = (
            "hosts get slower or smaller under the scaling policy no_delay, which drops work that does not fit; "
            "set options: {scaling_policy: perfect} to compare equal work"
        )
        warnings += (words,)
    inputs = {"topologies": topologies, "workloads": {name: found[0] for name, found in workloads.items()}}
    identity = {"spec": spec.model_dump(mode="json"), "inputs": inputs, "engine": engine_version}
    return Sweep(rows, spec.axes, resolver, folder, workloads, identity, warnings)


def simulate_row(job: RowJob, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Simulate a row where this runs, and give its totals.

    Raises
    ------
    EngineError
        When this machine has another engine or another workload, whose results would not be those of the sweep.
    """
    from opendt._engine import __version__ as engine_version
    from opendt._engine import simulate_to_files

    if engine_version != job.engine:
        hint = "Install the same version on every worker."
        raise EngineError("engine of the worker", engine_version, f"version {job.engine}", hint)
    workload = _workload(job.workload_path, job.workload_hash)
    totals = simulate_to_files(
        job.topology_json,
        job.options_json,
        workload,
        None,
        files=[],
        interval_ms=_SAMPLE_INTERVAL_MS,
        progress=progress,
    )
    return {name: totals[name] for name in TOTALS}


def run_sweep(sweep: Sweep, journal: Journal, backend: Backend, on_row: Callable[[int], None] | None = None) -> None:
    """Simulate every row that the journal does not have yet.

    Parameters
    ----------
    sweep : Sweep
        What is run.
    journal : Journal
        Has what is finished and gets what ends.
    backend : Backend
        Where it runs.
    on_row : callable, optional
        Called with the number of each row once it is kept.

    Raises
    ------
    SweepError
        When a row cannot be simulated or the workers are gone; what had finished is kept.
    KeyboardInterrupt
        On Ctrl-C; what had finished is kept.
    """
    left = (row for row in sweep.rows if row.index not in journal.totals)
    pending: dict[Future[dict[str, Any]], Row] = {}
    try:
        while True:
            while len(pending) < backend.in_flight and (row := next(left, None)) is not None:
                pending[backend.executor.submit(backend.simulate, sweep.job(row))] = row
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            # What succeeded is kept before what failed is told, the first row of it first.
            failed = []
            for future in sorted(done, key=lambda one: pending[one].index):
                row = pending.pop(future)
                if future.cancelled() or future.exception() is not None:
                    failed.append((row, future))
                    continue
                journal.add(row.index, future.result())
                if on_row is not None:
                    on_row(row.index)
            for row, future in failed:
                _tell(row, future, backend)
    finally:
        for future in pending:
            future.cancel()


def _tell(row: Row, future: Future[dict[str, Any]], backend: Backend) -> None:
    """Raise what is wrong with a row."""
    error = CancelledError() if future.cancelled() else future.exception()
    if error is None:
        return
    words = str(error) if isinstance(error, OpenDTError) else backend.explain(error)
    if words is None:
        raise error
    settings = ", ".join(f"{name} {json.dumps(value)}" for name, value in row.settings.items())
    raise SweepError(f"row {row.index} ({settings}; seed {row.seed}): {words}") from error


@contextmanager
def local_threads(count: int) -> Iterator[Backend]:
    """Simulate on threads of this process, whose engine releases the interpreter; leaving ends what still runs."""
    stop = threading.Event()

    def listen(_now_ms: int) -> None:
        if stop.is_set():
            raise _StoppedError

    with ThreadPoolExecutor(max_workers=count, thread_name_prefix="sweep") as pool:
        try:
            # One more for each thread, so that none waits.
            yield Backend(pool, 2 * count, lambda job: simulate_row(job, listen))
        finally:
            # Signals reach the main thread alone: the runs hear of them through their progress.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


class _StoppedError(Exception):
    """Ends a run that nobody waits for."""


def result_table(sweep: Sweep, journal: Journal) -> pa.Table:
    """Make the table of a finished sweep: a row each, in the order of the spec.

    Columns are `row`, the axes, `seed`, the totals, and `configuration`: what was simulated, resolved, as JSON.
    """
    import pyarrow as pa

    totals = [journal.totals[row.index] for row in sweep.rows]
    columns: dict[str, Any] = {"row": pa.array([row.index for row in sweep.rows], pa.int64())}
    for axis in sweep.axes:
        columns[axis] = _axis_column([row.settings[axis] for row in sweep.rows])
    columns["seed"] = pa.array([row.seed for row in sweep.rows], pa.uint64())
    for name, kind in TOTALS.items():
        columns[name] = pa.array([total[name] for total in totals], getattr(pa, _ARROW[kind])())
    configurations = [
        json.dumps({"engine": sweep.identity["engine"], **sweep.configuration(row)}, sort_keys=True)
        for row in sweep.rows
    ]
    columns["configuration"] = pa.array(configurations, pa.string())
    return pa.table(columns)


_ARROW: Final = {"int64": "int64", "double": "float64"}


def _axis_column(values: list[Any]) -> pa.Array:
    """Values of an axis as a column: numbers as numbers, text as text, anything else as JSON."""
    import pyarrow as pa

    kinds = {type(value) for value in values}
    if kinds <= {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int} and all(-(2**63) <= value < 2**63 for value in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:
        return pa.array([float(value) for value in values], pa.float64())
    if kinds <= {str}:
        return pa.array(values, pa.string())
    return pa.array([json.dumps(value, sort_keys=True) for value in values], pa.string())


@lru_cache(maxsize=_WORKLOADS_IN_MEMORY)
def _read(path: str) -> EngineWorkload:
    from opendt._engine import read_workload

    return read_workload(path)


# Threads of a worker that begin together would each read what one of them can.
_READING: Final = threading.Lock()


def _workload(path: str, content_hash: str) -> EngineWorkload:
    with _READING:
        try:
            workload = _read(path)
            if workload.content_hash() != content_hash:
                _read.cache_clear()  # the file may have changed since
                workload = _read(path)
        except FormatError as error:
            hint = "Workers read workloads themselves: they need the same folder at the same path."
            raise EngineError("workload of the worker", str(error), "the workload of the sweep", hint) from error
        if workload.content_hash() != content_hash:
            hint = "It changed, or the worker has another one at this path."
            raise EngineError("workload of the worker", path, f"content {content_hash[:16]}", hint)
    return workload


def _is_less(row: Row) -> bool:
    ratios = (row.settings.get(name, 1.0) for name in ("core_ratio", "core_speed_ratio"))
    return any(isinstance(ratio, int | float) and ratio < 1 for ratio in ratios)


def _hash_of(topology: Topology) -> str:
    return hashlib.sha256(topology.model_dump_json().encode()).hexdigest()


def _trace(points: Any) -> dict[str, Any]:
    text = json.dumps([point if isinstance(point, dict) else point.model_dump(mode="json") for point in points])
    return {"count": len(points), "sha256": hashlib.sha256(text.encode()).hexdigest()}
