"""Placement policies by name: ours, and those of packages that name one under the entry point group ``opendt.policies``.

What is made has a method ``place`` (`opendt.policy.base.PlacementPolicy`); what it places is predicted, reserved and acted on like any
other's plans. examples/home_first is a complete package; `opendt.model.plugins` says how one is found.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from opendt.model.plugins import Offers

if TYPE_CHECKING:
    from collections.abc import Callable

    from opendt.policy.base import PlacementPolicy

__all__ = ["GROUP", "OWN_POLICIES", "available_policies", "load_policy"]

GROUP: Final = "opendt.policies"
"""Group of entry points that packages name their policies under."""

OWN_POLICIES: Final = ("greedy", "resilient", "cvar", "carbon", "cost")
"""Each is a class of its name, in a module of its name."""


def _own(name: str) -> Callable[..., PlacementPolicy]:
    def make(**settings: Any) -> PlacementPolicy:
        policy: PlacementPolicy = getattr(import_module(f"opendt.policy.{name}"), name.capitalize())(**settings)
        return policy

    return make


_OFFERS: Final[Offers[PlacementPolicy]] = Offers(
    GROUP, "policy", "place", "job, fleet", {name: _own(name) for name in OWN_POLICIES}
)


def available_policies() -> tuple[str, ...]:
    """Names that `load_policy` knows: our own, then those of plug-ins in alphabetical order. Imports none of them."""
    return _OFFERS.names()


def load_policy(name: str, **settings: Any) -> PlacementPolicy:
    """Make the policy of a name, with settings as they are; raises as `opendt.model.plugins.Offers.make`."""
    return _OFFERS.make(name, settings)
