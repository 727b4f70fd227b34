"""``opendt proposals``: what was proposed, what became of it, and a person's word on what waits."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from opendt.cli.asking import chosen, desk_of, where_options
from opendt.cli.words import moment

if TYPE_CHECKING:
    from opendt.orchestrator.desk import KnownProposal

_TOLD: Final = {
    "energy_j": "energy",
    "emission_g": "emission",
    "cost": "cost",
    "peak_power_w": "peak power",
    "task_wait_p95_s": "p95 wait",
    "hosts_up": "hosts up",
    "score": "score",
}


@click.group()
def command() -> None:
    """List proposals, show one, accept or reject what waits for a person."""


@command.command("list")
@where_options
@click.option("-n", "--last", type=click.IntRange(min=1), default=20, show_default=True, help="Only the newest.")
@click.option("--waiting", is_flag=True, help="Only those that wait for a person.")
def list_(config: Path | None, datacenter: str | None, as_json: bool, last: int, waiting: bool) -> None:
    """List proposals, oldest first: moment, id, certificate, decision, simulated effect, reason."""
    from opendt.cli.ledger import opened_ledger

    settings, section = chosen(config, datacenter)
    with opened_ledger(None, config) as ledger:
        rows = [one for one in desk_of(settings, section.name, ledger).all() if one.waits or not waiting][-last:]
    if as_json:
        click.echo(json.dumps([_brief(one) for one in rows], indent=2, ensure_ascii=False))
        return
    for one in rows:
        when = "-" if one.time_ms is None else moment(one.time_ms)
        verdict = "waiting" if one.waits else one.last["verdict"]
        words = f"{when}  {one.id}  certificate {one.certified}  {verdict}  energy {_delta(one.effect, 'energy_j')}"
        click.echo(f"{words}  {_plain(one.proposal['reason'])}")
    if not rows:
        click.echo(f"{section.name}: no proposal{' waits' if waiting else ' yet'}", err=True)


@command.command()
@click.argument("proposal_id", metavar="ID")
@where_options
def show(proposal_id: str, config: Path | None, datacenter: str | None, as_json: bool) -> None:
    """Show a proposal: its changes, what they do in simulation, its certificates, what was decided, and what it brought."""
    from opendt.cli.ledger import opened_ledger

    settings, section = chosen(config, datacenter)
    with opened_ledger(None, config) as ledger:
        one = desk_of(settings, section.name, ledger).find(proposal_id)
    if as_json:
        click.echo(json.dumps(asdict(one), indent=2, ensure_ascii=False))
        return
    click.echo("\n".join(_lines(one)))


@command.command()
@click.argument("proposal_id", metavar="ID")
@where_options
def accept(proposal_id: str, config: Path | None, datacenter: str | None, as_json: bool) -> None:
    """Accept a proposal that waits. It is certified again, as things are then, and applied with the next window if that holds."""
    _decide("accept", proposal_id, config, datacenter, as_json=as_json)


@command.command()
@click.argument("proposal_id", metavar="ID")
@where_options
def reject(proposal_id: str, config: Path | None, datacenter: str | None, as_json: bool) -> None:
    """Reject a proposal that waits."""
    _decide("reject", proposal_id, config, datacenter, as_json=as_json)


def _decide(word: str, proposal_id: str, config: Path | None, datacenter: str | None, *, as_json: bool) -> None:
    from opendt.cli.ledger import opened_ledger

    settings, section = chosen(config, datacenter)
    with opened_ledger(None, config) as ledger:
        desk = desk_of(settings, section.name, ledger)
        asked = desk.accept(proposal_id) if word == "accept" else desk.reject(proposal_id)
    if as_json:
        answer = {"datacenter": section.name, "id": proposal_id, "asked": asked.key}
        click.echo(json.dumps(answer | {"time_ms": asked.time_ms, "place": asked.place}))
        return
    click.echo(f"{section.name}: asked to {word} {proposal_id} after {moment(asked.time_ms - 1)} UTC, on {asked.place}")


def _brief(one: KnownProposal) -> dict[str, Any]:
    proposal = {name: one.proposal[name] for name in ("source", "rule", "reason", "changes")}
    effect = None if one.effect is None else {name: one.effect.get(name) for name in _TOLD}
    return {
        "id": one.id,
        "time_ms": one.time_ms,
        **proposal,
        "simulated_effect": effect,
        "certificate": one.certified,
        "waits": one.waits,
        "decision": one.last,
        "after_the_fact": one.after_the_fact[-1] if one.after_the_fact else None,
    }


def _lines(one: KnownProposal) -> list[str]:
    proposal = one.proposal
    lines = [f"{one.id} by {proposal['source']} ({_plain(proposal['rule'])})", f"  {_plain(proposal['reason'])}"]
    lines += (f"  change       {_plain(json.dumps(change))}" for change in proposal["changes"])
    if one.effect is not None:
        hours = one.effect["horizon_ms"] / 3.6e6
        told = ", ".join(f"{words} {_delta(one.effect, name)}" for name, words in _TOLD.items())
        lines.append(f"  simulated    over {hours:g} h: {told}")
    for certificate in one.certificates:
        reasons = "; ".join(reason["text"] for reason in certificate["reasons"]) or "shown"
        lines.append(f"  certificate  {certificate['decision']} ({certificate['hash'][:12]}): {_plain(reasons)}")
    for decision in one.decisions:
        when, by = moment(decision["time_ms"]), decision["by"]
        lines.append(f"  {when}  {decision['verdict']} by {by}: {_plain(decision['reason'])}")
    for judged in one.after_the_fact:
        hours = (judged["end_ms"] - judged["start_ms"]) / 3.6e6
        word = judged["verdict"].replace("_", " ")
        lines.append(f"  after the fact, over {hours:.3g} h: {word}: {_plain(judged['reason'])}")
    if one.waits:
        lines.append("  waits for a person: opendt proposals accept, or reject")
    return lines


def _delta(effect: dict[str, Any] | None, name: str) -> str:
    """A quantity's change in words: relative where there is something to relate to."""
    found = (effect or {}).get(name) or {}
    before, after = found.get("baseline"), found.get("changed")
    if before is None or after is None:
        return "unknown"
    return f"{after / before - 1:+.1%}" if before else f"{after - before:+.3g}"


def _plain(text: str) -> str:
    """Text of a stranger on one line of a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 200 else f"{line[:199]}…"
