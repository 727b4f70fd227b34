"""What came of a fleet's plans, as the reports have it, and what was learned of them: on disk while the process runs, not only at its end."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opendt.orchestrator.logs import log
from opendt.verification.verify import latency_row, write_reports

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from opendt.model.job import Job
    from opendt.model.plan import Plan, PlanObservation
    from opendt.orchestrator.fleet_book import StoredPlan
    from opendt.orchestrator.fleet_planner import FleetPlanner, LearnedFile
    from opendt.verification.verify import LatencyRow

__all__ = ["FleetReport", "kept_up"]

_KEPT: Final = 100_000
"""Rows of finished plans that are held."""
_EVERY_S: Final = 60.0


class FleetReport:
    """Rows of plans that succeeded, oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[LatencyRow] = []
        self.seen = 0
        """Plans that this process saw end."""

    def restore(self, stored: Iterable[StoredPlan]) -> None:
        """Begin with what the ledger has of plans that succeeded before."""
        done = [one for one in stored if one.status == "succeeded"][-_KEPT:]
        rows = [latency_row(one.plan, one.job, one.run().observation) for one in done]
        with self._lock:
            self._rows = [row for row in rows if row is not None]

    def add(self, plan: Plan, job: Job, observation: PlanObservation) -> LatencyRow | None:
        """Take in a plan that is over; gives its row, where it succeeded."""
        row = latency_row(plan, job, observation)
        with self._lock:
            self.seen += 1
            if row is not None:
                self._rows = [*self._rows[-_KEPT + 1 :], row]
        return row

    @property
    def rows(self) -> list[LatencyRow]:
        """All of them."""
        with self._lock:
            return list(self._rows)


@contextmanager
def kept_up(report: FleetReport, folder: Path, learned: LearnedFile, planner: FleetPlanner) -> Iterator[None]:
    """Write the reports and what was learned once a minute while the block runs, where a plan has ended, and at its end."""
    ending = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        seen, rows = report.seen, report.rows
        if seen == written:
            return
        try:
            if rows:
                write_reports(rows, folder)
            learned.save(planner)
        except OSError as error:
            log().warning("reports of the fleet cannot be written", folder=str(folder), reason=str(error))
            return
        written = seen

    def keep() -> None:
        while not ending.wait(_EVERY_S):
            write()

    thread = threading.Thread(target=keep, name="fleet-reports", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
        write()
