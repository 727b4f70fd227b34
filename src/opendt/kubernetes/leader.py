"""Who of several controllers acts: the holder of a Lease in one of the clusters.

As client-go does it: a holder renews; another takes over when it has seen no renewal for the lease's duration *on its own clock*,
so clocks need not agree. A holder stops acting earlier than that, when it could not renew for `renew_s`, so that there is a
moment at which nobody acts and none at which two do. Pauses of a whole process are caught the same way: `is_leading` looks
at the clock each time it is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from opendt.kubernetes.client import ApiError, ClusterAwayError, ClusterClient, path_of
from opendt.model.errors import OpenDTError

__all__ = ["LeaderElection", "LeaseSettings"]

_CONFLICT: Final = 409
_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """The lease that is held.

    Parameters
    ----------
    namespace, name : str
        Where it is.
    duration_s : int
        For how long others wait after the last renewal; whole seconds, as leases count them.
    renew_s : float
        For how long its holder acts after the last renewal; shorter than `duration_s` by what a request may take.
    retry_s : float
        Time between tries. With the defaults another controller takes over at most 7 s after the holder died.
    """

    namespace: str = "opendt"
    name: str = "opendt-controller"
    duration_s: int = 6
    renew_s: float = 4.0
    retry_s: float = 1.0


class LeaderElection:
    """Tries to hold a lease.

    Parameters
    ----------
    client : callable
        Gives the client of the cluster that has the lease.
    identity : str
        Who we are; unique among the controllers.
    settings : LeaseSettings, optional
        The lease.
    clock_s : callable, optional
        Monotonic clock in s.
    now_ms : callable, optional
        Wall clock, ms since the epoch; only written, for people to read.
    changed : callable, optional
        Told when leading begins (True) and ends (False), with a sentence.
    """

    def __init__(
        self,
        client: Callable[[], ClusterClient],
        identity: str,
        settings: LeaseSettings | None = None,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] | None = None,
        changed: Callable[[bool, str], None] | None = None,
    ) -> None:
        self._client = client
        self._identity = identity
        self._settings = settings or LeaseSettings()
        self._clock_s = clock_s
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._changed = changed or (lambda _leading, _why: None)
        lease = self._settings
        self._collection = path_of("apis", "coordination.k8s.io", "v1", "namespaces", lease.namespace, "leases")
        self._path = f"{self._collection}/{lease.name}"
        self._renewed_s: float | None = None
        self._seen: tuple[str, str, float] | None = None  # holder, its renewal, when we saw that first
        self._was_leading = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_leading(self) -> bool:
        """Whether we may act, now."""
        renewed_s = self._renewed_s
        return renewed_s is not None and self._clock_s() - renewed_s < self._settings.renew_s

    def step(self) -> bool:
        """Try once to renew or to take over; return `is_leading`."""
        asked_s = self._clock_s()  # before asking: the answer may take its time
        try:
            if self._hold():
                self._renewed_s = asked_s
                self._tell("the lease is ours")
            else:
                self._renewed_s = None
                self._tell(f"{self._seen[0] if self._seen else 'somebody else'} has the lease")
        except (ApiError, ClusterAwayError) as error:
            # Not renewed; what was renewed before still holds until its time is over.
            self._tell(f"the lease could not be renewed: {error}")
        return self.is_leading

    def start(self) -> None:
        """Begin to try, until `stop`."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="leader", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop trying, and give the lease up so that another controller need not wait."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.is_leading:
            self._renewed_s = None
            self._release()
            self._tell("it was given up")

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.step()
            self._stopping.wait(self._settings.retry_s)

    def _hold(self) -> bool:
        """Create, renew or take over; False when somebody else has it, or was faster."""
        client = self._client()
        try:
            lease = client.get(self._path)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            return self._write(lambda: client.create(self._collection, self._lease({}, {})))
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") not in (self._identity, "", None) and not self._is_over(spec):
            return False
        # The resourceVersion that was read goes along: if somebody else wrote since, this is refused.
        return self._write(lambda: client.replace(self._path, self._lease(lease["metadata"], spec)))

    def _is_over(self, spec: dict[str, Any]) -> bool:
        """Whether the holder was not seen renewing for as long as it promised to, on our clock."""
        holder, renewal = str(spec.get("holderIdentity")), str(spec.get("renewTime"))
        now_s = self._clock_s()
        if self._seen is None or self._seen[:2] != (holder, renewal):
            self._seen = (holder, renewal, now_s)
        return now_s - self._seen[2] >= float(spec.get("leaseDurationSeconds") or self._settings.duration_s)

    def _write(self, write: Callable[[], Any]) -> bool:
        try:
            write()
        except ApiError as error:
            if error.status == _CONFLICT:
                return False
            raise
        return True

    def _lease(self, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        now = datetime.fromtimestamp(self._now_ms() / 1000, UTC).isoformat(timespec="microseconds")
        now = now.replace("+00:00", "Z")
        is_ours = spec.get("holderIdentity") == self._identity
        taken = int(spec.get("leaseTransitions") or 0) + (0 if is_ours or not spec else 1)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata or {"name": self._settings.name, "namespace": self._settings.namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": self._settings.duration_s,
                "acquireTime": spec.get("acquireTime", now) if is_ours else now,
                "renewTime": now,
                "leaseTransitions": taken,
            },
        }

    def _release(self) -> None:
        client = self._client()
        try:
            lease = client.get(self._path)
            if lease["spec"].get("holderIdentity") == self._identity:
                spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                client.replace(self._path, {**lease, "spec": spec})
        except OpenDTError:
            return  # it runs out by itself

    def _tell(self, why: str) -> None:
        leading = self.is_leading
        if leading != self._was_leading:
            self._was_leading = leading
            self._changed(leading, why)
