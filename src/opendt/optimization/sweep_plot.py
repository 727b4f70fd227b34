"""A sweep as pictures: for each pair of axes an SVG file, drawn without any library, with a panel for each quantity.

A dot is a point of the pair; its colour is the mean of the quantity over all rows there, whatever their other axes and seeds.
A sweep of one axis has the quantity itself on the upright axis, and a dot for each row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

__all__ = ["QUANTITIES", "pair_plots"]

QUANTITIES: Final = (
    ("energy_j", "energy, kWh", 3.6e6),
    ("emission_g", "carbon, kg", 1000.0),
    ("p95_wait_ms", "wait (p95), s", 1000.0),
    ("makespan_ms", "makespan, h", 3.6e6),
    ("mean_utilization_ratio", "utilisation, %", 0.01),
    ("tasks_terminated", "terminated tasks", 1.0),
)
"""Column, words and divisor of what is drawn; those that are the same in all rows are left out."""

_WIDTH, _HEIGHT = 330, 300
_LEFT, _TOP, _RIGHT, _BOTTOM = 78, 44, 16, 50
_BAR_HEIGHT: Final = 6
_MOST_TICKS: Final = 6
# Cividis (Nuñez, Anderton and Renslow, PLoS ONE 13, 2018): even in lightness, and the same to the colour-blind.
_COLOURS: Final = ((0, 34, 78), (61, 77, 108), (124, 123, 120), (187, 173, 108), (254, 232, 56))
_STYLE: Final = """<style>
text { font: 12px system-ui, sans-serif; fill: #555 } .title { font-weight: 600 }
.axis { stroke: #999 } .grid { stroke: #9993 } .dot { stroke: #9999; stroke-width: .5 }
@media (prefers-color-scheme: dark) { text { fill: #bbb } }
</style>"""


def pair_plots(table: pa.Table, axes: Sequence[str]) -> dict[str, str]:
    """Draw the table of a sweep.

    Parameters
    ----------
    table : pyarrow.Table
        As `opendt.optimization.sweep_run.result_table` makes it.
    axes : sequence of str
        Its axes; those with one value are left out.

    Returns
    -------
    dict
        File name -> SVG document; the same table gives the same text. Empty when no axis or no quantity varies.
    """
    columns = {axis: table.column(axis).to_pylist() for axis in axes}
    varied = [axis for axis in axes if len(set(columns[axis])) > 1]
    quantities = []
    for name, words, divisor in QUANTITIES:
        values = [value / divisor for value in table.column(name).to_pylist()]
        if len(set(values)) > 1:
            quantities.append((words, values))
    if not quantities or not varied:
        return {}
    if len(varied) == 1:
        x = _Scale.of(columns[varied[0]], _LEFT, _WIDTH - _RIGHT)
        panels = [_curve(x, columns[varied[0]], words, values) for words, values in quantities]
        return {f"{_file_name(varied[0])}.svg": _document(varied[0], varied[0], panels)}
    plots: dict[str, str] = {}
    for first, second in combinations(varied, 2):
        panels = [_map(columns[first], columns[second], second, words, values) for words, values in quantities]
        name = f"{_file_name(first)}--{_file_name(second)}"
        if f"{name}.svg" in plots:  # names that differ in what a file name cannot hold
            name = f"{name}-{len(plots)}"
        plots[f"{name}.svg"] = _document(f"{first} and {second}", first, panels)
    return plots


def _file_name(axis: str) -> str:
    return re.sub(r"[^\w.-]+", "_", axis)[:80]


def _document(title: str, x_words: str, panels: Sequence[str]) -> str:
    width, height = _WIDTH * len(panels), _HEIGHT
    label = f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">{_short(x_words)}</text>'
    body = "".join(
        f'<g transform="translate({number * _WIDTH} 0)">{panel}{label}</g>' for number, panel in enumerate(panels)
    )
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}><title>{escape(title)}</title>{_STYLE}{body}</svg>\n'


def _map(xs: Sequence[Any], ys: Sequence[Any], y_words: str, words: str, values: Sequence[float]) -> str:
    """One pair of axes with dots coloured by the mean of a quantity."""
    cells: dict[tuple[Any, Any], list[float]] = {}
    for x, y, value in zip(xs, ys, values, strict=True):
        cells.setdefault((x, y), []).append(value)
    means = {place: sum(found) / len(found) for place, found in cells.items()}
    least, most = min(means.values()), max(means.values())
    x_scale = _Scale.of(xs, _LEFT, _WIDTH - _RIGHT)
    y_scale = _Scale.of(ys, _HEIGHT - _BOTTOM, _TOP)
    radius = 7 if len(means) <= 100 else 4
    parts = [_title(words, least, most), _short_label(y_words), *_grid(x_scale, y_scale)]
    for (x, y), mean in means.items():
        colour = _colour((mean - least) / (most - least) if most > least else 0.0)
        tip = f"{x}, {y}: {mean:.6g}"
        parts.append(
            f'<circle class="dot" cx="{x_scale.at(x):.1f}" cy="{y_scale.at(y):.1f}" r="{radius}" fill="{colour}">'
            f"<title>{escape(tip)}</title></circle>"
        )
    return "".join(parts)


def _curve(x_scale: _Scale, xs: Sequence[Any], words: str, values: Sequence[float]) -> str:
    """A quantity over the only axis."""
    y_scale = _Scale.of(values, _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<text class="title" x="{_LEFT}" y="16">{words}</text>', *_grid(x_scale, y_scale)]
    parts += [
        f'<circle class="dot" cx="{x_scale.at(x):.1f}" cy="{y_scale.at(value):.1f}" r="4" fill="{_colour(0.3)}">'
        f"<title>{escape(f'{x}: {value:.6g}')}</title></circle>"
        for x, value in zip(xs, values, strict=True)
    ]
    return "".join(parts)


def _title(words: str, least: float, most: float) -> str:
    """Name of the quantity, and the colours from its least to its most."""
    shown = f'<text class="title" x="{_LEFT}" y="16">{words}</text>'
    width = (_WIDTH - _RIGHT - _LEFT) / 2
    start, steps = _WIDTH - _RIGHT - width, 24
    bar = "".join(
        f'<rect x="{start + width * step / steps:.1f}" y="20" width="{width / steps + 0.3:.1f}" height="{_BAR_HEIGHT}" '
        f'fill="{_colour(step / (steps - 1))}"/>'
        for step in range(steps)
    )
    ends = f'<text x="{start:.0f}" y="16">{least:.4g}</text>'
    return f'{shown}{bar}{ends}<text x="{_WIDTH - _RIGHT}" y="16" text-anchor="end">{most:.4g}</text>'


def _short_label(words: str) -> str:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    place = f'x="12" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 12 {middle:.0f})"'
    return f"<text {place}>{_short(words)}</text>"


def _short(words: Any, most: int = 34) -> str:
    text = str(words)
    return escape(text if len(text) <= most else f"…{text[-most + 1 :]}")


def _grid(x_scale: _Scale, y_scale: _Scale) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>']
    for level in y_scale.ticks:
        y = y_scale.at(level)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(level)}</text>')
    parts.extend(
        f'<text x="{x_scale.at(level):.1f}" y="{bottom + 16}" text-anchor="middle">{_tick(level)}</text>'
        for level in x_scale.ticks
    )
    return parts


def _tick(level: Any) -> str:
    return f"{level:g}" if isinstance(level, int | float) and not isinstance(level, bool) else _short(level, 8)


@dataclass(frozen=True)
class _Scale:
    """From values to places in the drawing: a line for numbers, equal steps in the order of the sweep for anything else."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Any, ...]
    places: dict[Any, int] | None = None

    @classmethod
    def of(cls, values: Sequence[Any], start: float, end: float) -> _Scale:
        """Cover the values."""
        distinct = list(dict.fromkeys(values))
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in distinct):
            places = {value: number for number, value in enumerate(distinct)}
            every = -(-len(distinct) // _MOST_TICKS)
            return cls(-0.5, len(distinct) - 0.5, start, end, tuple(distinct[::every]), places)
        low, high = min(distinct), max(distinct)
        margin = 0.06 * ((high - low) or abs(high) or 1.0)
        # A grid's own values where they are few, else round numbers.
        ticks = sorted(distinct) if len(distinct) <= _MOST_TICKS else _round_levels(low, high)
        return cls(low - margin, high + margin, start, end, tuple(ticks))

    def at(self, value: Any) -> float:
        """Place of a value."""
        number = float(value) if self.places is None else float(self.places[value])
        return self.start + (self.end - self.start) * (number - self.low) / (self.high - self.low)


def _round_levels(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside a range, at most six."""
    step = 10.0 ** int(f"{high - low:e}".split("e")[1])
    size = next(
        step * factor for factor in (0.2, 0.5, 1, 2, 5, 10) if (high - low) / (step * factor) <= _MOST_TICKS - 1
    )
    first = -int(-low // size)
    levels = (float(f"{(first + number) * size:.12g}") for number in range(_MOST_TICKS + 1))
    return [level for level in levels if low <= level <= high]


def _colour(share: float) -> str:
    """Colour of a share from 0 to 1."""
    place = min(max(share, 0.0), 1.0) * (len(_COLOURS) - 1)
    left = min(int(place), len(_COLOURS) - 2)
    mixed = (round(a + (b - a) * (place - left)) for a, b in zip(_COLOURS[left], _COLOURS[left + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
