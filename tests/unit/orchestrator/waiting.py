"""A clock that goes on only when somebody waits, for tests of waiting."""

from __future__ import annotations


class Clock:
    """Monotonic clock, s, and the waiting that moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s
