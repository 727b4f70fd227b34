"""The clusters of a fleet: found in kubeconfig files, one client each, and whether each of them answers.

Every cluster has a thread of its own that probes it, so one that is away holds up nobody. A kubeconfig file that changes is read
again; one that is broken by then is told of, and what it said before goes on being used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from opendt.kubernetes.client import ApiError, ClusterAwayError, ClusterClient
from opendt.kubernetes.health import CircuitBreaker, HealthSettings
from opendt.kubernetes.kubeconfig import Context, api_client, read_contexts
from opendt.kubernetes.sense_events import SenseEvent, SenseEventKind, TellEvent
from opendt.model.errors import InputError
from opendt.model.fleet import ClusterState

__all__ = ["ClusterManager", "ManagedCluster", "discover"]

_PROBE: Final = "/readyz"
_UNAUTHORIZED: Final = 401


def discover(kubeconfigs: Iterable[Path | str], clusters: Mapping[str, str] | None = None) -> dict[str, Context]:
    """Find the clusters of a fleet.

    Parameters
    ----------
    kubeconfigs : iterable of Path or str
        Files, the first of which wins where two have a context of one name, as kubectl does it.
    clusters : mapping of str to str, optional
        Cluster -> context, when not all contexts are clusters of the fleet or they have other names.

    Returns
    -------
    dict
        Context by name of the cluster.

    Raises
    ------
    FormatError
        When a file is broken: file, context and key.
    InputError
        When a context is not in any of the files.
    """
    known: dict[str, Context] = {}
    files = list(kubeconfigs)
    for file in files:
        for name, context in read_contexts(file).items():
            known.setdefault(name, context)
    if clusters is None:
        return known
    for name, wanted in clusters.items():
        if wanted not in known:
            where = ", ".join(str(file) for file in files)
            raise InputError(f"cluster {name}: context", wanted, f"one of {', '.join(known) or 'none'}", file=where)
    return {name: known[wanted] for name, wanted in clusters.items()}


class ManagedCluster:
    """One cluster: its client, and whether it answers.

    Parameters
    ----------
    state : ClusterState
        What is known of it from elsewhere: type, failures, price.
    context : Context
        How it is reached.
    settings : HealthSettings
        How it is probed.
    clock_ms : callable
        Wall clock, ms since the epoch.
    """

    def __init__(
        self, state: ClusterState, context: Context, settings: HealthSettings, clock_ms: Callable[[], int]
    ) -> None:
        self.name = state.name
        self.context = context
        self._settings = settings
        self._clock_ms = clock_ms
        self._breaker = CircuitBreaker(settings.failures)
        self._client = ClusterClient(state.name, api_client(context))
        self._stamp = _stamp(context.file)
        self._is_login_old = False
        self._changing = threading.Lock()
        self.state = state
        """As last seen; replaced as a whole, so that readers never see half of it."""

    @property
    def client(self) -> ClusterClient:
        """The client of now; ask again for each use, since a changed kubeconfig makes another."""
        return self._client

    @property
    def is_reachable(self) -> bool:
        """Whether it answered its last probes."""
        return not self._breaker.is_open

    def probe(self, tell: TellEvent) -> bool:
        """Ask whether it is ready; True when that changed whether it counts as reachable.

        Returns within the deadline for connecting and the one for the answer.
        """
        self._read_again(tell)
        try:
            self._client.get(_PROBE, read_s=self._settings.deadline_s)
        except (ApiError, ClusterAwayError) as error:
            # Tokens in files are renewed by others, and the official client reads them once.
            self._is_login_old = isinstance(error, ApiError) and error.status == _UNAUTHORIZED
            opened = self._breaker.failed()
            reachable = not self._breaker.is_open
            self._change(is_reachable=reachable, message=str(error))
            if opened:
                count, last = self._breaker.failed_in_a_row, self.state.last_seen_ms
                told = f"{count} probes in a row failed, the last one: {error}. Nothing is sent until one succeeds"
                self._tell(tell, "cluster_away", told if last >= 0 else f"{told}. It was never seen")
            return opened
        closed = self._breaker.succeeded()
        self.seen()
        if closed:
            self._tell(tell, "cluster_back", f"{self.context.server} answers again")
        return closed

    def seen(self) -> None:
        """Note that it said something just now."""
        if self.is_reachable:
            self._change(is_reachable=True, last_seen_ms=self._clock_ms(), message="")

    def describe(self, type_: str | None, resiliency_ratio: float | None) -> bool:
        """Take over what labels of its nodes say; True when that is news."""
        before = self.state
        self._change(
            type=before.type if type_ is None else type_,
            resiliency_ratio=before.resiliency_ratio if resiliency_ratio is None else resiliency_ratio,
        )
        return (self.state.type, self.state.resiliency_ratio) != (before.type, before.resiliency_ratio)

    def close(self) -> None:
        """Give up its connections."""
        self._client.close()

    def _read_again(self, tell: TellEvent) -> None:
        stamp = _stamp(self.context.file)
        if stamp == self._stamp and not self._is_login_old:
            return
        self._stamp = stamp
        try:
            contexts = read_contexts(self.context.file)
            if self.context.name not in contexts:
                raise InputError("contexts", ", ".join(contexts), self.context.name, file=str(self.context.file))
            found = contexts[self.context.name]
            if found.content != self.context.content or self._is_login_old:
                client = ClusterClient(self.name, api_client(found))
                before, self._client, self.context = self._client, client, found
                before.close()
        except InputError as error:
            self._tell(tell, "object_invalid", f"{error}. What it said before goes on being used")

    def _change(self, **values: Any) -> None:
        with self._changing:  # probes and the collector change different fields of one value
            self.state = replace(self.state, **values)

    def _tell(self, tell: TellEvent, kind: SenseEventKind, message: str) -> None:
        tell(SenseEvent(kind, self.name, "", message, self._clock_ms()))


class ClusterManager:
    """All clusters of a fleet, each probed by a thread of its own.

    Parameters
    ----------
    contexts : mapping of str to Context
        Cluster -> how it is reached (`discover`).
    states : mapping of str to ClusterState, optional
        What is known of them from elsewhere, such as the fleet's YAML.
    settings : HealthSettings, optional
        How they are probed.
    clock_ms : callable, optional
        Wall clock, ms since the epoch.
    tell : callable, optional
        Told of clusters that go and come back.

    Raises
    ------
    FormatError
        When a client cannot be made: file, context and what is wrong.
    """

    def __init__(
        self,
        contexts: Mapping[str, Context],
        states: Mapping[str, ClusterState] | None = None,
        *,
        settings: HealthSettings | None = None,
        clock_ms: Callable[[], int] | None = None,
        tell: TellEvent | None = None,
    ) -> None:
        self.settings = settings or HealthSettings()
        self.clock_ms = clock_ms or (lambda: time.time_ns() // 1_000_000)
        self.tell: TellEvent = tell or (lambda _event: None)
        known = states or {}
        self._clusters = {
            name: ManagedCluster(known.get(name, ClusterState(name)), context, self.settings, self.clock_ms)
            for name, context in contexts.items()
        }
        self._listeners: tuple[Callable[[ManagedCluster, bool], None], ...] = ()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the clusters."""
        return tuple(self._clusters)

    def __iter__(self) -> Iterator[ManagedCluster]:
        return iter(self._clusters.values())

    def __getitem__(self, name: str) -> ManagedCluster:
        """One cluster.

        Raises
        ------
        InputError
            When it is not one of the fleet's.
        """
        found = self._clusters.get(name)
        if found is None:
            raise InputError("cluster", name, f"one of {', '.join(self._clusters)}")
        return found

    def on_probe(self, listener: Callable[[ManagedCluster, bool], None]) -> None:
        """Be called after each probe with the cluster, and whether it just went or came back; in its own thread."""
        self._listeners = (*self._listeners, listener)

    def probe(self, name: str) -> ManagedCluster:
        """Probe one cluster now, and return it."""
        cluster = self[name]
        changed = cluster.probe(self.tell)
        for listener in self._listeners:
            listener(cluster, changed)
        return cluster

    def start(self) -> None:
        """Begin to probe, until `stop`."""
        if self._threads:
            raise RuntimeError("the clusters are probed already")
        self._stopping.clear()
        self._threads = [
            threading.Thread(target=self._watch_over, args=(name,), name=f"probe-{name}", daemon=True)
            for name in self._clusters
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop probing and give all connections up; a probe under way is waited for."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._threads = []
        for cluster in self._clusters.values():
            cluster.close()

    def _watch_over(self, name: str) -> None:
        while not self._stopping.is_set():
            self.probe(name)
            self._stopping.wait(self.settings.interval_s)


def _stamp(file: Path) -> tuple[int, int]:
    """What changes when a file is written anew; nothing of one that is not there."""
    try:
        found = file.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
