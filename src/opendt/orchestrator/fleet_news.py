"""What was told of each plan since this process began, for those who follow one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opendt.orchestrator.events import Notice

__all__ = ["PlanNews"]

_PLANS: Final = 10_000
"""Of so many plans it is kept; what was told of the oldest goes first."""


class PlanNews:
    """Keeps what is told of plans; any thread may call it.

    Parameters
    ----------
    heard : int
        Number of the last event before it listens.
    """

    def __init__(self, heard: int = 0) -> None:
        self._by_plan: dict[str, list[Notice]] = {}
        self._changed = threading.Condition()
        self._heard = heard

    def hear(self, notice: Notice) -> None:
        """Take in what was told; what names no plan is left out."""
        plan_id = getattr(notice.event, "plan", "")
        with self._changed:
            self._heard = max(self._heard, notice.number)
            self._changed.notify_all()
            if not plan_id:
                return
            self._by_plan.setdefault(plan_id, []).append(notice)
            while len(self._by_plan) > _PLANS:
                del self._by_plan[next(iter(self._by_plan))]

    def wait_heard(self, number: int, wait_s: float) -> bool:
        """Wait so long, seconds, until all was heard up to the event numbered `number`; tells whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: self._heard >= number, timeout=wait_s)

    def after(self, plan_id: str, number: int, wait_s: float) -> list[Notice]:
        """Give what was told of a plan after the event numbered `number`, waiting for the first one so long, seconds."""

        def newer() -> list[Notice]:
            return [notice for notice in self._by_plan.get(plan_id, ()) if notice.number > number]

        with self._changed:
            self._changed.wait_for(lambda: bool(newer()), timeout=wait_s)
            return newer()
