"""Budgets of accuracy: what error, bias, coverage and skill of one kind of forecast may be over a stretch of verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opendt.verification.verdict import Verdict

__all__ = ["AccuracyBudget", "BudgetUse", "Judged", "budget_use", "judged", "judged_of"]

Judged = tuple[float, float, float, float | None]
"""Error, bias, coverage and error of persistence of a verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyBudget:
    """What one kind of forecast must keep, over a stretch of its latest verdicts.

    Parameters
    ----------
    verdicts : int
        Length of the stretch; nothing is judged before there are as many.
    error_ratio, bias_ratio : float
        Most mean error, and most mean bias either way, over the reading.
    coverage_ratio : float
        Least share of readings within the band (which promises 0.9).
    skill_ratio : float
        Least 1 - error / error of persistence, both summed over the stretch.
    skill_from_error_ratio : float
        Mean error below which skill is not asked for: a forecast that is nearly right may lose to one that is as well.
    """

    verdicts: int
    error_ratio: float
    bias_ratio: float
    coverage_ratio: float
    skill_ratio: float
    skill_from_error_ratio: float = 0.03

    def __post_init__(self) -> None:
        """Refuse what cannot be kept.

        Raises
        ------
        ValueError
            When a number is out of its range.
        """
        if self.verdicts < 1:
            raise ValueError(f"an accuracy budget over {self.verdicts} verdicts, expected at least 1")
        for name in ("error_ratio", "bias_ratio", "skill_from_error_ratio"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"accuracy budget {name} is {getattr(self, name)}, expected a number above 0")
        if not 0 <= self.coverage_ratio <= 1:
            raise ValueError(f"accuracy budget coverage_ratio is {self.coverage_ratio}, expected 0 to 1")
        if not -math.inf < self.skill_ratio <= 1:
            raise ValueError(f"accuracy budget skill_ratio is {self.skill_ratio}, expected a number of at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetUse:
    """How one kind of forecast stands in its budget.

    Attributes
    ----------
    kind : str
        Of forecast.
    verdicts : int
        That are judged.
    error_ratio, bias_ratio, coverage_ratio, skill_ratio : float, optional
        Over the stretch; None where unknown.
    broken : tuple of str
        What is out of its budget, in words; empty also while there are too few verdicts.
    recovered : bool
        Whether what is known keeps every budget by the margin that a step up asks for.
    """

    kind: str
    verdicts: int
    error_ratio: float | None
    bias_ratio: float | None
    coverage_ratio: float | None
    skill_ratio: float | None
    broken: tuple[str, ...]
    recovered: bool


def judged(verdict: Verdict) -> Judged:
    """Take from a verdict what budgets speak of."""
    error, bias, coverage = verdict.error_ratio, verdict.bias_ratio, verdict.coverage_ratio
    return error or 0.0, bias or 0.0, 0.0 if coverage is None else coverage, verdict.persistence_error_ratio


def judged_of(one: Sequence[Any]) -> Judged:
    """Read back what became a list in JSON."""
    error, bias, coverage, rival = one
    return float(error), float(bias), float(coverage), None if rival is None else float(rival)


def budget_use(kind: str, budget: AccuracyBudget, stretch: Sequence[Judged], recovery: float) -> BudgetUse:
    """Hold a stretch of verdicts against a budget; a step up asks for error and bias within `recovery` times theirs."""
    count = len(stretch)
    if not count:
        unknown = None
        return BudgetUse(
            kind=kind,
            verdicts=0,
            error_ratio=unknown,
            bias_ratio=unknown,
            coverage_ratio=unknown,
            skill_ratio=unknown,
            broken=(),
            recovered=True,
        )
    error, bias, coverage = (math.fsum(column) / count for column in list(zip(*stretch, strict=True))[:3])
    rivals = [(one[0], rival) for one in stretch if (rival := one[3]) is not None]
    rival_error = math.fsum(rival for _, rival in rivals)
    skill = 1.0 - math.fsum(own for own, _ in rivals) / rival_error if rival_error > 0 else None
    asked = skill is not None and error >= budget.skill_from_error_ratio
    broken = []
    # Written so that NaN is out of every budget.
    if not error <= budget.error_ratio:
        broken.append(f"error {error:.1%}, allowed {budget.error_ratio:.1%}")
    if not abs(bias) <= budget.bias_ratio:
        broken.append(f"bias {bias:+.1%}, allowed {budget.bias_ratio:.1%} either way")
    if not coverage >= budget.coverage_ratio:
        broken.append(f"coverage {coverage:.0%}, at least {budget.coverage_ratio:.0%} asked")
    if asked and skill is not None and not skill >= budget.skill_ratio:
        broken.append(f"skill {skill:.2f} against persistence, at least {budget.skill_ratio:.2f} asked")
    recovered = not broken and error <= recovery * budget.error_ratio and abs(bias) <= recovery * budget.bias_ratio
    return BudgetUse(
        kind=kind,
        verdicts=count,
        error_ratio=error,
        bias_ratio=bias,
        coverage_ratio=coverage,
        skill_ratio=skill,
        broken=tuple(broken) if count >= budget.verdicts else (),
        recovered=recovered,
    )
