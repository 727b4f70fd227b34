"""Certificates: what was claimed of a proposal, what simulations said of it, and what was decided; each holds the hash of the one before.

A certificate is a record, not a permission. Whoever acts on one asks three things: does it hold together (`Certificate.is_sealed`,
`check_chain`), is it about this proposal in this state (`check_use`), and would the same inputs give it again
(`opendt.optimization.certify.verify_certificate`). A chain without a key shows that something in its middle was changed; that its end
was made up is shown only by a head that is kept elsewhere (the ledger), or by simulating again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, model_validator

from opendt.model.base import Count, Flag, Milliseconds, Model, NonNegativeInt, Positive, Real
from opendt.model.errors import FormatError
from opendt.model.proposal import Proposal

__all__ = [
    "FIRST",
    "NOTHING",
    "Certificate",
    "Claim",
    "Distribution",
    "Evidence",
    "InputHashes",
    "Reason",
    "Seeds",
    "Spending",
    "check_chain",
    "check_use",
    "digest",
    "read_certificates",
]

FIRST: Final = "0" * 64
"""What stands for the hash of a certificate before the first."""

NOTHING: Final = hashlib.sha256(b"").hexdigest()
"""Hash of what is not there."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(strict=True, gt=0, lt=1)]
Objective = Literal["score", "energy", "carbon", "cost", "peak_power"]


class Claim(Model):
    """What is to be shown of a proposal.

    Parameters
    ----------
    objective : {"score", "energy", "carbon", "cost", "peak_power"}
        Of which a gain is claimed; gain = 1 - changed / baseline in the same future. The score is that of
        ``opendt.optimization.scoring``.
    margin_ratio : float
        The mean gain is above this (0.01 is 1 %): futures in common make even a watt certain, and a watt is not worth a change.
    range_ratio : float
        What a gain, a loss or a worsening counts at most. A loss or worsening beyond it is no matter of means: it refuses.
    risk_ratio : float
        The share of futures in which a met objective is lost, or something gets worse than `range_ratio`, is below this; none may be
        seen.
    work_tolerance_ratio : float
        How much less work may be done within the horizon, on average: what is put off until after it is not saved.
    least_tolerance_ratio : float
        How much worse an objective may be where its own ``tolerance_ratio`` is below that: a worsening of exactly nothing cannot be shown.
    horizon_ms : int
        How far futures reach, ms.
    pairs : int
        How many are drawn at most.
    """

    objective: Objective = "score"
    margin_ratio: Share = 0.01
    range_ratio: Share = 0.1
    risk_ratio: Share = 0.1
    work_tolerance_ratio: Share = 0.05
    least_tolerance_ratio: Share = 0.01
    horizon_ms: Annotated[int, Field(strict=True, gt=0)] = 3_600_000
    pairs: Annotated[int, Field(strict=True, ge=1, le=4096)] = 200

    @model_validator(mode="after")
    def _margin_within_range(self) -> Claim:
        if self.margin_ratio >= self.range_ratio:
            raise ValueError(f"margin_ratio ({self.margin_ratio:g}) must be below range_ratio ({self.range_ratio:g})")
        return self


class Reason(Model):
    """Why something was refused: a name for programs, words for people."""

    code: Annotated[str, Field(min_length=1)]
    text: str


class Seeds(Model):
    """Where futures came from: `first` to `first` + `count` - 1 of a round of a seed, in the space of certificates."""

    purpose: Literal["certificate"] = "certificate"
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**64)]
    round: NonNegativeInt
    count: Count = 0


class Spending(Model):
    """The level of this question, and what it follows from (``opendt.optimization.eprocess.AlphaSpending``)."""

    alpha: Share
    asked: Count
    certified: Count
    level: Positive


class InputHashes(Model):
    """SHA-256 of what a certificate rests on."""

    state: Digest
    installed: Digest
    futures: Digest
    curves: Digest
    slo: Digest
    limits: Digest
    past: Digest = NOTHING
    """Of the windows that it was held against; of nothing, where there were none."""


class Distribution(Model):
    """Changed minus baseline of one quantity, over the futures in which both are known; (share of futures, quantile) each."""

    name: str
    unit: str
    pairs: Count
    mean: Real | None = None
    quantiles: tuple[tuple[Real, Real], ...] = ()


class Evidence(Model):
    """One part of the claim: the mean of observations in [`low`, `high`] lies above `bound`.

    `log_e` is the natural logarithm of the evidence when the decision fell, None for none at all (a capital of 0).
    """

    name: str
    bound: Real
    low: Real
    high: Real
    mean: Real
    log_e: Real | None


