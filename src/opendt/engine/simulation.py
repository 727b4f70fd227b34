"""One simulation: what people who write Python hold in their hands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opendt._engine import KNOTS
from opendt._engine import Simulation as _Simulation
from opendt._engine import Workload as EngineWorkload
from opendt._engine import read_workload as load_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from opendt.model.change import Change
    from opendt.model.options import Options
    from opendt.model.topology import Topology
    from opendt.model.workload import Workload

__all__ = ["KNOTS", "EngineWorkload", "Simulation", "load_workload", "to_engine"]

Columns = dict[str, "NDArray[Any]"]


def to_engine(workload: Workload | EngineWorkload) -> EngineWorkload:
    """Hand a workload's columns to the engine, sorted by submission (stable, so that order breaks ties)."""
    if isinstance(workload, EngineWorkload):
        return workload
    import numpy as np

    if np.any(np.diff(workload.submission_ms) < 0):
        workload = workload.select(np.argsort(workload.submission_ms, kind="stable"))
    return EngineWorkload.from_columns(workload.columns)


class Simulation:
    """A simulated datacenter at a moment.

    Parameters
    ----------
    topology : Topology
        Clusters, hosts, links, power sources.
    options : Options, optional
        Policies, seed, start of time. Without them time 0 is the first submission of the first workload.
    sample_interval_ms : int, optional
        Record series at every multiple of this.
    settled : bool
        Samples come after all changes of their instant, not where the reference simulator puts them.
    with_basis : bool
        Record, at each sample, the sums of the basis functions of power curves (see `KNOTS`) over busy hosts.

    Examples
    --------
    >>> from opendt import Cluster, HostGroup, LinearPower, Simulation, ThrottleHosts, Topology, workload_from_tasks
    >>> node = HostGroup(
    ...     name="node",
    ...     count=4,
    ...     core_count=16,
    ...     core_speed_mhz=2400.0,
    ...     memory_mib=65536,
    ...     power_model=LinearPower(idle_w=100.0, max_w=300.0),
    ... )
    >>> simulation = Simulation(Topology(clusters=(Cluster(name="dc", hosts=(node,)),)))
    >>> simulation.submit(workload_from_tasks([{"id": 1, "cpu_count": 8, "fragments": [(3_600_000, 19_200.0)]}]))
    >>> slower = simulation.fork()
    >>> slower.apply(ThrottleHosts(speed_ratio=0.4))
    >>> simulation.run()
    >>> slower.run()
    >>> simulation.now_ms, slower.now_ms
    (3600000, 4500000)
    """

    def __init__(
        self,
        topology: Topology,
        options: Options | None = None,
        *,
        sample_interval_ms: int | None = None,
        settled: bool = False,
        with_basis: bool = False,
    ) -> None:
        self._topology = topology
        self._options = options
        self._sampling = (sample_interval_ms, settled, with_basis)
        self._engine: _Simulation | None = None if options is None else self._start(options)

    def _start(self, options: Options) -> _Simulation:
        interval_ms, settled, with_basis = self._sampling
        topology_json = self._topology.model_dump_json().encode()
        options_json = options.model_dump_json().encode()
        return _Simulation(
            topology_json, options_json, sample_interval_ms=interval_ms, settled=settled, with_basis=with_basis
        )

    def __reduce__(self) -> tuple[Callable[..., Simulation], tuple[bytes, bool]]:
        """Pickle as a snapshot with its workloads; what was recorded and not taken yet is not part of it."""
        return _unpickle, (self.snapshot(), self._sampling[2])

    @property
    def engine(self) -> _Simulation:
        """The compiled simulation; made on first use when no options told when time begins."""
        if self._engine is None:
            from opendt.model.options import Options

            self._engine = self._start(Options())
        return self._engine

    @classmethod
    def _around(cls, engine: _Simulation, *, with_basis: bool) -> Simulation:
        simulation = cls.__new__(cls)
        simulation._engine = engine  # noqa: SLF001 - its own, made without the constructor
        simulation._sampling = (None, False, with_basis)  # noqa: SLF001
        return simulation

    @property
    def now_ms(self) -> int:
        """Present time, ms since the start."""
        return self.engine.now_ms

    @property
    def start_epoch_ms(self) -> int:
        """Absolute time of the start, ms since the epoch (UTC)."""
        return self.engine.start_epoch_ms

    @property
    def is_done(self) -> bool:
        """Whether no task is live or to come."""
        return self.engine.is_done

    @property
    def power_w(self) -> float:
        """Power that the clusters take from the grid now, W."""
        return self.engine.power_w()

    @property
    def energy_j(self) -> float:
        """Energy that the clusters took from the grid since the start, J; exact to the present moment."""
        return self.engine.energy_j()

    @property
    def emission_g(self) -> float:
        """Carbon emitted since the start, g CO2."""
        return self.engine.emission_g()

    @property
    def counts(self) -> dict[str, int]:
        """Tasks submitted, pending, active, completed and terminated."""
        return self.engine.counts()

    def submit(self, workload: Workload | EngineWorkload) -> None:
        """Give the simulation more tasks, all of them submitted now or later.

        Raises
        ------
        EngineError
            When a task was due in the past or names a host that does not exist; nothing is taken then.
        """
        tasks = to_engine(workload)
        if self._engine is None:
            from opendt.model.options import Options

            self._engine = self._start(Options(start_epoch_ms=tasks.first_submission_ms))
        self._engine.submit(tasks)

    def submit_open(self, workload: EngineWorkload, waits: Sequence[tuple[int, int, int]] = ()) -> int:
        """Give the simulation tasks whose work will be told by `feed`; gives the number by which `feed` knows them.

        Parameters
        ----------
        workload : EngineWorkload
            The tasks, with edges between them.
        waits : sequence of (int, int, int)
            Task by index, and number of the workload and index of a task of before that it waits for, which has not ended.

        Raises
        ------
        EngineError
            As `submit`, or when a wait names a task that was not submitted.
        """
        if not waits:
            return self.engine.submit_open(workload)
        return self.engine.submit_open(workload, list(waits))

    def feed(
        self,
        workload: NDArray[np.uint32],
        index: NDArray[np.uint32],
        offset: NDArray[np.uint32],
        duration_ms: NDArray[np.uint32],
        cpu_mhz: NDArray[np.float64],
        closed: NDArray[np.bool_],
        gpu_mhz: NDArray[np.float64] | None = None,
    ) -> None:
        """Tell what open tasks did next: task ``index[i]`` of workload ``workload[i]`` did pieces ``offset[i]`` to ``offset[i + 1]``.

        A task that has nothing left and is not closed holds its last demand.

        Raises
        ------
        EngineError
            When columns do not fit together or a task was not submitted open; nothing is taken then.
        """
        self.engine.feed(workload, index, offset, duration_ms, cpu_mhz, closed, gpu_mhz)

    @property
    def held_since_ms(self) -> int | None:
        """Since when the simulation rests on held demands, ms since the start; None when it does not."""
        return self.engine.held_since_ms

    def forget_guesses(self) -> None:
        """Take the demands held so far for what happened."""
        self.engine.forget_guesses()

    def advance(self, until_ms: int, progress: Callable[[int], None] | None = None) -> None:
        """Run everything up to and including `until_ms` (ms since the start)."""
        self.engine.advance(until_ms, progress)

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Run until no task is left; tasks that can never be placed are terminated."""
        self.engine.run(progress)

    def fork(self, *, with_basis: bool | None = None) -> Simulation:
        """Make a replica that goes its own way; what was recorded so far stays here."""
        with_basis = self._sampling[2] if with_basis is None else with_basis
        return self._around(self.engine.fork(with_basis=with_basis), with_basis=with_basis)

    def apply(self, *changes: Change) -> None:
        """Apply changes in order, all or none.

        Raises
        ------
        EngineError
            When a change names what does not exist or holds values that no simulation can use.
        """
        records = ",".join(change.model_dump_json() for change in changes)
        self.engine.apply(f"[{records}]".encode())

    def set_sampling(self, interval_ms: int | None, *, settled: bool = False) -> None:
        """Record series at every multiple of the interval; None ends recording.

        A sample comes where the reference simulator puts it among the changes of its instant; when `settled`, after them.
        """
        self.engine.set_sampling(interval_ms, settled=settled)

    def replace_work(
        self,
        tasks: NDArray[np.uint32],
        offset: NDArray[np.uint32],
        duration_ms: NDArray[np.int64],
        cpu_mhz: NDArray[np.float64],
    ) -> None:
        """Replace what tasks (numbers of `tasks`) have left: pieces ``offset[i]`` to ``offset[i + 1]`` for the i-th."""
        self.engine.replace_work(tasks, offset, duration_ms, cpu_mhz)

    def hosts(self) -> dict[str, Any]:
        """Columns of all hosts as they are now: name, cluster, group, status, tasks, power_w, energy_j and more."""
        return self.engine.hosts()

    def class_names(self) -> list[tuple[str, str]]:
        """Cluster and host group of each host class; hosts that were added or changed make classes of their own."""
        return self.engine.class_names()

    def class_counts(self) -> dict[str, NDArray[np.float64]]:
        """Hosts that draw power (``hosts``) and hosts with tasks (``busy``), a number of each host class."""
        return self.engine.class_counts()

    def tasks(self) -> dict[str, Any]:
        """Columns of the tasks that are in the system now: number, id, state, host, times, demand."""
        return self.engine.tasks()

    def take_series(self) -> Columns:
        """Take the samples recorded since the last time.

        Returns
        -------
        dict
            ``time_ms`` (samples,); ``power_w``, ``energy_j``, ``emission_g``, ``intensity_g_per_kwh``, ``usage_mhz``,
            ``demand_mhz``, ``capacity_mhz`` (samples, clusters), of the grid and cumulative where a total; counts of
            hosts and tasks (samples,); with a basis also ``basis`` (samples, classes, knots), ``class_hosts`` (samples,
            classes).
        """
        return self.engine.take_series()

    def take_results(self) -> dict[str, Any]:
        """Take the results of tasks that ended since the last time, as columns; -1 where a time or host is unknown."""
        return self.engine.take_results()

    def snapshot(self, *, workloads: bool = True) -> bytes:
        """Write the simulation as bytes; without its workloads only their hashes are kept."""
        return self.engine.snapshot(workloads=workloads)

    @classmethod
    def restore(cls, data: bytes, workloads: Sequence[EngineWorkload] = (), *, with_basis: bool = False) -> Simulation:
        """Read what `snapshot` wrote.

        Raises
        ------
        SnapshotError
            When the bytes are no snapshot of this version, are damaged, or name a workload that is not given.
        """
        return cls._around(_Simulation.restore(data, list(workloads), with_basis=with_basis), with_basis=with_basis)


def _unpickle(data: bytes, with_basis: bool) -> Simulation:
    return Simulation.restore(data, with_basis=with_basis)
