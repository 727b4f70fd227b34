"""OpenDC experiments, in both dialects, as scenarios ready to run.

An experiment gives a set of candidates for each of seven things; its scenarios are the Cartesian product, topologies
outermost, then workloads, policies, exports, failures, checkpoints, and the limit of failures innermost. Equal
candidates collapse. A scenario's index is its position, and it runs once for each k below `Experiment.runs`.

Paths in a file are relative to that file, then to the working directory. The dialect is told by the topologies: the
runner's have ``pathToFile``, the SDK's have their clusters in place or ``importFrom``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from opendt.formats.json_cursor import Cursor, Keys
from opendt.formats.opendc_dialect import RUNNER, SDK, Dialect, OpenDCReading, reference
from opendt.formats.opendc_policies import ExportOptions, allocation, checkpoint, export, failures
from opendt.formats.opendc_topology import read_topology, topology_from, topology_json, write_topology
from opendt.model.options import Options, ScalingPolicy

if TYPE_CHECKING:
    from opendt.formats.carbon import Reader as CarbonReader
    from opendt.formats.failures import Reader as FailureReader
    from opendt.model.topology import Topology
    from opendt.model.workload import Workload

__all__ = [
    "Experiment",
    "ExportOptions",
    "Scenario",
    "WorkloadSource",
    "read_experiment",
    "read_topology",
    "topology_json",
    "write_topology",
]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class WorkloadSource:
    """Where the tasks of a scenario come from, and what is done to them.

    Exactly one of `path` (a folder with tasks.parquet and fragments.parquet) and `inline` is set. `sample_fraction`
    is the share of the load to draw (1 is all); `submission_ms` is the absolute time, ms since the epoch, that the
    first submission is moved to; `defer_all` makes every task deferrable until submission + 3 x duration.
    """

    path: Path | None = None
    inline: Workload | None = None
    scaling_policy: ScalingPolicy = "no_delay"
    sample_fraction: float = 1.0
    submission_ms: int | None = None
    defer_all: bool = False


@dataclass(frozen=True, eq=False)
class Scenario:
    """One combination of an experiment's candidates."""

    index: int
    topology: Topology
    workload: WorkloadSource
    options: Options
    export: ExportOptions

    def options_of_run(self, run: int) -> Options:
        """Options of the run with number `run`, which has a seed of its own."""
        return self.options.model_copy(update={"seed": self.options.seed + run})


@dataclass(frozen=True, eq=False)
class Experiment:
    """A design of experiments: its scenarios, and how often each runs."""

    name: str
    file: Path
    dialect: Literal["runner", "SDK"]
    output_folder: str
    runs: int
    initial_seed: int
    scenarios: tuple[Scenario, ...]
    warnings: tuple[str, ...]


def read_experiment(
    path: Path | str,
    *,
    strict: bool = False,
    ram_ratio: float = 1.5,
    working_directory: Path | str = ".",
    carbon_reader: CarbonReader | None = None,
    failure_reader: FailureReader | None = None,
) -> Experiment:
    """Read an experiment with the topologies and traces it names (workloads are left to be read by the engine).

    Parameters
    ----------
    path : Path or str
        JSON file.
    strict : bool
        Refuse unknown keys, instead of noting them in ``Experiment.warnings``.
    ram_ratio : float
        How often the prefab policies count memory: 1.5 as in 2025, 1.0 as in 2026.
    working_directory : Path or str
        Where paths are looked for that do not lead anywhere from the file they stand in.
    carbon_reader, failure_reader : callable, optional
        How trace files are read; by the engine unless given.

    Raises
    ------
    FormatError
        Naming file and key.
    """
    reading = OpenDCReading(
        strict=strict,
        working_directory=Path(working_directory),
        carbon_reader=carbon_reader,
        failure_reader=failure_reader,
        ram_ratio=ram_ratio,
    )
    cursor = Cursor.at_file(Path(path), reading)
    dialect = _dialect(cursor)
    reading.imports = dialect is SDK
    return _experiment(cursor, dialect, reading)


def _dialect(cursor: Cursor) -> Dialect:
    topologies = cursor.value.get("topologies") if isinstance(cursor.value, dict) else None
    entries = topologies if isinstance(topologies, list) else []
    return RUNNER if not entries or any(isinstance(e, dict) and "pathToFile" in e for e in entries) else SDK


