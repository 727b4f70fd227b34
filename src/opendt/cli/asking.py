"""What commands that take part in decisions share: which datacenter is meant, and how something is asked of whoever follows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from opendt.orchestrator.settings_model import DatacenterSettings, Settings
    from opendt.verification.ledger import Ledger

__all__ = ["ask", "chosen", "next_window_ms", "where_options"]


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


def next_window_ms(ledger: Ledger, datacenter: str) -> int:
    """A moment in the window that is recorded next, ms since the epoch.

    Event time, not the clock's: what is followed may be a recording.

    Raises
    ------
    InputError
        When no window is recorded yet.
    """
    from opendt.model.errors import InputError

    last = ledger.last_window(datacenter)
    if last is None:
        hint = "Ask again when the first window has been recorded."
        raise InputError(f"datacenter {datacenter}", "no window", "one in the ledger", hint, file=ledger.place)
    return last.end_ms + 1


def ask(settings: Settings, datacenter: str, key: str, value: Any, time_ms: int) -> str:
    """Send a request on ``sys.config``; gives the place that it went to, in words.

    Raises
    ------
    TransportError
        When it could not be delivered.
    """
    from opendt.cli.transport import Transport
    from opendt.telemetry.messages import CONFIG

    message = {"setting_key": key, "new_value": value, "timestamp": time_ms, "source": "opendt"}
    target = Transport(settings)
    with target.sink() as sink:
        sink.send(CONFIG, json.dumps(message).encode(), key=datacenter)
        sink.flush()
    return target.place
