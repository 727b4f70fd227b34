"""Waiting for what is away: a broker, a disk that is full. Nothing is given up but by whoever asks the process to stop."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

from opendt.model.errors import TransportError
from opendt.orchestrator import event_types as events

if TYPE_CHECKING:
    from collections.abc import Callable

    from opendt.orchestrator.events import EventBus
    from opendt.telemetry.source import Sink

__all__ = ["Patience", "PatientSink", "Stopping"]

T = TypeVar("T")

_FIRST_S: Final = 0.1
_LONGEST_S: Final = 2.0
_SLICE_S: Final = 0.2
_GRACE_S: Final = 2.0


class Stopping(Exception):  # noqa: N818 - a wish of whoever runs the process, not a defect
    """The process was told to stop while it waited for something that is away."""


class Patience:
    """Tries again what a transport refuses, until it works or the process is told to stop.

    Parameters
    ----------
    bus : EventBus
        Told once when something goes wrong and once when it is well again.
    on_wait : callable
        Told again and again, five times a second, what is waited for: a sign of life.
    clock_s, sleep : callable
        Monotonic clock and waiting, s.

    Attributes
    ----------
    reason : str
        Why the process is to stop; empty while it is not.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        on_wait: Callable[[str], None] = lambda _: None,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.reason = ""
        self._bus = bus
        self._on_wait = on_wait
        self._clock_s = clock_s
        self._sleep = sleep

    def stop(self, reason: str) -> None:
        """Ask the process to end; may be called from a signal handler."""
        self.reason = self.reason or reason

    def rest(self, duration_s: float, what: str) -> None:
        """Wait, in slices: a signal handler does not end a sleep.

        Parameters
        ----------
        duration_s : float
            How long, s.
        what : str
            What for, in words.

        Raises
        ------
        Stopping
            When the process is told to stop, also if it was before.
        """
        until_s = self._clock_s() + duration_s
        while not self.reason:
            left_s = until_s - self._clock_s()
            if left_s <= 0:
                return
            self._on_wait(what)
            self._sleep(min(left_s, _SLICE_S))
        raise Stopping(self.reason)

    def run(self, attempt: Callable[[], T]) -> T:
        """Try until it works.

        Parameters
        ----------
        attempt : callable
            What may raise `TransportError`.

        Raises
        ------
        Stopping
            When the process is told to stop before it worked.
        """
        pause_s, began_s = _FIRST_S, None
        while True:
            try:
                result = attempt()
            except TransportError as error:
                if began_s is None:
                    began_s = self._clock_s()
                    self._bus.publish(events.TransportTrouble(reason=str(error)))
                self.rest(pause_s, f"the streams: {error}")
                pause_s = min(2 * pause_s, _LONGEST_S)
                continue
            if began_s is not None:
                self._bus.publish(events.TransportRecovered(after_s=self._clock_s() - began_s))
            return result

    def bounded(self, work: Callable[[], None], what: str) -> None:
        """Run what may block for as long as a broker is away, in a thread of its own that is left behind when we stop.

        Parameters
        ----------
        work : callable
            What may block.
        what : str
            What is waited for meanwhile, in words.

        Raises
        ------
        Stopping
            When it has not ended two seconds after the process was told to stop.
        TransportError
            Of `work`.
        """
        failed: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised again below
                failed.append(error)

        thread = threading.Thread(target=run, name="opendt-flush", daemon=True)
        thread.start()
        stopped_s: float | None = None
        while thread.is_alive():
            thread.join(_SLICE_S)
            if thread.is_alive():
                self._on_wait(what)
            if self.reason and thread.is_alive():
                stopped_s = self._clock_s() if stopped_s is None else stopped_s
                if self._clock_s() - stopped_s > _GRACE_S:
                    raise Stopping(self.reason)
        if failed:
            raise failed[0]


class PatientSink:
    """A sink whose disk may be full and whose broker may be away: it waits; the port `Sink`.

    Parameters
    ----------
    sink : Sink
        Takes the records. What it accepted and could not write it keeps for the next `flush`.
    patience : Patience
        How to wait.
    """

    def __init__(self, sink: Sink, patience: Patience) -> None:
        self._sink = sink
        self._patience = patience
        self._is_left = False  # a flush still runs in a thread that was left behind

    def send(self, topic: str, value: bytes, *, key: str, timestamp_ms: int | None = None) -> None:
        """Hand over a message; see `Sink.send`.

        Raises
        ------
        Stopping
            When it was not taken before the process was told to stop.
        """
        self._patience.run(lambda: self._sink.send(topic, value, key=key, timestamp_ms=timestamp_ms))

    def flush(self) -> None:
        """Wait until everything handed over is safe.

        Raises
        ------
        Stopping
            When it is not, and the process was told to stop.
        """
        if self._is_left:
            raise Stopping(self._patience.reason)
        self._patience.run(lambda: self._bounded(self._sink.flush))

    def close(self) -> None:
        """Free what is held. What cannot be written now is behind the last snapshot, and told again after the next start."""
        if self._is_left:
            return
        try:
            self._patience.run(lambda: self._bounded(self._sink.close))
        except Stopping:
            return

    def _bounded(self, work: Callable[[], None]) -> None:
        try:
            self._patience.bounded(work, "the streams: they have not taken all results yet")
        except Stopping:
            self._is_left = True
            raise
