"""An optimiser of one's own: keep a fixed number of empty hosts in each group, switch off the others.

`load_optimizer("spare_hosts", spare=2)` finds it once the package is installed. All that an optimiser needs is a method
`propose`: a `Context` in, a `Proposal` or None out. What it proposes is simulated, certified and decided on like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opendt.model.change import GroupHosts, RemoveHosts
from opendt.model.proposal import Proposal

if TYPE_CHECKING:
    from opendt.optimization.base import Context


class SpareHosts:
    def __init__(self, spare: int = 1) -> None:
        if spare < 0:
            raise ValueError(f"spare is {spare}, expected a number of hosts of at least 0")
        self.spare = spare

    def propose(self, context: Context) -> Proposal | None:
        if context.load.queued:
            return None  # who has a queue has no host to spare
        changes = []
        for group in context.groups:
            keep = self.spare if group.busy else max(self.spare, 1)  # never the last host of a group
            surplus = len(group.idle) - keep
            if surplus > 0 and group.unique and group.intact:
                changes.append(RemoveHosts(hosts=GroupHosts(group=group.group), count=surplus))
        if not changes:
            return None
        reason = f"more than {self.spare} empty hosts in {len(changes)} host groups"
        return Proposal.of("plugin", context.now_ms, "spare_hosts", reason, tuple(changes))
