"""``opendt down``: let the process that follows datacenters end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from opendt.cli.parameters import PositiveNumber

if TYPE_CHECKING:
    from opendt.orchestrator.pid_file import ProcessFile

_POLL_S: Final = 0.05


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings (TOML, or JSON by suffix); opendt.toml if it is there.",
)
@click.option(
    "--timeout", type=PositiveNumber(), default=60.0, show_default=True, metavar="S", help="How long to wait."
)
def command(config: Path | None, timeout: float) -> None:
    """End the process of these settings after the window it is at, and wait until it has ended.

    Nothing is lost: `opendt run` goes on from there. All processes that share the state directory are ended.
    """
    from opendt.orchestrator.pid_file import pid_files
    from opendt.orchestrator.settings import load_settings

    settings = load_settings(config)
    files = pid_files(settings.state_dir)
    if not files:
        click.echo(f"nothing runs: {settings.state_dir} names no process", err=True)
    until_s = time.monotonic() + timeout
    asked = [file for file in files if _ask(file)]
    for file in asked:
        _wait(file, until_s, timeout)


def _ask(file: ProcessFile) -> bool:
    """Ask a process to end; False when there is none of it any more."""
    from opendt.model.errors import InputError
    from opendt.orchestrator.pid_file import remove_stale

    if not file.is_held:
        if remove_stale(file):
            click.echo(f"nothing runs: process {file.pid} is gone; removed its file {file.path}", err=True)
            return False
        raise InputError(str(file.path), "a process that has just begun", "one that runs", "Ask again.")
    if not file.is_opendt:
        hint = "It may belong to another container or machine: end it there."
        raise InputError(str(file.path), f"process {file.pid}", "one of OpenDT here", hint)
    assert file.pid is not None
    try:
        os.kill(file.pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise InputError(
            str(file.path), f"process {file.pid} of another user", "one that may be ended", "Ask as that user."
        ) from None
    return True


def _wait(file: ProcessFile, until_s: float, timeout_s: float) -> None:
    from opendt.model.errors import InputError
    from opendt.orchestrator.pid_file import pid_files

    began_s = time.monotonic()
    while any(one.path == file.path and one.pid == file.pid and one.is_held for one in pid_files(file.path.parent)):
        if time.monotonic() >= until_s:
            hint = f"It was asked to. Wait on, or end it with `kill -9 {file.pid}`: a restart loses nothing."
            raise InputError("--timeout", f"process {file.pid} still there after {timeout_s:g} s", "its end", hint)
        time.sleep(_POLL_S)
    click.echo(f"process {file.pid} has ended, {time.monotonic() - began_s:.1f} s after it was asked to")
