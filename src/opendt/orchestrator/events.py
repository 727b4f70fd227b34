"""The bus: everything that happens is an event, and whoever cares is told of it, in order.

`EventBus.publish` is synchronous: when it returns, all subscribers have been told, unless another thread (or a subscriber) was
publishing at that moment; then that one tells them. So events reach everyone one at a time and in one order.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from opendt.orchestrator.event_types import EVENT_TYPES, Event, EventsDropped, SubscriberFailed, event_from_dict

__all__ = ["EVENT_TYPES", "Event", "EventBus", "Notice", "event_from_dict"]

_RECENT: Final = 1000
_PENDING: Final = 10_000


@dataclass(frozen=True, slots=True)
class Notice:
    """An event with what is no function of the inputs.

    Attributes
    ----------
    number : int
        Rises by 1 with each event of this process, from 1.
    recorded_ms : int
        Wall clock when it was published, ms since the epoch.
    event : Event
        The event.
    """

    number: int
    recorded_ms: int
    event: Event

    def as_dict(self) -> dict[str, Any]:
        """Plain data; the wall clock stands beside the event, not in it."""
        return {"number": self.number, "recorded_ms": self.recorded_ms, "event": self.event.as_dict()}


Subscriber = Callable[[Notice], None]


class EventBus:
    """Tells subscribers of events.

    Parameters
    ----------
    clock_ms : callable, optional
        Wall clock, ms since the epoch.
    recent, pending : int
        How many events are remembered, and how many may wait to be told; what is more is counted in an `EventsDropped`.
    """

    def __init__(
        self, clock_ms: Callable[[], int] | None = None, *, recent: int = _RECENT, pending: int = _PENDING
    ) -> None:
        self._clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)
        self._lock = threading.Lock()
        self._subscribers: tuple[tuple[Subscriber, frozenset[str] | None], ...] = ()
        self._recent: deque[Notice] = deque(maxlen=recent)
        self._pending: deque[tuple[Notice, Subscriber | None]] = deque()
        self._limit = pending
        self._dropped = 0
        self._number = 0
        self._is_telling = False
        self._teller = 0  # thread that tells
        self._told: Subscriber | None = None  # who is being told

    def subscribe(self, subscriber: Subscriber, kinds: Collection[str] | None = None) -> Callable[[], None]:
        """Tell somebody of events from now on.

        Parameters
        ----------
        subscriber : callable
            Told of each event; an error that it raises harms nobody else and is an event itself.
        kinds : collection of str, optional
            Only of these kinds.

        Returns
        -------
        callable
            Ends the subscription; more than one call does no harm.
        """
        entry = (subscriber, None if kinds is None else frozenset(kinds))
        with self._lock:
            self._subscribers = (*self._subscribers, entry)

        def end() -> None:
            with self._lock:
                self._subscribers = tuple(other for other in self._subscribers if other is not entry)

        return end

    def publish(self, event: Event, *, at_once: bool = False) -> None:
        """Tell everyone of an event; raises nothing of what subscribers raise.

        Parameters
        ----------
        event : Event
            What happened.
        at_once : bool
            Whether an event that comes from within a subscriber is told before that one is done, to everyone but it: for what
            keeps it from getting done.
        """
        with self._lock:
            is_mine = self._is_telling and self._teller == threading.get_ident()
            if at_once and is_mine:
                notice, told, subscribers = self._noticed(event), self._told, self._subscribers
            else:
                self._add(event, None)
                if self._is_telling:
                    return  # by whoever is telling now, after the events before it
                self._is_telling = True
                self._teller = threading.get_ident()
        if at_once and is_mine:
            self._tell_all(notice, told, subscribers)
            self._told = told
        else:
            self._tell()

    @property
    def published(self) -> int:
        """Number of the last event, whether or not everyone was told of it yet."""
        with self._lock:
            return self._number

    def recent(self, count: int | None = None) -> list[Notice]:
        """The last events, oldest first."""
        with self._lock:
            notices = list(self._recent)
        return notices if count is None else notices[len(notices) - min(count, len(notices)) :]

    def _add(self, event: Event, not_to: Subscriber | None) -> None:
        """Number an event and let it wait; the lock is held."""
        if len(self._pending) >= self._limit:
            self._dropped += 1
            return
        self._pending.append((self._noticed(event), not_to))

    def _noticed(self, event: Event) -> Notice:
        """Number an event and remember it; the lock is held."""
        self._number += 1
        notice = Notice(self._number, self._clock_ms(), event)
        self._recent.append(notice)
        return notice

    def _tell(self) -> None:
        try:
            while True:
                with self._lock:
                    if not self._pending and self._dropped:
                        count, self._dropped = self._dropped, 0
                        self._add(EventsDropped(count=count, limit=self._limit), None)
                    if not self._pending:
                        self._is_telling = False
                        return
                    notice, not_to = self._pending.popleft()
                    subscribers = self._subscribers
                self._tell_all(notice, not_to, subscribers)
        except BaseException:  # Ctrl-C within a subscriber: the next to publish tells the rest
            with self._lock:
                self._is_telling = False
            raise

    def _tell_all(
        self,
        notice: Notice,
        not_to: Subscriber | None,
        subscribers: tuple[tuple[Subscriber, frozenset[str] | None], ...],
    ) -> None:
        for subscriber, kinds in subscribers:
            if subscriber is not not_to and (kinds is None or notice.event.kind in kinds):
                self._told = subscriber
                self._tell_one(subscriber, notice)

    def _tell_one(self, subscriber: Subscriber, notice: Notice) -> None:
        try:
            subscriber(notice)
        except Exception as error:  # noqa: BLE001 - whoever listens must not stop the loop
            if isinstance(notice.event, SubscriberFailed):
                return  # a chain of failures ends here
            failed = SubscriberFailed(
                datacenter=notice.event.datacenter,
                time_ms=notice.event.time_ms,
                subscriber=getattr(subscriber, "__qualname__", type(subscriber).__name__),
                event_kind=notice.event.kind,
                reason=f"{type(error).__name__}: {error}",
            )
            with self._lock:
                self._add(failed, subscriber)  # everyone but the one that failed
