"""``opendt deadletter``: messages that were refused, to look at and to send again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opendt.cli.transport import Transport, transport_options

if TYPE_CHECKING:
    from opendt.telemetry.deadletter import Filed


@click.group()
def command() -> None:
    """List messages that were refused, and send them again."""


def _which(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose letters."""
    function = click.option("--reason", metavar="WORD", help="Only of this kind: late, conflict, unknown, broken.")(
        function
    )
    function = click.option("--topic", metavar="NAME", help="Only of this topic.")(function)
    function = click.option("--datacenter", metavar="NAME", help="Only of this datacenter.")(function)
    return transport_options("--from")(function)


@command.command("list")
@_which
@click.option("--all", "with_retried", is_flag=True, help="Also those that have been sent again.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line, with the message.")
def list_(
    transport: str | None,
    log: Path | None,
    bootstrap_servers: str | None,
    config: Path | None,
    datacenter: str | None,
    topic: str | None,
    reason: str | None,
    with_retried: bool,
    as_json: bool,
) -> None:
    """List dead letters, oldest first: window, datacenter, place of the message, reason."""
    letters = _read(Transport.of(transport, log, bootstrap_servers, config), datacenter, topic, reason)
    for filed in letters:
        if filed.is_retried and not with_retried:
            continue
        click.echo(_as_json(filed) if as_json else _as_line(filed))


@command.command()
@_which
@click.option("-q", "--quiet", is_flag=True, help="No words but errors.")
def retry(
    transport: str | None,
    log: Path | None,
    bootstrap_servers: str | None,
    config: Path | None,
    datacenter: str | None,
    topic: str | None,
    reason: str | None,
    quiet: bool,
) -> None:
    """Send messages again to the topics they came on, each once.

    A message that was late is still late: it comes back unless its window is open in whatever follows now.
    """
    from opendt.telemetry import deadletter

    target = Transport.of(transport, log, bootstrap_servers, config)
    letters = _read(target, datacenter, topic, reason)
    with target.sink() as sink:
        sent = deadletter.retry(letters, sink)
    if not quiet:
        click.echo(f"sent {sent} {'message' if sent == 1 else 'messages'} again to {target.place}", err=True)


def _read(target: Transport, datacenter: str | None, topic: str | None, reason: str | None) -> list[Filed]:
    from opendt.telemetry.deadletter import read_letters

    with target.source("deadletter") as source:
        letters = read_letters(source, patience_s=10.0 if target.settings.transport == "kafka" else 0.5)
    return [
        filed
        for filed in letters
        if datacenter in (None, filed.letter.datacenter)
        and topic in (None, filed.letter.topic)
        and reason in (None, filed.letter.reason.partition(":")[0])
    ]


def _as_line(filed: Filed) -> str:
    letter = filed.letter
    moment = datetime.fromtimestamp(letter.timestamp_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    place = f"{letter.topic}/{letter.partition}/{letter.offset}"
    again = " (sent again)" if filed.is_retried else ""
    return f"{moment}  {letter.datacenter}  {place}  {letter.reason}{again}"


def _as_json(filed: Filed) -> str:
    letter = filed.letter
    record = {name: getattr(letter, name) for name in ("timestamp_ms", "datacenter", "topic", "partition", "offset")}
    record |= {"reason": letter.reason, "key": letter.key, "is_retried": filed.is_retried}
    return json.dumps({**record, "value": letter.value.decode("utf-8", "replace")})
