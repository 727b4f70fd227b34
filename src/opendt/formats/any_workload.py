"""Workloads of any format behind one function, each by its own reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from opendt.formats.detect import Kind

if TYPE_CHECKING:
    from opendt.model.topology import Topology
    from opendt.model.workload import Workload

__all__ = ["WORKLOAD_KINDS", "ReadWorkload", "read_any_workload"]

WORKLOAD_KINDS: Final = (Kind.WORKLOAD, Kind.SWF, Kind.WFFORMAT, Kind.WTA, Kind.OPENB_PODS)


@dataclass(frozen=True, eq=False)
class ReadWorkload:
    """Tasks as read; `dropped` counts what never ran, `machines` is where they ran if the file says it."""

    workload: Workload
    dropped: int = 0
    machines: Topology | None = None
    makespan_s: float | None = None


def read_any_workload(
    path: Path | str, kind: Kind, *, core_speed_mhz: float = 2000.0, pin_partitions: bool = False
) -> ReadWorkload:
    """Read a workload.

    Parameters
    ----------
    path : Path or str
        File or folder.
    kind : Kind
        One of `WORKLOAD_KINDS`; see `opendt.formats.detect`.
    core_speed_mhz : float
        Speed that turns cores into demand, where the format does not say it, in MHz.
    pin_partitions : bool
        Pin the jobs of an SWF log to the cluster named as their partition.

    Raises
    ------
    FormatError
        Naming file and row, line or key.
    """
    if kind is Kind.SWF:
        from opendt.formats.swf import read_swf

        log = read_swf(path, core_speed_mhz=core_speed_mhz, pin_partitions=pin_partitions)
        return ReadWorkload(log.workload, log.dropped)
    if kind is Kind.WFFORMAT:
        from opendt.formats.wfformat import read_wfformat

        workflow = read_wfformat(path, core_speed_mhz=core_speed_mhz)
        machines = workflow.machines if workflow.machines.clusters else None
        return ReadWorkload(workflow.workload, machines=machines, makespan_s=workflow.makespan_s)
    if kind is Kind.WTA:
        from opendt.formats.wta import read_wta

        return ReadWorkload(read_wta(path, core_speed_mhz=core_speed_mhz))
    if kind is Kind.OPENB_PODS:
        from opendt.formats.openb import read_openb_pods

        pods = read_openb_pods(path, core_speed_mhz=core_speed_mhz)
        return ReadWorkload(pods.workload, pods.dropped)
    if kind is Kind.WORKLOAD:
        from opendt._engine import read_workload as read_columns
        from opendt.formats.opendc_workload import read_workload

        handle = read_columns(path)
        return ReadWorkload(read_workload(path, reader=lambda _: handle), handle.dropped_tasks)
    raise ValueError(f"{kind} is no kind of workload")
