"""Replay: a recorded datacenter sent as messages, at the speed at which it happened, faster, or as fast as it goes.

How far it came is written to a small file after every flush, so an interrupted replay goes on where it was. What was sent after
the last flush is sent again then; whoever follows knows repetitions by the ids of tasks and the places of fragments.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from opendt.model.errors import InputError

if TYPE_CHECKING:
    from opendt.telemetry.recording import Plan
    from opendt.telemetry.source import Sink

__all__ = ["Progress", "Replay", "SpeedOption"]

SpeedOption = float | None
"""Event time over wall time; None is as fast as it goes."""

_FLUSH_MESSAGES: Final = 20_000
_FLUSH_S: Final = 0.05
_LONGEST_SLEEP_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a plan has been sent, in a file."""

    file: Path

    def read(self, fingerprint: str) -> int:
        """Give the number of messages of a plan that are known to have been sent.

        Raises
        ------
        InputError
            When the file is damaged or belongs to another plan.
        """
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            found, sent = content["plan"], int(content["sent"])
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = "Remove it to begin again."
            raise InputError("", f"{error}", "the progress of a replay", hint, file=str(self.file)) from error
        if found != fingerprint:
            hint = "Remove it to begin again, or name another file."
            raise InputError("plan", f"{found}", f"{fingerprint}, of what is to be sent now", hint, file=str(self.file))
        return sent

    def write(self, fingerprint: str, sent: int) -> None:
        """Note how many messages have been sent; the file is replaced as a whole."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"plan": fingerprint, "sent": sent}) + "\n", encoding="utf-8")
        temporary.replace(self.file)


class Replay:
    """Sends a plan.

    Parameters
    ----------
    plan : Plan
        Messages.
    sink : Sink
        Where they go.
    speed : float, optional
        Event time over wall time: 1 as it happened, 300 an hour in twelve seconds; None as fast as it goes.
    progress : Progress, optional
        Where to note how far it came.
    clock, sleep : callable
        Seconds that never go back, and waiting.

    Attributes
    ----------
    sent : int
        Messages that have been handed over, those of earlier runs included.
    """

    def __init__(
        self,
        plan: Plan,
        sink: Sink,
        *,
        speed: SpeedOption = None,
        progress: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.plan = plan
        self.sink = sink
        self.speed = speed
        self.progress = progress
        self._clock = clock
        self._sleep = sleep
        self._fingerprint = plan.fingerprint if progress else ""
        self.sent = progress.read(self._fingerprint) if progress else 0
        self._safe = self.sent
        self._flushed_s = 0.0

    def run(self, on_progress: Callable[[int, int], None] | None = None) -> int:
        """Send what has not been sent.

        Parameters
        ----------
        on_progress : callable, optional
            Told at every flush: messages sent, event time reached (ms since the epoch).

        Returns
        -------
        int
            Messages sent by this call. Also when it is interrupted, what was handed over is flushed and noted.

        Raises
        ------
        TransportError
            When the transport is away for longer than it bridges by itself.
        """
        before, time_ms = self.sent, self.plan.first_ms
        began_s, began_ms = self._clock(), None
        self._flushed_s = began_s
        try:
            for message in self.plan.messages(self.sent):
                if self.speed is not None:
                    began_ms = message.time_ms if began_ms is None else began_ms
                    self._wait_until(began_s + (message.time_ms - began_ms) / 1000.0 / self.speed)
                self.sink.send(message.topic, message.value, key=message.key)
                self.sent += 1
                time_ms = message.time_ms
                if self.sent - self._safe >= _FLUSH_MESSAGES:
                    self._flush()
                    if on_progress is not None:
                        on_progress(self.sent, time_ms)
        finally:
            self._flush()
        if on_progress is not None:
            on_progress(self.sent, time_ms)
        return self.sent - before

    def _wait_until(self, moment_s: float) -> None:
        """Wait; whatever was handed over is flushed before, so that it does not lie until the next message."""
        while (left_s := moment_s - self._clock()) > 0:
            if self.sent > self._safe and (
                left_s > _LONGEST_SLEEP_S / 10 or self._clock() - self._flushed_s > _FLUSH_S
            ):
                self._flush()
                continue
            self._sleep(min(left_s, _LONGEST_SLEEP_S))

    def _flush(self) -> None:
        if self.sent == self._safe:
            return
        self.sink.flush()
        self._safe, self._flushed_s = self.sent, self._clock()
        if self.progress is not None:
            self.progress.write(self._fingerprint, self.sent)
