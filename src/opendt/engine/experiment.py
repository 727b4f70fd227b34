"""Experiments on files: every scenario of a design is read, simulated and written without leaving compiled code."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final

from opendt._engine import Workload as EngineWorkload
from opendt._engine import __version__ as engine_version
from opendt._engine import read_workload, simulate_to_files
from opendt.engine.simulation import to_engine
from opendt.model.errors import FormatError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opendt.formats.opendc import Experiment, Scenario, WorkloadSource
    from opendt.model.options import Options
    from opendt.model.topology import Topology

__all__ = ["ScenarioResult", "run_experiment", "run_scenario"]

_DEFERRAL_FACTOR: Final = 3
_ANALYSES: Final = ("power_draw", "carbon_emission")


@dataclass(frozen=True)
class ScenarioResult:
    """Totals of one run of one scenario.

    Times are ms, energy J from the grid, emission g CO2, the utilisation the mean over all hosts and the whole run. Waits are
    the times in the queue of the tasks that started, until their last start; `p95_wait_ms` is one that some task had.
    """

    scenario: int
    seed: int
    folder: str
    tasks_total: int
    tasks_completed: int
    tasks_terminated: int
    makespan_ms: int
    energy_j: float
    emission_g: float
    mean_utilization_ratio: float
    mean_wait_ms: float
    p95_wait_ms: int


def run_scenario(
    topology: Topology,
    options: Options,
    workload: EngineWorkload,
    folder: Path | None,
    *,
    files: dict[str, tuple[str, ...] | None],
    interval_ms: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Simulate one workload on one topology; write result files into `folder` unless it is None.

    Parameters
    ----------
    topology, options, workload
        What is simulated; ``options.start_epoch_ms`` must not lie after the first submission.
    folder : Path or None
        Where the files go; they appear together when all are complete.
    files : dict
        Result file -> columns, or None for all of them.
    interval_ms : int
        Interval of the samples, ms.
    progress : callable, optional
        Called about fifty times a second.

    Returns
    -------
    dict
        Totals: makespan_ms, tasks_total, tasks_completed, tasks_terminated, energy_j, emission_g,
        mean_utilization_ratio, mean_wait_ms and p95_wait_ms.
    """
    return simulate_to_files(
        topology.model_dump_json().encode(),
        options.model_dump_json().encode(),
        workload,
        folder,
        files=[(name, None if columns is None else list(columns)) for name, columns in files.items()],
        interval_ms=interval_ms,
        progress=progress,
    )


