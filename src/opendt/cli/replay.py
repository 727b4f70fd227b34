"""``opendt replay``: a recorded datacenter sent as messages, as if it happened now."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opendt.cli.transport import Transport, transport_options
from opendt.cli.words import duration

if TYPE_CHECKING:
    from opendt.telemetry.recording import Form, Plan
    from opendt.telemetry.replay import Progress


class _Speed(click.ParamType[float]):
    """A number above 0, or ``max``; None stands for the latter."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert a word; infinity stands for ``max``."""
        if value == "max":
            return float("inf")
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed <= 1e9:
            self.fail(f"{value} is neither a number above 0 nor max.", param, ctx)
        return speed


@click.command()
@click.argument("place", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--speed", type=_Speed(), metavar="X|max", default="max", show_default=True, help="Event time over wall time."
)
@click.option(
    "--from", "from_h", type=click.FloatRange(min=0), default=0.0, help="Begin so many hours after the first task."
)
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), help="Stop so many hours after that.")
@transport_options("--to")
@click.option("--datacenter", default="datacenter", show_default=True, help="Name: the key of the messages.")
@click.option("--whole", "form", flag_value="whole", help="Send each task with all its fragments when it is submitted.")
@click.option("--pair", "form", flag_value="pair", help="Send the older pair of topics, tasks and fragments.")
@click.option(
    "--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="Send it so often, one after the other."
)
@click.option("--progress", "progress_file", type=click.Path(path_type=Path), help="File that says how far it came.")
@click.option("--again", is_flag=True, help="Begin at the beginning although it was sent before.")
@click.option("-q", "--quiet", is_flag=True, help="No words but errors.")
def command(
    place: Path,
    speed: float,
    from_h: float,
    hours: float | None,
    transport: str | None,
    log: Path | None,
    bootstrap_servers: str | None,
    config: Path | None,
    datacenter: str,
    form: Form | None,
    repeat: int,
    progress_file: Path | None,
    again: bool,
    quiet: bool,
) -> None:
    """Send the workload in DIR, with its measured power, as messages in order of event time.

    DIR is a workload of any format. Readings (consumption.parquet) and the topology (topology.json) beside it are sent too. Gaps are
    kept at every speed but max. Fragments are sent when they have ended.

    What was interrupted goes on where it was when the same command is given again.
    """
    from opendt.telemetry.recording import Plan, ReplayOptions, read_recording
    from opendt.telemetry.replay import Progress, Replay

    target = Transport.of(transport, log, bootstrap_servers, config)
    settings = target.settings
    options = ReplayOptions(
        datacenter=datacenter,
        form=form or "parts",
        from_ms=round(from_h * 3_600_000),
        length_ms=None if hours is None else round(hours * 3_600_000),
        repeat=repeat,
        window_ms=settings.window_s * 1000,
        lateness_ms=round(settings.lateness_s * 1000),
    )
    recording = read_recording(place)
    plan = Plan(recording, options)
    progress = Progress(progress_file or _progress_file(target, plan))
    if again:
        progress.file.unlink(missing_ok=True)
    if not quiet and recording.dropped:
        click.echo(f"{recording.dropped} tasks have no fragments and are left out", err=True)
    with target.sink() as sink:
        replay = Replay(plan, sink, speed=None if speed == float("inf") else speed, progress=progress)
        if not quiet and replay.sent:
            click.echo(f"{replay.sent:,} of {len(plan):,} messages were sent before ({progress.file})", err=True)
        with _shown(plan, quiet) as on_progress:
            try:
                sent = replay.run(on_progress)
            except KeyboardInterrupt:
                _tell_interrupted(replay.sent, len(plan), progress)
                raise
    if not quiet and not sent:
        click.echo(f"sent 0 messages to {target.place}", err=True)
    elif not quiet:
        counts = ", ".join(f"{number:,} {name}" for name, number in plan.counts.items())
        span = duration(plan.last_ms - plan.first_ms)
        click.echo(f"sent {sent:,} messages to {target.place}: {counts} of {span}", err=True)


def _progress_file(target: Transport, plan: Plan) -> Path:
    """Name the file after what is sent and where to, so that no two replays share it."""
    import hashlib

    name = hashlib.sha256(f"{plan.fingerprint} {target.place}".encode()).hexdigest()[:16]
    return Path(target.settings.state_dir) / "replay" / f"{name}.json"


def _tell_interrupted(sent: int, total: int, progress: Progress) -> None:
    click.echo(
        f"stopped: {sent:,} of {total:,} messages are sent; the same command goes on there ({progress.file})", err=True
    )


@contextmanager
def _shown(plan: Plan, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show how far it is, in one line, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[reached]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sending", total=len(plan), reached="")

        def show(sent: int, time_ms: int) -> None:
            bar.update(task, completed=sent, reached=duration(max(time_ms - plan.first_ms, 0)))

        yield show
