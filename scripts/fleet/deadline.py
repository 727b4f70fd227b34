"""Waiting for the outside world, up to a deadline."""

from __future__ import annotations

import time

__all__ = ["Deadline"]


class Deadline:
    """A moment up to which something is waited for.

    Parameters
    ----------
    seconds : float
        How far away it is.
    """

    def __init__(self, seconds: float) -> None:
        self._end_s = time.monotonic() + seconds

    def wait(self, pause_s: float) -> bool:
        """Pause and return True; or return False at once when the deadline has passed."""
        if time.monotonic() >= self._end_s:
            return False
        time.sleep(pause_s)
        return True
