"""Values on the command line that click's own types do not hold to."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["PositiveNumber"]


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
