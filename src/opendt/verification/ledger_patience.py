"""Waiting for something that is away: bounded exponential backoff, and one word when it goes and one when it is back."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, TypeVar

from opendt.model.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Away", "Patience", "Waiting"]

T = TypeVar("T")


class Away(Exception):  # noqa: N818 - a state of things, not a defect
    """What was tried may do when it is tried again; its text says why it did not."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, and how often to try.

    Attributes
    ----------
    limit_s : float
        Time after which an attempt is given up, seconds; 0 tries once, infinity for ever.
    first_s, longest_s : float
        First pause, which doubles each time, and the longest one, seconds.
    """

    limit_s: float = 300.0
    first_s: float = 0.05
    longest_s: float = 2.0


class Waiting:
    """Runs attempts until they succeed or patience is at its end.

    Parameters
    ----------
    patience : Patience
        How long.
    monotonic_s : callable
        A clock that never goes back, seconds.
    sleep : callable
        Waits, seconds; an exception of it ends the waiting.
    on_trouble : callable, optional
        Told once when the ledger goes away, and once when it is back. It must not use the ledger.
    """

    def __init__(
        self,
        patience: Patience,
        *,
        monotonic_s: Callable[[], float],
        sleep: Callable[[float], None],
        on_trouble: Callable[[str], None] | None,
    ) -> None:
        self._patience = patience
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._on_trouble = on_trouble
        self._in_trouble = False

    def run(self, attempt: Callable[[], T]) -> T:
        """Try until it works.

        Raises
        ------
        LedgerError
            When it was `Away` for longer than patience lasts.
        """
        since_s: float | None = None
        pause_s = self._patience.first_s
        while True:
            try:
                result = attempt()
            except Away as error:
                since_s = self._monotonic_s() if since_s is None else since_s
                if not self._in_trouble:
                    self._in_trouble = True
                    limit_s = self._patience.limit_s
                    until = f"for up to {limit_s:g} s" if isfinite(limit_s) else "until it is back"
                    self._tell(f"{error}; trying again {until}")
                waited_s = self._monotonic_s() - since_s
                left_s = self._patience.limit_s - waited_s
                if left_s <= 0:
                    raise LedgerError(
                        f"{error}; given up after {waited_s:.0f} s. Nothing was recorded by half."
                    ) from None
                self._sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, self._patience.longest_s)
            else:
                if self._in_trouble:
                    self._in_trouble = False
                    self._tell("the ledger is back")
                return result

    def _tell(self, text: str) -> None:
        if self._on_trouble is not None:
            self._on_trouble(text)
