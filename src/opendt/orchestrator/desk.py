"""A person's part in decisions, for commands and REST alike: what was proposed and became of it, and a word on what waits.

What a person wants goes to the datacenter on ``sys.config``, like every other message, to be heard with the next window: so it is
in the streams, and a restart hears it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opendt.model.errors import InputError
from opendt.orchestrator.controller import ACCEPT, PROPOSE, REJECT
from opendt.orchestrator.decisions import human_proposal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opendt.verification.ledger import Ledger

__all__ = ["Asked", "DecisionDesk", "KnownProposal"]

_MOST_JUDGED: Final = 10_000
_FINAL: Final = frozenset({"applied", "rejected", "expired"})


@dataclass(frozen=True, slots=True)
class KnownProposal:
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


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of a datacenter: the key and value on ``sys.config``, its event time, and where the message went."""

    datacenter: str
    key: str
    value: Any
    time_ms: int
    place: str


class DecisionDesk:
    """Proposals of one datacenter.

    Parameters
    ----------
    datacenter : str
        Its name.
    ledger : Ledger
        What was proposed and decided.
    send : callable
        Takes a datacenter and a message for ``sys.config``; gives the place that it went to, in words.
    """

    def __init__(self, datacenter: str, ledger: Ledger, send: Callable[[str, bytes], str]) -> None:
        self.datacenter = datacenter
        self._ledger = ledger
        self._send = send

    def all(self) -> list[KnownProposal]:
        """All proposals, by the window in which they were made."""
        certificates = self._by_proposal("certificates")
        decisions = self._by_proposal("decisions")
        judged: dict[str, list[dict[str, Any]]] = {}
        events = self._ledger.events(
            datacenter=self.datacenter, kinds=["change_judged"], limit=_MOST_JUDGED, newest=True
        )
        for event in events:
            judged.setdefault(event.event.content["proposal"], []).append(dict(event.event.content))
        known = []
        for recorded in self._ledger.documents("proposals", self.datacenter):
            proposal = dict(recorded.document.content)
            effect = proposal.pop("simulated_effect", None)
            name = recorded.document.id
            mine = sorted(decisions.get(name, []), key=lambda one: one["time_ms"])
            time_ms = mine[0]["time_ms"] if mine else None
            issued = sorted(certificates.get(name, []), key=lambda one: one["number"])
            known.append(KnownProposal(name, time_ms, proposal, effect, issued, mine, judged.get(name, [])))
        return sorted(known, key=lambda one: (one.proposal["time_ms"], one.id))

    def find(self, proposal_id: str) -> KnownProposal:
        """Look one up.

        Raises
        ------
        InputError
            When there is none of this id.
        """
        for one in self.all():
            if one.id == proposal_id:
                return one
        hint = "List them: opendt proposals list."
        raise InputError("proposal", proposal_id, f"the id of one of {self.datacenter}", hint, file=self._ledger.place)

    def propose(self, content: Mapping[str, Any]) -> Asked:
        """Propose changes: ``{"changes": [...], "reason": "..."}``.

        Raises
        ------
        InputError
            When it is no such object, or no window is recorded yet.
        TransportError
            When it could not be delivered.
        """
        proposal = human_proposal(dict(content), 0)
        return self._ask(PROPOSE, {"changes": content["changes"], "reason": proposal.reason})

    def accept(self, proposal_id: str) -> Asked:
        """Accept what waits; raises as `propose`, and InputError when it does not wait."""
        return self._decide(ACCEPT, proposal_id)

    def reject(self, proposal_id: str) -> Asked:
        """Reject what waits; raises as `accept`."""
        return self._decide(REJECT, proposal_id)

    def _decide(self, key: str, proposal_id: str) -> Asked:
        one = self.find(proposal_id)
        if not one.waits:
            raise InputError(f"proposal {proposal_id}", f"{one.last['verdict']} by {one.last['by']}", "one that waits")
        return self._ask(key, proposal_id)

    def _ask(self, key: str, value: Any) -> Asked:
        last = self._ledger.last_window(self.datacenter)
        if last is None:
            hint = "Ask again when the first window has been recorded."
            place = f"datacenter {self.datacenter}"
            raise InputError(place, "no window", "one in the ledger", hint, file=self._ledger.place)
        time_ms = last.end_ms + 1  # event time, not the clock's: what is followed may be a recording
        message = {"setting_key": key, "new_value": value, "timestamp": time_ms, "source": "opendt"}
        place = self._send(self.datacenter, json.dumps(message).encode())
        return Asked(self.datacenter, key, value, time_ms, place)

    def _by_proposal(self, kind: str) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for recorded in self._ledger.documents(kind, self.datacenter):
            found.setdefault(recorded.document.proposal_id, []).append(dict(recorded.document.content))
        return found
