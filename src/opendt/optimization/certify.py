"""Certificates: a claim about a proposal is shown by simulation, or the proposal is refused with named reasons.

First what no simulation can excuse (`bounds`), then pairs of futures, with and without the changes. The claim has parts, and all of
them have to be shown at once:

* ``gain``: the mean gain of the objective, each future's cut to +- `range_ratio`, is above `margin_ratio`;
* ``slo:NAME``: the mean worsening of every target, cut likewise, is below the target's own tolerance;
* ``work``: on average less than `work_tolerance_ratio` of the work is put off until after the horizon, which would look like a saving;
* ``risk``: in less than `risk_ratio` of all futures a target that is met is lost, or the objective or a target gets worse by more
  than the range. One such future among those looked at refuses.

And where past windows are known, the changes must not have lost in them (`opendt.optimization.backtest`).

Each part is an e-process. Their minimum is evidence against "at least one part is wrong", since it is at most the one that speaks
about that part; so nothing has to be divided by the number of targets. The proposal is certified once the minimum has reached
1 / level, with the level of `AlphaSpending`. docs/concepts/certification.md derives this.

`certify` is a function of its inputs and of its place in the chain: `verify_certificate` calls it again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt._engine import __version__ as engine_version
from opendt.model.certificate import FIRST, Certificate, Claim, Evidence, Reason, Seeds, Spending
from opendt.model.errors import InputError
from opendt.optimization.backtest import backtest, past_gains
from opendt.optimization.bounds import Limits, check_proposal
from opendt.optimization.certificate_inputs import CertificateInputs
from opendt.optimization.eprocess import AlphaSpending, MeanTest, e_process
from opendt.optimization.paired_futures import pair_futures
from opendt.twin.posterior import priced_changes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from opendt.engine.simulation import Simulation
    from opendt.model.certificate import Distribution
    from opendt.model.proposal import Proposal
    from opendt.model.slo import Slo
    from opendt.model.topology import Topology
    from opendt.optimization.backtest import Backtest
    from opendt.optimization.paired_futures import PairedFutures
    from opendt.twin.futures import FutureModel
    from opendt.twin.past import Past
    from opendt.twin.posterior import CurveDraws

__all__ = ["Certifier", "Place", "certify", "judge_pairs", "verify_certificate"]

_SAME: Final = 1e-9  # relative; other compilers round other last digits


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the chain a certificate stands: its number, the hash before it, the alpha it may spend, and its seed."""

    number: int = 0
    previous: str = FIRST
    spending: AlphaSpending = field(default_factory=AlphaSpending)
    seed: int = 0

    @classmethod
    def of(cls, certificate: Certificate) -> Place:
        """The place at which a certificate was issued."""
        spent = certificate.spending
        spending = AlphaSpending(spent.alpha, spent.asked, spent.certified)
        return cls(certificate.number, certificate.previous, spending, certificate.seeds.seed)

    @classmethod
    def after(cls, certificate: Certificate) -> Place:
        """The place after a certificate."""
        place = cls.of(certificate)
        spending = place.spending
        if certificate.simulated:
            spending = spending.after(certified=certificate.is_certified)
        return cls(place.number + 1, certificate.hash, spending, place.seed)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What pairs of futures say: evidence for each part, after how many pairs it sufficed, and what speaks against it."""

    evidence: tuple[Evidence, ...]
    decided_after: int | None
    reasons: tuple[Reason, ...]
    distributions: tuple[Distribution, ...] = ()

    def beside(self, past: Backtest) -> Judgement:
        """Together with what past windows say, which can refuse and never certify."""
        decided_after = None if past.reasons else self.decided_after
        reasons = self.reasons + past.reasons
        return Judgement(self.evidence + past.evidence, decided_after, reasons, past.distributions)


class Certifier:
    """Issues certificates, one after the other; its state is the last certificate.

    Parameters
    ----------
    slo : Slo
        Objectives; may be replaced.
    installed : Topology
        The hardware as it was bought.
    claim : Claim, optional
        What is to be shown.
    limits : Limits, optional
        What an operator allows.
    alpha : float
        Share of wrong certificates allowed: 0.05, and 0.001 where nobody looks before a change is made. May be replaced.
    seed : int
        Of the futures; those of a search differ whatever its seed is.
    last : Certificate, optional
        Where a chain goes on; its seed is kept.

    Attributes
    ----------
    past : Past, optional
        The last windows, which the next proposals are held against.
    """

    def __init__(
        self,
        slo: Slo,
        installed: Topology,
        *,
        claim: Claim | None = None,
        limits: Limits | None = None,
        alpha: float = 0.05,
        seed: int = 0,
        last: Certificate | None = None,
    ) -> None:
        self.slo = slo
        self.installed = installed
        self.claim = claim or Claim()
        self.limits = limits or Limits()
        self.alpha = alpha
        self.past: Past | None = None
        self._place = Place(seed=seed) if last is None else Place.after(last)

    @property
    def place(self) -> Place:
        """Where the next certificate will stand."""
        spending = self._place.spending
        spending = AlphaSpending(self.alpha, spending.asked, spending.certified)
        return Place(self._place.number, self._place.previous, spending, self._place.seed)

    def certify(
        self, proposal: Proposal, present: Simulation, futures: FutureModel, curves: CurveDraws | None = None
    ) -> tuple[Certificate, CertificateInputs]:
        """Judge a proposal in the present state; gives the certificate and what it rests on."""
        inputs = CertificateInputs(
            proposal, present.fork(), self.installed, futures, curves, self.slo, self.limits, self.claim, self.past
        )
        certificate = certify(inputs, self.place)
        self._place = Place.after(certificate)
        return certificate, inputs


def certify(inputs: CertificateInputs, place: Place) -> Certificate:
    """Judge a proposal: the same inputs at the same place give the same certificate."""
    reasons = check_proposal(inputs.proposal, inputs.present, inputs.installed, inputs.limits)
    if not reasons and not inputs.futures.is_ready:
        found = f"{len(inputs.futures.lived_ms)} tasks have ended so far"
        reasons = (Reason(code="futures_unknown", text=f"{found}, too few to say what is to come"),)
    if reasons:
        return _issued(inputs, place, reasons)
    claim = inputs.claim
    scenarios = inputs.futures.scenarios(
        inputs.present,
        claim.horizon_ms,
        claim.pairs,
        place.seed,
        purpose="certificate",
        round_=place.number,
        curves=inputs.curves,
    )
    try:
        changes = priced_changes(inputs.proposal.changes, inputs.present, inputs.installed, inputs.curves)
        pairs = pair_futures(scenarios, changes, inputs.slo, claim)
    except InputError as error:
        return _issued(inputs, place, (Reason(code="refused", text=str(error)),))
    judgement = judge_pairs(pairs, claim, place.spending.level).beside(backtest(list(past_gains(inputs)), claim))
    return _issued(inputs, place, judgement.reasons, pairs, judgement)


def judge_pairs(pairs: PairedFutures, claim: Claim, level: float) -> Judgement:
    """Test all parts of a claim at once, with a look after every pair.

    Parameters
    ----------
    pairs : PairedFutures
        In any order that does not depend on what came out.
    claim : Claim
        What is to be shown.
    level : float
        Chance of a wrong certificate.
    """
    tests = dict(_tests(pairs, claim))
    paths = [e_process(observations, test) for test, observations in tests.values()]
    # Without an event a gambler who stakes everything on "no event" gains 1 / (1 - risk) each time; an event refuses anyway.
    looks = np.arange(1, len(pairs.gain) + 1)
    paths.append(np.asarray(-math.log1p(-claim.risk_ratio) * looks, dtype=np.float64))
    joint = np.min(paths, axis=0)
    threshold = math.log(1.0 / level)
    enough = np.flatnonzero(joint >= threshold)
    look = int(enough[0]) if len(enough) else len(joint) - 1
    evidence = [
        _evidence(name, test, observations, path[look])
        for (name, (test, observations)), path in zip(tests.items(), paths, strict=False)
    ]
    events = list(_events(pairs, claim))
    risk = MeanTest(1.0 - claim.risk_ratio, 0.0, 1.0)
    fine = ~np.logical_or.reduce([hit for _, hit in events])
    evidence.append(_evidence("risk", risk, fine.astype(float), paths[-1][look] if fine.all() else -math.inf))
    reasons = [
        Reason(code=code, text=f"in {int(hit.sum())} of {len(hit)} futures {_EVENTS[code]}")
        for code, hit in events
        if hit.any()
    ]
    if not len(enough):
        weak = [one for one in evidence if one.log_e is None or one.log_e < threshold]
        reasons += (
            Reason(code=f"not_shown:{one.name}", text=_words(one, threshold, len(pairs.gain)))
            for one in weak or evidence
        )
    return Judgement(tuple(evidence), None if reasons else look + 1, tuple(reasons))


_EVENTS: Final = {
    "slo_lost": "a target that is met without the changes is not met with them",
    "beyond_range": "something gets worse by more than the range of the claim",
}


def _tests(pairs: PairedFutures, claim: Claim) -> Iterator[tuple[str, tuple[MeanTest, NDArray[np.float64]]]]:
    reach = claim.range_ratio
    yield "gain", (MeanTest(claim.margin_ratio, -reach, reach), np.clip(pairs.gain, -reach, reach))
    tolerance, reach = _reach(claim.work_tolerance_ratio, claim)
    yield "work", (MeanTest(-tolerance, -reach, reach), -np.clip(pairs.put_off, -reach, reach))
    for slo in pairs.slos:
        tolerance, reach = _reach(slo.tolerance_ratio, claim)
        yield f"slo:{slo.name}", (MeanTest(-tolerance, -reach, reach), -np.clip(slo.worse, -reach, reach))


def _reach(tolerance_ratio: float, claim: Claim) -> tuple[float, float]:
    """How much worse something may get on average, and what a worsening counts at most: the range, or what suits the tolerance.

    A range of many tolerances would need many futures to show that nothing happens; one of less than two could not show it.
    """
    tolerance = max(tolerance_ratio, claim.least_tolerance_ratio)
    return tolerance, max(min(claim.range_ratio, 10.0 * tolerance), 2.0 * tolerance)


def _events(pairs: PairedFutures, claim: Claim) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    none = np.zeros(len(pairs.gain), dtype=bool)
    yield "slo_lost", np.logical_or.reduce([none, *(slo.lost for slo in pairs.slos)])
    beyond = [slo.worse > _reach(slo.tolerance_ratio, claim)[1] for slo in pairs.slos]
    beyond.append(pairs.put_off > _reach(claim.work_tolerance_ratio, claim)[1])
    yield "beyond_range", np.logical_or.reduce([pairs.gain < -claim.range_ratio, *beyond])


def _evidence(name: str, test: MeanTest, observations: NDArray[np.float64], log_e: float) -> Evidence:
    return Evidence(
        name=name,
        bound=test.bound,
        low=test.low,
        high=test.high,
        mean=float(observations.mean()),
        log_e=float(log_e) if math.isfinite(log_e) else None,
    )


def _words(one: Evidence, threshold: float, pairs: int) -> str:
    found = "no evidence" if one.log_e is None else f"evidence of e^{one.log_e:.1f}"
    return f"mean {one.mean:.4g} against {one.bound:.4g}: {found} after {pairs} futures, expected e^{threshold:.1f}"


def _issued(
    inputs: CertificateInputs,
    place: Place,
    reasons: tuple[Reason, ...],
    pairs: PairedFutures | None = None,
    judgement: Judgement | None = None,
) -> Certificate:
    spending = place.spending
    count = 0 if pairs is None else len(pairs.gain)
    return Certificate(
        number=place.number,
        previous=place.previous,
        proposal=inputs.proposal,
        time_ms=inputs.present.now_ms,
        claim=inputs.claim,
        spending=Spending(
            alpha=spending.alpha, asked=spending.asked, certified=spending.certified, level=spending.level
        ),
        decision="refused" if reasons else "certified",
        simulated=pairs is not None,
        reasons=reasons,
        pairs=count,
        decided_after=None if judgement is None else judgement.decided_after,
        evidence=() if judgement is None else judgement.evidence,
        distributions=() if pairs is None else pairs.distributions() + (judgement.distributions if judgement else ()),
        seeds=Seeds(seed=place.seed, round=place.number, count=count),
        inputs=inputs.hashes(),
        engine_version=engine_version,
    ).sealed()


def verify_certificate(
    certificate: Certificate, inputs: CertificateInputs, *, previous: Certificate | None = None
) -> tuple[Reason, ...]:
    """Check a certificate by deciding again; nothing when it holds.

    Parameters
    ----------
    certificate : Certificate
        In doubt.
    inputs : CertificateInputs
        What it claims to rest on.
    previous : Certificate, optional
        The one before it, if the link between them is to be checked, too.

    Returns
    -------
    tuple of Reason
        ``hash``, ``previous``, ``spending``, ``inputs:NAME``, and ``result:FIELD`` where simulating again gives something else.
    """
    reasons = []
    if not certificate.is_sealed:
        reasons.append(
            Reason(code="hash", text="its hash is not that of its content: it was changed after it was written")
        )
    place = Place.of(certificate)
    if previous is not None:
        expected = Place.after(previous)
        if (place.number, place.previous) != (expected.number, expected.previous):
            reasons.append(Reason(code="previous", text="it does not follow the certificate that it is said to follow"))
        if (place.spending.asked, place.spending.certified) != (expected.spending.asked, expected.spending.certified):
            reasons.append(Reason(code="spending", text="it does not count the questions that were asked before it"))
    again = certify(inputs, place)
    reasons += _differences(certificate, again)
    return tuple(reasons)


def _differences(one: Certificate, again: Certificate) -> Iterator[Reason]:
    for name in type(again.inputs).model_fields:
        if getattr(one.inputs, name) != getattr(again.inputs, name):
            yield Reason(code=f"inputs:{name}", text=f"the {name} given is not what the certificate rests on")
    versions = "" if one.engine_version == again.engine_version else f" (engine {one.engine_version})"
    for name in type(again).model_fields:
        if name in ("inputs", "hash", "engine_version"):
            continue
        found, expected = (getattr(each, name) for each in (one, again))
        plain = (each.model_dump(mode="json", include={name})[name] for each in (one, again))
        if found != expected and not _close(*plain):
            yield Reason(code=f"result:{name}", text=f"deciding again gives another {name}{versions}")


def _close(one: object, other: object) -> bool:
    """Whether plain data is the same but for the last digits of floating-point numbers."""
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=_SAME, abs_tol=_SAME)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return one == other
