"""The command ``opendt``: its subcommands, its exit codes and how an error reaches a person.

Exit codes
----------
0
    Done.
1
    Refused or failed; one message on stderr says what was found, what was expected and what to do. Without words where
    the reader of stdout closed it, as ``head`` does.
2
    The command line itself was wrong.
70
    A defect of OpenDT; a traceback on stderr shows where.
130
    Interrupted with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from opendt.cli.lazy import LazyGroup

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_DEFECT: Final = 70
EXIT_INTERRUPTED: Final = 130

SUMMARIES: Final = {
    "simulate": "Run an experiment, or a topology with a workload.",
    "validate": "Check input files and say what is wrong with them.",
    "convert": "Convert workloads between formats.",
    "demo": "Run the closed loop over a week and write a report.",
    "run": "Follow datacenters live, and serve a fleet.",
    "status": "Say what is followed, how far it is and what went wrong.",
    "events": "Print what happened, and follow it.",
    "timeseries": "Print what was simulated and measured, tick by tick.",
    "down": "End the process that follows datacenters.",
    "config": "Show settings and where each came from.",
    "topology": "List, compare and bring back versions of a topology.",
    "ledger": "Export, check and describe the ledger.",
    "propose": "Propose a change by hand.",
    "proposals": "List proposals, accept and reject what waits.",
    "rollback": "Take back what the gate changed.",
    "certificate": "Show certificates and check them.",
    "replay": "Send a recorded datacenter as messages, at any speed.",
    "deadletter": "List messages that were refused, and send them again.",
    "optimize": "Say which configuration would have met the objectives.",
    "plan-capacity": "Say how few hosts a recorded demand needs.",
    "sweep": "Simulate grids and samples of configurations.",
    "plan": "Place a job on the fleet, predicted before it runs.",
    "verify": "Hold a plan against what happened.",
    "explain": "Say why a plan is as it is.",
    "snapshot": "Print the fleet as last seen.",
    "act": "Cordon, evict, scale, migrate or replicate, by the gate.",
}
EXIT_CODES: Final = {
    EXIT_DONE: "done",
    EXIT_FAILED: "refused or failed (one message on stderr)",
    EXIT_USAGE: "wrong command line",
    EXIT_DEFECT: "a defect of OpenDT (a traceback on stderr)",
    EXIT_INTERRUPTED: "interrupted with Ctrl-C",
}


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    del param
    if not wanted or ctx.resilient_parsing:
        return
    from opendt import __version__

    click.echo(f"opendt {__version__}")
    ctx.exit()


_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:<5}{meaning}" for code, meaning in EXIT_CODES.items())

group = LazyGroup(
    name="opendt",
    package="opendt.cli",
    summaries=SUMMARIES,
    help="A digital twin of a datacenter: simulate it, predict its power, learn from what was measured, propose changes.",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version and exit.",
        )
    ],
)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code.

    Parameters
    ----------
    arguments
        Words after ``opendt``; those of the process when None.

    Returns
    -------
    int
        One of the codes in this module's docstring, or what a subcommand gave to ``ctx.exit``.
    """
    try:
        code = group.main(args=arguments, prog_name="opendt", standalone_mode=False)
    except click.Abort:  # click's name for KeyboardInterrupt
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the outermost border: everything ends here as a message and a code
        return _report(error)
    except BaseException as error:
        # A panic of the engine comes as a class of its own, beside Exception; all else is for others to catch.
        if type(error).__name__ != "PanicException":
            raise
        return _report(error)
    return code if isinstance(code, int) else EXIT_DONE


def _report(error: BaseException) -> int:
    """Tell a person what went wrong: one message for bad input, a traceback for a defect."""
    from opendt.model.errors import OpenDTError

    # The system's own refusals (no such file, no permission, disk full) name the path already.
    if isinstance(error, OpenDTError | OSError):
        click.echo(f"Error: {error}", err=True)
        return EXIT_FAILED
    traceback.print_exception(error)
    click.echo("Error: this is a defect of OpenDT; please report it with the lines above", err=True)
    return EXIT_DEFECT


def main() -> NoReturn:
    """Entry point of the installed command."""
    code = run()
    if code == EXIT_INTERRUPTED:
        _leave_at_once(code)
    sys.exit(code)


def _leave_at_once(code: int) -> NoReturn:
    """End the process when its threads have put away what they held, without taking memory down piece by piece.

    A person who presses Ctrl-C waits for this: it saves some 80 ms where a large simulation was loaded.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