def _experiment(cursor: Cursor, dialect: Dialect, reading: OpenDCReading) -> Experiment:
    keys = cursor.open()
    topologies = _distinct(keys, "topologies", lambda item: _topology(item, dialect, reading))
    workloads = _distinct(keys, "workloads", lambda item: _workload(item, dialect, reading))
    policies = _candidates(
        keys, "allocationPolicies", {"type": "prefab"}, lambda i: allocation(i, dialect, reading.ram_ratio)
    )
    exports = _candidates(keys, "exportModels", {}, lambda item: _itself(export(item, dialect)))
    failing = _candidates(keys, "failureModels", None, lambda item: failures(item, dialect, reading))
    checkpoints = _candidates(keys, "checkpointModels", None, lambda item: _itself(checkpoint(item, dialect)))
    limits = _candidates(keys, "maxNumFailures", 10, lambda item: _itself(item.integer(most=2**32 - 1)))
    seed = keys.integer("initialSeed", 0)
    runs = keys.integer("runs", 1, least=1)
    name = keys.text("name", "")
    output_folder = keys.text("outputFolder", "output") if dialect is RUNNER else "output"
    keys.close()
    scenarios = tuple(
        Scenario(
            index=index,
            topology=topology,
            workload=workload,
            options=Options(
                seed=seed,
                scaling_policy=workload.scaling_policy,
                allocation=policy,
                max_failures=limit,
                failures=failure,
                checkpoint=snapshot,
            ),
            export=exported,
        )
        for index, (topology, workload, policy, exported, failure, snapshot, limit) in enumerate(
            product(topologies, workloads, policies, exports, failing, checkpoints, limits)
        )
    )
    return Experiment(
        name=name or "unnamed-simulation",
        file=cursor.file,
        dialect="runner" if dialect is RUNNER else "SDK",
        output_folder=output_folder,
        runs=runs,
        initial_seed=seed,
        scenarios=scenarios,
        warnings=tuple(reading.warnings),
    )


def _itself(value: T) -> tuple[Hashable, T]:
    return value, value


def _distinct(keys: Keys, key: str, read: Callable[[Cursor], tuple[Hashable, T]]) -> list[T]:
    """Read a set that must be there and must not be empty."""
    cursor = keys.need(key)
    found: dict[Hashable, T] = {}
    for item in cursor.items():
        identity, value = read(item)
        found.setdefault(identity, value)
    if not found:
        raise cursor.error("at least one entry", found="none")
    return list(found.values())


def _candidates(keys: Keys, key: str, default: Any, read: Callable[[Cursor], tuple[Hashable, T]]) -> list[T]:
    """Read a set that has one default entry."""
    if keys.get(key) is None:
        return [read(keys.cursor.at(key, default))[1]]
    return _distinct(keys, key, read)


def _topology(cursor: Cursor, dialect: Dialect, reading: OpenDCReading) -> tuple[Hashable, Topology]:
    if dialect is RUNNER:
        keys = cursor.open()
        place = keys.need("pathToFile")
        keys.close()
        path = reading.existing(place, place.text())
        return path, topology_from(Cursor.at_file(path, reading), reading)
    topology = topology_from(cursor, reading, SDK)
    return topology, topology


def _workload(cursor: Cursor, dialect: Dialect, reading: OpenDCReading) -> tuple[Hashable, WorkloadSource]:
    keys = cursor.open()
    scaling = keys.choice("scalingPolicy", {"NoDelay": "no_delay", "Perfect": "perfect"}, "no_delay")
    policy: ScalingPolicy = "perfect" if scaling == "perfect" else "no_delay"
    if dialect is RUNNER:
        keys.choice("type", {"ComputeWorkload": "ComputeWorkload"}, "ComputeWorkload")
        place = keys.need("pathToFile")
        path = place.text()
    elif keys.choice("type", {"trace": False, "inline": True}):
        return _inline(keys, policy)
    else:
        place = keys.need("source")
        path = reference(place)
    submission = keys.get("submissionTime")
    source = WorkloadSource(
        path=reading.existing(place, path),
        scaling_policy=policy,
        sample_fraction=keys.number("sampleFraction", 1.0, above=0),
        submission_ms=None if submission is None else _epoch_ms(submission),
        defer_all=keys.flag("deferAll", False),
    )
    keys.close()
    identity = (source.path, policy, source.sample_fraction, source.submission_ms, source.defer_all)
    return identity, source


def _inline(keys: Keys, policy: ScalingPolicy) -> tuple[Hashable, WorkloadSource]:
    from opendt.formats.opendc_inline import inline_workload

    tasks = keys.need("tasks")
    keys.close()
    identity = ("inline", policy, json.dumps(tasks.value, sort_keys=True))
    return identity, WorkloadSource(inline=inline_workload(tasks), scaling_policy=policy)


def _epoch_ms(cursor: Cursor) -> int:
    """ISO local date-time, read as UTC, in ms since the epoch."""
    try:
        moment = datetime.fromisoformat(cursor.text())
    except ValueError as error:
        raise cursor.error('an ISO date-time such as "2022-10-06T22:00:00", read as UTC') from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    since_epoch = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since_epoch.days * 86_400 + since_epoch.seconds) * 1000 + since_epoch.microseconds // 1000
