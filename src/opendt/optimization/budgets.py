"""Error budgets: how often targets were breached over a period, and how fast the budget for that is being spent.

For a budget over a period of P with slices of s, of which a share g must not be bad:

    slices    n = P / s                         those up to now, the current one included
    allowance a = (1 - g) n                     bad slices that the period may have
    left      1 - bad / a                       negative when the budget is overspent
    burn rate b(w) = bad in the last w / (w / s) / (1 - g)

A burn rate of 1 spends exactly the whole budget in a period; of 14.4, a fiftieth of it in a 720th of the period (an hour of
30 days). An alert needs the rate over a long window and over a short one, a twelfth of it, to be at its threshold: the long one
says that it matters, the short one that it is still going on. These are the recommended rates and windows of Beyer et al.,
"The Site Reliability Workbook", O'Reilly 2018, chapter 5 ("Alerting on SLOs", 6: multiwindow, multi-burn-rate alerts), given
there for 30 days; here windows scale with the period, so that the share of the budget that an alert stands for stays the same:

    severity  share spent  long window  short window  burn rate
    fast      2 %          P / 720      P / 8640      14.4
    fast      5 %          P / 120      P / 1440      6
    slow      10 %         P / 10       P / 120       1

No window is shorter than a slice. A slice is bad as soon as one of its windows is, the current one too; it is not good before
a window in it is known to be. Slices in which nothing is known spend nothing and are counted by themselves.

Everything is a function of event time and of the statuses of windows: no clock, the same answer after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from opendt.model.errors import ModelError, shown

if TYPE_CHECKING:
    from opendt.model.slo import ErrorBudget, Slo, SloKind
    from opendt.optimization.scoring import SloStatus

__all__ = ["ALERTS", "Alert", "BudgetBook", "BudgetState", "BudgetStatus", "BurnRate", "budget_status", "joined"]

BudgetState = Literal["kept", "slow_burn", "fast_burn", "spent"]
"""How a budget stands, best first: *spent* when more slices were bad than the period may have."""

_GOOD: Final = "g"
_BAD: Final = "b"
_UNKNOWN: Final = "-"
_STATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Alert:
    """A pair of windows, as parts of the period, with the burn rate from which it sounds."""

    severity: Literal["fast", "slow"]
    long_part: int
    short_part: int
    rate: float


ALERTS: Final = (
    Alert("fast", 720, 8640, 14.4),
    Alert("fast", 120, 1440, 6.0),
    Alert("slow", 10, 120, 1.0),
)
"""Those recommended in the Site Reliability Workbook, chapter 5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnRate:
    """How fast a budget is being spent over the two windows of an alert.

    Attributes
    ----------
    severity : {"fast", "slow"}
        Of the alert: *fast* should wake somebody, *slow* should be looked at.
    long_s, short_s : int
        Lengths of its windows, s: whole slices.
    long_rate, short_rate : float
        Burn rates over them; 1 spends the budget in exactly a period.
    limit : float
        From which both sound it.
    """

    severity: Literal["fast", "slow"]
    long_s: int
    short_s: int
    long_rate: float
    short_rate: float
    limit: float

    @property
    def sounds(self) -> bool:
        """Whether both rates have reached the limit."""
        # 0.01 x 24 / 24 / (1 - 0.99) is a little off 1 in floating point.
        return min(self.long_rate, self.short_rate) >= self.limit * (1.0 - 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStatus:
    """How a budget stands at the end of a window.

    Attributes
    ----------
    name : str
        Of the budget.
    target : str
        That must not be breached too often.
    time_ms : int
        End of the window, ms since the start.
    good_ratio : float
        Share of slices that must not be bad.
    slice_s, period_s : int
        Lengths, s.
    good, bad, unknown : int
        Slices of the period up to now; together fewer than the period has while it is young.
    allowed : float
        Bad slices that the period may have.
    left_ratio : float
        Share of the budget that is left; below 0 when it is overspent.
    burn_rates : tuple of BurnRate
        One of each alert.
    state : {"kept", "slow_burn", "fast_burn", "spent"}
        In one word.
    """

    name: str
    target: SloKind
    time_ms: int
    good_ratio: float
    slice_s: int
    period_s: int
    good: int
    bad: int
    unknown: int
    allowed: float
    left_ratio: float
    burn_rates: tuple[BurnRate, ...]
    state: BudgetState


def joined(before: str, met: bool | None) -> str:
    """Tell what a slice is after one more of its windows: bad stays bad, and what is unknown changes nothing.

    Examples
    --------
    >>> joined("-", True), joined("g", False), joined("b", True), joined("g", None)
    ('g', 'b', 'b', 'g')
    """
    if met is None or before == _BAD:
        return before
    return _GOOD if met else _BAD


def budget_status(budget: ErrorBudget, slice_s: int, slices: str, time_ms: int) -> BudgetStatus:
    """Tell how a budget stands.

    Parameters
    ----------
    budget : ErrorBudget
        What is asked.
    slice_s : int
        Length of its slices, s.
    slices : str
        Slices up to now, the current one last: ``g`` good, ``b`` bad, ``-`` unknown. Those before the period do not count.
    time_ms : int
        Now, ms since the start.
    """
    count = budget.period_s // slice_s
    period = slices[-count:]
    bad, good = period.count(_BAD), period.count(_GOOD)
    allowed = (1.0 - budget.good_ratio) * count
    burn_rates = tuple(_burn_rate(alert, budget, slice_s, period) for alert in ALERTS)
    return BudgetStatus(
        name=budget.label,
        target=budget.target,
        time_ms=time_ms,
        good_ratio=budget.good_ratio,
        slice_s=slice_s,
        period_s=budget.period_s,
        good=good,
        bad=bad,
        unknown=len(period) - good - bad,
        allowed=allowed,
        left_ratio=1.0 - bad / allowed,
        burn_rates=burn_rates,
        state=_state(bad, allowed, burn_rates),
    )


def _burn_rate(alert: Alert, budget: ErrorBudget, slice_s: int, period: str) -> BurnRate:
    count = budget.period_s // slice_s
    lengths = [max(1, -(-count // part)) for part in (alert.long_part, alert.short_part)]
    long_rate, short_rate = (period[-n:].count(_BAD) / n / (1.0 - budget.good_ratio) for n in lengths)
    return BurnRate(
        severity=alert.severity,
        long_s=lengths[0] * slice_s,
        short_s=lengths[1] * slice_s,
        long_rate=long_rate,
        short_rate=short_rate,
        limit=alert.rate,
    )


def _state(bad: int, allowed: float, burn_rates: Iterable[BurnRate]) -> BudgetState:
    if bad > allowed * (1.0 + 1e-9):
        return "spent"
    sounding = {rate.severity for rate in burn_rates if rate.sounds}
    if "fast" in sounding:
        return "fast_burn"
    return "slow_burn" if sounding else "kept"


@dataclass(slots=True)
class _Page:
    """What is known of one budget: slices ``first``, ``first + 1``, … of its length since time 0."""

    budget: ErrorBudget
    slice_s: int
    first: int = 0
    slices: str = ""

    def note(self, end_ms: int, met: bool | None) -> None:
        """Take a window; it lies in the slice that its last moment lies in."""
        index = (end_ms - 1) // (self.slice_s * 1000)
        if not self.slices:
            self.first = index
        count = self.budget.period_s // self.slice_s
        missing = index - self.first - len(self.slices) + 1
        # After a gap of more than a period nothing that was known matters any more.
        self.slices += _UNKNOWN * min(missing, count)
        self.slices = self.slices[:-1] + joined(self.slices[-1], met)
        self.slices = self.slices[-count:]
        self.first = index - len(self.slices) + 1


class BudgetBook:
    """Keeps the budgets of an ``slo.json`` from window to window.

    Parameters
    ----------
    slo : Slo
        Objectives with their budgets.

    Examples
    --------
    >>> from opendt.model.slo import Slo
    >>> from opendt.optimization.scoring import check_slo
    >>> from opendt.twin.metrics import WindowMetrics
    >>> budget = {"target": "energy", "good_ratio": 0.75, "period_s": 1200}
    >>> slo = Slo.model_validate({"version": 1, "energy": {"target_kwh": 1.0}, "budgets": [budget]})
    >>> book = BudgetBook(slo)
    >>> for end_ms, energy_kwh in ((300_000, 0.9), (600_000, 2.0)):
    ...     window = WindowMetrics(start_ms=end_ms - 300_000, end_ms=end_ms, energy_kwh=energy_kwh)
    ...     (status,) = book.observe(end_ms, check_slo(slo, window))
    >>> status.good, status.bad, status.allowed, status.left_ratio
    (1, 1, 1.0, 0.0)
    """

    def __init__(self, slo: Slo) -> None:
        self._last_ms = -1
        self._pages: dict[str, _Page] = {}
        self.follow(slo)

    def follow(self, slo: Slo) -> None:
        """Go on with other objectives.

        A budget of the same name, target and slices keeps what is known of it: what was good under the objectives of its time
        stays good. Others begin anew, and those that are gone are forgotten.
        """
        before = self._pages
        self._pages = {}
        for budget in slo.budgets:
            page = _Page(budget, slo.slice_s(budget))
            old = before.get(budget.label)
            if old is not None and (old.budget.target, old.slice_s) == (budget.target, page.slice_s):
                page.slices = old.slices[-(budget.period_s // page.slice_s) :]
                page.first = old.first + len(old.slices) - len(page.slices)
            self._pages[budget.label] = page

    def observe(self, end_ms: int, statuses: Sequence[SloStatus]) -> tuple[BudgetStatus, ...]:
        """Take the statuses of a window that has closed; gives how all budgets stand, in the order of the file.

        Parameters
        ----------
        end_ms : int
            End of the window, ms since the start. A window that was taken already, as after a restart, changes nothing.
        statuses : sequence of SloStatus
            As `check_slo` gives them.
        """
        if end_ms > self._last_ms:
            self._last_ms = end_ms
            met = {status.name: status.met for status in statuses}
            for page in self._pages.values():
                page.note(end_ms, met.get(page.budget.target))
        return self.statuses()

    def statuses(self) -> tuple[BudgetStatus, ...]:
        """How all budgets stand after the last window."""
        pages = self._pages.values()
        return tuple(budget_status(page.budget, page.slice_s, page.slices, max(self._last_ms, 0)) for page in pages)

    def state(self) -> dict[str, Any]:
        """Everything that is remembered, as plain data that fits JSON: a letter for each slice."""
        pages = {
            name: {"target": page.budget.target, "slice_s": page.slice_s, "first": page.first, "slices": page.slices}
            for name, page in self._pages.items()
        }
        return {"version": _STATE_VERSION, "last_ms": self._last_ms, "budgets": pages}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; a budget that has changed since begins anew, as with `follow`.

        Raises
        ------
        ModelError
            When it is not what `state` gives; names the key. Nothing is changed then.
        """
        if state.get("version") != _STATE_VERSION:
            raise ModelError("budgets.version", shown(state.get("version")), str(_STATE_VERSION))
        last_ms, kept = state.get("last_ms"), state.get("budgets")
        if not isinstance(last_ms, int):
            raise ModelError("budgets.last_ms", shown(last_ms), "a whole number of ms")
        if not isinstance(kept, Mapping):
            raise ModelError("budgets.budgets", shown(kept), "a mapping from names to slices")
        pages: dict[str, _Page] = {}
        for name, page in self._pages.items():
            pages[name] = _Page(page.budget, page.slice_s)
            if name in kept:
                _restore_page(pages[name], kept[name], f"budgets.{name}")
        self._last_ms, self._pages = last_ms, pages


def _restore_page(page: _Page, kept: Any, place: str) -> None:
    if not isinstance(kept, Mapping):
        raise ModelError(place, shown(kept), "what BudgetBook.state gave")
    if (kept.get("target"), kept.get("slice_s")) != (page.budget.target, page.slice_s):
        return
    first, slices = kept.get("first"), kept.get("slices")
    if not isinstance(first, int) or not isinstance(slices, str) or not set(slices) <= {_GOOD, _BAD, _UNKNOWN}:
        raise ModelError(
            place, shown(kept), f"slices as letters ({_GOOD}, {_BAD}, {_UNKNOWN}) and the number of the first"
        )
    page.slices = slices[-(page.budget.period_s // page.slice_s) :]
    page.first = first + len(slices) - len(page.slices)
