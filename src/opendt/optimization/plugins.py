"""Optimisers of others: packages that name one under the entry point group ``opendt.optimizers``.

A package says in its ``pyproject.toml``::

    [project.entry-points."opendt.optimizers"]
    night_shift = "night_shift:NightShift"

and `load_optimizer("night_shift", ...)` calls what stands there with the settings given. What it returns has a method ``propose``
(`opendt.optimization.base.Optimizer`); its proposals take the same road as all others, through certification and the gate, so
a plug-in can propose badly but not act. It runs inside this process, as any installed package does: install only what you trust.
examples/night_shift is a complete one.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, cast

from opendt.model.errors import ModelError, shown

if TYPE_CHECKING:
    from opendt.optimization.base import Optimizer

__all__ = ["GROUP", "available_optimizers", "load_optimizer"]

GROUP: Final = "opendt.optimizers"
"""Group of entry points that packages name their optimisers under."""


def _rules(**settings: Any) -> Optimizer:
    from opendt.optimization.rule_based import RuleBasedOptimizer

    return RuleBasedOptimizer(**settings)


def _llm(**settings: Any) -> Optimizer:
    from opendt.optimization.llm import LLM

    return LLM(**settings)


_OWN: Final[dict[str, Callable[..., Optimizer]]] = {"rules": _rules, "llm": _llm}


def available_optimizers() -> tuple[str, ...]:
    """Names that `load_optimizer` knows: our own, then those of plug-ins in alphabetical order. Imports none of them."""
    return (*_OWN, *sorted({point.name for point in entry_points(group=GROUP)} - _OWN.keys()))


def load_optimizer(name: str, **settings: Any) -> Optimizer:
    """Make the optimiser of a name.

    Parameters
    ----------
    name : str
        ``"rules"``, ``"llm"``, or a name under the entry point group ``opendt.optimizers``. Ours cannot be replaced.
    **settings
        Handed to it as they are.

    Raises
    ------
    ModelError
        When nobody or more than one package offers this name, or what it offers cannot be loaded, does not take the settings,
        or is no optimiser.
    """
    make = _OWN.get(name) or _of_plugin(name)
    try:
        optimizer = make(**settings)
    except TypeError as error:
        raise ModelError(f"optimizer {name}", shown(sorted(settings)), f"settings that it takes ({error})") from error
    if not callable(getattr(optimizer, "propose", None)):
        raise ModelError(f"optimizer {name}", shown(optimizer), "an object with a method propose(context)")
    return optimizer


def _of_plugin(name: str) -> Callable[..., Optimizer]:
    points = tuple(entry_points(group=GROUP, name=name))
    if not points:
        offered = ", ".join(available_optimizers())
        raise ModelError("optimizer", shown(name), f"one of {offered}", "Install the package that offers it.")
    if len({point.value for point in points}) > 1:
        offers = ", ".join(f"{point.value} ({_package(point)})" for point in points)
        raise ModelError(f"optimizer {name}", offers, "one package to offer it", "Uninstall the others.")
    try:
        made = points[0].load()
    except Exception as error:  # importing another's code can raise anything
        place = f"optimizer {name} of {_package(points[0])}"
        raise ModelError(place, f"{type(error).__name__}: {error}", f"{points[0].value} to be importable") from error
    if not callable(made):
        raise ModelError(
            f"optimizer {name} of {_package(points[0])}", shown(made), "a class or function that makes one"
        )
    return cast("Callable[..., Optimizer]", made)


def _package(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
