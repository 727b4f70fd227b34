"""Which version of the topology or the objectives holds from which window on, as the ledger has it.

An edit is recorded, with the first window that it holds for, before the window in which it was noticed is. So a restart that derives
windows again applies each version where it was applied before, whatever the files hold by now. What the gate decided follows from
its window and is recorded after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar, cast

import orjson

from opendt.model.base import Model
from opendt.model.slo import Slo
from opendt.model.topology import Topology
from opendt.orchestrator.sharing import with_shared_carbon
from opendt.verification.ledger_rows import VersionRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from opendt.verification.ledger import Ledger

__all__ = ["ANNOUNCED", "DECIDED", "VersionPlan", "slo_plan", "topology_plan"]

DECIDED: Final = "decision "
"""How the source of a version begins that the gate decided; its proposal follows."""

ANNOUNCED: Final = "dc.topology"
"""Source of a version that came as a message."""

T = TypeVar("T", bound=Model)


class _Version(NamedTuple):
    """What is kept of a recorded version beside its value."""

    version: int
    from_index: int
    source: str


class VersionPlan(Generic[T]):
    """Versions of one thing of one datacenter.

    Parameters
    ----------
    kind : {'topology', 'slo'}
        What.
    model : type
        Of its values.
    ledger : Ledger
        Keeps them.
    datacenter : str
        Whose.
    """

    def __init__(self, kind: str, model: type[T], ledger: Ledger, datacenter: str) -> None:
        self._kind = kind
        self._model = model
        self._ledger = ledger
        self._datacenter = datacenter
        self._rows: list[_Version] = []
        self._values: list[T] = []
        self._edit: tuple[T, str] | None = None

    def load(
        self, value: T | None, origin: str, was_in_file: Callable[[T], bool] = lambda _: False
    ) -> tuple[T, T] | None:
        """Read what is recorded; a value that is not the last one recorded is an edit made while nobody looked.

        Parameters
        ----------
        value : Topology or Slo, optional
            What the file says.
        origin : str
            Its name.
        was_in_file : callable
            Whether the file has said something at some time: then somebody has taken a decision back.

        Returns
        -------
        tuple, optional
            What was decided and what holds before it, when the process ended before the file said so.
        """
        read = self._ledger.topology_versions if self._kind == "topology" else self._ledger.slo_versions
        rows = [version.row for version in read(self._datacenter)]
        self._rows = [_Version(row.version, row.from_index, row.source) for row in rows]
        said = None if value is None else value.model_dump(mode="json")
        # A value of which the file says the same is there already: with its carbon trace it takes longest of all to make.
        self._values = [
            value if value is not None and row.content == said else self._shared(self._read(row)) for row in rows
        ]
        if value is None:
            return None
        if not self._rows:
            self._record(0, value, origin)
        elif value != self._last_of_file():
            if self._is_before_decision(value) and not was_in_file(self._values[-1]):
                return self._values[-1], value
            self._edit = (value, origin)
        return None

    def _last_of_file(self) -> T:
        """What the file said last, as far as was seen: a message holds although the file does not say it, until that is edited."""
        values = [v for row, v in zip(self._rows, self._values, strict=True) if row.source != ANNOUNCED]
        if not values or self._rows[-1].source.startswith(DECIDED):
            return self._values[-1]
        return values[-1]

    def _read(self, row: VersionRow) -> T:
        return self._model.model_validate_json(orjson.dumps(row.content))

    def _is_before_decision(self, value: T) -> bool:
        """Whether a value is what a decision changed."""
        return self._rows[-1].source.startswith(DECIDED) and len(self._values) > 1 and value == self._values[-2]

    def begin_with(self, value: T, origin: str) -> T:
        """Take the first version, where there was none to begin with."""
        if not self._rows:
            self._record(0, value, origin)
        return self._values[0]

    @property
    def first(self) -> T | None:
        """The version of window 0."""
        return self._values[0] if self._values else None

    def take_edit(self) -> tuple[T, str] | None:
        """Give the edit that was made while nobody looked, once."""
        edit, self._edit = self._edit, None
        return edit

    def plan(self, index: int, value: T, origin: str) -> None:
        """Record that a value holds from a window on."""
        if value != self._values[-1]:
            self._record(index, value, origin)

    def number_at(self, index: int) -> int | None:
        """Number of the version in force in a window."""
        return max((row.version for row in self._rows if row.from_index <= index), default=None)

    def value_at(self, index: int) -> T | None:
        """Give the value in force in a window."""
        number = self.number_at(index)
        return None if number is None else self._values[number - 1]

    def value_from(self, index: int) -> T | None:
        """Give the value that a window is the first one of, if there is one."""
        found = [value for row, value in zip(self._rows, self._values, strict=True) if row.from_index == index > 0]
        return found[-1] if found else None

    def source_from(self, index: int) -> str:
        """Where the version came from that a window is the first one of."""
        return next((row.source for row in reversed(self._rows) if row.from_index == index), "")

    def source_at(self, index: int) -> str:
        """Where the version in force in a window came from."""
        number = self.number_at(index)
        return "" if number is None else self._rows[number - 1].source

    def _record(self, index: int, value: T, origin: str) -> None:
        row = VersionRow(len(self._rows) + 1, index, value.model_dump(mode="json"), origin)
        if self._kind == "topology":
            self._ledger.record_topology_version(self._datacenter, row)
        else:
            self._ledger.record_slo_version(self._datacenter, row)
        self._rows.append(_Version(row.version, index, origin))
        self._values.append(self._shared(value))

    def _shared(self, value: T) -> T:
        return cast("T", with_shared_carbon(value)) if isinstance(value, Topology) else value


def topology_plan(ledger: Ledger, datacenter: str) -> VersionPlan[Topology]:
    """Versions of a datacenter's topology."""
    return VersionPlan("topology", Topology, ledger, datacenter)


def slo_plan(ledger: Ledger, datacenter: str) -> VersionPlan[Slo]:
    """Versions of a datacenter's objectives."""
    return VersionPlan("slo", Slo, ledger, datacenter)
