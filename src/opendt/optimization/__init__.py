"""Patches of the topology: optimisers propose, forks of the twin tell the effect, nothing here acts.

Names are found in their modules when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opendt.optimization.base import Context, GroupState, Optimizer, SystemState, TaskLoad
    from opendt.optimization.budgets import BudgetBook, BudgetStatus
    from opendt.optimization.effect import effect_of, simulate_effect
    from opendt.optimization.rule_based import RuleBasedOptimizer, rule_based_optimization
    from opendt.optimization.rules import RuleSettings
    from opendt.optimization.scoring import Score, SloStatus, check_slo, score, window_cost

__all__ = [
    "BudgetBook",
    "BudgetStatus",
    "Context",
    "GroupState",
    "Optimizer",
    "RuleBasedOptimizer",
    "RuleSettings",
    "Score",
    "SloStatus",
    "SystemState",
    "TaskLoad",
    "check_slo",
    "effect_of",
    "rule_based_optimization",
    "score",
    "simulate_effect",
    "window_cost",
]

_NAMES: Final = {
    "base": "Context GroupState Optimizer SystemState TaskLoad",
    "budgets": "BudgetBook BudgetStatus",
    "effect": "effect_of simulate_effect",
    "rule_based": "RuleBasedOptimizer rule_based_optimization",
    "rules": "RuleSettings",
    "scoring": "Score SloStatus check_slo score window_cost",
}
_HOMES: Final = {name: home for home, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'opendt.optimization' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"opendt.optimization.{home}"), name)
    globals()[name] = value
    return value
