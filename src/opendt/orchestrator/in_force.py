"""What is in force in one datacenter: its topology and its objectives, from which window on, and the files that say so.

An edit takes effect with the window after the one in which it was seen. Which one that was is recorded before the window is, so it
is the same one when windows are derived again. What the gate decides is a version like any other; the topology file says it a
moment later.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from opendt.formats.opendc_topology_writer import topology_json
from opendt.model.base import Model
from opendt.model.errors import InputError
from opendt.orchestrator import event_types as events
from opendt.orchestrator.actuator import is_same
from opendt.orchestrator.environment import with_carbon, with_carbon_of
from opendt.orchestrator.factory import make_actuator
from opendt.orchestrator.plan_of_versions import ANNOUNCED, DECIDED, slo_plan, topology_plan
from opendt.orchestrator.slo import default_slo, slo_file
from opendt.orchestrator.topology import read_topology_version, topology_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opendt.model.slo import Slo
    from opendt.model.topology import Topology
    from opendt.orchestrator.cycle import Cycle
    from opendt.orchestrator.decisions import Candidate
    from opendt.orchestrator.events import EventBus
    from opendt.orchestrator.plan_of_versions import VersionPlan
    from opendt.orchestrator.settings_model import DatacenterSettings, Settings
    from opendt.orchestrator.version_store import VersionStore
    from opendt.orchestrator.versions import VersionedFile
    from opendt.telemetry.windows import WindowInput
    from opendt.verification.ledger import Ledger

__all__ = ["InForce"]

T = TypeVar("T", bound=Model)


class InForce:
    """Topology and objectives of one datacenter.

    Parameters
    ----------
    settings : Settings
        Of the process.
    config : DatacenterSettings
        Names the files.
    ledger : Ledger
        Keeps the versions.
    bus : EventBus
        Told of edits that are refused, and of a file that cannot be written.

    Attributes
    ----------
    topology, slo : Topology and Slo, optional
        As they are in the twin; None until they are known.
    topology_file, slo_file : VersionedFile
        What says them.
    """

    def __init__(self, settings: Settings, config: DatacenterSettings, ledger: Ledger, bus: EventBus) -> None:
        self.topology: Topology | None = None
        self.slo: Slo | None = None
        self.topology_file = topology_file(config.topology, settings.state_dir, config.name, on_event=bus.publish)
        self.slo_file = slo_file(
            config.slo, settings.state_dir, config.name, window_s=settings.window_s, on_event=bus.publish
        )
        self._config = config
        self._window_s = settings.window_s
        self._bus = bus
        self._actuator = make_actuator(settings, config, self.topology_file.store)
        self._unwritten: tuple[Topology, Topology] | None = None  # what the file is to say, and what it said before
        self._told_trouble = ""
        self._topologies = topology_plan(ledger, config.name)
        self._slos = slo_plan(ledger, config.name)
        self._shown: tuple[int | None, int | None] = (None, None)

    # -- beginning ---------------------------------------------------------------------------------------------------

    def load_topology(self) -> Topology | None:
        """Give the topology to begin with: the first version that was recorded, else that of the file, else None."""
        found = self.topology_file.load_initial()
        value, origin = (None, "") if found is None else (found.value, _name(found.origin))
        self._unwritten = self._topologies.load(value, origin, self._was_in_file)
        self.topology = self._topologies.first
        return self.topology

    def _was_in_file(self, topology: Topology) -> bool:
        """Whether the file has said this at some time."""
        store = self.topology_file.store
        return any(is_same(_backup(store, number, self._config.topology), topology) for number in store.numbers())

    def load_slo(self) -> Slo | None:
        """Give the objectives to begin with: the first version that was recorded, else those of the file, else None."""
        found = self.slo_file.load_initial()
        self._slos.load(None if found is None else found.value, "" if found is None else _name(found.origin))
        self.slo = self._slos.first
        return self.slo

    def resume(self, index: int) -> None:
        """Go on with what is in force in a window."""
        self.topology = self._topologies.value_at(index)
        self.slo = self._slos.value_at(index)

    def begin(self, closed: WindowInput) -> tuple[Topology, Slo]:
        """Give what the twin begins with in its first window: what no file says comes by message, or by default.

        Raises
        ------
        InputError
            When nobody says what the datacenter consists of.
        """
        if self.topology is None:
            self.topology = self._topologies.begin_with(self._announced(closed), ANNOUNCED)
        if self.slo is None:
            self.slo = self._slos.begin_with(default_slo(self.topology, self._window_s), "default")
        return self.topology, self.slo

    def _announced(self, closed: WindowInput) -> Topology:
        """Topology that came on ``dc.topology``."""
        self._offer(closed)
        found = self.topology_file.take()
        if found is None:
            raise InputError(
                f"datacenter.{self._config.name}.topology",
                "no usable topology",
                "a file, or a message on dc.topology before the first task",
                "The twin cannot simulate what it does not know.",
            )
        return found.value

    def _offer(self, closed: WindowInput) -> None:
        if closed.topology is not None:
            self.topology_file.offer(orjson.dumps(closed.topology.topology), ANNOUNCED)

    # -- from window to window -----------------------------------------------------------------------------------------

    def plan(self, closed: WindowInput) -> None:
        """Settle what is in force from the next window on, before anything of this one is recorded."""
        self._offer(closed)
        _plan(self._topologies, self.topology_file, closed.index + 1)
        _plan(self._slos, self.slo_file, closed.index + 1)

    def is_moving(self, index: int) -> bool:
        """Whether a window begins with another topology that was not decided here."""
        return self._topologies.value_from(index) is not None and not self._is_decided(index)

    def plan_decided(self, index: int, candidates: Iterable[Candidate]) -> None:
        """Let the gate's decision take effect with a window, as a version of the topology."""
        for one in candidates:
            source = f"{DECIDED}{one.proposal.id}"
            is_new = self._topologies.source_from(index) != source
            if is_new and one.topology is not None and self.topology is not None:
                self._topologies.plan(index, with_carbon_of(one.topology, self.topology), source)

    def _is_decided(self, index: int) -> bool:
        """Whether the version that a window begins with was decided here: when derived again it is decided again."""
        return self._topologies.source_from(index).startswith(DECIDED)

    def apply(self, closed: WindowInput, cycle: Cycle, *, is_new: bool) -> None:
        """Let what is in force from the next window on take effect; a file follows only where that window is new."""
        index = closed.index + 1
        slo = self._slos.value_from(index)
        if slo is not None:
            self.slo = slo
            cycle.follow(slo)
        topology = self._topologies.value_from(index)
        if topology is None or self.topology is None:
            self._act()
            return
        before = self.topology
        try:
            old, new = self.with_carbon(self.topology), self.with_carbon(topology)
            applied = self._topologies.source_from(index).removeprefix(DECIDED) if self._is_decided(index) else ""
            cycle.change(closed.end_ms - closed.origin_ms, old, new, applied=applied)
            self.topology = topology
            self._unwritten = (topology, before) if self._is_decided(index) and is_new else None
            self._act()
        except InputError as error:
            self._bus.publish(
                events.TopologyRefused(
                    datacenter=self._config.name,
                    file=self._topologies.source_from(index),
                    reason=str(error),
                    version=self._topologies.number_at(closed.index),
                )
            )

    def _act(self) -> None:
        """Let the topology file say what was decided; what cannot be written now is tried again with every window."""
        if self._actuator is None or self._unwritten is None:
            return
        topology, before = self._unwritten
        trouble = ""
        try:
            if not self._actuator.apply(topology, before):
                trouble = "it was edited meanwhile and is left as it is; the edit takes effect with the next window"
            self._unwritten = None
        except OSError as error:
            trouble = f"{error}; the twin has taken what was decided, the file has not, and it is tried again"
        if trouble and trouble != self._told_trouble:
            reason = f"{self._config.topology}: {trouble}"
            self._bus.publish(events.ActuatorTrouble(datacenter=self._config.name, reason=reason))
        self._told_trouble = trouble

    def with_carbon(self, topology: Topology) -> Topology:
        """Use the carbon intensities beside the topology file where it names none, as `opendt demo` does."""
        file = self._config.topology
        return topology if file is None else with_carbon(topology, file.parent / "carbon.parquet")

    # -- for those who tell of it --------------------------------------------------------------------------------------

    def versions(self, index: int) -> tuple[int | None, int | None]:
        """Numbers of the versions of topology and objectives in force in a window."""
        return self._topologies.number_at(index), self._slos.number_at(index)

    def topology_source(self, index: int) -> str:
        """Where the topology in force in a window came from."""
        return self._topologies.source_at(index)

    def news(self, index: int) -> dict[str, Any]:
        """Topology (without carbon traces) and objectives of a window, for the state; nothing when they are shown already."""
        versions = self.versions(index)
        if versions == self._shown or self.topology is None or self.slo is None:
            return {}
        self._shown = versions
        return {
            "current_topology": topology_json(self.topology, {}),
            "slo_targets": self.slo.model_dump(mode="json", exclude_none=True),
        }


def _plan(plan: VersionPlan[T], file: VersionedFile[T], index: int) -> None:
    missed, edited = plan.take_edit(), file.take()
    if edited is not None:
        plan.plan(index, edited.value, _name(edited.origin))
    elif missed is not None:
        plan.plan(index, *missed)


def _backup(store: VersionStore, number: int, file: Path | None) -> Topology | None:
    """Read a backup, unless it no longer validates."""
    try:
        return read_topology_version(store, number, file)
    except InputError:
        return None


def _name(origin: str) -> str:
    """Name a file without its folder: the ledger's export must not depend on where a file lies."""
    return Path(origin).name
