"""Sweeps on a Dask cluster, through its `concurrent.futures` face; the only module that knows Dask.

A row whose worker dies is simulated again by another one. Results do not tell where they were computed.
"""

from __future__ import annotations

import logging
import signal
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from opendt.model.errors import TransportError
from opendt.optimization.sweep_run import Backend, simulate_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

__all__ = ["dask_backend", "dask_setup"]

_ALLOWED_FAILURES: Final = 10
"""Deaths of workers that a row may be near before it is held to be their cause. Dask suspects every row that a dying worker
held, so that its own 3 are used up by three deaths of other origin."""
_CONNECT_TIMEOUT_S: Final = 10.0
_JOBS_PER_THREAD: Final = 8
"""Enough for the way there and back to cost nothing; the scheduler holds what no worker has begun."""
_SETTINGS: Final[dict[str, Any]] = {
    "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES,
    # Warnings of a busy machine, and of the end of a cluster with rows in it, help nobody here.
    "distributed.admin.tick.limit": "10m",
    "logging.distributed": "error",
    "distributed.worker.preload": [__name__],
}


def dask_setup(_worker: object) -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the one that keeps the journal; Dask calls this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed").setLevel(logging.ERROR)


@contextmanager
def dask_backend(
    scheduler: str | None = None, *, local_workers: int = 0, connect_timeout_s: float = _CONNECT_TIMEOUT_S
) -> Iterator[Backend]:
    """Simulate on a Dask cluster.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running scheduler; its workers need this package and the workloads at the same paths.
    local_workers : int
        Otherwise: worker processes to start on this machine for the time being, reached on loopback only.
    connect_timeout_s : float
        How long a scheduler may take to answer, s.

    Raises
    ------
    TransportError
        When the scheduler cannot be reached or has no workers.
    """
    import dask
    from distributed import Client, KilledWorker, LocalCluster

    def explain(error: BaseException) -> str | None:
        if isinstance(error, KilledWorker):
            return "every worker that tried it died, often for want of memory; its log tells more"
        if isinstance(error, CancelledError):
            return "the cluster gave it up; is the scheduler still there?"
        return None

    with ExitStack() as stack:
        # Read when the scheduler starts, so they stand before the cluster.
        stack.enter_context(dask.config.set(_SETTINGS))
        # What goes wrong is told in our own words. Dask reads its settings of logging once, when it is imported.
        loggers = {name: logging.getLogger(name) for name in ("distributed", "tornado.application")}
        for logger in loggers.values():
            stack.callback(logger.setLevel, logger.level)
        loggers["distributed"].setLevel(logging.CRITICAL)
        if scheduler is None:
            cluster = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=local_workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
            )
            address: Any = stack.enter_context(cluster)
        else:
            address = scheduler
        try:
            client = Client(address, timeout=connect_timeout_s, set_as_default=False)  # type: ignore[no-untyped-call]
            stack.enter_context(client)
        except (OSError, ValueError) as error:
            words = f"scheduler {scheduler}: found {str(error) or 'no answer'}, expected one that answers"
            raise TransportError(f"{words} within {connect_timeout_s:g} s. Check --scheduler") from error
        in_flight = _JOBS_PER_THREAD * _threads(client, scheduler)
        executor = client.get_executor(pure=False)  # type: ignore[no-untyped-call]
        try:
            yield Backend(executor, in_flight, simulate_row, explain)
        finally:
            # Answers on their way when rows are given up are complained of in a callback that nobody can catch.
            loggers["tornado.application"].setLevel(logging.CRITICAL)


def _threads(client: Client, scheduler: str | None) -> int:
    """Rows that the workers simulate at a time."""
    count = sum(client.nthreads().values())  # type: ignore[no-untyped-call]
    if not count:
        raise TransportError(
            f"scheduler {scheduler}: found no workers, expected one at least. Start some, and try again"
        )
    return int(count)
