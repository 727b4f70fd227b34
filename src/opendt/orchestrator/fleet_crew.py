"""Who acts on clusters: a few threads each, so that one which does not answer holds up no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opendt.orchestrator.fleet_ports import Hands

__all__ = ["Crew"]


class Crew:
    """Has work done in clusters, that of one cluster by threads of its own.

    Parameters
    ----------
    hands : Hands
        What acts.
    threads : int
        Actions at a time in a cluster.
    """

    def __init__(self, hands: Hands, threads: int) -> None:
        self._hands = hands
        self._threads = threads
        self._lock = threading.Lock()
        self._is_closed = False
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._doing: set[Future[object]] = set()

    def send(self, cluster: str, work: Callable[[Hands], object]) -> None:
        """Have something done; what comes of it `work` tells itself. After `close` nothing is begun."""
        with self._lock:
            if self._is_closed:
                return
            if cluster not in self._pools:
                self._pools[cluster] = ThreadPoolExecutor(self._threads, thread_name_prefix=f"acts-{cluster}")
            doing = self._pools[cluster].submit(work, self._hands)
            self._doing.add(doing)
        doing.add_done_callback(self._done)

    def _done(self, doing: Future[object]) -> None:
        with self._lock:
            self._doing.discard(doing)

    def drain(self, timeout_s: float | None = None) -> None:
        """Wait until nothing is being done."""
        with self._lock:
            doing = list(self._doing)
        wait(doing, timeout=timeout_s)

    def close(self) -> None:
        """Begin nothing more; what runs is waited for."""
        with self._lock:
            self._is_closed = True
            pools = list(self._pools.values())
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)
