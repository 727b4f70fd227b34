"""A fleet as the settings describe it, put together: clusters followed or described, plans kept, somebody who acts or nobody."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from opendt.model.errors import InputError, OpenDTError
from opendt.model.fleet import LatencyMatrix
from opendt.orchestrator import fleet_events as events
from opendt.orchestrator.event_types import LedgerTrouble
from opendt.orchestrator.events import EventBus
from opendt.orchestrator.fleet import FleetService, ServiceSettings, may_act
from opendt.orchestrator.fleet_actions import FleetActions
from opendt.orchestrator.fleet_book import PlanBook
from opendt.orchestrator.fleet_keeper import FleetKeeper, KeeperSettings
from opendt.orchestrator.fleet_planner import FleetPlanner, LearnedFile
from opendt.orchestrator.fleet_recorder import recording
from opendt.orchestrator.fleet_report import kept_up
from opendt.orchestrator.logs import log
from opendt.twin.state import FleetState, FleetUpdate
from opendt.verification.ledger import Ledger
from opendt.verification.verify import Tolerances

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opendt.formats.fleet_spec import DescribedFleet
    from opendt.kubernetes.cluster_manager import ClusterManager
    from opendt.kubernetes.collector import Collector
    from opendt.kubernetes.sense_events import SenseEvent
    from opendt.model.fleet import ClusterState
    from opendt.model.plan import Placement
    from opendt.orchestrator.fleet_hands import Annotate
    from opendt.orchestrator.fleet_ports import Hands
    from opendt.orchestrator.settings_model import FleetSettings, Settings

__all__ = ["fleet_running", "fleet_seen_once"]

_STEP_S: Final = 0.2
"""The longest between two looks; changes are looked at at once."""
_LEAST_STEP_S: Final = 0.001
_SYNC_S: Final = 30.0
_NOTES: Final = frozenset({"cluster_back", "metrics_back", "leading_began", "leading_ended", "watch_expired"})
_TOLD_BY_KEEPER: Final = frozenset({"cluster_away", "cluster_back"})


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def fleet_running(
    settings: Settings,
    ledger: Ledger,
    bus: EventBus,
    *,
    clock_ms: Callable[[], int] = _now_ms,
    annotate: Annotate | None = None,
) -> Iterator[FleetService]:
    """Follow the fleet of the settings, and carry out its plans, while the block runs.

    Parameters
    ----------
    settings : Settings
        Section ``fleet`` above all.
    ledger : Ledger
        Where plans are kept.
    bus : EventBus
        Told of everything.
    clock_ms : callable, optional
        Wall clock, ms since the epoch.
    annotate : callable, optional
        Gives further annotations of a stage's pod, as nodes that are only played want them.

    Raises
    ------
    OpenDTError
        When what describes it is not there or wrong.
    """
    with ExitStack() as stack:
        stack.enter_context(recording(ledger, bus))
        seen = _seen(settings.fleet, bus, clock_ms, stack, annotate)
        learned = LearnedFile(settings.state_dir / "fleet" / f"{settings.fleet.name}.learned.json")
        planner = _planner(settings, seen.state, clock_ms)
        learned.load_into(planner)
        turns = _Turns(seen, clock_ms)
        service = _service(settings, ledger, bus, seen, planner, clock_ms, turns)
        stack.callback(service.keeper.close)
        stack.enter_context(kept_up(service.keeper.report, settings.fleet.report_dir, learned, planner))
        stack.enter_context(turns.turning(service))
        yield service


@contextmanager
def fleet_seen_once(settings: Settings) -> Iterator[FleetService]:
    """Look at the fleet of the settings once, to answer dry runs; nothing is kept and nobody acts.

    Raises
    ------
    OpenDTError
        When what describes it is not there or wrong, or a cluster does not answer.
    """
    with ExitStack() as stack:
        bus = EventBus()
        seen = _seen(settings.fleet, bus, _now_ms, stack)
        planner = _planner(settings, seen.state, _now_ms)
        LearnedFile(settings.state_dir / "fleet" / f"{settings.fleet.name}.learned.json").load_into(planner)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="opendt-")))  # a dry run leaves nothing behind
        ledger = stack.enter_context(Ledger.open(folder / "ledger.sqlite"))
        yield _service(settings, ledger, bus, seen, planner, _now_ms)


@dataclass(frozen=True, slots=True)
class _Seen:
    """How a fleet is seen: its state, and who writes it and acts; nobody where it is only described."""

    state: FleetState
    collector: Collector | None
    hands: Hands | None
    is_leading: Callable[[], bool] = lambda: True


def _seen(
    fleet: FleetSettings,
    bus: EventBus,
    clock_ms: Callable[[], int],
    stack: ExitStack,
    annotate: Annotate | None = None,
) -> _Seen:
    described = _described(fleet)
    matrix = LatencyMatrix({}) if described is None else described.latency
    if fleet.latency is not None and described is None:
        from opendt.formats.latency import read_round_trips

        matrix = LatencyMatrix(read_round_trips(fleet.latency))
    state = FleetState(matrix, clock_ms=clock_ms)
    if fleet.kubeconfig is not None:
        return _followed(fleet, state, described, bus, clock_ms, stack, annotate)
    if described is None:
        raise InputError("fleet", "neither kubeconfig nor spec", "one of them", "Set fleet.kubeconfig or fleet.spec.")
    snapshot = described.snapshot(clock_ms())
    for cluster in snapshot.clusters.values():
        nodes = tuple(node for node in snapshot.nodes.values() if node.cluster == cluster.name)
        state.apply(FleetUpdate(cluster.name, nodes=nodes, state=cluster))
    return _Seen(state, None, None)


def _described(fleet: FleetSettings) -> DescribedFleet | None:
    if fleet.spec is None:
        return None
    from opendt.formats.fleet_spec import read_fleet_spec

    return read_fleet_spec(fleet.spec, fleet.latency)


def _followed(
    fleet: FleetSettings,
    state: FleetState,
    described: DescribedFleet | None,
    bus: EventBus,
    clock_ms: Callable[[], int],
    stack: ExitStack,
    annotate: Annotate | None,
) -> _Seen:
    from opendt.kubernetes.cluster_manager import ClusterManager, discover
    from opendt.kubernetes.collector import Collector, MetricsSettings
    from opendt.orchestrator.fleet_hands import KubernetesHands

    assert fleet.kubeconfig is not None
    chosen = {name: name for name in fleet.clusters} or None
    contexts = discover([fleet.kubeconfig], chosen)
    states: dict[str, ClusterState] = {} if described is None else described.clusters
    manager = ClusterManager(contexts, states, clock_ms=clock_ms, tell=_teller(fleet.name, bus))
    collector = Collector(
        manager,
        state,
        metrics=MetricsSettings(interval_s=fleet.interval_s),
        described=frozenset(states),
    )
    manager.start()
    stack.callback(manager.stop)
    is_leading = _leading(fleet, manager, bus, stack)
    collector.start()
    stack.callback(collector.stop)
    if not collector.wait_synced(_SYNC_S):
        away = [cluster.name for cluster in manager if not cluster.is_reachable]
        log().warning("not all clusters have been seen yet", away=", ".join(away) or "none")

    def arch_of(placement: Placement) -> str:
        node = state.node(placement.cluster, placement.node_name)
        return "" if node is None else node.arch

    hands = KubernetesHands(manager, fleet, clock_ms, may_act=is_leading, annotate=annotate, arch_of=arch_of)
    stack.callback(hands.close)
    return _Seen(state, collector, hands, is_leading)


def _leading(fleet: FleetSettings, manager: ClusterManager, bus: EventBus, stack: ExitStack) -> Callable[[], bool]:
    """Whether this process leads: always, unless a cluster is named that has the Lease."""
    if not fleet.lease_cluster:
        return lambda: True
    from opendt.kubernetes.leader import LeaderElection, LeaseSettings

    cluster = manager[fleet.lease_cluster]
    me = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"

    def changed(leads: bool, why: str) -> None:
        bus.publish(
            events.LeaderChanged(datacenter=fleet.name, holder=me, what=f"{'leads' if leads else 'stands by'}: {why}")
        )

    lease = LeaseSettings(namespace=fleet.namespace, name=f"opendt-{fleet.name}")
    election = LeaderElection(lambda: cluster.client, me, lease, changed=changed)
    election.step()
    election.start()
    stack.callback(election.stop)
    return lambda: election.is_leading


def _teller(fleet: str, bus: EventBus) -> Callable[[SenseEvent], None]:
    def tell(told: SenseEvent) -> None:
        if told.kind in _TOLD_BY_KEEPER:
            return
        make = events.SenseNote if told.kind in _NOTES else events.SenseTrouble
        words = told.kind.replace("_", " ")
        bus.publish(
            make(
                datacenter=fleet,
                time_ms=told.time_ms,
                cluster=told.cluster,
                what=words,
                message=told.message,
                subject=told.subject,
            )
        )

    return tell


def _planner(settings: Settings, state: FleetState, clock_ms: Callable[[], int]) -> FleetPlanner:
    fleet = settings.fleet
    planner = FleetPlanner(
        state, futures=fleet.futures, tail_ratio=fleet.tail_ratio, seed=settings.seed, clock_ms=clock_ms
    )
    if fleet.strategy not in planner.strategies:
        raise InputError("fleet.strategy", repr(fleet.strategy), f"one of {', '.join(planner.strategies)}")
    return planner


def _service(
    settings: Settings,
    ledger: Ledger,
    bus: EventBus,
    seen: _Seen,
    planner: FleetPlanner,
    clock_ms: Callable[[], int],
    turns: _Turns | None = None,
) -> FleetService:
    fleet = settings.fleet
    acts = may_act(settings.environment, settings.mode) and seen.hands is not None
    tolerances = Tolerances(latency_ratio=fleet.latency_tolerance_ratio, energy_ratio=fleet.energy_tolerance_ratio)
    book = PlanBook(ledger, fleet.name)
    keeper = FleetKeeper(
        fleet.name,
        seen.state,
        book,
        planner,
        seen.hands if acts else None,
        bus,
        clock_ms,
        KeeperSettings(tolerances=tolerances),
    )
    hands = seen.hands if acts else None
    return FleetService(
        fleet.name,
        seen.state,
        planner,
        book,
        keeper,
        bus,
        clock_ms,
        FleetActions(fleet.name, seen.state, ledger, keeper, hands, bus, clock_ms),
        settings=ServiceSettings(strategy=fleet.strategy, scale=fleet.scale, may_act=acts, tolerances=tolerances),
        leader=lambda: "" if turns is None or turns.is_leading() else "another process",
        wake=None if turns is None else turns.changed.set,
    )


class _Turns:
    """Has the keeper look at every change, from a thread of its own, as long as this process leads."""

    def __init__(self, seen: _Seen, clock_ms: Callable[[], int]) -> None:
        self._seen = seen
        self._clock_ms = clock_ms
        self._has_resumed = False
        self.changed = threading.Event()

    def is_leading(self) -> bool:
        """Whether this process leads and knows what the one before it left."""
        return self._has_resumed and self._seen.is_leading()

    @contextmanager
    def turning(self, service: FleetService) -> Iterator[None]:
        """Look while the block runs; what an earlier process left is taken up before it begins."""
        stopping = threading.Event()
        if self._seen.collector is not None:
            self._seen.collector.subscribe(lambda _changes: self.changed.set())
        self._take_up(service)

        def turn() -> None:
            while not stopping.is_set():
                due_ms = service.keeper.due_ms()
                until_due_s = _STEP_S if due_ms is None else (due_ms - self._clock_ms()) / 1000
                self.changed.wait(min(max(until_due_s, _LEAST_STEP_S), _STEP_S))
                self.changed.clear()
                try:
                    self._take_up(service)
                    if self._has_resumed:
                        service.keeper.step()
                except OpenDTError as error:  # the ledger is away: the next look finds what this one left
                    service.tell(LedgerTrouble(reason=str(error)))
                    stopping.wait(_STEP_S)
                except Exception as error:  # noqa: BLE001 - a defect in one look must not leave all plans alone
                    log().error(f"the fleet's plans could not be looked after: {error!r}", exc_info=error)
                    stopping.wait(_STEP_S)

        thread = threading.Thread(target=turn, name="keeper", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            self.changed.set()
            thread.join()

    def _take_up(self, service: FleetService) -> None:
        leads = self._seen.is_leading()
        if leads and not self._has_resumed:
            service.resume()
        self._has_resumed = leads
