"""The outcome of a search as a picture: an SVG file of its own, drawn without any library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opendt.model.slo import Slo
    from opendt.optimization.search import SearchResult
    from opendt.optimization.trials import Trial

__all__ = ["pareto_svg"]

_WIDTH: Final = 420
_HEIGHT: Final = 330
_LEFT, _TOP, _RIGHT, _BOTTOM = 62, 40, 20, 48
_LEGEND_HEIGHT: Final = 34
_STYLE: Final = """<style>
text { font: 12px system-ui, sans-serif; fill: #555 } .title { font-weight: 600 }
.axis { stroke: #999 } .grid { stroke: #9993 } .limit { stroke: #b3261e; stroke-dasharray: 5 4 }
.tried { fill: #9998 } .front { fill: #2a6f97 } .met { fill: #2e7d32 }
.now { fill: none; stroke: #333; stroke-width: 2 } .best { fill: none; stroke: #2e7d32; stroke-width: 2.5 }
.knee { fill: none; stroke: #e08a00; stroke-width: 2.5 }
@media (prefers-color-scheme: dark) { text { fill: #bbb } .now { stroke: #eee } }
</style>"""

Get = Callable[["Trial"], float | None]


def pareto_svg(result: SearchResult, slo: Slo, title: str) -> str:
    """Draw energy against wait, and energy against peak power, of every configuration that keeps the work.

    Parameters
    ----------
    result : SearchResult
        What was found.
    slo : Slo
        Its limits are dashed lines.
    title : str
        Says what was searched.

    Returns
    -------
    str
        An SVG document; the same result gives the same text.
    """
    runtime = slo.runtime
    wait = None if runtime is None or runtime.task_wait_p95 is None else runtime.task_wait_p95
    wait_limit = None if wait is None else wait.target_s * (1.0 + wait.tolerance_ratio)
    peak_limit = None if slo.peak_power is None else slo.peak_power.target_kw * (1.0 + slo.peak_power.tolerance_ratio)
    windows = result.baseline.metrics.duration_s / slo.window_s
    energy_limit = None if slo.energy is None else slo.energy.target_kwh * (1.0 + slo.energy.tolerance_ratio) * windows
    panels = (
        _panel(result, "wait (p95), s", lambda trial: trial.metrics.task_wait_p95_s or 0.0, energy_limit, wait_limit),
        _panel(result, "peak power, kW", lambda trial: trial.metrics.peak_power_kw, energy_limit, peak_limit),
    )
    body = "".join(
        f'<g transform="translate({number * _WIDTH} {_LEGEND_HEIGHT})">{panel}</g>'
        for number, panel in enumerate(panels)
    )
    width, height = 2 * _WIDTH, _HEIGHT + _LEGEND_HEIGHT
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>{_legend()}'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}><title>{escape(title)}</title>{_STYLE}{head}{body}'
        "</svg>\n"
    )


def _legend() -> str:
    entries = (
        ("tried", "simulated"),
        ("front", "on the front"),
        ("met", "on it, objectives met"),
        ("now", "now"),
        ("best", "cheapest that meets"),
        ("knee", "knee"),
    )
    parts, x = [], float(_LEFT)
    for style, words in entries:
        parts.append(
            f'<circle class="{style}" cx="{x + 5:.0f}" cy="30" r="4"/><text x="{x + 13:.0f}" y="34">{words}</text>'
        )
        x += 26 + 6.4 * len(words)
    return "".join(parts)


def _panel(result: SearchResult, words: str, get: Get, x_limit: float | None, y_limit: float | None) -> str:
    """One pair of axes with all that is known of both quantities."""
    kept = [trial for trial in result.trials if trial.keeps_work] or [result.baseline]
    points = {trial.point: place for trial in kept if (place := _place(trial, get)) is not None}
    if not points:
        return f'<text x="{_LEFT}" y="{_TOP}">{words}: not known</text>'
    x_axis = _Axis.of([x for x, _ in points.values()], x_limit, _LEFT, _WIDTH - _RIGHT)
    y_axis = _Axis.of([y for _, y in points.values()], y_limit, _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<text class="title" x="{_LEFT}" y="{_TOP - 10}">{words}</text>', *_grid(x_axis, y_axis)]
    if x_limit is not None and x_axis.holds(x_limit):
        x = x_axis.at(x_limit)
        parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    if y_limit is not None and y_axis.holds(y_limit):
        y = y_axis.at(y_limit)
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    front = {trial.point: trial.meets for trial in result.front}

    def dots(chosen: Sequence[tuple[int, ...]], style: str, radius: float) -> None:
        for point in chosen:
            if point in points:
                x, y = points[point]
                parts.append(f'<circle class="{style}" cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="{radius}"/>')

    dots([point for point in points if point not in front], "tried", 2)
    dots([point for point, met in front.items() if not met], "front", 3)
    dots([point for point, met in front.items() if met], "met", 3)
    dots([result.baseline.point], "now", 6)
    dots([result.knee.point], "knee", 8)
    dots([result.best.point] if result.best.meets else [], "best", 6)
    return "".join(parts)


def _place(trial: Trial, get: Get) -> tuple[float, float] | None:
    x, y = trial.metrics.energy_kwh, get(trial)
    return None if x is None or y is None else (x, y)


def _grid(x_axis: _Axis, y_axis: _Axis) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for level in y_axis.ticks:
        y = y_axis.at(level)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{level:g}</text>')
    parts.extend(
        f'<text x="{x_axis.at(level):.1f}" y="{bottom + 16}" text-anchor="middle">{level:g}</text>'
        for level in x_axis.ticks
    )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{(_LEFT + right) / 2:.0f}" y="{bottom + 34}" text-anchor="middle">energy, kWh</text>')
    return parts


class _Axis:
    """A linear scale from values to places in the drawing."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._high, self._start, self._end = low, high, start, end
        step = _step(high - low)
        first = int(low // step)
        levels = [round((first + number) * step, 10) for number in range(12)]
        self.ticks = [level for level in levels if low - 1e-9 * step <= level <= high + 1e-9 * step]

    @classmethod
    def of(cls, values: Sequence[float], limit: float | None, start: float, end: float) -> _Axis:
        """Cover the values, and a limit that lies among them or near."""
        low, high = min(values), max(values)
        span = (high - low) or abs(high) or 1.0
        if limit is not None and low - span / 2 <= limit <= high + span / 2:
            low, high = min(low, limit), max(high, limit)
        margin = 0.05 * ((high - low) or span)
        return cls(low - margin if low != 0 else 0.0, high + margin, start, end)

    def at(self, value: float) -> float:
        return self._start + (self._end - self._start) * (value - self._low) / (self._high - self._low)

    def holds(self, value: float) -> bool:
        return self._low <= value <= self._high


def _step(span: float) -> float:
    """Distance of grid lines: 1, 2 or 5 times a power of ten, four to ten of them."""
    power = 1.0
    while span / power > 10:
        power *= 10
    while span / power <= 1:
        power /= 10
    return next(power * factor for factor in (0.1, 0.2, 0.5, 1, 2) if span / (power * factor) <= 8)
