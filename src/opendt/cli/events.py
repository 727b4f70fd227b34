"""``opendt events``: what happened, from the ledger."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from opendt.cli.parameters import Moment
from opendt.cli.words import moment

if TYPE_CHECKING:
    from opendt.verification.ledger import Ledger
    from opendt.verification.ledger_rows import RecordedEvent

_PAGE: Final = 1000
_POLL_S: Final = 0.5


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings (TOML, or JSON by suffix); opendt.toml if it is there.",
)
@click.option("--datacenter", metavar="NAME", help="Only of this one.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only of this kind, as drift; repeatable.")
@click.option("--since", type=Moment(), metavar="TIME", help="Only from this time on: 2026-03-01T12:00 (UTC), or ms.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, one a line.")
def command(
    config: Path | None, datacenter: str | None, kinds: tuple[str, ...], since: int | None, follow: bool, as_json: bool
) -> None:
    """Print the events in the ledger, oldest first.

    What windows brought (drift, proposals, decisions) has the time of its window; what befell the process (started, stopped,
    an edit refused) that of the clock.
    """
    from opendt.cli.ledger import opened_ledger

    _check_kinds(kinds)
    with opened_ledger(None, config) as ledger:
        _check_datacenter(ledger, datacenter)
        last_id = 0
        while True:
            page = ledger.events(last_id, datacenter, _PAGE, kinds=kinds or None, since_ms=since)
            for recorded in page:
                click.echo(_as_json(recorded) if as_json else _as_text(recorded))
                last_id = recorded.id
            if len(page) == _PAGE:
                continue
            if not follow:
                return
            time.sleep(_POLL_S)


def _check_kinds(kinds: tuple[str, ...]) -> None:
    from opendt.model.errors import InputError
    from opendt.orchestrator import fleet_events  # noqa: F401 - makes its kinds known
    from opendt.orchestrator.event_types import EVENT_TYPES

    known = {*EVENT_TYPES, "calibration"}
    for kind in kinds:
        if kind not in known:
            raise InputError("--kind", kind, f"one of {', '.join(sorted(known))}")


def _check_datacenter(ledger: Ledger, name: str | None) -> None:
    from opendt.model.errors import InputError

    known = ledger.datacenters()
    if name is not None and name not in known:
        raise InputError(
            "--datacenter", name, f"one of {', '.join(known)}" if known else "one in the ledger: it has none"
        )


def _as_json(recorded: RecordedEvent) -> str:
    event = recorded.event
    values = {
        "id": recorded.id,
        "datacenter": recorded.datacenter,
        "window": recorded.window_index,
        "time_ms": event.time_ms,
        "kind": event.kind,
        "level": event.level,
        "content": dict(event.content),
        "recorded_ms": recorded.recorded_ms,
    }
    return json.dumps(values, ensure_ascii=False)


def _as_text(recorded: RecordedEvent) -> str:
    event = recorded.event
    where = f"{recorded.datacenter}: " if recorded.datacenter else ""
    return f"{moment(event.time_ms)} {event.level:<7} {where}{said(event.kind, event.content)}"


def said(kind: str, content: Any) -> str:
    """Tell an event in a line; of a kind that this version does not know, what it holds."""
    from opendt.model.errors import InputError
    from opendt.orchestrator.event_types import event_from_dict

    plain = {name: value for name, value in content.items() if name not in ("number", "process")}
    if kind == "calibration":
        return f"power curves learned: {', '.join(plain)}"
    try:
        return event_from_dict({"kind": kind, **plain}).said
    except InputError:
        return f"{kind} {json.dumps(plain, ensure_ascii=False)}"
