"""Looking for a place for all stages where going stage by stage found none: a search with a bound.

Going stage by stage can put a small stage on the only node that a large one fits on, or miss a deadline that another layout keeps.
So before a job is called infeasible, layouts are tried in depth, the earliest finish first; nodes of one group that are loaded alike
are tried once. Small jobs are searched to the end, and the earliest layout is found; of large ones `MOST_TRIED` layouts are
looked at, and the answer says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.policy.lay import Chosen, Laid, tabulate

if TYPE_CHECKING:
    from opendt.policy.index import FleetIndex
    from opendt.policy.lay import Table
    from opendt.twin.scaling import ScaledJob

__all__ = ["MOST_TRIED", "Found", "search"]

MOST_TRIED: Final = 5_000
"""Stages that are tried on a node before a search gives up."""


@dataclass(slots=True)
class Found:
    """What a search found: the earliest layout, if any, and whether it looked everywhere."""

    laid: Laid | None = None
    is_complete: bool = True
    tried: int = 0


@dataclass(slots=True)
class _Search:
    index: FleetIndex
    scaled: ScaledJob
    native_only: bool
    most_tried: int
    found: Found = field(default_factory=Found)
    best_ms: float = inf
    chosen: dict[str, Chosen] = field(default_factory=dict)

    def go(self, place: int, latest_ms: float) -> None:
        """Try all places of stage number `place`, with those before it in theirs."""
        if place == len(self.scaled.stages):
            if latest_ms < self.best_ms:
                self.best_ms = latest_ms
                self.found.laid = Laid(dict(self.chosen))
            return
        one = self.scaled.stages[place]
        table = tabulate(self.index, self.scaled, one, self.chosen)
        if table is None:
            return
        for number in np.argsort(table.finish_ms, kind="stable").tolist():
            finish_ms = table.finish_ms.item(number)
            if max(finish_ms, latest_ms) >= self.best_ms or not self.found.is_complete:
                return  # all that follow finish later still
            if self._may(table, number):
                self._try(place, table, number, max(finish_ms, latest_ms))

    def _may(self, table: Table, number: int) -> bool:
        if table.allowed is not None and not table.allowed[number]:
            return False
        is_native = table.options.is_native
        return not (self.native_only and not is_native[number] and bool(is_native.any()))

    def _try(self, place: int, table: Table, number: int, latest_ms: float) -> None:
        one, group = table.one, table.options.groups[number]
        for name in list(self.index.candidates(group, one)):
            self.found.tried += 1
            if self.found.tried > self.most_tried:
                self.found.is_complete = False
                return
            self.chosen[one.stage.id] = Chosen(
                one,
                group,
                name,
                table.options.formats[number],
                table.finish_ms.item(number),
                table.variance.item(number),
            )
            devices = self.index.take(group, name, one)
            self.go(place + 1, latest_ms)
            self.index.give_back(group, name, one, devices)
            del self.chosen[one.stage.id]


def search(index: FleetIndex, scaled: ScaledJob, *, native_only: bool = False, most_tried: int = MOST_TRIED) -> Found:
    """Look for the layout of a whole job that finishes first."""
    index.refresh()
    run = _Search(index, scaled, native_only, most_tried)
    run.go(0, 0.0)
    return run.found
