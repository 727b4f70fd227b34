"""Optimisers by name: ours, and those of packages that name one under the entry point group ``opendt.optimizers``.

What is made has a method ``propose`` (`opendt.optimization.base.Optimizer`); its proposals take the same road as all others, through
certification and the gate, so a plug-in can propose badly but not act. examples/spare_hosts is a complete package;
`opendt.model.plugins` says how one is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opendt.model.plugins import Offers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opendt.optimization.base import Optimizer

__all__ = ["GROUP", "available_optimizers", "load_optimizer", "modules_of_plugins"]

GROUP: Final = "opendt.optimizers"
"""Group of entry points that packages name their optimisers under."""


def _rules(**settings: Any) -> Optimizer:
    from opendt.optimization.rule_based import RuleBasedOptimizer

    return RuleBasedOptimizer(**settings)


def _llm(**settings: Any) -> Optimizer:
    from opendt.optimization.llm import LLM

    return LLM(**settings)


_OFFERS: Final[Offers[Optimizer]] = Offers(GROUP, "optimizer", "propose", "context", {"rules": _rules, "llm": _llm})


def available_optimizers() -> tuple[str, ...]:
    """Names that `load_optimizer` knows: our own, then those of plug-ins in alphabetical order. Imports none of them."""
    return _OFFERS.names()


def modules_of_plugins(names: Iterable[str]) -> frozenset[str]:
    """Modules in which the optimisers of these names are made that are not our own. Imports none of them."""
    return _OFFERS.modules(names)


def load_optimizer(name: str, **settings: Any) -> Optimizer:
    """Make the optimiser of a name, with settings as they are; raises as `opendt.model.plugins.Offers.make`."""
    return _OFFERS.make(name, settings)
