"""Readings of power until their windows close."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from opendt.telemetry.message_models import PowerMessage
from opendt.telemetry.window_tasks import where_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.telemetry.window_inbox import Batch, Grid, Inbox
    from opendt.telemetry.window_tally import Tally

__all__ = ["PowerBook"]


class PowerBook:
    """Readings that wait, and those of late, to know them when they come again."""

    def __init__(self, grid: Grid, memory_ms: int) -> None:
        self.grid = grid
        self.memory_ms = memory_ms
        self.restored_window = -1
        self._waiting: dict[int, float] = {}
        self._released: dict[int, float] = {}

    def take(self, inbox: Inbox, ranges: list[tuple[Batch, int, int]], window: int, tally: Tally) -> None:
        """Go through records of `dc.power`."""
        grid = self.grid
        for batch, begin, end in ranges:
            for i in range(begin, end):
                item = batch.items[i]
                if not isinstance(item, PowerMessage):
                    continue
                time_ms, power_w = item.timestamp, item.power_draw
                where = where_of(inbox, batch, i)
                if time_ms < grid.origin_ms:
                    tally.count("early", where)
                    continue
                target = int(grid.window_of(time_ms))
                if where.is_old and target <= self.restored_window:
                    continue
                known_w = self._waiting.get(time_ms, self._released.get(time_ms))
                if known_w is not None:
                    if known_w == power_w:
                        tally.count("duplicate", where)
                    else:
                        why = f"the reading of {time_ms} is {power_w:g} W and was {known_w:g} W before"
                        tally.refuse(where, "conflict", why, batch.records[i].value, grid.end_ms(window))
                    continue
                before_ms = batch.before_ms[i]
                passed = self.restored_window if where.is_old else max(int(grid.passed_by(before_ms)), window - 1)
                if target <= passed:
                    why = f"the reading of {time_ms} belongs to window {target}, window {passed} has been passed"
                    tally.refuse(where, "late", why, batch.records[i].value, grid.end_ms(window))
                    continue
                if target <= int(grid.ended_by(before_ms)):
                    tally.count("merged", where)
                self._waiting[time_ms] = power_w
                inbox.hold(where.offset, target)

    def release(self, window: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Give the readings up to the end of a window: times (ms since the epoch) and W."""
        end_ms = self.grid.end_ms(window)
        times = sorted(time_ms for time_ms in self._waiting if time_ms <= end_ms)
        power_w = np.array([self._waiting.pop(time_ms) for time_ms in times], np.float64)
        self._released.update(zip(times, power_w.tolist(), strict=True))
        while self._released and (oldest := next(iter(self._released))) <= end_ms - self.memory_ms:
            del self._released[oldest]
        return np.array(times, np.int64), power_w

    def state(self) -> list[list[Any]]:
        """Give what must survive a restart: readings that windows have had."""
        return [list(one) for one in self._released.items()]

    def restore(self, state: list[list[Any]], window: int) -> None:
        """Continue from a state; `window` is the last that was closed."""
        self.restored_window = window
        self._released = {int(time_ms): float(power_w) for time_ms, power_w in state}
