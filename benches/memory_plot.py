"""Draw memory against the weeks that were followed, from what `bench_live.live_memory` measured: an SVG without any library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from growth_plot import STYLE, step_of

PLOT = Path(__file__).resolve().parent.parent / "docs/images/memory.svg"
PREFIX = "memory-at-"
WIDTH, HEIGHT = 720, 250
LEFT, TOP, RIGHT, BOTTOM = 52, 34, 16, 44


def write(results: Mapping[str, Sequence[float]]) -> Path | None:
    """Write the plot if memory was measured."""
    points = sorted(
        (float(key.removeprefix(PREFIX)), samples[0]) for key, samples in results.items() if key.startswith(PREFIX)
    )
    if not points:
        return None
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    title = "<title>Memory of a process that follows a datacenter for four weeks</title>"
    text = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{title}{STYLE}{_axes(points)}</svg>\n'
    PLOT.write_text(text, encoding="utf-8")
    return PLOT


def _axes(points: list[tuple[float, float]]) -> str:
    """Axes from zero, a line."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    weeks = round(points[-1][0])
    most_mb = 1.1 * max(mb for _, mb in points)

    def x(week: float) -> float:
        return LEFT + wide * week / weeks

    def y(mb: float) -> float:
        return TOP + high * (1 - mb / most_mb)

    parts = [f'<text class="title" x="{LEFT}" y="18">MB of the whole process against weeks followed</text>']
    step = step_of(most_mb)
    for number in range(int(most_mb / step) + 1):
        level = y(number * step)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + wide}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{number * step:g}</text>')
    parts += [
        f'<text x="{x(week):.1f}" y="{TOP + high + 18}" text-anchor="middle">{week}</text>' for week in range(weeks + 1)
    ]
    line = " ".join(f"{x(week):.1f},{y(mb):.1f}" for week, mb in points)
    parts.append(f'<polyline class="line" points="{line}"/>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{LEFT + wide}" y1="{TOP + high}" y2="{TOP + high}"/>')
    return "".join(parts)
