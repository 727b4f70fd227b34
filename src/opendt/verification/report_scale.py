"""Axes and words of the report: round ticks, days and hours, numbers with units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Axis", "Calendar", "Tick", "number", "percent", "round_axis", "signed_percent"]

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
_THIN: Final = "\u202f"  # narrow, no break: groups thousands in every language


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis: a label, a rule across the drawing, or both; a minor label is left out where there is little room."""

    value: float
    label: str
    minor: bool = False
    rule: bool = True


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis.

    Attributes
    ----------
    low, high : float
        Its ends, low < high.
    ticks : tuple of Tick
        Its marks.
    unit : str
        Unit of the labels.
    """

    low: float
    high: float
    ticks: tuple[Tick, ...]
    unit: str = ""

    def share(self, value: float) -> float:
        """Where a value stands: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


def round_axis(low: float, high: float, *, count: int = 4, unit: str = "", factor: float = 1.0) -> Axis:
    """Make an axis that ends on round ticks.

    Parameters
    ----------
    low, high : float
        Range that must fit.
    count : int
        About how many intervals.
    unit, factor : str, float
        Labels are value x `factor`, in `unit`; the axis itself stays in the unit of the data.

    Examples
    --------
    >>> [tick.label for tick in round_axis(14_480, 28_300, unit="kW", factor=0.001).ticks]
    ['10', '15', '20', '25', '30']
    """
    low, high = low * factor, high * factor
    if not high > low:
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1.0, 2.0, 2.5, 5.0) if m * power >= rough * 0.999), 10.0 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(step / 10.0**-digits - round(step / 10.0**-digits)) > 1e-6:
        digits += 1
    ticks = tuple(
        Tick(i * step / factor, f"{_plain(i * step, digits)}", minor=bool((i - first) % 2))
        for i in range(first, last + 1)
    )
    return Axis(first * step / factor, last * step / factor, ticks, unit)


@dataclass(frozen=True, slots=True)
class Calendar:
    """Words for times in ms since the start.

    Parameters
    ----------
    start_epoch_ms : int or None
        The start in ms UTC; None counts days from 1.
    utc_offset_ms : int
        Local time minus UTC.
    """

    start_epoch_ms: int | None
    utc_offset_ms: int = 0

    @property
    def zone(self) -> str:
        """How the clock is named: ``UTC``, ``UTC+2``, or ``since the start``."""
        if self.start_epoch_ms is None:
            return "since the start"
        minutes = self.utc_offset_ms // 60_000
        hours, rest = divmod(abs(minutes), 60)
        return "UTC" + (f"{'+' if minutes > 0 else '−'}{hours}{f':{rest:02}' if rest else ''}" if minutes else "")

    @property
    def local_start_ms(self) -> int:
        """Local wall-clock time of the start, as ms since 1970; 0 where it is unknown."""
        return 0 if self.start_epoch_ms is None else self.start_epoch_ms + self.utc_offset_ms

    def moment(self, time_ms: float) -> str:
        """A day and a time: ``Fri 7 Oct 14:30``, or ``Day 2 14:30``."""
        local = self._local(time_ms)
        return f"{self.day(time_ms)} {local:%H:%M}"

    def day(self, time_ms: float) -> str:
        """A day: ``Fri 7 Oct``, or ``Day 2``."""
        local = self._local(time_ms)
        if self.start_epoch_ms is None:
            return f"Day {int(time_ms // DAY_MS) + 1}"
        return f"{local:%a} {local.day} {local:%b}"

    def date(self, time_ms: float) -> str:
        """A day with its year; empty where it is unknown."""
        local = self._local(time_ms)
        return "" if self.start_epoch_ms is None else f"{local.day} {local:%B %Y}"

    def run_day(self, day: int, *, short: bool = False) -> str:
        """Name a day of the run (24 h since the start, from 0) by the calendar's day that holds most of it."""
        middle = (day + 0.5) * DAY_MS
        return self.short_day(middle) if short else self.day(middle)

    def axis(self, low_ms: int, high_ms: int) -> Axis:
        """An axis of time: a rule at each midnight with the day's name in its middle, or, up to two days, hours."""
        span = high_ms - low_ms
        if span > 2 * DAY_MS:
            return Axis(low_ms, high_ms, tuple(self._day_ticks(low_ms, high_ms, -(-span // (12 * DAY_MS)))))
        step = max(1, round(span / HOUR_MS / 8)) * HOUR_MS
        first = -(-(low_ms + self.local_start_ms) // step) * step - self.local_start_ms
        times = enumerate(range(first, high_ms + 1, step))
        return Axis(
            low_ms, high_ms, tuple(Tick(time, f"{self._local(time):%H:%M}", minor=bool(i % 2)) for i, time in times)
        )

    def _day_ticks(self, low_ms: int, high_ms: int, every: int) -> Iterator[Tick]:
        """Rules at midnight; a day is named when at least half of it is there, each `every` days."""
        midnight = (low_ms + self.local_start_ms) // DAY_MS * DAY_MS - self.local_start_ms
        for i, start in enumerate(range(midnight, high_ms, DAY_MS)):
            if start > low_ms:
                yield Tick(start, "")
            left, right = max(start, low_ms), min(start + DAY_MS, high_ms)
            if i % every == 0 and right - left >= DAY_MS // 2:
                yield Tick((left + right) / 2, self.short_day(left), rule=False)

    def short_day(self, time_ms: float) -> str:
        """A day in few letters: ``Fri 7``, or ``Day 2``."""
        return self.day(time_ms) if self.start_epoch_ms is None else self.day(time_ms).rsplit(" ", 1)[0]

    def _local(self, time_ms: float) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self.local_start_ms + time_ms)


def number(value: float, digits: int = 0) -> str:
    r"""Write a number with grouped thousands, or a dash where there is none.

    Examples
    --------
    >>> number(3651.26, 1), number(float("nan"))
    ('3\u202f651.3', '–')
    """
    return _plain(value, digits) if math.isfinite(value) else "–"


def percent(ratio: float | None, digits: int = 1) -> str:
    r"""Write a ratio as a percentage, with a space that does not break.

    Examples
    --------
    >>> percent(0.00975, 2)
    '0.97\xa0%'
    """
    return "–" if ratio is None or not math.isfinite(ratio) else f"{_plain(100 * ratio, digits)}\u00a0%"


def signed_percent(ratio: float | None, digits: int = 1) -> str:
    """Write a ratio as a percentage with its sign."""
    text = percent(ratio, digits)
    return text if ratio is None or not ratio > 0 or text == "–" else f"+{text}"


def _plain(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}".replace(",", _THIN)
    if text.startswith("-"):
        return text[1:] if not text.strip("-0.") else f"−{text[1:]}"
    return text
