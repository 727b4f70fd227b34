"""The loop as it runs, on the terminal: what is measured, what is predicted, how right it was, what is proposed.

On a terminal a picture is drawn on stderr at most ten times a second; elsewhere (a file, CI) one plain line is written per
simulated day; with quiet nothing is. The loop calls ``update`` once per window and need not care which it is.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

__all__ = ["ForecastState", "LiveState", "LiveView", "SloState", "sparkline"]

_DAY_MS: Final = 86_400_000
_REDRAW_S: Final = 0.1
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_HISTORY: Final = 288  # windows kept for the two curves: a day of five minutes
_WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class ForecastState:
    """How right one kind of forecast has been so far; None where nothing can be said yet."""

    name: str
    mape_ratio: float | None
    persistence_mape_ratio: float | None
    coverage_ratio: float | None


@dataclass(frozen=True, slots=True)
class SloState:
    """One objective in the window that was closed last; None where it could not be checked."""

    name: str
    met: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """What is known when a window closes.

    Attributes
    ----------
    dataset : str
        Name of what is replayed.
    now_ms, end_ms : int
        Simulated time since the start, and where the run ends.
    window, windows : int
        Windows done, of how many.
    measured_w : float or None
        Mean measured power of the window, in W; None where nothing was measured.
    predicted_w : float or None
        What had been predicted for the same window, in W.
    next_w, next_lower_w, next_upper_w : float or None
        Mean power predicted for the next hour and its 90 % band, in W.
    forecasts : sequence of ForecastState
        Scores so far, per kind.
    slos : sequence of SloState
        Objectives.
    proposal : str
        The latest proposal in a line; empty without one.
    proposals : int
        How many there were.
    start_epoch_ms : int or None
        The start in local ms since 1970, for the name of the day; None where it is unknown.
    """

    dataset: str
    now_ms: int
    end_ms: int
    window: int
    windows: int
    measured_w: float | None = None
    predicted_w: float | None = None
    next_w: float | None = None
    next_lower_w: float | None = None
    next_upper_w: float | None = None
    forecasts: Sequence[ForecastState] = ()
    slos: Sequence[SloState] = ()
    proposal: str = ""
    proposals: int = 0
    start_epoch_ms: int | None = None


class LiveView:
    """Show states of the loop while the ``with`` block lasts.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    stream : text file, optional
        Where plain lines go, and whose being a terminal decides; stderr by default.
    console : rich.console.Console, optional
        Where the picture goes; made for `stream` by default.
    clock : callable
        Seconds that only rise; limits redrawing and gives the speed.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._console = console
        self._drawing = not quiet and (console is not None or self._stream.isatty())
        self._quiet = quiet
        self._clock = clock
        self._began_s = clock()
        self._drawn_s = -math.inf
        self._day = 0
        self._state: LiveState | None = None
        self._history: deque[tuple[float | None, float | None]] = deque(maxlen=_HISTORY)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Begin to draw; the clock of the speed starts here."""
        self._began_s = self._clock()
        if self._drawing:
            from rich.console import Console
            from rich.live import Live

            console = self._console or Console(file=self._stream)
            self._live = Live(console=console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture standing, also when the run was interrupted."""
        if self._live is not None:
            if self._state is not None:
                self._live.update(self._picture(self._state))
            self._live.stop()
            self._live = None

    def update(self, state: LiveState) -> None:
        """Take note of a closed window; draws only when it is time to."""
        if self._quiet:
            return
        self._state = state
        if self._live is None:
            self._plain_line(state)
            return
        self._history.append((state.measured_w, state.predicted_w))
        now_s = self._clock()
        if now_s - self._drawn_s >= _REDRAW_S:
            self._drawn_s = now_s
            self._live.update(self._picture(state), refresh=True)

    def _speed(self, state: LiveState) -> str:
        elapsed_s = self._clock() - self._began_s
        return f"{state.now_ms / 1000 / elapsed_s:,.0f} × real time" if elapsed_s > 0 else ""

    # ------------------------------------------------------------------------------------------------------- plain lines

    def _plain_line(self, state: LiveState) -> None:
        """One line for each simulated day that has ended."""
        day = state.now_ms // _DAY_MS
        if day <= self._day and state.now_ms < state.end_ms:
            return
        self._day = day
        scores = ", ".join(
            f"{one.name} {_percent(one.mape_ratio)} (persistence {_percent(one.persistence_mape_ratio)})"
            for one in state.forecasts
        )
        words = [f"{_when(state)}: {state.window:,} of {state.windows:,} windows", scores, self._speed(state)]
        self._stream.write("; ".join(word for word in words if word) + "\n")
        self._stream.flush()

    # -------------------------------------------------------------------------------------------------------- the picture

    def _picture(self, state: LiveState) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(expand=True)
        head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        head.add_column(justify="right", no_wrap=True)
        head.add_row(
            Text(_when(state)),
            Text(f"{state.window:,} of {state.windows:,} windows · {self._speed(state)}", style="dim"),
        )
        parts: list[RenderableType] = [
            head,
            ProgressBar(total=state.end_ms, completed=state.now_ms, complete_style="cyan"),
        ]
        parts += [Text(""), self._power(state), Text(""), _scores(state.forecasts)]
        if state.slos:
            parts += [Text(""), _objectives(state.slos)]
        if state.proposal:
            line = Text.assemble((f"Proposal {state.proposals:,}  ", "dim"), _printable(state.proposal))
            line.truncate(400, overflow="ellipsis")
            parts += [Text(""), line]
        title = Text.assemble(("OpenDT", "bold cyan"), "  ", (_printable(state.dataset), "bold"))
        return Panel(Group(*parts), title=title, title_align="left", padding=(0, 1), border_style="dim")

    def _power(self, state: LiveState) -> Table:
        """Measured and predicted, each with its curve over the last day, on one scale."""
        from rich.table import Table
        from rich.text import Text

        known = [value for pair in self._history for value in pair if value is not None and math.isfinite(value)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="crop")
        # A sample for each half hour: 48 characters for the day that is kept.
        pairs = list(self._history)[::-6][::-1]
        measured, predicted = ([pair[i] for pair in pairs] for i in (0, 1))
        grid.add_row("Measured now", Text(_kw(state.measured_w), style="bold"), sparkline(measured, low, high))
        grid.add_row(
            "Predicted now",
            Text(_kw(state.predicted_w), style="cyan"),
            Text(sparkline(predicted, low, high), style="cyan"),
        )
        band = ""
        if state.next_lower_w is not None and state.next_upper_w is not None:
            band = f"90 % band {_kw(state.next_lower_w)} to {_kw(state.next_upper_w)}"
        grid.add_row("Next hour", Text(_kw(state.next_w), style="cyan"), Text(band, style="dim"))
        return grid


