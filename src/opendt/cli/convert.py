"""``opendt convert``: workloads of any format to OpenDC's, node lists to topologies, topologies between dialects."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from opendt.cli.parameters import PositiveNumber
from opendt.cli.progress import stages
from opendt.cli.words import facts

if TYPE_CHECKING:
    from opendt.formats.detect import Kind
    from opendt.formats.survey import Fact

_SYNTHETIC: Final = "synthetic"
# Names of `opendt.formats.detect.Kind`, spelt out so that the help needs no import.
_SOURCES: Final = ("workload", "swf", "wfformat", "wta", "openb-pods", "openb-nodes", "topology", _SYNTHETIC)
_WORKLOAD_FILES: Final = ("tasks.parquet", "fragments.parquet")
_WEEK_FILES: Final = (*_WORKLOAD_FILES, "carbon.parquet", "consumption.parquet", "topology.json")
_TARGETS: Final = ("opendc", "runner", "sdk")

Begin = Callable[[str], None]


@dataclass(frozen=True)
class _Wish:
    """What was asked for beside source and target."""

    to: str | None
    core_speed_mhz: float
    pin_partitions: bool
    seed: int
    strict: bool
    force: bool


@click.command()
@click.argument("places", nargs=-1, required=True, metavar="[SOURCE] TARGET", type=click.Path(path_type=Path))
@click.option(
    "--from", "source_format", type=click.Choice(_SOURCES), help="Format of SOURCE [default: told by itself]."
)
@click.option("--to", type=click.Choice(_TARGETS), help="Format of TARGET [default: see above].")
@click.option(
    "--core-speed-mhz",
    type=PositiveNumber(),
    default=2000.0,
    show_default=True,
    help="Speed that turns cores into MHz where SOURCE does not say it.",
)
@click.option("--pin-partitions", is_flag=True, help="SWF: pin jobs to the cluster named as their partition.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of a synthetic week.")
@click.option("--strict", is_flag=True, help="Refuse keys that the format does not have.")
@click.option("-f", "--force", is_flag=True, help="Overwrite files that are there.")
@click.option("-q", "--quiet", is_flag=True, help="No words but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def command(
    places: tuple[Path, ...],
    source_format: str | None,
    to: str | None,
    core_speed_mhz: float,
    pin_partitions: bool,
    seed: int,
    strict: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Convert SOURCE to TARGET, which appears when it is complete.

    A workload (OpenDC folder of any version, SWF, WfFormat, WTA, openb pods) becomes a folder with OpenDC's tasks.parquet
    and fragments.parquet (--to opendc); the machines of a WfFormat file become topology.json beside them. openb nodes
    become a topology file (--to runner or sdk). A topology of one OpenDC dialect becomes one of the other.

    --from synthetic takes no SOURCE: it makes a week from --seed, with topology, carbon and measured power.
    """
    source, target = _places(places, source_format)
    wish = _Wish(to, core_speed_mhz, pin_partitions, seed, strict, force)
    with stages(quiet) as begin:
        kind, found = _convert(source, target, source_format, wish, begin)
    record = {"source": None if source is None else str(source), "target": str(target), "kind": kind, "facts": found}
    if as_json:
        click.echo(json.dumps(record, indent=2))
    elif not quiet:
        click.echo(f"{kind}: {facts(found)}: wrote {target}", err=True)


def _places(places: tuple[Path, ...], source_format: str | None) -> tuple[Path | None, Path]:
    if source_format == _SYNTHETIC:
        if len(places) != 1:
            raise click.UsageError("--from synthetic takes a TARGET and no SOURCE")
        return None, places[0]
    if len(places) != 2:
        raise click.UsageError("give a SOURCE and a TARGET")
    return places[0], places[1]


def _convert(
    source: Path | None, target: Path, source_format: str | None, wish: _Wish, begin: Begin
) -> tuple[str, dict[str, Fact]]:
    if source is None:
        return _SYNTHETIC, _synthetic(target, wish, begin)
    from opendt.formats.any_workload import WORKLOAD_KINDS
    from opendt.formats.detect import Kind, detect
    from opendt.model.errors import FormatError

    begin(f"reading {source.name}")
    kind = detect(source) if source_format is None else Kind(source_format)
    if kind in WORKLOAD_KINDS:
        _check_target(kind, wish.to, ("opendc",))
        return str(kind), _workload(source, target, kind, wish, begin)
    if kind in (Kind.OPENB_NODES, Kind.TOPOLOGY):
        _check_target(kind, wish.to, ("runner", "sdk"))
        return str(kind), (_nodes if kind is Kind.OPENB_NODES else _topology)(source, target, wish, begin)
    raise FormatError(source, "", f"{kind}", f"one of {', '.join(_SOURCES[:-1])}", "Only these are converted.")


