"""Whether a cluster answers: a circuit breaker, driven by probes with a deadline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CircuitBreaker", "HealthSettings"]

_FAILURES: Final = 3


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """How clusters are probed.

    Parameters
    ----------
    interval_s : float
        Time between probes of one cluster.
    deadline_s : float
        What a probe may take; one that takes longer has failed.
    failures : int
        Probes in a row that have to fail before a cluster counts as away. With the defaults that is known 3 s (connections
        refused) to 6 s (no answer at all) after it went.
    """

    interval_s: float = 1.0
    deadline_s: float = 1.0
    failures: int = _FAILURES


class CircuitBreaker:
    """Counts failures in a row; open from the last allowed one until the next success.

    Parameters
    ----------
    failures : int
        How many in a row open it.

    Examples
    --------
    >>> breaker = CircuitBreaker(failures=2)
    >>> breaker.failed(), breaker.is_open, breaker.failed(), breaker.is_open
    (False, False, True, True)
    >>> breaker.failed(), breaker.succeeded(), breaker.is_open, breaker.succeeded()
    (False, True, False, False)
    """

    def __init__(self, failures: int = _FAILURES) -> None:
        self._allowed = failures
        self._failed = 0

    @property
    def is_open(self) -> bool:
        """Whether nothing should be sent."""
        return self._failed >= self._allowed

    @property
    def failed_in_a_row(self) -> int:
        """Failures since the last success."""
        return self._failed

    def failed(self) -> bool:
        """Count a failure; True when it opened the breaker."""
        self._failed += 1
        return self._failed == self._allowed

    def succeeded(self) -> bool:
        """Count a success; True when it closed the breaker."""
        was_open, self._failed = self.is_open, 0
        return was_open