def sparkline(values: Iterable[float | None], low: float, high: float) -> str:
    """Draw values between two ends as a line of blocks; a gap is a blank.

    Examples
    --------
    >>> sparkline([0.0, 5.0, None, 10.0], 0.0, 10.0)
    '▁▅ █'
    """
    span = high - low if high > low else 1.0
    top = len(_BLOCKS) - 1
    return "".join(
        " "
        if value is None or not math.isfinite(value)
        else _BLOCKS[min(top, max(0, int((value - low) / span * top + 0.5)))]
        for value in values
    )


def _scores(forecasts: Sequence[ForecastState]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Forecast", no_wrap=True)
    for name in ("Error", "Persistence", "Skill", "In 90 % band"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in forecasts:
        skill = None
        if one.mape_ratio is not None and one.persistence_mape_ratio:
            skill = 1.0 - one.mape_ratio / one.persistence_mape_ratio
        table.add_row(
            Text(one.name),
            Text(_percent(one.mape_ratio), style="bold"),
            _percent(one.persistence_mape_ratio),
            _percent(skill, 1),
            _percent(one.coverage_ratio, 1),
        )
    return table


def _objectives(slos: Sequence[SloState]) -> Text:
    """Marks differ in form as well as in colour."""
    from rich.text import Text

    marks = {True: ("✓ met", "green"), False: ("✕ breached", "red"), None: ("– not checked", "dim")}
    line = Text("Objectives  ", style="dim")
    for i, slo in enumerate(slos):
        word, style = marks[slo.met]
        line.append("   " if i else "", style="")
        line.append(f"{_printable(slo.name)} ", style="not dim")
        line.append(word, style=f"not dim {style}" if style != "dim" else style)
    return line


def _printable(text: str) -> str:
    """Names come from files: none may steer the terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _when(state: LiveState) -> str:
    """The simulated moment in words."""
    day, rest_ms = divmod(state.now_ms, _DAY_MS)
    if state.start_epoch_ms is None:
        return f"Day {day + 1} {rest_ms // 3_600_000:02}:{rest_ms // 60_000 % 60:02}"
    minutes = (state.start_epoch_ms + state.now_ms) // 60_000
    weekday = _WEEKDAYS[(minutes // 1440 + 3) % 7]  # 1 January 1970 was a Thursday
    return f"Day {day + 1}, {weekday} {minutes // 60 % 24:02}:{minutes % 60:02}"


def _kw(power_w: float | None) -> str:
    return "–" if power_w is None or not math.isfinite(power_w) else f"{power_w / 1000:,.2f} kW"


def _percent(ratio: float | None, digits: int = 2) -> str:
    return "–" if ratio is None or not math.isfinite(ratio) else f"{100 * ratio:.{digits}f} %"
