"""What can be chosen by name: our own makers, and those that installed packages name under a group of entry points.

A package says in its ``pyproject.toml``::

    [project.entry-points."opendt.policies"]
    home_first = "home_first:HomeFirst"

What stands there is called with the settings given. It runs inside this process, as any installed package does: install only what
you trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from opendt.model.errors import ModelError, shown

__all__ = ["Offers"]

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Offers(Generic[Made]):
    """Makers by name.

    Parameters
    ----------
    group : str
        Group of entry points that packages name theirs under.
    noun : str
        What is made, for messages.
    method, arguments : str
        What it must be able to do, as ``place`` and ``job, fleet``.
    own : mapping of str to callable
        Ours, which cannot be replaced.
    """

    group: str
    noun: str
    method: str
    arguments: str
    own: Mapping[str, Callable[..., Made]]

    def names(self) -> tuple[str, ...]:
        """Names that `make` knows: our own, then those of packages in alphabetical order. Imports none of them."""
        return (*self.own, *sorted({point.name for point in entry_points(group=self.group)} - self.own.keys()))

    def modules(self, names: Iterable[str]) -> frozenset[str]:
        """Modules in which what others offer under some names is made. Imports none of them."""
        theirs = set(names) - self.own.keys()
        if not theirs:
            return frozenset()
        return frozenset(point.module for point in entry_points(group=self.group) if point.name in theirs)

    def make(self, name: str, settings: Mapping[str, Any]) -> Made:
        """Make what a name stands for; settings are handed to it as they are.

        Raises
        ------
        ModelError
            When nobody or more than one package offers this name, or what it offers cannot be loaded, does not take the settings,
            or cannot do what it should.
        """
        maker = self.own.get(name) or self._of_package(name)
        place = f"{self.noun} {name}"
        try:
            made = maker(**settings)
        except TypeError as error:
            raise ModelError(place, shown(sorted(settings)), f"settings that it takes ({error})") from error
        if not callable(getattr(made, self.method, None)):
            raise ModelError(place, shown(made), f"an object with a method {self.method}({self.arguments})")
        return made

    def _of_package(self, name: str) -> Callable[..., Made]:
        points = tuple(entry_points(group=self.group, name=name))
        if not points:
            offered = ", ".join(self.names())
            raise ModelError(self.noun, shown(name), f"one of {offered}", "Install the package that offers it.")
        if len({point.value for point in points}) > 1:
            offers = ", ".join(f"{point.value} ({_package(point)})" for point in points)
            raise ModelError(f"{self.noun} {name}", offers, "one package to offer it", "Uninstall the others.")
        place = f"{self.noun} {name} of {_package(points[0])}"
        try:
            found: Callable[..., Made] = points[0].load()
        except Exception as error:  # importing another's code can raise anything
            expected = f"{points[0].value} to be importable"
            raise ModelError(place, f"{type(error).__name__}: {error}", expected) from error
        if not callable(found):
            raise ModelError(place, shown(found), "a class or function that makes one")
        return found


def _package(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