class Certificate(Model):
    """What was decided about a proposal, and all that it takes to decide it again."""

    version: Literal[1] = 1
    number: Count
    previous: Digest
    proposal: Proposal
    time_ms: Milliseconds
    claim: Claim
    spending: Spending
    decision: Literal["certified", "refused"]
    simulated: Flag
    """Whether futures were looked at, so that alpha was spent."""
    reasons: tuple[Reason, ...] = ()
    pairs: Count = 0
    """Futures that were looked at, with and without the changes."""
    decided_after: Count | None = None
    """After how many of them the evidence sufficed."""
    evidence: tuple[Evidence, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    seeds: Seeds
    inputs: InputHashes
    engine_version: Annotated[str, Field(min_length=1)]
    hash: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @property
    def is_certified(self) -> bool:
        """Whether the claim was shown."""
        return self.decision == "certified"

    @property
    def is_sealed(self) -> bool:
        """Whether the hash is that of the content."""
        return self.hash == self._digest()

    def sealed(self) -> Certificate:
        """The certificate with its hash."""
        return self.model_copy(update={"hash": self._digest()})

    def _digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"hash"}))


def digest(value: object) -> str:
    """SHA-256 of plain data as canonical JSON, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_chain(
    certificates: Iterable[Certificate], *, head: str | None = None, after: tuple[int, str] = (-1, FIRST)
) -> tuple[Reason, ...]:
    """Say where a chain does not hold: changed content, gaps, broken links, alpha that was not spent as it should have been.

    Parameters
    ----------
    certificates : iterable of Certificate
        In order.
    head : str, optional
        Hash of the last one, from a place that whoever wrote the chain could not change.
    after : tuple of int and str
        Number and hash of the certificate before the first of them; as it is, they begin with the first of all.
    """
    reasons: list[Reason] = []
    before: Certificate | None = None
    number, last = after
    for one in certificates:
        number += 1
        found = _link(before, one, number, last)
        reasons += (Reason(code=code, text=f"certificate {number}: {text}") for code, text in found)
        before, last = one, one.hash
    if head is not None and last != head:
        reasons.append(Reason(code="head", text=f"the chain ends at {last[:12]}, expected {head[:12]}"))
    return tuple(reasons)


def _link(before: Certificate | None, one: Certificate, number: int, previous: str) -> Iterator[tuple[str, str]]:
    if not one.is_sealed:
        yield "hash", "its hash is not that of its content: it was changed after it was written"
    if one.number != number:
        yield "number", f"has number {one.number}: one before it is missing or was added"
    if one.previous != previous:
        yield "previous", f"follows {one.previous[:12]}, expected {previous[:12]}: another one came before it"
    asked = certified = 0
    if before is not None:
        asked = before.spending.asked + int(before.simulated)
        certified = before.spending.certified + int(before.is_certified)
    elif number != 0:
        return
    if (one.spending.asked, one.spending.certified) != (asked, certified):
        found = f"{one.spending.asked} asked and {one.spending.certified} certified before it"
        yield "spending", f"counts {found}, expected {asked} and {certified}"


def check_use(
    certificate: Certificate, proposal: Proposal, state: str, now_ms: int, max_age_ms: int
) -> tuple[Reason, ...]:
    """Say why a certificate does not speak for a proposal now; nothing when it does.

    Parameters
    ----------
    certificate : Certificate
        What is shown.
    proposal : Proposal
        What is to be applied.
    state : str
        Hash of the state that it is to be applied to (``opendt.optimization.certify.state_hash``).
    now_ms, max_age_ms : int
        Present time, ms since the start, and how old a certificate may be, ms.
    """
    checks = (
        (certificate.is_sealed, "hash", "the certificate was changed after it was written"),
        (certificate.is_certified, "refused", "the certificate refuses the proposal"),
        (certificate.proposal == proposal, "other_proposal", "the certificate speaks of another proposal"),
        (certificate.inputs.state == state, "other_state", "the state has moved since the certificate was written"),
        (
            certificate.time_ms <= now_ms,
            "future",
            f"the certificate is of {certificate.time_ms} ms, and it is {now_ms} ms",
        ),
        (now_ms - certificate.time_ms <= max_age_ms, "stale", f"the certificate is older than {max_age_ms} ms"),
    )
    return tuple(Reason(code=code, text=text) for holds, code, text in checks if not holds)


def read_certificates(path: Path | str) -> tuple[Certificate, ...]:
    """Read certificates: JSON lines, one each; what they say is not checked.

    Raises
    ------
    FormatError
        When the file is missing, or a line is not a certificate.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(path, "", str(error), "a readable UTF-8 file") from error
    return tuple(_parsed(path, number, line) for number, line in enumerate(lines, 1) if line.strip())


def _parsed(path: Path | str, number: int, line: str) -> Certificate:
    try:
        return Certificate.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FormatError(
            path, f"line {number}, {place}".rstrip(", "), first["msg"], "a certificate on each line"
        ) from error
