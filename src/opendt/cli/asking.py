"""What commands that take part in decisions share: which datacenter is meant, and the desk where a person is heard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from opendt.orchestrator.desk import DecisionDesk
    from opendt.orchestrator.settings_model import DatacenterSettings, Settings
    from opendt.verification.ledger import Ledger

__all__ = ["chosen", "desk_of", "where_options"]


def where_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which datacenter is meant, and whether to answer in JSON."""
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings (TOML, or JSON by suffix); opendt.toml if it is there.",
    )
    datacenter = click.option("--datacenter", metavar="NAME", help="Which one, when the settings have several.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
    return config(datacenter(as_json(function)))


def chosen(config: Path | None, name: str | None) -> tuple[Settings, DatacenterSettings]:
    """Read the settings and find the datacenter that is meant.

    Raises
    ------
    InputError
        When there is none of this name, or none is named and there are several.
    """
    from opendt.model.errors import InputError
    from opendt.orchestrator.settings import load_settings
    from opendt.orchestrator.settings_model import DEFAULT_DATACENTER, DatacenterSettings

    settings = load_settings(config)
    sections = settings.datacenter or {DEFAULT_DATACENTER: DatacenterSettings(name=DEFAULT_DATACENTER)}
    names = ", ".join(sections)
    if name is None and len(sections) > 1:
        raise InputError("--datacenter", "no name", f"one of {names}")
    section = next(iter(sections.values())) if name is None else sections.get(name)
    if section is None:
        raise InputError("--datacenter", str(name), f"one of {names}")
    return settings, section


def desk_of(settings: Settings, datacenter: str, ledger: Ledger) -> DecisionDesk:
    """Where a person takes part in the decisions of a datacenter."""
    from functools import partial

    from opendt.orchestrator.desk import DecisionDesk
    from opendt.orchestrator.transports import send_request

    return DecisionDesk(datacenter, ledger, partial(send_request, settings))