def run_experiment(
    experiment: Experiment,
    output: Path,
    *,
    parallelism: int = 1,
    on_result: Callable[[ScenarioResult], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[ScenarioResult]:
    """Run every scenario of an experiment, each as often as it asks, and write the reference's tree of files.

    The tree is ``output/<name>/raw-output/<scenario>/seed=<k>/*.parquet`` with ``trackr.json`` beside ``raw-output``.

    Parameters
    ----------
    experiment : Experiment
        What is run.
    output : Path
        Where the tree goes.
    parallelism : int
        Runs at a time, each on a thread; the results are the same.
    on_result : callable, optional
        Called with each result as soon as its files are complete.
    progress : callable, optional
        Called about fifty times a second from the thread of each run.

    Raises
    ------
    FormatError
        When a workload or trace cannot be read, or the folder cannot be written; runs that were complete stay.
    KeyboardInterrupt
        On Ctrl-C; runs that were complete stay, of the others nothing does.
    """
    root = output / experiment.name
    workloads: dict[int, EngineWorkload] = {}
    sources = {id(scenario.workload): scenario.workload for scenario in experiment.scenarios}
    for key, source in sources.items():
        workloads[key] = _load(source, experiment.initial_seed)
    stop = Event()

    def listen(now: int) -> None:
        if stop.is_set():
            raise _StoppedError
        if progress is not None:
            progress(now)

    def run(job: tuple[Scenario, int]) -> ScenarioResult:
        scenario, seed = job
        result = _run_job(scenario, seed, workloads[id(scenario.workload)], root, listen)
        if on_result is not None:
            on_result(result)
        return result

    jobs = [(scenario, seed) for scenario in experiment.scenarios for seed in range(experiment.runs)]
    with _folders(root):
        results = [run(job) for job in jobs] if parallelism == 1 else _run_parallel(run, jobs, parallelism, stop)
        _write_tracker(experiment, root, results)
    return results


class _StoppedError(Exception):
    """Ends a run because another one failed or a person asked to stop."""


def _run_parallel(
    run: Callable[[tuple[Scenario, int]], ScenarioResult], jobs: list[tuple[Scenario, int]], threads: int, stop: Event
) -> list[ScenarioResult]:
    """Run jobs on threads; the first error, in the order of the jobs, or Ctrl-C ends them all at once."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        try:
            # Ctrl-C may come while the first runs are at work and the others not yet submitted.
            futures = [pool.submit(run, job) for job in jobs]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Signals reach the main thread alone: the runs hear of them through their progress.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    errors = [future.exception() for future in futures if not future.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, _StoppedError):
            raise error
    return [future.result() for future in futures]


@contextmanager
def _folders(root: Path) -> Iterator[None]:
    """Make the folders of the tree; after an error, those that stayed empty are removed."""
    folders = [root / name for name in ("raw-output", *(f"simulation-analysis/{name}" for name in _ANALYSES))]
    made = [above for folder in folders for above in (folder, *folder.parents) if not above.exists()]
    try:
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            is_file = isinstance(error, FileExistsError | NotADirectoryError)
            reason = "a file" if is_file else error.strerror or str(error)
            hint = "Choose another folder with -o."
            raise FormatError(error.filename or root, "", reason, "a folder that can be written", hint) from error
        yield
    except BaseException:
        for folder in sorted(made, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # not empty: it holds runs that were complete
                folder.rmdir()
        raise


def _run_job(
    scenario: Scenario, seed: int, workload: EngineWorkload, root: Path, progress: Callable[[int], None] | None
) -> ScenarioResult:
    folder = root / "raw-output" / str(scenario.index) / f"seed={seed}"
    options = scenario.options_of_run(seed).model_copy(
        update={"start_epoch_ms": workload.first_submission_ms, "scaling_policy": scenario.workload.scaling_policy}
    )
    columns = dict(scenario.export.columns)
    totals = run_scenario(
        scenario.topology,
        options,
        workload,
        folder,
        files={name: columns.get(name) for name in scenario.export.files},
        interval_ms=scenario.export.interval_ms,
        progress=progress,
    )
    return ScenarioResult(scenario=scenario.index, seed=seed, folder=str(folder), **totals)


def _load(source: WorkloadSource, seed: int) -> EngineWorkload:
    """Read a workload and do to it what the experiment asks."""
    if source.path is not None:
        workload = read_workload(source.path)
    elif source.inline is not None:
        workload = to_engine(source.inline)
    else:
        raise ModelError("workloads", "neither a path nor tasks", "one of them")
    if source.sample_fraction < 1.0:
        workload = _sample(workload, source.sample_fraction, seed)
    if source.submission_ms is not None:
        workload = workload.shifted(source.submission_ms)
    if source.defer_all:
        workload = workload.all_deferrable(_DEFERRAL_FACTOR)
    return workload


def _sample(workload: EngineWorkload, fraction: float, seed: int) -> EngineWorkload:
    """Draw tasks, each at most once, until their load (MHz s) reaches a fraction of the whole.

    The reference draws with replacement from an unseeded generator; this draw is of distinct tasks and repeatable.
    """
    import numpy as np

    columns = workload.columns()
    work = np.concatenate(([0.0], np.cumsum(columns["fragment_cpu_mhz"] * columns["fragment_duration_ms"] / 1000.0)))
    load = np.diff(work[columns["fragment_offset"]])
    order = list(range(len(load)))
    random.Random(seed).shuffle(order)
    enough = int(np.searchsorted(np.cumsum(load[order]), fraction * load.sum())) + 1
    return workload.select(sorted(order[:enough]))


def _write_tracker(experiment: Experiment, root: Path, results: list[ScenarioResult]) -> None:
    """Write what was run, as resolved, beside the results."""
    scenarios = [
        {
            "id": scenario.index,
            "topology": _summary_of(scenario.topology),
            "workload": str(scenario.workload.path) if scenario.workload.path else "inline",
            "options": scenario.options.model_dump(mode="json", exclude={"failures"}),
            "export_interval_ms": scenario.export.interval_ms,
            "files": list(scenario.export.files),
        }
        for scenario in experiment.scenarios
    ]
    record = {
        "name": experiment.name,
        "engine": engine_version,
        "scenarios": scenarios,
        "results": [asdict(result) | {"folder": str(Path(result.folder).relative_to(root))} for result in results],
    }
    temporary = root / "trackr.json.part"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(root / "trackr.json")


def _summary_of(topology: Topology) -> dict[str, Any]:
    """Describe a topology without its carbon trace, which may have tens of thousands of rows."""
    record: dict[str, Any] = topology.model_dump(
        mode="json", exclude={"clusters": {"__all__": {"power_source": {"carbon"}}}}
    )
    return record
