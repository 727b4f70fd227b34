"""From a present to decisions: optimisers and people propose, simulations certify, the gate decides.

Every optimiser is asked in every window, unless there is only something to observe. What several propose is ordered by the simulated
score, people's first; only the first that passes can be applied or wait for a person. A certificate costs hundreds of simulated hours,
so it is written where it can matter: when the mode, the environment and trust allow more than advice, or always, by setting.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from opendt.model.change import Change
from opendt.model.errors import InputError, shown, wanted
from opendt.model.mode import Mode, rank
from opendt.model.proposal import Proposal
from opendt.optimization.base import Context
from opendt.optimization.bounds import Limits
from opendt.optimization.certificate_inputs import state_hash
from opendt.optimization.certify import Certifier
from opendt.optimization.effect import simulate_effect
from opendt.optimization.rule_based import RuleBasedOptimizer
from opendt.orchestrator.gate import Decision, Gate, GateSettings
from opendt.twin.patch import patched
from opendt.twin.posterior import draw_curves
from opendt.verification.trust import TrustKeeper

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opendt.model.certificate import Certificate
    from opendt.model.proposal import SimulatedEffect
    from opendt.model.slo import Slo
    from opendt.model.topology import Topology
    from opendt.optimization.base import Optimizer
    from opendt.optimization.certificate_inputs import CertificateInputs
    from opendt.orchestrator.aftermath import ChangeVerdict
    from opendt.twin.calibrate import PowerCalibrator
    from opendt.twin.futures import FutureSampler
    from opendt.twin.live import Present
    from opendt.twin.metrics import WindowMetrics
    from opendt.twin.past import Past
    from opendt.twin.scenarios import Scenarios
    from opendt.verification.trust import TrustChange
    from opendt.verification.verdict import Verdict

__all__ = ["Candidate", "DecisionSettings", "Decisions", "Requests", "human_proposal"]

_CURVES: Final = 32
_SEARCH_FUTURES: Final = 8
_LONGEST_REASON: Final = 2_000
_Typed = Annotated[Change, Field(discriminator="type")]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSettings:
    """Settings of decisions.

    Parameters
    ----------
    environment : {"replay", "shadow", "live"}
        What there is to act on.
    mode : Mode
        The most that may be done.
    certify_always : bool
        Whether advice is certified too.
    gate : GateSettings
        Limits of pace and time.
    seed : int
        Of the futures behind certificates.
    limits : Limits
        What may be proposed at all.
    """

    environment: str = "replay"
    mode: Mode = "approve"
    certify_always: bool = False
    gate: GateSettings = field(default_factory=GateSettings)
    seed: int = 0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Requests:
    """What people asked for in a window.

    Attributes
    ----------
    proposals : tuple of Proposal
        Theirs.
    accepted, rejected : tuple of str
        Ids of proposals that wait.
    recorded : tuple of Proposal, optional
        What was proposed in this window when it was derived before: whoever would not say the same again is not asked again.
    exchanges : tuple of dict
        What language models were asked and answered then.
    """

    proposals: tuple[Proposal, ...] = ()
    accepted: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    recorded: tuple[Proposal, ...] | None = None
    exchanges: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposal with what became of it in a window.

    Attributes
    ----------
    proposal : Proposal
        What was proposed, now or earlier.
    effect : SimulatedEffect, optional
        What it does within the horizon with demands as they are; None where the system cannot be changed so.
    certificate : Certificate, optional
        Written in this window.
    decision : Decision
        Of this window.
    topology : Topology, optional
        What the system is to become, where the decision applies it.
    inputs : CertificateInputs, optional
        What the certificate rests on.
    """

    proposal: Proposal
    effect: SimulatedEffect | None
    certificate: Certificate | None
    decision: Decision
    topology: Topology | None = None
    inputs: CertificateInputs | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class _SampledFutures:
    """Futures for an optimiser that searches: drawn from what the loop has seen, others than those of certificates."""

    sampler: FutureSampler
    horizon_ms: int
    seed: int

    def __call__(self, context: Context) -> Scenarios:
        source: Any = context.source
        if not self.sampler.is_ready:
            from opendt.optimization.search_optimizer import known_future

            return known_future(source, self.horizon_ms)
        return self.sampler.scenarios(source, self.horizon_ms, _SEARCH_FUTURES, self.seed)


