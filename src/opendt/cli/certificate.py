"""``opendt certificate``: what certificates say, and whether they hold."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opendt.cli.asking import chosen, where_options

if TYPE_CHECKING:
    from opendt.model.certificate import Certificate, Reason


@click.group()
def command() -> None:
    """Show certificates and check them: those in FILE, as JSON lines in the order of issue, or those of a live system by its settings."""


_FILE = click.argument("file", type=click.Path(path_type=Path), metavar="[FILE]", required=False)


@command.command()
@_FILE
@click.option("--number", type=int, metavar="N", help="Only this one.")
@where_options
@click.pass_context
def show(
    ctx: click.Context,
    file: Path | None,
    number: int | None,
    config: Path | None,
    datacenter: str | None,
    as_json: bool,
) -> None:
    """Say what was claimed, found and decided."""
    issued = _issued(file, config, datacenter)
    chosen_ones = [one for one in issued.certificates if number is None or one.number == number]
    if not chosen_ones:
        from opendt.cli.main import EXIT_FAILED

        wanted = "certificates" if number is None else f"certificate {number}"
        click.echo(f"Error: {issued.place}: found no {wanted}, expected {issued.expected}", err=True)
        ctx.exit(EXIT_FAILED)
    if as_json:
        click.echo(json.dumps([one.model_dump(mode="json") for one in chosen_ones], indent=2, ensure_ascii=False))
        return
    click.echo("\n\n".join("\n".join(_lines(one)) for one in chosen_ones))


@command.command()
@_FILE
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="What they rest on: the file of the only one, or a folder with HASH.inputs for each. They are decided again then. "
    "Those of a live system are in its state directory, as far as they are kept.",
)
@click.option(
    "--number", type=int, metavar="N", help="Decide only this one again; hashes and links are checked of all."
)
@click.option("--head", metavar="HASH", help="Hash of the last one, from a place that who wrote FILE could not change.")
@click.option("--after", metavar="HASH", help="Hash of the one before the first, where FILE does not hold it.")
@where_options
@click.pass_context
def verify(
    ctx: click.Context,
    file: Path | None,
    inputs: Path | None,
    number: int | None,
    head: str | None,
    after: str | None,
    config: Path | None,
    datacenter: str | None,
    as_json: bool,
) -> None:
    """Check hashes and links, and where the inputs are there decide again; the exit code is 1 if anything does not hold."""
    from opendt.model.certificate import FIRST, Reason, check_chain

    issued = _issued(file, config, datacenter)
    certificates = issued.certificates
    start = (-1, FIRST) if after is None or not certificates else (certificates[0].number - 1, after)
    problems = list(check_chain(certificates, head=head, after=start))
    place = inputs or issued.inputs
    again = 0
    for one in certificates if place is not None else ():
        if number is not None and one.number != number:
            continue
        found = _decided_again(one, place, only=issued.inputs is None and len(certificates) == 1)
        again += found is not None
        problems += found or ()
    is_missing = inputs is not None or number is not None  # else a live system just keeps none (any more)
    if is_missing and place is not None and not again:
        problems.append(Reason(code="inputs", text=f"nothing in {place} belongs to a certificate of {issued.place}"))
    if as_json:
        rows = [problem.model_dump() for problem in problems]
        click.echo(
            json.dumps(
                {"file": issued.place, "certificates": len(certificates), "decided_again": again, "problems": rows},
                indent=2,
                ensure_ascii=False,
            )
        )
    else:
        for problem in problems:
            click.echo(f"Error: {issued.place}: {problem.code}: {problem.text}", err=True)
        if not problems:
            certified = sum(one.is_certified for one in certificates)
            words = f"{len(certificates)} certificates ({certified} certified), every hash and link as issued"
            click.echo(f"ok  {issued.place}: {words}; {again} decided again with the same result")
    if problems:
        from opendt.cli.main import EXIT_FAILED

        ctx.exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class _Issued:
    """Certificates, where they were found, what was expected there, and the folder with what they rest on, if it is known."""

    certificates: tuple[Certificate, ...]
    place: str
    expected: str
    inputs: Path | None


def _issued(file: Path | None, config: Path | None, datacenter: str | None) -> _Issued:
    """Read certificates from a file, or from the ledger of a live system."""
    from opendt.model.certificate import read_certificates

    if file is not None:
        return _Issued(read_certificates(file), str(file), "one on each line", None)
    from opendt.cli.ledger import opened_ledger
    from opendt.model.certificate import Certificate

    settings, section = chosen(config, datacenter)
    with opened_ledger(None, config) as ledger:
        contents = [json.dumps(dict(one.document.content)) for one in ledger.documents("certificates", section.name)]
        place = f"{ledger.place}, {section.name}"
    found = sorted((Certificate.model_validate_json(one) for one in contents), key=lambda one: one.number)
    return _Issued(tuple(found), place, "one in the ledger", settings.certificates_directory / section.name)


def _decided_again(one: Certificate, inputs: Path | None, *, only: bool) -> tuple[Reason, ...] | None:
    """What deciding again finds wrong; None when the inputs are not there."""
    if inputs is None:
        return None
    place = inputs if only and not inputs.is_dir() else inputs / f"{one.hash}.inputs"
    if not only and not place.exists():
        return None
    from opendt.model.certificate import Reason
    from opendt.optimization.certificate_inputs import CertificateInputs
    from opendt.optimization.certify import verify_certificate

    found = verify_certificate(one, CertificateInputs.read(place))
    return tuple(Reason(code=each.code, text=f"certificate {one.number}: {each.text}") for each in found)


def _lines(one: Certificate) -> list[str]:
    """A certificate in words."""
    claim, spending = one.claim, one.spending
    lines = [
        f"certificate {one.number}: {one.decision}",
        f"  proposal  {_plain(one.proposal.id)} by {one.proposal.source}: {_plain(one.proposal.reason)}",
        f"  claim     mean gain in {claim.objective} above {claim.margin_ratio:.3g} over {claim.horizon_ms / 3.6e6:g} h",
        f"  level     {spending.level:.3g} of alpha {spending.alpha:g}, question {spending.asked + 1}",
    ]
    if one.simulated:
        decided = "" if one.decided_after is None else f", decided after {one.decided_after}"
        lines.append(f"  futures   {one.pairs} pairs{decided}; evidence needed: e^{math.log(1 / spending.level):.1f}")
    for evidence in one.evidence:
        found = "none" if evidence.log_e is None else f"e^{evidence.log_e:.1f}"
        lines.append(f"    {evidence.name:<24} mean {evidence.mean:+.4g}, above {evidence.bound:+.4g}: {found}")
    for spread in one.distributions:
        if spread.mean is not None and any(value for _, value in spread.quantiles):
            low, high = spread.quantiles[1][1], spread.quantiles[-2][1]
            lines.append(f"    {spread.name:<24} {spread.mean:+.4g} {spread.unit} (90 %: {low:+.4g} to {high:+.4g})")
    lines += (f"  refused   {_plain(reason.code)}: {_plain(reason.text)}" for reason in one.reasons)
    seal = "as issued" if one.is_sealed else "NOT of this content: changed after it was issued"
    return [*lines, f"  hash      {one.hash[:12] or 'none'} after {one.previous[:12]}, {seal}"]


def _plain(text: str) -> str:
    """Text of a stranger on one line of a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 200 else f"{line[:199]}…"
