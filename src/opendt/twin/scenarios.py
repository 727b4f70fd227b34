"""Many futures of one simulation at once: rows are what may come (scenarios), columns what may be changed (candidates).

All candidates of a scenario are forks of the same prepared simulation: they see the same tasks and the same random numbers, so
that a difference between two of them is the effect of the changes and of nothing else. The engine does the whole table in one
call, without the GIL and on all cores; what comes out does not depend on their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt._engine import evaluate
from opendt.twin.metrics import WindowMetrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from opendt.engine.simulation import EngineWorkload, Simulation
    from opendt.model.change import Change

__all__ = ["Outcomes", "Scenarios", "changes_json"]

_J_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What each candidate brings in each scenario.

    Attributes
    ----------
    start_ms, end_ms : int
        The time that was looked at, ms since the start.
    columns : dict of str to ndarray, shape (scenarios, candidates)
        ``energy_j``, ``emission_g``, ``peak_power_w``, ``usage_mhz`` and ``capacity_mhz`` (summed over samples), ``hosts_up``,
        ``hosts_busy``, ``tasks_active``, ``tasks_pending``, ``tasks_submitted``, ``tasks_completed``, ``tasks_terminated``,
        ``task_wait_p95_s``, ``task_slowdown_p95_ratio``, ``makespan_s``, ``makespan_complete`` (1 or 0); defined as in
        `WindowMetrics`, NaN where unknown. Peak power, utilisation and hosts are unknown if the base records no samples.
    errors : tuple of str or None
        Why a candidate cannot be applied; its column is NaN then.
    start_epoch_ms : int
        Absolute time of the start, ms since the epoch (UTC).
    """

    start_ms: int
    end_ms: int
    columns: dict[str, NDArray[np.float64]]
    errors: tuple[str | None, ...]
    start_epoch_ms: int

    def metrics(self, scenario: int, candidate: int) -> WindowMetrics:
        """One cell as the loop scores it; equal to `window_metrics` of the same fork.

        Raises
        ------
        ValueError
            When the candidate could not be applied.
        """
        if self.errors[candidate] is not None:
            raise ValueError(f"candidate {candidate} was refused, so it has no metrics: {self.errors[candidate]}")
        cell = {name: column[scenario, candidate].item() for name, column in self.columns.items()}
        number: dict[str, float | None] = {name: None if math.isnan(value) else value for name, value in cell.items()}
        peak_w, capacity_mhz = number["peak_power_w"], cell["capacity_mhz"]
        return WindowMetrics(
            start_ms=self.start_ms,
            end_ms=self.end_ms,
            energy_kwh=cell["energy_j"] / _J_PER_KWH,
            emission_kg=cell["emission_g"] / 1000.0,
            peak_power_kw=None if peak_w is None else peak_w / 1000.0,
            mean_power_kw=cell["energy_j"] / (self.end_ms - self.start_ms),
            utilization_ratio=cell["usage_mhz"] / capacity_mhz if capacity_mhz > 0 else None,
            hosts_up=_whole(number["hosts_up"]),
            hosts_busy=_whole(number["hosts_busy"]),
            tasks_active=_whole(number["tasks_active"]),
            tasks_pending=_whole(number["tasks_pending"]),
            tasks_submitted=_whole(number["tasks_submitted"]),
            tasks_completed=_whole(number["tasks_completed"]),
            task_wait_p95_s=number["task_wait_p95_s"],
            task_slowdown_p95_ratio=number["task_slowdown_p95_ratio"],
            makespan_s=number["makespan_s"],
            makespan_complete=bool(cell["makespan_complete"]),
            start_epoch_ms=self.start_epoch_ms,
        )


@dataclass(frozen=True, slots=True)
class Scenarios:
    """Futures of one simulation that have been drawn, but not lived.

    Attributes
    ----------
    base : Simulation
        The present; forked, never changed. It conserves work and knows nothing of the future.
    until_ms : int
        End of the futures, ms since the start.
    tasks : ndarray of uint32, shape (tasks,)
        Numbers of the tasks in the system.
    left_ms : ndarray of int64, shape (scenarios, tasks)
        How long each of them would still run unhindered, ms.
    cpu_mhz : ndarray of float64, shape (scenarios, tasks)
        Their demand, MHz.
    arrivals : tuple of EngineWorkload or None
        Tasks that arrive, a workload each scenario.
    setups : tuple of bytes
        Changes that belong to a scenario, such as a power curve, as a JSON list; without any, empty.
    """

    base: Simulation
    until_ms: int
    tasks: NDArray[np.uint32]
    left_ms: NDArray[np.int64]
    cpu_mhz: NDArray[np.float64]
    arrivals: tuple[EngineWorkload | None, ...]
    setups: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.arrivals)

    def fork(self, scenario: int) -> Simulation:
        """The present with a scenario ahead of it, to be advanced by hand; what `evaluate` does with each of its rows."""
        fork = self.base.fork()
        if self.setups and self.setups[scenario]:
            fork.engine.apply(self.setups[scenario])
        pieces = np.arange(len(self.tasks) + 1, dtype=np.uint32)
        fork.replace_work(self.tasks, pieces, self.left_ms[scenario], self.cpu_mhz[scenario])
        arrivals = self.arrivals[scenario]
        if arrivals is not None:
            fork.submit(arrivals)
        # Until its present instant is over, a host still holds what its tasks had left before.
        fork.advance(fork.now_ms)
        return fork

    def evaluate(self, candidates: Sequence[Sequence[Change]], *, threads: int | None = None) -> Outcomes:
        """Simulate every candidate (changes that are applied now, in order; none leaves things as they are) in every scenario.

        Parameters
        ----------
        candidates : sequence of sequence of Change
            A column each.
        threads : int, optional
            All cores unless given.

        Raises
        ------
        EngineError
            When a scenario itself does not fit the base. A candidate that cannot be applied is told in `Outcomes.errors`.
        """
        engine = self.base.engine
        columns: dict[str, Any] = evaluate(
            engine,
            self.tasks,
            self.left_ms,
            self.cpu_mhz,
            self.arrivals,
            self.setups,
            [changes_json(changes) for changes in candidates],
            self.until_ms,
            threads=threads,
        )
        errors = tuple(columns.pop("errors"))
        return Outcomes(engine.now_ms, self.until_ms, columns, errors, engine.start_epoch_ms)


def changes_json(changes: Sequence[Change]) -> bytes:
    """Changes as the engine reads them."""
    return f"[{','.join(change.model_dump_json() for change in changes)}]".encode()


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
