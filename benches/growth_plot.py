"""Draw how cost grows, from what `bench_synthetic.growth` measured: an SVG without any library."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

PLOT = Path(__file__).resolve().parent.parent / "docs/images/growth.svg"
WIDTH, HEIGHT = 360, 250
LEFT, TOP, RIGHT, BOTTOM = 52, 34, 16, 44
PANELS = (
    ("growth-trace-", "thousand fragments, 500 hosts", 500.0),
    ("growth-hosts-", "hosts, as busy each", 250.0),
)
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #555 } .title { font-weight: 600 }
.axis { stroke: #999 } .grid { stroke: #9993 } .line { stroke: #2a6f97; stroke-width: 2; fill: none }
.even { stroke: #999; stroke-dasharray: 4 4 } .point { fill: #2a6f97 } .range { stroke: #2a6f97 }
</style>"""


def write(results: Mapping[str, Sequence[float]]) -> Path | None:
    """Write the plot if growth was measured."""
    panels = [(words, _points(results, prefix, unit)) for prefix, words, unit in PANELS]
    if not all(points for _, points in panels):
        return None
    body = "".join(
        f'<g transform="translate({number * WIDTH} 0)">{_panel(words, points)}</g>'
        for number, (words, points) in enumerate(panels)
    )
    size = f'width="{2 * WIDTH}" height="{HEIGHT}" viewBox="0 0 {2 * WIDTH} {HEIGHT}"'
    title = "<title>Time of a run against length of the trace and number of hosts</title>"
    PLOT.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{title}{STYLE}{body}</svg>\n', encoding="utf-8")
    return PLOT


def _points(results: Mapping[str, Sequence[float]], prefix: str, unit: float) -> list[tuple[float, list[float]]]:
    """Size and milliseconds, by size."""
    found = [
        (int(key.removeprefix(prefix)) * unit, sorted(ms)) for key, ms in results.items() if key.startswith(prefix)
    ]
    return sorted(found)


def _panel(words: str, points: list[tuple[float, list[float]]]) -> str:
    """One pair of axes from zero: medians, ranges, and the straight line through the origin and the first point."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    most_x = points[-1][0]
    first_x, first_ms = points[0][0], statistics.median(points[0][1])
    most_ms = 1.1 * max(max(ms) for _, ms in points)

    def x(size: float) -> float:
        return LEFT + wide * size / most_x

    def y(ms: float) -> float:
        return TOP + high * (1 - ms / most_ms)

    step = step_of(most_ms)
    parts = [f'<text class="title" x="{LEFT}" y="18">ms against {words}</text>']
    for number in range(int(most_ms / step) + 1):
        level = y(number * step)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + wide}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{number * step:g}</text>')
    even_ms = min(first_ms * most_x / first_x, most_ms)
    even_x = first_x * even_ms / first_ms
    parts.append(f'<line class="even" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(even_x):.1f}" y2="{y(even_ms):.1f}"/>')
    line = " ".join(f"{x(size):.1f},{y(statistics.median(ms)):.1f}" for size, ms in points)
    parts.append(f'<polyline class="line" points="{line}"/>')
    for size, ms in points:
        across = f"{x(size):.1f}"
        parts.append(f'<line class="range" x1="{across}" x2="{across}" y1="{y(ms[0]):.1f}" y2="{y(ms[-1]):.1f}"/>')
        parts.append(f'<circle class="point" cx="{across}" cy="{y(statistics.median(ms)):.1f}" r="3.5"/>')
        parts.append(f'<text x="{across}" y="{TOP + high + 18}" text-anchor="middle">{size:g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{LEFT + wide}" y1="{TOP + high}" y2="{TOP + high}"/>')
    return "".join(parts)


def step_of(most: float) -> float:
    """Distance of grid lines: 1, 2 or 5 times a power of ten, four to ten lines."""
    power = 1.0
    while most / power > 10:
        power *= 10
    return next(power * factor / 10 for factor in (1, 2, 5, 10, 20) if most / (power * factor / 10) <= 8)
