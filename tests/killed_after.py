"""The command ``opendt``, killed by SIGKILL so much of its own time after it recorded a window: anywhere, also in the midst of a call.

    python tests/killed_after.py WINDOW SECONDS START run --config ...

SECONDS are of the processor time of this process, by the kernel's timer, so that a busy machine moves no moment. START, unless it is
inf, is such a time after the start of the process, at which it is killed if it has not been before.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from math import isfinite
from typing import Any

_SIGEV_SIGNAL = 0


class _SignalEvent(ctypes.Structure):
    """``struct sigevent`` of Linux."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("_", ctypes.c_int * 12),
    )


class _Times(ctypes.Structure):
    """``struct itimerspec``: interval and first time, s and ns each."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "after_s", "after_ns"))


def kill_after(duration_s: float) -> None:
    """Let the kernel kill this process when it has used so much more of a processor."""
    libc = ctypes.CDLL(None, use_errno=True)
    timer = ctypes.c_void_p()
    event = _SignalEvent(signal=signal.SIGKILL, notify=_SIGEV_SIGNAL)
    assert libc.timer_create(time.CLOCK_PROCESS_CPUTIME_ID, ctypes.byref(event), ctypes.byref(timer)) == 0
    nanoseconds = max(round(duration_s * 1e9), 1)
    times = _Times(after_s=nanoseconds // 10**9, after_ns=nanoseconds % 10**9)
    assert libc.timer_settime(timer, 0, ctypes.byref(times), None) == 0


def arm(window: int, duration_s: float) -> None:
    """Let the time begin when a window is recorded."""
    from opendt.verification.ledger import Ledger

    record_window, is_armed = Ledger.record_window, False

    def recorder(self: Ledger, entry: Any) -> bool:
        nonlocal is_armed
        is_new = record_window(self, entry)
        if entry.index >= window and not is_armed:
            is_armed = True
            kill_after(duration_s)
        return is_new

    Ledger.record_window = recorder


if __name__ == "__main__":
    start_s = float(sys.argv[3])
    if isfinite(start_s):
        kill_after(start_s)
    arm(int(sys.argv[1]), float(sys.argv[2]))
    from opendt.cli.main import run

    sys.exit(run(sys.argv[4:]))
