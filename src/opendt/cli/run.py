"""``opendt run``: follow datacenters live, until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opendt.orchestrator.events import EventBus
    from opendt.orchestrator.settings_model import Settings
    from opendt.verification.ledger import Ledger


@click.command()
@click.option("--config", "config", type=click.Path(path_type=Path), help="Settings [default: opendt.toml].")
@click.option("--drain", is_flag=True, help="Process what is there, then stop.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level that is logged."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Form of the log on stderr.")
def command(config: Path | None, drain: bool, log_level: str | None, log_format: str | None) -> None:
    """Follow datacenters: take what their streams tell, window by window, and keep a twin of each in step; serve a fleet.

    Windows of event time close when the streams allow. Each is simulated, held against the objectives, recorded in the
    ledger with the forecasts that became known and the offsets it was read to, and told on sim.results. SIGTERM and Ctrl-C
    end the process after the window it is at; it goes on from there when it is started again, also after a kill.

    Where the settings describe a fleet of Kubernetes clusters, its REST interface is served meanwhile: jobs are planned, run and
    verified.
    """
    from opendt.orchestrator.process import run
    from opendt.orchestrator.settings import load_settings

    flags = {"log_level": log_level, "log_format": log_format}
    settings = load_settings(config, {name: value for name, value in flags.items() if value is not None})
    run(settings, drain=drain, beside=_served if settings.fleet.is_followed or settings.api.serve else None)


def _served(settings: Settings, ledger: Ledger, bus: EventBus) -> AbstractContextManager[object]:
    from opendt.api.serve import served

    return served(settings, ledger, bus)
