"""Asking an API server again: which refusals pass, how long to wait, and when to give up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opendt.kubernetes.client import ApiError, ClusterAwayError

if TYPE_CHECKING:
    from opendt.kubernetes.actions import Outcome

__all__ = ["Attempt", "NotYetError", "RetrySettings", "attempt"]

_CONFLICT: Final = 409
_TOO_MANY: Final = 429
_FINAL_CAUSES: Final = ("FieldManagerConflict",)


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """How often something is tried.

    Parameters
    ----------
    deadline_s : float
        For how long, all in all.
    shortest_s, longest_s : float
        Waiting time between two tries where the API server says none; doubled each time.
    """

    deadline_s: float = 10.0
    shortest_s: float = 0.1
    longest_s: float = 2.0


class NotYetError(Exception):
    """It cannot be done now, and may be soon: the reason in one word, then a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of trying: the answer, or why there is none."""

    outcome: Outcome
    attempts: int
    answer: Any = None
    reason: str = ""
    message: str = ""
    status: int = 0


def attempt(
    ask: Callable[[], Any],
    settings: RetrySettings,
    *,
    is_reachable: Callable[[], bool] = lambda: True,
    clock_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Any] = time.sleep,
) -> Attempt:
    """Ask until it is answered, refused for good, or the time is over.

    Conflicts (409, but for fields that somebody else holds), 429 and 5xx are tried again, after what ``Retry-After`` says where it
    says something; so is a cluster that does not answer, until it counts as away. So `ask` must do no harm when it is asked
    twice.

    Parameters
    ----------
    ask : callable
        Asks once; raises `ApiError`, `ClusterAwayError` or `NotYetError`.
    is_reachable : callable
        Whether the cluster counts as reachable; nothing is sent to one that does not.
    """
    began_s, delay_s, count = clock_s(), settings.shortest_s, 0
    last = Attempt("away", 0, reason="ClusterAway", message="its probes fail; nothing was sent")
    while is_reachable():
        count += 1
        try:
            return Attempt("done", count, ask())
        except ApiError as error:
            last = Attempt("failed", count, None, _reason(error), error.message, error.status)
            if not _may_pass(error):
                return Attempt("refused", count, None, last.reason, last.message, error.status)
            wait_s = error.retry_after_s or delay_s
        except NotYetError as error:
            last, wait_s = Attempt("failed", count, None, error.reason, str(error)), delay_s
        except ClusterAwayError as error:
            last, wait_s = Attempt("away", count, None, "ClusterAway", str(error)), delay_s
        if clock_s() + wait_s - began_s > settings.deadline_s:
            return last
        sleep(wait_s)
        delay_s = min(delay_s * 2, settings.longest_s)
    return last


def _may_pass(error: ApiError) -> bool:
    if error.status == _CONFLICT:
        return not any(cause in _FINAL_CAUSES for cause in error.causes)
    return error.status == _TOO_MANY or error.status >= 500


def _reason(error: ApiError) -> str:
    """The cause says more than the reason where there is one: DisruptionBudget rather than TooManyRequests."""
    return next((cause for cause in error.causes if cause), error.reason)
