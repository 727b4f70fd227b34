"""Values on the command line that click's own types do not hold to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

__all__ = ["Moment", "PositiveNumber"]

_YEARS_9999_MS = 253_402_300_800_000


class Moment(click.ParamType[int]):
    """A point in time as ms since the epoch: ISO 8601 (UTC unless it says otherwise), or that number itself."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Convert a word to the moment."""
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdigit() and len(value) > 8 and int(value) < _YEARS_9999_MS:
            return int(value)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time like 2026-03-01, 2026-03-01T12:30:00Z or 1772368200000.", param, ctx)
        return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


class PositiveNumber(click.FloatRange):
    """A number above 0, up to `most`; not NaN, which compares with nothing and so passes every range of click's."""

    def __init__(self, most: float = 1e6) -> None:
        super().__init__(min=0, max=most, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert a word to the number."""
        number: float = super().convert(value, param, ctx)
        if number != number:  # noqa: PLR0124 - the definition of NaN
            self.fail(f"{value} is not a number above 0.", param, ctx)
        return number