def _check_target(kind: Kind, to: str | None, possible: tuple[str, ...]) -> None:
    if to is not None and to not in possible:
        raise click.UsageError(f"{kind} cannot become {to}: use --to {' or '.join(possible)}")


def _synthetic(target: Path, wish: _Wish, begin: Begin) -> dict[str, Fact]:
    from opendt.formats.staging import staged_folder
    from opendt.formats.synthetic import generate_week

    if wish.to not in (None, "opendc"):
        raise click.UsageError("a synthetic week is written in OpenDC's format: use --to opendc")
    with staged_folder(target, _WEEK_FILES, force=wish.force) as folder:
        begin(f"making a week from seed {wish.seed}")
        generate_week(wish.seed, folder)
    return {"files": len(_WEEK_FILES)}


def _workload(source: Path, target: Path, kind: Kind, wish: _Wish, begin: Begin) -> dict[str, Fact]:
    from opendt.formats.any_workload import read_any_workload
    from opendt.formats.detect import Kind
    from opendt.formats.opendc_topology_writer import write_topology
    from opendt.formats.opendc_workload import write_workload
    from opendt.formats.staging import staged_folder

    names = (*_WORKLOAD_FILES, "topology.json") if kind is Kind.WFFORMAT else _WORKLOAD_FILES
    with staged_folder(target, names, force=wish.force) as folder:
        read = read_any_workload(source, kind, core_speed_mhz=wish.core_speed_mhz, pin_partitions=wish.pin_partitions)
        begin(f"writing {target.name}")
        write_workload(read.workload, folder)
        if read.machines is not None:
            write_topology(read.machines, folder / "topology.json")
    return {
        "tasks": len(read.workload),
        "fragments": read.workload.fragment_count,
        "span_ms": read.workload.span_ms,
        "dropped_tasks": read.dropped,
    }


def _nodes(source: Path, target: Path, wish: _Wish, begin: Begin) -> dict[str, Fact]:
    from opendt.formats.openb import read_openb_nodes
    from opendt.formats.opendc_dialect import RUNNER, SDK
    from opendt.formats.opendc_topology_writer import write_topology
    from opendt.formats.staging import staged_file

    with staged_file(target, force=wish.force) as file:
        topology = read_openb_nodes(source, core_speed_mhz=wish.core_speed_mhz)
        begin(f"writing {target.name}")
        write_topology(topology, file, dialect=SDK if wish.to == "sdk" else RUNNER)
    return {"groups": len(topology.clusters[0].hosts), "hosts": topology.host_count, "dialect": wish.to or "runner"}


def _topology(source: Path, target: Path, wish: _Wish, begin: Begin) -> dict[str, Fact]:
    from opendt.formats.json_cursor import load_json
    from opendt.formats.opendc_dialect import RUNNER, SDK, OpenDCReading, dialect_of_topology
    from opendt.formats.opendc_topology import read_topology
    from opendt.formats.opendc_topology_writer import write_topology
    from opendt.formats.staging import staged_file

    other = RUNNER if dialect_of_topology(load_json(source)) is SDK else SDK
    dialect = other if wish.to is None else SDK if wish.to == "sdk" else RUNNER
    reading = OpenDCReading(strict=wish.strict)
    with staged_file(target, force=wish.force) as file:
        topology = read_topology(source, reading=reading)
        begin(f"writing {target.name}")
        paths = {}
        for cluster in topology.clusters:
            trace = reading.carbon_path(cluster.power_source.carbon) if cluster.power_source.carbon else None
            if trace is not None:  # the target names it from where it lies itself
                paths[cluster.name] = Path(os.path.relpath(trace.resolve(), target.resolve().parent)).as_posix()
        write_topology(topology, file, paths, dialect=dialect)
    for warning in reading.warnings:
        click.echo(f"Warning: {warning}", err=True)
    return {"clusters": len(topology.clusters), "hosts": topology.host_count, "dialect": dialect.name}
