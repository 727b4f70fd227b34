"""Placement policies by name: ours, and those of packages that name one under the entry point group ``opendt.policies``.

A package says in its ``pyproject.toml``::

    [project.entry-points."opendt.policies"]
    home_first = "home_first:HomeFirst"

and `load_policy("home_first", ...)` calls what stands there with the settings given. What it returns has a method ``place``
(`opendt.policy.base.PlacementPolicy`); what it places is predicted, reserved and acted on like any other's plans. It runs inside this
process, as any installed package does: install only what you trust. examples/home_first is a complete one.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, cast

from opendt.model.errors import ModelError, shown

if TYPE_CHECKING:
    from opendt.policy.base import PlacementPolicy

__all__ = ["GROUP", "OWN_POLICIES", "available_policies", "load_policy"]

GROUP: Final = "opendt.policies"
"""Group of entry points that packages name their policies under."""

OWN_POLICIES: Final = ("greedy", "resilient", "cvar", "carbon", "cost")


def available_policies() -> tuple[str, ...]:
    """Names that `load_policy` knows: our own, then those of plug-ins in alphabetical order. Imports none of them."""
    return (*OWN_POLICIES, *sorted({point.name for point in entry_points(group=GROUP)} - set(OWN_POLICIES)))


def load_policy(name: str, **settings: Any) -> PlacementPolicy:
    """Make the policy of a name.

    Parameters
    ----------
    name : str
        One of `OWN_POLICIES`, which cannot be replaced, or a name under the entry point group ``opendt.policies``.
    **settings
        Handed to it as they are.

    Raises
    ------
    ModelError
        When nobody or more than one package offers this name, or what it offers cannot be loaded, does not take the settings,
        or is no policy.
    """
    make = _own(name) or _of_plugin(name)
    try:
        policy = make(**settings)
    except TypeError as error:
        raise ModelError(f"policy {name}", shown(sorted(settings)), f"settings that it takes ({error})") from error
    if not callable(getattr(policy, "place", None)):
        raise ModelError(f"policy {name}", shown(policy), "an object with a method place(job, fleet)")
    return policy


def _own(name: str) -> Callable[..., PlacementPolicy] | None:
    if name not in OWN_POLICIES:
        return None
    from opendt.policy.carbon import Carbon
    from opendt.policy.cost import Cost
    from opendt.policy.cvar import Cvar
    from opendt.policy.greedy import Greedy
    from opendt.policy.resilient import Resilient

    makers: dict[str, Callable[..., PlacementPolicy]] = {
        "greedy": Greedy,
        "resilient": Resilient,
        "cvar": Cvar,
        "carbon": Carbon,
        "cost": Cost,
    }
    return makers[name]


def _of_plugin(name: str) -> Callable[..., PlacementPolicy]:
    points = tuple(entry_points(group=GROUP, name=name))
    if not points:
        offered = ", ".join(available_policies())
        raise ModelError("policy", shown(name), f"one of {offered}", "Install the package that offers it.")
    if len({point.value for point in points}) > 1:
        offers = ", ".join(f"{point.value} ({_package(point)})" for point in points)
        raise ModelError(f"policy {name}", offers, "one package to offer it", "Uninstall the others.")
    try:
        made = points[0].load()
    except Exception as error:  # importing another's code can raise anything
        place = f"policy {name} of {_package(points[0])}"
        raise ModelError(place, f"{type(error).__name__}: {error}", f"{points[0].value} to be importable") from error
    if not callable(made):
        raise ModelError(f"policy {name} of {_package(points[0])}", shown(made), "a class or function that makes one")
    return cast("Callable[..., PlacementPolicy]", made)


def _package(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