class Decisions:
    """Keeps optimisers, certificates, trust and the gate together; all its state is its own and can be pickled.

    Parameters
    ----------
    topology : Topology
        As the system is.
    slo : Slo
        Objectives.
    horizon_ms : int
        How far a proposal's effect is simulated, ms.
    settings : DecisionSettings, optional
        Of decisions.
    optimizers : sequence of Optimizer, optional
        The rules unless given.
    """

    def __init__(
        self,
        topology: Topology,
        slo: Slo,
        horizon_ms: int,
        settings: DecisionSettings | None = None,
        optimizers: Sequence[Optimizer] | None = None,
    ) -> None:
        self.settings = settings or DecisionSettings()
        self.topology = topology
        self.mode: Mode = self.settings.mode
        self.optimizers = list(optimizers or (RuleBasedOptimizer(),))
        self.gate = Gate(self.settings.environment, self.settings.gate)
        self.trust = TrustKeeper(self.mode, most_power_w=_most_power_w(topology))
        self._horizon_ms = horizon_ms
        self._certifier = Certifier(slo, topology, limits=self.settings.limits, seed=self.settings.seed)

    @property
    def may_certify(self) -> bool:
        """Whether there can be anything to certify but what cannot be simulated."""
        return self.settings.certify_always or self.settings.environment == "live"

    @property
    def level(self) -> Mode:
        """What may be done now."""
        return self.gate.level(self.mode, self.trust.level)

    def watch(
        self, end_ms: int, verdicts: Iterable[Verdict], measured_w: Sequence[float], expected_w: Sequence[float]
    ) -> TrustChange | None:
        """Let trust follow accuracy; tells when that changes what may be done."""
        self.trust.mode = self.mode
        return self.trust.observe(end_ms, verdicts, measured_w, expected_w)

    def decide(
        self,
        present: Present,
        metrics: WindowMetrics,
        slo: Slo,
        futures: FutureSampler,
        calibrator: PowerCalibrator,
        requests: Requests,
        *,
        now_ms: int,
        is_moving: bool,
        past: Past | None = None,
    ) -> tuple[Candidate, ...]:
        """Decide on what is proposed now and on what people accepted or rejected.

        Parameters
        ----------
        present : Present
            The system as it is taken to be.
        metrics : WindowMetrics
            The window that has closed.
        slo : Slo
            Objectives.
        futures, calibrator
            What certificates draw futures and prices from.
        requests : Requests
            Of people.
        now_ms : int
            End of the window, ms since the epoch.
        is_moving : bool
            Whether another topology takes effect at this moment: then nothing is changed on top of it.
        past : Past, optional
            The last windows, which proposals are held against.
        """
        self._certifier.slo = slo
        self._certifier.past = past
        self._certifier.alpha = 0.001 if self.level == "auto" else 0.05
        found: list[Candidate] = []
        found += [Candidate(proposal, None, None, decision) for proposal, decision in self.gate.expire(now_ms)]
        for proposal_id in dict.fromkeys(requests.rejected):
            waiting = self.gate.waiting.get(proposal_id)
            decision = self.gate.reject(proposal_id, now_ms)
            if waiting is not None:
                found.append(Candidate(waiting[0], None, None, decision))
        for proposal_id in dict.fromkeys(requests.accepted):
            found += self._accept(proposal_id, present, slo, futures, calibrator, now_ms, is_moving=is_moving)
        context = Context.of(present.simulation, slo, metrics)
        for optimizer in self.optimizers:
            if getattr(optimizer, "futures", futures) is None:
                optimizer.futures = _SampledFutures(futures, self._horizon_ms, self.settings.seed)  # type: ignore[attr-defined]
        proposals = {one.id: one for one in (*self._proposed(context, requests), *requests.proposals)}
        effects = [(proposal, self._effect(present, proposal, slo)) for proposal in proposals.values()]
        asked = {one.id for one in requests.proposals}  # a person would not ask again
        effects.sort(key=lambda pair: (pair[0].id not in asked, _score(pair[1]), pair[0].id))
        taken = is_moving or any(one.decision.verdict == "applied" for one in found)
        for proposal, effect in effects:
            candidate = self._candidate(proposal, effect, present, futures, calibrator, now_ms, taken=taken)
            taken |= candidate.decision.verdict in ("applied", "waiting")
            found.append(candidate)
        self._tell_proposers(found)
        return tuple(found)

    def _tell_proposers(self, found: Iterable[Candidate]) -> None:
        """Let those who learn from refusals know what became of their proposals."""
        for optimizer in self.optimizers:
            note = getattr(optimizer, "note_certificate", None)
            if note is None:
                continue
            for one in found:
                if one.certificate is not None:
                    reasons = "; ".join(reason.text for reason in one.certificate.reasons)
                    note(one.proposal.id, one.certificate.is_certified, reasons)

    def tell_outcomes(self, found: Iterable[ChangeVerdict]) -> None:
        """Let those who learn from what became of their proposals know what was measured."""
        for one in found:
            for optimizer in self.optimizers:
                note = getattr(optimizer, "note_outcome", None)
                if note is not None and one.effect is not None:
                    note(one.proposal.id, measured=one.effect)

    def take_exchanges(self) -> list[dict[str, Any]]:
        """Take what was asked of language models and what they answered since the last time, as plain data."""
        return [
            exchange.to_dict()
            for optimizer in self.optimizers
            if hasattr(optimizer, "take_exchanges")
            for exchange in optimizer.take_exchanges()
        ]

    def _proposed(self, context: Context, requests: Requests) -> list[Proposal]:
        if self.level == "observe":
            return []  # nothing may come of it: nobody is asked for money or time
        proposals = []
        for optimizer in self.optimizers:
            if requests.recorded is not None and not getattr(optimizer, "is_deterministic", True):
                if hasattr(optimizer, "relive"):
                    again = optimizer.relive(context, next(iter(requests.exchanges), None))
                    proposals += [] if again is None else [again]
                    continue
                source = getattr(optimizer, "source", "plugin")
                proposals += [one for one in requests.recorded if one.source == source]
                continue
            proposal = optimizer.propose(context)
            if proposal is not None:
                proposals.append(proposal)
        return proposals

    def _effect(self, present: Present, proposal: Proposal, slo: Slo) -> SimulatedEffect | None:
        try:
            return simulate_effect(present.simulation, proposal, self._horizon_ms, slo)
        except InputError:
            return None  # certification names what is wrong with it

    def _candidate(
        self,
        proposal: Proposal,
        effect: SimulatedEffect | None,
        present: Present,
        futures: FutureSampler,
        calibrator: PowerCalibrator,
        now_ms: int,
        *,
        taken: bool,
    ) -> Candidate:
        if taken:
            reason = "another change takes effect at this moment, or is better"
            return Candidate(proposal, effect, None, self._say(proposal, now_ms, reason))
        may_act = rank(self.level) > rank("advise")
        same = self.gate.same_waiting(proposal) if self.level == "approve" else None
        if same is not None:
            return Candidate(proposal, effect, None, self._say(proposal, now_ms, f"{same} waits and says the same"))
        certificate = inputs = None
        if effect is None or may_act or self.settings.certify_always:
            certificate, inputs = self._certify(proposal, present, futures, calibrator)
        if certificate is None and not may_act:
            reason = self.gate.why_not(self.mode, self.trust.level)
            return Candidate(proposal, effect, None, self._say(proposal, now_ms, reason))
        try:
            topology = patched(self.topology, proposal.changes, present.simulation) if may_act else None
        except InputError as error:
            if certificate is not None and certificate.is_certified:
                return Candidate(proposal, effect, certificate, self._refuse(proposal, now_ms, error), inputs=inputs)
            topology = None  # the gate refuses it for what the certificate says
        decision = self.gate.decide(
            proposal,
            certificate,
            issued=self._certifier.place.previous,
            state=state_hash(present.simulation),
            mode=self.mode,
            trust=self.trust.level,
            now_ms=now_ms,
        )
        return Candidate(proposal, effect, certificate, decision, topology if decision.is_applied else None, inputs)

    def _accept(
        self,
        proposal_id: str,
        present: Present,
        slo: Slo,
        futures: FutureSampler,
        calibrator: PowerCalibrator,
        now_ms: int,
        *,
        is_moving: bool,
    ) -> list[Candidate]:
        waiting = self.gate.waiting.get(proposal_id)
        if waiting is None:
            return []
        proposal = waiting[0]
        effect = self._effect(present, proposal, slo)
        if is_moving:
            return [Candidate(proposal, effect, None, self._say(proposal, now_ms, "another topology takes effect now"))]
        try:
            topology = patched(self.topology, proposal.changes, present.simulation)
        except InputError as error:
            return [Candidate(proposal, effect, None, self._refuse(proposal, now_ms, error, by="person"))]
        certificate, inputs = self._certify(proposal, present, futures, calibrator)
        decision = self.gate.accept(
            proposal_id,
            certificate,
            issued=self._certifier.place.previous,
            state=state_hash(present.simulation),
            mode=self.mode,
            trust=self.trust.level,
            now_ms=now_ms,
        )
        applied = topology if decision.is_applied else None
        return [Candidate(proposal, effect, certificate, decision, applied, inputs)]

    def _certify(
        self, proposal: Proposal, present: Present, futures: FutureSampler, calibrator: PowerCalibrator
    ) -> tuple[Certificate, CertificateInputs]:
        simulation = present.simulation
        curves = draw_curves(calibrator, simulation, _CURVES, self.settings.seed, purpose="certificate")
        return self._certifier.certify(proposal, simulation, futures.model(simulation.now_ms), curves)

    def _say(self, proposal: Proposal, now_ms: int, reason: str) -> Decision:
        return Decision(proposal_id=proposal.id, time_ms=now_ms, verdict="advised", by="gate", reason=reason)

    def _refuse(self, proposal: Proposal, now_ms: int, error: InputError, by: str = "gate") -> Decision:
        """Refuse what no topology file can say: there is nothing to act on it with."""
        return Decision(proposal_id=proposal.id, time_ms=now_ms, verdict="refused", by=by, reason=str(error))


