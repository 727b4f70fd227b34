"""What people ask to be done to a fleet, through the same gate as plans: it is in the ledger before it is done, and so is what came of it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from opendt.model.errors import InputError, OpenDTError
from opendt.model.fleet_action import RunElsewhere
from opendt.orchestrator import fleet_events as events
from opendt.orchestrator.fleet_ports import ActionError
from opendt.verification.ledger_rows import DocumentRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from opendt.model.fleet_action import FleetRequest
    from opendt.orchestrator.events import EventBus
    from opendt.orchestrator.fleet_keeper import FleetKeeper
    from opendt.orchestrator.fleet_ports import Hands
    from opendt.twin.state import FleetState
    from opendt.verification.ledger import Ledger

__all__ = ["ActionRefused", "ActionReport", "FleetActions"]

Outcome = Literal["done", "unchanged", "failed", "would_be_done"]


class ActionRefused(OpenDTError):  # noqa: N818 - said of an action, not of a program
    """The gate does not let it be done."""


@dataclass(frozen=True, slots=True)
class ActionReport:
    """What came of an action.

    Attributes
    ----------
    action_id : str
        Under which it is in the ledger; empty for a dry run.
    action, cluster, target : str
        What was to be done, where and to what.
    outcome : {"done", "unchanged", "failed", "would_be_done"}
        ``unchanged`` where it was so already.
    message : str
        Why it failed; where a stage goes on, or runs a second time.
    """

    action_id: str
    action: str
    cluster: str
    target: str
    outcome: Outcome
    message: str = ""


class FleetActions:
    """Does what people ask for.

    Parameters
    ----------
    fleet : str
        Name that everything is kept under.
    state : FleetState
        Knows the clusters.
    ledger : Ledger
        Where requests are kept before they are followed.
    keeper : FleetKeeper
        Moves and replicates stages of plans.
    hands : Hands, optional
        Act on clusters; without them nothing is done.
    bus : EventBus
        Told of everything.
    clock_ms : callable
        ms since the epoch.
    """

    def __init__(
        self,
        fleet: str,
        state: FleetState,
        ledger: Ledger,
        keeper: FleetKeeper,
        hands: Hands | None,
        bus: EventBus,
        clock_ms: Callable[[], int],
    ) -> None:
        self._fleet = fleet
        self._state = state
        self._ledger = ledger
        self._keeper = keeper
        self._hands = hands
        self._bus = bus
        self._clock_ms = clock_ms

    def act(self, request: FleetRequest, *, dry_run: bool = False) -> ActionReport:
        """Do it; a dry run asks the API server whether it would, and writes nothing.

        Of a migration or a replica a dry run only says that the stage can have one: to look for room is to hold it.

        Raises
        ------
        ActionRefused
            When nothing may act on the fleet, or there is no such stage to be moved or replicated.
        InputError
            When the cluster is none of the fleet's.
        LedgerError
            When it cannot be written down first: nothing is done then.
        """
        cluster = self._cluster(request)
        if self._hands is None:
            raise ActionRefused(
                f"{request.action} {request.target}: nothing may act on fleet {self._fleet}. Set environment to live, and mode to "
                "approve or auto"
            )
        if dry_run:
            return self._report("", request, cluster, self._done(request, self._hands, dry_run=True))
        time_ms = self._clock_ms()
        digest = hashlib.sha256(f"{time_ms} {request.model_dump_json()}".encode()).hexdigest()
        action_id = f"action-{time_ms}-{digest[:8]}"
        self._keep(action_id, "asked", {"request": request.model_dump(mode="json"), "time_ms": time_ms})
        report = self._report(action_id, request, cluster, self._done(request, self._hands, dry_run=False))
        self._keep(action_id, "came", asdict(report))
        return report

    def _cluster(self, request: FleetRequest) -> str:
        if isinstance(request, RunElsewhere):
            can = self._keeper.movable if request.action == "migrate" else self._keeper.replicable
            try:
                return can(request.plan_id, request.stage_id).cluster
            except ActionError as error:
                raise ActionRefused(str(error)) from None
        if self._state.cluster(request.cluster) is None:
            known = ", ".join(self._state.snapshot().clusters)
            raise InputError("cluster", repr(request.cluster), f"one of {known or 'none yet'}")
        return request.cluster

    def _done(self, request: FleetRequest, hands: Hands, *, dry_run: bool) -> tuple[Outcome, str]:
        done: Outcome = "would_be_done" if dry_run else "done"
        try:
            if isinstance(request, RunElsewhere):
                return done, "" if dry_run else self._elsewhere(request)
            if not hands.act(request, dry_run=dry_run):
                return "unchanged", ""
        except ActionError as error:
            return "failed", str(error)
        return done, ""

    def _elsewhere(self, request: RunElsewhere) -> str:
        """Let a stage go on at another place, or run there a second time; says where."""
        have = self._keeper.move if request.action == "migrate" else self._keeper.replicate
        place = have(request.plan_id, request.stage_id)
        return f"on {place.node_name} in {place.cluster}"

    def _report(
        self,
        action_id: str,
        request: FleetRequest,
        cluster: str,
        came: tuple[Outcome, str],
    ) -> ActionReport:
        outcome, message = came
        told: dict[str, Any] = {"action": request.action, "cluster": cluster, "target": request.target}
        if action_id:
            event = (
                events.FleetActionFailed(**told, reason=message, is_final=True)
                if outcome == "failed"
                else events.FleetAction(**told, outcome=outcome)
            )
            self._bus.publish(replace(event, datacenter=self._fleet, time_ms=self._clock_ms()))
        return ActionReport(action_id, request.action, cluster, request.target, outcome, message)

    def _keep(self, action_id: str, what: str, content: dict[str, Any]) -> None:
        row = DocumentRow(f"{action_id}/{what}", {"type": "action", "what": what, **content}, action_id)
        self._ledger.record_plans(self._fleet, [row])
