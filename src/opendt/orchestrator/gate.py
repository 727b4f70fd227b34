"""The one gate through which anything is acted on.

A proposal passes when what is configured (mode), what the environment can do, and what accuracy has earned (trust) all allow it, when
its certificate speaks for it, and when limits on pace and time hold. Otherwise it waits for a person, is shown as advice, or is
refused, with the reason. What a person accepts later is certified again in the state that holds then: a certificate speaks of the
state in which it was written.

Deterministic, of event time; its state can be pickled.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from opendt.model.errors import ModelError
from opendt.model.mode import Mode, lowest, rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.model.certificate import Certificate
    from opendt.model.proposal import Proposal

__all__ = ["CAPS", "Decision", "Gate", "GateSettings", "MaintenanceWindow"]

CAPS: Final[dict[str, Mode]] = {"replay": "advise", "shadow": "advise", "live": "auto"}
"""Most that may be done in each environment: what was recorded, or is only watched, cannot be acted on."""

DAY_MS: Final = 86_400_000
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SPAN: Final = re.compile(r"(?:(\w{3})(?:-(\w{3}))? )?(\d\d):(\d\d)-(\d\d):(\d\d)")
_MOST_WAITING: Final = 100

Verdict = Literal["applied", "waiting", "advised", "refused", "rejected", "expired"]


@dataclass(frozen=True, slots=True)
class MaintenanceWindow:
    """A stretch of the week, UTC, in which changes may be made: days (0 is Monday) and minutes of the day.

    Examples
    --------
    >>> MaintenanceWindow.parse("Mon-Fri 01:00-05:00").covers(1_665_108_000_000)  # a Friday, 02:00
    True
    """

    days: frozenset[int]
    start_min: int
    end_min: int

    @classmethod
    def parse(cls, text: str) -> MaintenanceWindow:
        """Read ``Mon-Fri 01:00-05:00``, ``Sat 00:00-24:00`` or ``02:00-04:00`` (every day).

        Raises
        ------
        ModelError
            When it is none of these.
        """
        match = _SPAN.fullmatch(text.strip())
        hint = "Days are Mon to Sun, times are UTC."
        if match is None or any(day is not None and day not in _DAYS for day in match.groups()[:2]):
            raise ModelError("gate.maintenance", text, "a stretch such as 'Mon-Fri 01:00-05:00'", hint)
        first, last = match[1], match[2] or match[1]
        begin, end = (_DAYS.index(first), _DAYS.index(last)) if first else (0, 6)
        length = (end - begin) % 7
        start_min, end_min = int(match[3]) * 60 + int(match[4]), int(match[5]) * 60 + int(match[6])
        if not 0 <= start_min < end_min <= 24 * 60:
            raise ModelError("gate.maintenance", text, "a start before the end, within one day", hint)
        return cls(frozenset((begin + i) % 7 for i in range(length + 1)), start_min, end_min)

    def covers(self, time_ms: int) -> bool:
        """Whether a moment, ms since the epoch, lies within."""
        moment = datetime.fromtimestamp(time_ms / 1000, UTC)
        return moment.weekday() in self.days and self.start_min <= moment.hour * 60 + moment.minute < self.end_min


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Limits of the gate.

    Parameters
    ----------
    max_changes_per_day : int
        Changes applied in any 24 h of event time.
    waiting_ms : int
        How long a proposal waits for a person, ms of event time.
    maintenance : tuple of MaintenanceWindow
        When changes may be made; always when empty.
    """

    max_changes_per_day: int = 4
    waiting_ms: int = DAY_MS
    maintenance: tuple[MaintenanceWindow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of a proposal.

    Attributes
    ----------
    proposal_id : str
        Of the proposal.
    time_ms : int
        When it was decided, ms since the epoch, event time.
    verdict : str
        ``applied``, ``waiting`` (for a person), ``advised``, ``refused``, ``rejected`` (by a person) or ``expired``.
    by : str
        ``gate`` or ``person``.
    reason : str
        In plain words.
    """

    proposal_id: str
    time_ms: int
    verdict: Verdict
    by: str
    reason: str

    @property
    def id(self) -> str:
        """A name of its own: a proposal may be decided on several times."""
        return f"{self.proposal_id}@{self.time_ms}"

    @property
    def is_applied(self) -> bool:
        """Whether the change is made."""
        return self.verdict == "applied"


class Gate:
    """Decides what happens with proposals.

    Parameters
    ----------
    environment : {"replay", "shadow", "live"}
        What there is to act on.
    settings : GateSettings, optional
        Limits.
    """

    def __init__(self, environment: str, settings: GateSettings | None = None) -> None:
        self.cap: Mode = CAPS[environment]
        self.environment = environment
        self.settings = settings or GateSettings()
        self.waiting: dict[str, tuple[Proposal, int]] = {}
        self._applied_ms: deque[int] = deque()

    def level(self, mode: Mode, trust: Mode) -> Mode:
        """What may be done: the least of what is configured, what can be acted on, and what is trusted."""
        return lowest(mode, trust, self.cap)

    def decide(
        self,
        proposal: Proposal,
        certificate: Certificate | None,
        *,
        issued: str,
        state: str,
        mode: Mode,
        trust: Mode,
        now_ms: int,
    ) -> Decision:
        """Decide on a proposal of this window.

        Parameters
        ----------
        proposal : Proposal
            What is to be done.
        certificate : Certificate, optional
            What speaks for it.
        issued : str
            Hash of the certificate that was issued here last (``opendt.optimization.certify.Certifier.place``): whoever makes one up,
            or brings an old one, can compute its hash, but not this one.
        state : str
            Hash of the state that it is to be applied to (``opendt.optimization.certificate_inputs.state_hash``).
        mode, trust : Mode
            The most that is configured, and that accuracy has earned.
        now_ms : int
            End of the window, ms since the epoch.
        """
        level = self.level(mode, trust)
        objection = _objection(certificate, proposal, issued, state)
        if objection:
            return self._say(proposal.id, now_ms, "refused", objection)
        if rank(level) <= rank("advise"):
            return self._say(proposal.id, now_ms, "advised", self.why_not(mode, trust))
        hindrance = self._hindrance(now_ms)
        if level == "auto" and hindrance is None:
            return self.apply(proposal.id, now_ms, by="gate", reason="certified, and changes are made without asking")
        self._wait(proposal, now_ms)
        return self._say(proposal.id, now_ms, "waiting", hindrance or "for a person: opendt proposals accept")

    def same_waiting(self, proposal: Proposal) -> str | None:
        """Id of a proposal that waits and would change the same, if there is one."""
        changes = proposal.changes
        return next((name for name, (one, _) in self.waiting.items() if one.changes == changes), None)

    def accept(
        self,
        proposal_id: str,
        certificate: Certificate | None,
        *,
        issued: str,
        state: str,
        mode: Mode,
        trust: Mode,
        now_ms: int,
    ) -> Decision:
        """Decide on a proposal that a person accepts; as `decide`."""
        if proposal_id not in self.waiting:
            return self._say(
                proposal_id, now_ms, "refused", "it does not wait: unknown, decided or expired", by="person"
            )
        if rank(self.level(mode, trust)) < rank("approve"):
            return self._say(proposal_id, now_ms, "refused", self.why_not(mode, trust), by="person")
        proposal, _ = self.waiting[proposal_id]
        objection = _objection(certificate, proposal, issued, state)
        if objection:
            return self._say(proposal_id, now_ms, "refused", objection, by="person")
        hindrance = self._hindrance(now_ms)
        if hindrance is not None:
            return self._say(proposal_id, now_ms, "refused", hindrance, by="person")
        return self.apply(proposal_id, now_ms, by="person", reason="accepted, and certified as things are now")

    def reject(self, proposal_id: str, now_ms: int, reason: str = "") -> Decision:
        """Note that a person rejects a proposal."""
        if self.waiting.pop(proposal_id, None) is None:
            return self._say(
                proposal_id, now_ms, "refused", "it does not wait: unknown, decided or expired", by="person"
            )
        return self._say(proposal_id, now_ms, "rejected", reason or "rejected", by="person")

    def expire(self, now_ms: int) -> tuple[tuple[Proposal, Decision], ...]:
        """Let go of what has waited too long."""
        limit_ms = self.settings.waiting_ms
        old = [proposal for proposal, since_ms in self.waiting.values() if now_ms - since_ms > limit_ms]
        for proposal in old:
            del self.waiting[proposal.id]
        return tuple((one, self._say(one.id, now_ms, "expired", "nobody decided in time")) for one in old)

    def apply(self, proposal_id: str, now_ms: int, *, by: str, reason: str) -> Decision:
        """Note that a change is made."""
        self.waiting.pop(proposal_id, None)
        self._applied_ms.append(now_ms)
        return self._say(proposal_id, now_ms, "applied", reason, by=by)

    def _hindrance(self, now_ms: int) -> str | None:
        """Say what stands against making any change now."""
        while self._applied_ms and self._applied_ms[0] <= now_ms - DAY_MS:
            self._applied_ms.popleft()
        most = self.settings.max_changes_per_day
        if len(self._applied_ms) >= most:
            return f"{len(self._applied_ms)} changes in 24 h, allowed {most}"
        spans: Sequence[MaintenanceWindow] = self.settings.maintenance
        if spans and not any(span.covers(now_ms) for span in spans):
            return "outside of the maintenance windows"
        return None

    def _wait(self, proposal: Proposal, now_ms: int) -> None:
        same = self.same_waiting(proposal)
        if same is not None:
            del self.waiting[same]
        self.waiting[proposal.id] = (proposal, now_ms)
        while len(self.waiting) > _MOST_WAITING:
            del self.waiting[next(iter(self.waiting))]

    def why_not(self, mode: Mode, trust: Mode) -> str:
        """Say what keeps changes from being made: the environment, trust, or the mode."""
        level = self.level(mode, trust)
        if level == self.cap and rank(self.cap) < min(rank(mode), rank(trust)):
            return f"environment {self.environment}: there is nothing to act on"
        if rank(trust) < rank(mode):
            return f"trust is down to {trust}"
        return f"mode is {mode}"

    @staticmethod
    def _say(proposal_id: str, now_ms: int, verdict: Verdict, reason: str, *, by: str = "gate") -> Decision:
        return Decision(proposal_id=proposal_id, time_ms=now_ms, verdict=verdict, by=by, reason=reason)


def _objection(certificate: Certificate | None, proposal: Proposal, issued: str, state: str) -> str:
    """Say why a certificate does not speak for a proposal in a state; empty when it does."""
    if certificate is None:
        return "no certificate"
    if not certificate.is_sealed:
        return "its certificate was changed after it was written"
    if certificate.proposal != proposal:
        return "its certificate speaks of another proposal"
    if not certificate.is_certified:
        return f"not certified: {'; '.join(reason.text for reason in certificate.reasons) or 'not shown'}"
    if certificate.inputs.state != state:
        return "the state has moved since its certificate was written"
    if certificate.hash != issued:
        return "its certificate is not the last one of the chain that is kept here"
    return ""
