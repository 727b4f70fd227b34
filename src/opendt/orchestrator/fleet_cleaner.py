"""What plans leave in the clusters, and its removal: pods of stages that moved, and of plans that are over.

Nothing of it is in the book: a process that begins looks at the pods that are there, and asks for the removal of what no plan wants.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from opendt.orchestrator import fleet_events as events
from opendt.orchestrator.fleet_ports import ActionError

if TYPE_CHECKING:
    from opendt.model.fleet import PodRole
    from opendt.model.plan import Plan
    from opendt.orchestrator.event_types import Event
    from opendt.orchestrator.fleet_ports import Hands

__all__ = ["FleetCleaner"]


class FleetCleaner:
    """Knows what is to be removed, and when; any thread may call it.

    Parameters
    ----------
    clock_ms : callable
        Clock of the clusters, ms since the epoch.
    tell : callable
        Told of what was removed, or was not.
    retry_ms : int
        Time from a removal that a cluster refused, or did not answer, to the next attempt.
    kept_ms : int
        How long the pods of a plan that is over are left for people to look at.
    """

    def __init__(
        self, clock_ms: Callable[[], int], tell: Callable[[Event], None], *, retry_ms: int, kept_ms: int
    ) -> None:
        self._clock_ms = clock_ms
        self._tell = tell
        self._retry_ms = retry_ms
        self._kept_ms = kept_ms
        self._lock = threading.Lock()
        self._chores = _Chores()
        self._cleared: set[tuple[str, str]] = set()

    def leave(self, plan: Plan, stage_id: str, cluster: str, *, role: PodRole) -> None:
        """Have the pod that a stage left behind removed, so that it does not run too should its place come back."""

        def delete(hands: Hands) -> None:
            hands.delete(plan, stage_id, cluster, role=role)

        chore = _Chore(cluster, f"what {plan.plan_id} left of stage {stage_id}", delete)
        with self._lock:
            self._chores.add(chore, self._clock_ms())

    def clear_later(self, plan: Plan, cluster: str) -> None:
        """Have all that a plan made in a cluster removed, once people had time to look at it."""

        def clear(hands: Hands) -> None:
            hands.clear(plan, cluster)

        with self._lock:
            if (plan.plan_id, cluster) not in self._cleared:
                self._cleared.add((plan.plan_id, cluster))
                chore = _Chore(cluster, f"what {plan.plan_id} left", clear)
                self._chores.add(chore, self._clock_ms() + self._kept_ms)

    def due(self, away: Collection[str]) -> list[tuple[str, Callable[[Hands], object]]]:
        """Take out what is to be removed now, in clusters that are there: of each its cluster and the work."""
        with self._lock:
            found = self._chores.due(self._clock_ms(), away)
        return [(chore.cluster, partial(self._remove, chore)) for chore in found]

    def forget(self) -> None:
        """Remove nothing any more that was asked for so far."""
        with self._lock:
            self._chores.clear()
            self._cleared.clear()

    def _remove(self, chore: _Chore, hands: Hands) -> None:
        """Do it, and say so; what can succeed later is tried again."""
        try:
            chore.work(hands)
        except ActionError as error:
            self._refused(chore, error)
        else:
            self._tell(events.FleetAction(action="remove", cluster=chore.cluster, target=chore.what))

    def _refused(self, chore: _Chore, error: ActionError) -> None:
        if not error.is_final:
            with self._lock:
                self._chores.add(chore, self._clock_ms() + self._retry_ms)
        self._tell(
            events.FleetActionFailed(
                action="remove",
                cluster=chore.cluster,
                target=chore.what,
                reason=str(error),
                is_final=error.is_final,
            )
        )


@dataclass(frozen=True, slots=True)
class _Chore:
    """Something to be removed from a cluster, from a moment on, until it is done."""

    cluster: str
    what: str
    work: Callable[[Hands], object]


class _Chores:
    """What is to be done later, by time; that of clusters that are away waits for them."""

    def __init__(self) -> None:
        self._by_time: list[tuple[int, int, _Chore]] = []
        self._parked: dict[str, list[_Chore]] = {}
        self._order = count()

    def add(self, chore: _Chore, not_before_ms: int) -> None:
        """Let a chore wait."""
        heapq.heappush(self._by_time, (not_before_ms, next(self._order), chore))

    def due(self, now_ms: int, away: Collection[str]) -> list[_Chore]:
        """Take out what is due in clusters that are there."""
        back = [cluster for cluster in self._parked if cluster not in away]
        found = [chore for cluster in back for chore in self._parked.pop(cluster)]
        while self._by_time and self._by_time[0][0] <= now_ms:
            chore = heapq.heappop(self._by_time)[2]
            if chore.cluster in away:
                self._parked.setdefault(chore.cluster, []).append(chore)
            else:
                found.append(chore)
        return found

    def clear(self) -> None:
        """Forget all of it."""
        self._by_time.clear()
        self._parked.clear()
