"""What became of actions: typed results that whoever asked records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ActionKind", "ActionResult", "Actions", "DryRun", "Outcome"]

ActionKind = Literal["anchor", "create", "delete", "cordon", "uncordon", "evict", "scale", "wait"]
DryRun = Literal["no", "ours", "server"]
"""Whether to act; `ours` sends nothing that changes anything, `server` lets the API server check it without doing it."""

Outcome = Literal["done", "unchanged", "dry_run", "refused", "failed", "away"]
"""What became of an action.

=========  ==============================================================================================
done       the API server says that it was carried out
unchanged  it was so already
dry_run    it would be carried out
refused    the API server, or we, say no, and will again: `reason` and `message` say why
failed     it was tried until the time was over; it may or may not have been carried out
away       the cluster does not answer; it may or may not have been carried out, unless `attempts` is 0
=========  ==============================================================================================
"""


@dataclass(frozen=True, slots=True)
class ActionResult:
    """One action on one object.

    Parameters
    ----------
    action : str
        What was asked.
    cluster, target : str
        Where, and of what: ``kind/name`` or ``kind/namespace/name``.
    outcome : str
        What became of it.
    reason, message : str
        One word and one sentence, where it was not simply carried out.
    attempts : int
        Requests that were sent for it.
    time_ms : int
        When that was known, ms since the epoch.
    stage_id : str
        The stage that it belongs to, if any.
    uid, resource_version : str
        Of the object afterwards, where the API server said it.
    """

    action: ActionKind
    cluster: str
    target: str
    outcome: Outcome
    reason: str = ""
    message: str = ""
    attempts: int = 1
    time_ms: int = -1
    stage_id: str = ""
    uid: str = ""
    resource_version: str = ""

    @property
    def is_done(self) -> bool:
        """Whether things are as asked."""
        return self.outcome in ("done", "unchanged")


@dataclass(frozen=True, slots=True)
class Actions:
    """Results of actions that belong together, in the order in which they were asked."""

    results: tuple[ActionResult, ...]

    @property
    def is_done(self) -> bool:
        """Whether all things are as asked; nothing half-done is."""
        return bool(self.results) and all(result.is_done for result in self.results)

    @property
    def problems(self) -> tuple[ActionResult, ...]:
        """Those that were neither carried out nor would be."""
        return tuple(each for each in self.results if not each.is_done and each.outcome != "dry_run")

    def of_stage(self, stage_id: str) -> tuple[ActionResult, ...]:
        """Those of one stage."""
        return tuple(each for each in self.results if each.stage_id == stage_id)
