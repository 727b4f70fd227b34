"""Which clusters answer and which nodes are ready, as last seen; told of when it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendt.orchestrator import fleet_events as events

if TYPE_CHECKING:
    from collections.abc import Callable

    from opendt.model.fleet import ClusterState, NodeState
    from opendt.model.plan import Placement
    from opendt.orchestrator.event_types import Event
    from opendt.twin.state import FleetState

__all__ = ["FleetHealth"]


class FleetHealth:
    """Notes what goes away and comes back; whoever holds it sees to it that one thread at a time does.

    Parameters
    ----------
    state : FleetState
        The fleet as last seen.
    clock_ms : callable
        Clock of the clusters, ms since the epoch.
    tell : callable
        Told of what went away or came back.
    """

    def __init__(self, state: FleetState, clock_ms: Callable[[], int], tell: Callable[[Event], None]) -> None:
        self._state = state
        self._clock_ms = clock_ms
        self._tell = tell
        self._down: set[tuple[str, str]] = set()
        self.away_since_ms: dict[str, int] = {}
        """Clusters that do not answer."""

    def see_cluster(self, before: ClusterState | None, after: ClusterState | None) -> None:
        """Take in how a cluster is."""
        if after is None:
            return
        was_reachable = before is not None and before.is_reachable
        if after.is_reachable:
            self.away_since_ms.pop(after.name, None)
            if not was_reachable:
                self._tell(events.ClusterReached(cluster=after.name))
        elif was_reachable or (before is None and after.last_seen_ms >= 0):
            self.away_since_ms.setdefault(after.name, self._clock_ms())
            self._tell(events.ClusterLost(cluster=after.name, reason=after.message or "no answer"))

    def see_node(self, before: NodeState | None, after: NodeState | None, *, is_used: Callable[[], bool]) -> str:
        """Take in how a node is; gives why it went down, where it just did.

        Of nodes that are seen for the first time only those that are used go down: the others never were up.
        """
        node = after or before
        if node is None:
            return ""
        key = (node.cluster, node.name)
        if after is not None and after.is_ready:
            if key in self._down:
                self._down.discard(key)
                self._tell(events.NodeUp(cluster=node.cluster, node=node.name))
            return ""
        if key in self._down or (before is None and not is_used()):
            return ""
        reason = "it was removed" if after is None else "it is not ready"
        self._down.add(key)
        self._tell(events.NodeDown(cluster=node.cluster, node=node.name, reason=reason))
        return reason

    def is_known(self, cluster: str) -> bool:
        """Whether this process has seen what is in a cluster."""
        state = self._state.cluster(cluster)
        return state is not None and state.last_seen_ms >= 0

    def is_up(self, placement: Placement) -> bool:
        """Whether a pod can run there now."""
        node = self._state.node(placement.cluster, placement.node_name)
        return placement.cluster not in self.away_since_ms and node is not None and node.is_ready
