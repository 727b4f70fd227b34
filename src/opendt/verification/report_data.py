"""What the report shows, as records of plain numbers and words: filled by the loop, read by :mod:`opendt.verification.report`.

Times are integer ms since the first submission, ascending. Text may hold anything (names come from files): it is escaped
when it is written. A part that is empty or None is left out of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from opendt.verification.score import ForecastScore

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = [
    "CurveComparison",
    "Disturbance",
    "Effect",
    "EventRow",
    "Fact",
    "Predictions",
    "ProposalRow",
    "ReportData",
    "Series",
    "SloRow",
]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Predictions:
    """All predictions of one kind, one per target.

    Attributes
    ----------
    issued_ms, target_ms : ndarray of int
        When each was made, and the time it is about (ascending, later than the former).
    power_w, lower_w, upper_w, persistence_w : ndarray
        Forecast, its 90 % band, and the last power measured when it was issued (NaN where none was), in W.
    """

    issued_ms: Integers
    target_ms: Integers
    power_w: Floats
    lower_w: Floats
    upper_w: Floats
    persistence_w: Floats


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CurveComparison:
    """Power of one host of a class against its utilisation: what the datasheet says and what was learned, in W."""

    class_name: str
    host_count: int
    utilization: Floats
    datasheet_w: Floats
    learned_w: Floats


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Disturbance:
    """The decaying disturbance that stands beside the curves, of all hosts together, in W."""

    time_ms: Integers
    power_w: Floats


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Series:
    """The simulated system over time, sampled at `time_ms`.

    Attributes
    ----------
    energy_j, emission_g : ndarray
        Totals since the start, in J and g CO2.
    intensity_g_per_kwh : ndarray
        Carbon intensity of the grid; NaN where unknown.
    utilization_ratio : ndarray
        Mean CPU utilisation of the hosts that are up, 0 to 1.
    tasks_active, tasks_pending : ndarray
        Tasks that run, and that wait for a host.
    """

    time_ms: Integers
    energy_j: Floats
    emission_g: Floats
    intensity_g_per_kwh: Floats
    utilization_ratio: Floats
    tasks_active: Integers
    tasks_pending: Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class SloRow:
    """One objective.

    Attributes
    ----------
    name, target, measured : str
        In words with units: "Energy per window", "at most 2.0 kWh", "1.81 kWh (mean)".
    met_windows, checked_windows : int
        Windows in which it was met, of those in which it could be checked.
    breached_ms : sequence of int
        Starts of the windows in which it was not.
    """

    name: str
    target: str
    measured: str
    met_windows: int
    checked_windows: int
    breached_ms: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a proposal changes in one quantity, simulated on a pair of forks: without it and with it."""

    name: str
    unit: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalRow:
    """One proposal.

    Attributes
    ----------
    time_ms : int
        When it was made.
    source, reason, change : str
        Who proposed it, why in plain words, and what would change.
    effects : sequence of Effect
        Energy, power, wait, makespan.
    slos_hold : bool or None
        Whether all objectives would hold with it; None where that was not simulated.
    status : str
        What became of it ("proposed", "refused", "applied", ...).
    """

    time_ms: int
    source: str
    reason: str
    change: str
    effects: Sequence[Effect] = ()
    slos_hold: bool | None = None
    status: str = "proposed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """Something the twin noticed about itself."""

    time_ms: int
    kind: Literal["drift", "step", "rollback", "meter", "note"]
    text: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of the footer: which group it stands in ("Versions", "Inputs", "Settings"), its name, its value."""

    group: str
    name: str
    value: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ReportData:
    """All that the report shows.

    Attributes
    ----------
    title, summary : str
        Name of what was replayed ("surf-week"), and a sentence on it (hosts, tasks, cores).
    end_ms, window_ms : int
        How long the run was, and the length of its windows.
    windows : int
        Windows that were closed.
    wall_s : float
        How long the run took, in s of the wall clock.
    start_epoch_ms : int or None
        Moment of the first submission in ms UTC; None where the trace does not say.
    utc_offset_ms : int
        Local time minus UTC; clock times on the page are local.
    measured_time_ms, measured_w : ndarray
        Measured power of all hosts together, in W; NaN where it was not measured.
    kinds, scores : mapping
        Per kind of forecast ("hour", "window", "blind_hour"), in the order to be shown.
    """

    title: str
    summary: str
    end_ms: int
    window_ms: int
    windows: int
    wall_s: float
    measured_time_ms: Integers
    measured_w: Floats
    kinds: Mapping[str, Predictions]
    scores: Mapping[str, ForecastScore]
    start_epoch_ms: int | None = None
    utc_offset_ms: int = 0
    curves: Sequence[CurveComparison] = ()
    disturbance: Disturbance | None = None
    series: Series | None = None
    slo_rows: Sequence[SloRow] = ()
    proposals: Sequence[ProposalRow] = ()
    events: Sequence[EventRow] = ()
    facts: Sequence[Fact] = field(default=())
