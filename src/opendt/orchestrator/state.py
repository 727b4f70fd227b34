"""What the faces see of the loop: one record, written by the loop alone, read by anyone at any time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

__all__ = ["LiveState", "OrchestratorState", "default_state_dict"]

_STOPPED: Final = "stopped"


@dataclass(slots=True, kw_only=True)
class OrchestratorState:
    """State of the loop of one datacenter. Times are ms since the epoch (UTC) in event time.

    Attributes
    ----------
    status : str
        ``stopped``, ``starting``, ``running``, ``draining``, ``waiting`` (for streams or the ledger) or ``failed``.
    cycle_count : int
        Turns of the loop since it began to follow this datacenter, those before a restart included.
    current_topology : dict, optional
        As in its file.
    slo_targets : dict
        As in their file.
    window_baseline_score, window_best_score : float, optional
        Score of the last window with the current topology, and the lowest of a certified candidate; lower is better.
    datacenter : str
        Name.
    environment, mode : str
        As set.
    topology_version, slo_version : int, optional
        Numbers of the versions in force.
    origin_ms : int, optional
        Where window 0 begins.
    window_index : int, optional
        The last window that closed.
    window_end_ms : int, optional
        Its end.
    watermark_ms : int, optional
        How far the streams have come.
    lag_ms : int, optional
        Watermark less the end of the last window: how far the twin is behind what has come.
    late_count, duplicate_count, dead_letter_count : int
        Records since the beginning.
    power_w, predicted_power_w : float, optional
        Mean of the last window, measured and of the twin.
    energy_kwh : float, optional
        Of the twin since the beginning.
    last_metrics : dict
        Of the last window.
    last_forecasts : dict
        The latest of each kind, with its band.
    last_proposal : dict, optional
        The latest with its certificate and decision.
    trust_level : str
        What may be done without a person.
    last_error : str, optional
        The last trouble, in words.
    """

    status: str = _STOPPED
    cycle_count: int = 0
    current_topology: dict[str, Any] | None = None
    slo_targets: dict[str, Any] = field(default_factory=dict)
    window_baseline_score: float | None = None
    window_best_score: float | None = None
    datacenter: str = ""
    environment: str = ""
    mode: str = ""
    topology_version: int | None = None
    slo_version: int | None = None
    origin_ms: int | None = None
    window_index: int | None = None
    window_end_ms: int | None = None
    watermark_ms: int | None = None
    lag_ms: int | None = None
    late_count: int = 0
    duplicate_count: int = 0
    dead_letter_count: int = 0
    power_w: float | None = None
    predicted_power_w: float | None = None
    energy_kwh: float | None = None
    last_metrics: dict[str, Any] = field(default_factory=dict)
    last_forecasts: dict[str, Any] = field(default_factory=dict)
    last_proposal: dict[str, Any] | None = None
    trust_level: str = ""
    last_error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data of its own, ready for JSON."""
        return asdict(self)


def default_state_dict() -> dict[str, Any]:
    """The state before anything happened, as plain data."""
    return OrchestratorState().as_dict()


class LiveState:
    """Holds the state for one writer and any number of readers.

    A change makes a new record and puts it in the old one's place, so a reader has all of a turn or nothing of it. What the
    writer hands over (dicts, lists) it does not change afterwards.
    """

    def __init__(self, state: OrchestratorState | None = None) -> None:
        self._state = state or OrchestratorState()
        self._writing = threading.Lock()

    def update(self, changes: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Change several values at once.

        Raises
        ------
        TypeError
            When there is no value of that name; nothing is changed then.
        """
        with self._writing:
            self._state = replace(self._state, **{**(changes or {}), **more})

    def read(self) -> OrchestratorState:
        """A consistent copy; the dicts in it are shared and not to be changed."""
        return replace(self._state)

    def as_dict(self) -> dict[str, Any]:
        """A consistent copy as plain data."""
        return self._state.as_dict()
