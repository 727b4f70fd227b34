"""Charts as inline SVG that stretches with the page, while its words keep their size.

The drawing is an SVG of fixed coordinates stretched to the figure (``preserveAspectRatio="none"``, strokes not scaled); ticks
and labels are HTML beside it, placed in percent. So one drawing serves a phone, a desk and paper, sharp and legible on each,
without script. Colours and strokes are classes of ``report.css``. What the pointer reads off stands beside the drawing as
JSON, for ``report.js``; the same figures are a table under the chart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from opendt.verification.report_scale import Axis

__all__ = ["Chart", "Reading", "details", "table"]

_WIDTH: Final = 1600
_HEIGHT: Final = 600

Mark = Literal["line", "dash", "area", "bar", "dot"]


@dataclass(frozen=True, slots=True)
class Reading:
    """One series under the pointer.

    Parameters
    ----------
    name : str
        As in the legend.
    values : array
        One per place, in the chart's own unit; NaN where there is none.
    upper : array, optional
        For a band: its upper ends, `values` being the lower ones.
    kind : str
        Shown only while this kind of forecast is.
    """

    name: str
    values: ArrayLike
    upper: ArrayLike | None = None
    kind: str = ""


class Chart:
    """A chart that is put together layer by layer.

    Parameters
    ----------
    title : str
        Says what is seen; also the drawing's accessible name.
    x, y : Axis
        Its axes.
    note : str
        A sentence under the title.
    size : {'small', 'medium', 'large'}
        Height.
    """

    def __init__(self, title: str, x: Axis, y: Axis, *, note: str = "", size: str = "medium") -> None:
        self._title, self._x, self._y, self._note, self._size = title, x, y, note, size
        self._layers: list[str] = []
        self._legend: list[str] = []
        self._labels: list[str] = []
        self._reading = ""
        self._below = ""

    def line(
        self, x: ArrayLike, y: ArrayLike, style: str, label: str = "", *, kind: str = "", dash: bool = False
    ) -> None:
        """Draw a line; it breaks at NaN. `kind` ties a layer to a kind of forecast that the reader can choose."""
        name = f"l {style}{' dash' if dash else ''}"
        self._layers.append(f'<path class="{name}{_kind(kind)}" d="{_path(*self._places(x, y))}"/>')
        self._name(style, label, "dash" if dash else "line", kind)

    def area(
        self, x: ArrayLike, low: ArrayLike, high: ArrayLike, style: str, label: str = "", *, kind: str = ""
    ) -> None:
        """Fill between two lines; where either is NaN nothing is filled."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        x_places, low_places = self._places(x, np.where(np.isfinite(high), low, np.nan))
        high_places = self._places(x, np.where(np.isfinite(low), high, np.nan))[1]
        parts = []
        for part in _segments(low_places):
            outline_x = np.concatenate((x_places[part], x_places[part][::-1]))
            parts.append(_path(outline_x, np.concatenate((high_places[part], low_places[part][::-1]))) + "z")
        self._layers.append(f'<path class="a {style}{_kind(kind)}" d="{"".join(parts)}"/>')
        self._name(style, label, "area", kind)

    def bars(self, left: ArrayLike, right: ArrayLike, height: ArrayLike, style: str, label: str = "") -> None:
        """Draw bars from zero, each from `left` to `right` on the x axis."""
        edges = zip(np.asarray(left, float), np.asarray(right, float), np.asarray(height, float), strict=True)
        zero = self._place(0.0, self._y, _HEIGHT, flip=True)
        parts = []
        for low, high, value in edges:
            if math.isfinite(value):
                start, end = (self._place(v, self._x, _WIDTH) for v in (low, high))
                parts.append(f"M{start} {zero}V{self._place(value, self._y, _HEIGHT, flip=True)}H{end}V{zero}z")
        self._layers.append(f'<path class="b {style}" d="{"".join(parts)}"/>')
        self._name(style, label, "bar")

    def dots(self, x: ArrayLike, y: ArrayLike, style: str, label: str = "", *, stems_from: float | None = None) -> None:
        """Draw round dots, with stems from a level of y if wanted."""
        x_places, y_places = self._places(x, y)
        points = [(int(a), int(b)) for a, b in zip(x_places, y_places, strict=True) if math.isfinite(b)]
        if stems_from is not None:
            level = self._place(stems_from, self._y, _HEIGHT, flip=True)
            self._layers.append(f'<path class="l stem {style}" d="{"".join(f"M{a} {level}V{b}" for a, b in points)}"/>')
        # A line of no length with round ends stays a circle, however the drawing is stretched.
        self._layers.append(f'<path class="l dot {style}" d="{"".join(f"M{a} {b}h0" for a, b in points)}"/>')
        self._name(style, label, "dot")

    def zone(self, low: float, high: float, style: str, label: str = "") -> None:
        """Shade a range of y."""
        top, bottom = (self._place(v, self._y, _HEIGHT, flip=True) for v in (high, low))
        self._layers.append(f'<path class="a {style}" d="M0 {top}H{_WIDTH}V{bottom}H0z"/>')
        self._name(style, label, "area")

    def level(self, value: float, style: str, label: str = "") -> None:
        """Draw a horizontal line at a value of y."""
        place = self._place(value, self._y, _HEIGHT, flip=True)
        self._layers.append(f'<path class="l {style}" d="M0 {place}H{_WIDTH}"/>')
        self._name(style, label, "line")

    def flag(self, x: float, label: str) -> None:
        """Mark a place of x with a number or a word that the text explains."""
        share = self._x.share(x)
        if not 0 <= share <= 1:
            return
        place = round(share * _WIDTH)
        self._layers.append(f'<path class="l flag" d="M{place} 0V{_HEIGHT}"/>')
        self._labels.append(f'<span class="flag" style="left:{_percent(share)}">{escape(label)}</span>')

    def label(self, x: float, y: float, text: str, style: str) -> None:
        """Write beside a point of the drawing."""
        left, top = self._x.share(x), 1 - self._y.share(y)
        self._labels.append(
            f'<span class="direct t-{style}" style="left:{_percent(left)};top:{_percent(top)}">{escape(text)}</span>'
        )

    def read(
        self, at: dict[str, Any], series: Sequence[Reading], *, unit: str, factor: float = 1.0, digits: int = 1
    ) -> None:
        """Say what the pointer reads off.

        Parameters
        ----------
        at : dict
            Places: ``{"from": ms, "step": ms, "start": local ms}`` for times (bucket middles), else
            ``{"x": [values in axis units], "labels": [words]}``.
        series : sequence of Reading
            What stands at each place.
        unit, factor, digits : str, float, int
            Values are shown as value x `factor` with so many decimals, in `unit`.
        """
        data = {
            "at": at,
            "axis": [self._x.low, self._x.high],
            "unit": unit,
            "digits": digits,
            "series": [_series(one, factor, digits) for one in series],
        }
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        # In a script element only "</" could end it early: names come from files.
        self._reading = f'<script type="application/json" class="data">{text.replace("<", chr(92) + "u003c")}</script>'

    def below(self, html: str) -> None:
        """Put a table (see `details`) under the chart."""
        self._below = html

    def html(self) -> str:
        """The whole figure."""
        title, note = escape(self._title), f'<p class="note">{escape(self._note)}</p>' if self._note else ""
        legend = (
            f'<ul class="legend">{"".join(self._legend)}</ul>' if len(self._legend) > 1 else ""
        )  # one series is named by the title
        x_ticks = "".join(
            f'<span style="left:{_percent(self._x.share(t.value))}"{_minor(t.minor)}>{escape(t.label)}</span>'
            for t in self._x.ticks
            if t.label
        )
        y_ticks = "".join(
            f'<span style="top:{_percent(1 - self._y.share(t.value))}">{escape(t.label)}</span>' for t in self._y.ticks
        )
        unit = f'<span class="unit">{escape(self._y.unit)}</span>' if self._y.unit else ""
        x_unit = f'<p class="x-unit">{escape(self._x.unit)}</p>' if self._x.unit else ""
        return (
            f'<figure class="chart {self._size}"><figcaption><h3>{title}</h3>{note}{legend}</figcaption>'
            f'<div class="frame">{unit}<div class="y" aria-hidden="true">{y_ticks}</div><div class="plot">'
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{title}">'
            f"<title>{title}</title>{self._grid()}{''.join(self._layers)}</svg>{''.join(self._labels)}</div>"
            f'<div class="x" aria-hidden="true">{x_ticks}</div></div>{x_unit}{self._reading}{self._below}</figure>'
        )

    def _grid(self) -> str:
        rows = "".join(f"M0 {self._place(t.value, self._y, _HEIGHT, flip=True)}H{_WIDTH}" for t in self._y.ticks)
        columns = "".join(f"M{self._place(t.value, self._x, _WIDTH)} 0V{_HEIGHT}" for t in self._x.ticks if t.rule)
        return f'<path class="l grid" d="{rows}"/><path class="l grid faint" d="{columns}"/>'

    def _name(self, style: str, label: str, mark: Mark, kind: str = "") -> None:
        if label:
            self._legend.append(f'<li class="{_kind(kind).strip()}"><i class="{mark} {style}"></i>{escape(label)}</li>')

    def _places(self, x: ArrayLike, y: ArrayLike) -> tuple[Any, Any]:
        x_share = (np.asarray(x, float) - self._x.low) / (self._x.high - self._x.low)
        y_share = (np.asarray(y, float) - self._y.low) / (self._y.high - self._y.low)
        return np.round(x_share * _WIDTH), np.round((1 - y_share) * _HEIGHT)

    @staticmethod
    def _place(value: float, axis: Axis, length: int, *, flip: bool = False) -> int:
        share = axis.share(value)
        return round((1 - share if flip else share) * length)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", words: int = 1) -> str:
    """Write a table of text; the first `words` columns hold words, the others numbers. All of it is escaped."""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if i >= words else ''}{' scope=col' if tag == 'th' else ''}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption or "Table")}"><table>{title}<thead><tr>{cells(head, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def details(summary: str, html: str) -> str:
    """Fold HTML away under a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def _kind(kind: str) -> str:
    return f" k k-{kind}" if kind else ""


def _minor(minor: bool) -> str:
    return ' class="minor"' if minor else ""


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _segments(values: Any) -> list[slice]:
    """Runs without NaN."""
    known = np.concatenate(([False], np.isfinite(values), [False]))
    edges = np.flatnonzero(known[1:] != known[:-1])
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _path(x: Any, y: Any) -> str:
    """Path data of a line, in whole units relative to the point before: a third of the size of absolute ones."""
    parts = []
    for part in _segments(y):
        across, down = x[part].astype(int), y[part].astype(int)
        steps = zip(np.diff(across).tolist(), np.diff(down).tolist(), strict=True)
        moves = [f"{dx}{'' if dy < 0 else ' '}{dy}" for dx, dy in steps if dx or dy]
        line = "".join(move if i == 0 or move[0] == "-" else f" {move}" for i, move in enumerate(moves))
        parts.append(f"M{across[0]} {down[0]}{f'l{line}' if moves else 'h0'}")
    return "".join(parts)


def _series(reading: Reading, factor: float, digits: int) -> dict[str, Any]:
    """A reading as whole numbers of the last decimal that is shown."""
    result: dict[str, Any] = {"name": reading.name, "v": _whole(reading.values, factor * 10**digits)}
    if reading.upper is not None:
        result["u"] = _whole(reading.upper, factor * 10**digits)
    if reading.kind:
        result["kind"] = reading.kind
    return result


def _whole(values: ArrayLike, factor: float) -> list[int | None]:
    return [round(v) if math.isfinite(v) else None for v in (np.asarray(values, float) * factor).tolist()]