def human_proposal(patch: Any, time_ms: int) -> Proposal:
    """Make a proposal of what a person wrote: ``{"changes": [...], "reason": "..."}``.

    Raises
    ------
    InputError
        When it is none; names the key.
    """
    if not isinstance(patch, dict) or not isinstance(patch.get("changes"), list) or not patch["changes"]:
        raise InputError("changes", shown(patch), "an object with a list of changes", "See docs/guides/decide.md.")
    try:
        # As JSON: in it, lists stand for tuples.
        changes = TypeAdapter(tuple[_Typed, ...]).validate_json(json.dumps(patch["changes"]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"changes.{place}", shown(first.get("input")), wanted(first["msg"])) from None
    reason = patch.get("reason") or "by hand"
    if not isinstance(reason, str) or len(reason) > _LONGEST_REASON:
        raise InputError("reason", shown(reason), f"text of at most {_LONGEST_REASON:,} characters")
    return Proposal.of("human", time_ms, "human", reason, changes)


def _score(effect: SimulatedEffect | None) -> float:
    return float("inf") if effect is None or effect.score.changed is None else effect.score.changed


def _most_power_w(topology: Topology) -> float:
    """Power that no reading can exceed: all hosts at full load, and a quarter for what else hangs on the meter, W."""
    full_w = sum(
        group.count * max(group.power_model.watts_at(u / 20) for u in range(21))
        for cluster in topology.clusters
        for group in cluster.hosts
    )
    return 1.25 * full_w
