"""``opendt proposals``: what was proposed, what became of it, and a person's word on what waits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from opendt.cli.asking import ask, chosen, next_window_ms, where_options
from opendt.cli.words import moment

if TYPE_CHECKING:
    from opendt.verification.ledger import Ledger

_MOST_JUDGED: Final = 10_000
_FINAL: Final = frozenset({"applied", "rejected", "expired"})
_TOLD: Final = {
    "energy_j": "energy",
    "emission_g": "emission",
    "cost": "cost",
    "peak_power_w": "peak power",
    "task_wait_p95_s": "p95 wait",
    "hosts_up": "hosts up",
    "score": "score",
}


@dataclass(frozen=True, slots=True)
class _Known:
    """A proposal with all that the ledger holds about it; decisions, and verdicts after the fact, oldest first."""

    id: str
    time_ms: int | None
    proposal: dict[str, Any]
    effect: dict[str, Any] | None
    certificates: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    after_the_fact: list[dict[str, Any]]

    @property
    def last(self) -> dict[str, Any]:
        """The last decision."""
        return self.decisions[-1] if self.decisions else {"verdict": "none", "by": "", "reason": ""}

    @property
    def waits(self) -> bool:
        """Whether a person may still accept or reject it; what could not be accepted once waits on."""
        verdicts = [one["verdict"] for one in self.decisions]
        return "waiting" in verdicts and not _FINAL.intersection(verdicts)

    @property
    def certified(self) -> str:
        """Verdict of the last certificate."""
        return str(self.certificates[-1]["decision"]) if self.certificates else "none"


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

    _, section = chosen(config, datacenter)
    with opened_ledger(None, config) as ledger:
        rows = [one for one in _all(ledger, section.name) if one.waits or not waiting][-last:]
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

    _, section = chosen(config, datacenter)
    with opened_ledger(None, config) as ledger:
        one = _found(ledger, section.name, proposal_id)
    if as_json:
        click.echo(json.dumps(asdict(one), indent=2, ensure_ascii=False))
        return
    click.echo("\n".join(_lines(one)))


@command.command()
@click.argument("proposal_id", metavar="ID")
@where_options
def accept(proposal_id: str, config: Path | None, datacenter: str | None, as_json: bool) -> None:
    """Accept a proposal that waits. It is certified again, as things are then, and applied with the next window if that holds."""
    from opendt.orchestrator.controller import ACCEPT

    _decide(ACCEPT, proposal_id, config, datacenter, as_json=as_json)


@command.command()
@click.argument("proposal_id", metavar="ID")
@where_options
def reject(proposal_id: str, config: Path | None, datacenter: str | None, as_json: bool) -> None:
    """Reject a proposal that waits."""
    from opendt.orchestrator.controller import REJECT

    _decide(REJECT, proposal_id, config, datacenter, as_json=as_json)


def _decide(key: str, proposal_id: str, config: Path | None, datacenter: str | None, *, as_json: bool) -> None:
    from opendt.cli.ledger import opened_ledger
    from opendt.model.errors import InputError

    settings, section = chosen(config, datacenter)
    with opened_ledger(None, config) as ledger:
        one = _found(ledger, section.name, proposal_id)
        time_ms = next_window_ms(ledger, section.name)
    if not one.waits:
        raise InputError(f"proposal {proposal_id}", f"{one.last['verdict']} by {one.last['by']}", "one that waits")
    place = ask(settings, section.name, key, proposal_id, time_ms)
    if as_json:
        answer = {"datacenter": section.name, "id": proposal_id, "asked": key, "time_ms": time_ms, "place": place}
        click.echo(json.dumps(answer))
        return
    word = key.rpartition(".")[2]
    click.echo(f"{section.name}: asked to {word} {proposal_id} after {moment(time_ms - 1)} UTC, on {place}")


def _all(ledger: Ledger, datacenter: str) -> list[_Known]:
    """All proposals, by the window in which they were made."""
    certificates = _by_proposal(ledger, "certificates", datacenter)
    decisions = _by_proposal(ledger, "decisions", datacenter)
    judged: dict[str, list[dict[str, Any]]] = {}
    for event in ledger.events(datacenter=datacenter, kinds=["change_judged"], limit=_MOST_JUDGED, newest=True):
        judged.setdefault(event.event.content["proposal"], []).append(dict(event.event.content))
    known = []
    for recorded in ledger.documents("proposals", datacenter):
        proposal = dict(recorded.document.content)
        effect = proposal.pop("simulated_effect", None)
        name = recorded.document.id
        mine = sorted(decisions.get(name, []), key=lambda one: one["time_ms"])
        time_ms = mine[0]["time_ms"] if mine else None
        issued = sorted(certificates.get(name, []), key=lambda one: one["number"])
        known.append(_Known(name, time_ms, proposal, effect, issued, mine, judged.get(name, [])))
    return sorted(known, key=lambda one: (one.proposal["time_ms"], one.id))


def _by_proposal(ledger: Ledger, kind: str, datacenter: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for recorded in ledger.documents(kind, datacenter):
        found.setdefault(recorded.document.proposal_id, []).append(dict(recorded.document.content))
    return found


def _found(ledger: Ledger, datacenter: str, proposal_id: str) -> _Known:
    from opendt.model.errors import InputError

    for one in _all(ledger, datacenter):
        if one.id == proposal_id:
            return one
    hint = "List them: opendt proposals list."
    raise InputError("proposal", proposal_id, f"the id of one of {datacenter}", hint, file=ledger.place)


def _brief(one: _Known) -> dict[str, Any]:
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


def _lines(one: _Known) -> list[str]:
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
