"""Objectives of a run: those of a file with its versions, or modest ones made from the datasheet when none are given."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from opendt.model.errors import FormatError
from opendt.model.slo import (
    DurationTarget,
    EnergyTarget,
    PeakPowerTarget,
    RuntimeTargets,
    Slo,
    SlowdownTarget,
    UtilizationBand,
    read_slo,
)
from opendt.orchestrator.version_store import VersionStore
from opendt.orchestrator.versions import Version, VersionedFile

if TYPE_CHECKING:
    from opendt.model.topology import Topology
    from opendt.orchestrator.event_types import Event

__all__ = ["SloFile", "SloVersion", "default_slo", "slo_file", "slo_store"]

SloVersion: TypeAlias = Version[Slo]
SloFile: TypeAlias = VersionedFile[Slo]

_ENERGY_SHARE: Final = 0.6
_PEAK_SHARE: Final = 0.9


def default_slo(topology: Topology, window_s: int = 300) -> Slo:
    """Objectives for whoever has stated none.

    Energy per window at most 60 % of what all hosts use at full load, peak power at most 90 % of it, 95 % of the tasks wait less
    than five minutes and are in the system no longer than 1.5 times their running time, mean utilisation between 20 and 90 %.
    """
    full_w = sum(
        group.count * max(group.power_model.watts_at(u / 100) for u in range(101))
        for cluster in topology.clusters
        for group in cluster.hosts
    )
    return Slo(
        version=1,
        window_s=window_s,
        energy=EnergyTarget(target_kwh=_ENERGY_SHARE * full_w * window_s / 3.6e6),
        peak_power=PeakPowerTarget(target_kw=_PEAK_SHARE * full_w / 1000.0),
        runtime=RuntimeTargets(
            task_wait_p95=DurationTarget(target_s=300.0), task_slowdown_p95=SlowdownTarget(target_ratio=1.5)
        ),
        utilization=UtilizationBand(min_ratio=0.2, max_ratio=0.9),
    )


def slo_store(state_dir: Path, datacenter: str) -> VersionStore:
    """Backups of a datacenter's objectives: ``STATE_DIR/slo/NAME``."""
    return VersionStore(state_dir / "slo" / datacenter)


def slo_file(
    file: Path | None,
    state_dir: Path,
    datacenter: str,
    *,
    window_s: int = 300,
    on_event: Callable[[Event], None] | None = None,
    clock_s: Callable[[], float] = time.monotonic,
) -> SloFile:
    """Watch the objectives of a datacenter; see `VersionedFile`.

    Objectives of windows of another length than `window_s` are refused: their energies would be held against the wrong windows.
    """

    def read(path: Path) -> Slo:
        slo = read_slo(path)
        if slo.window_s != window_s:
            hint = "Targets hold for a window: state them for that length."
            raise FormatError(path, "window_s", slo.window_s, f"{window_s}, the window of the settings", hint)
        return slo

    store = slo_store(state_dir, datacenter)
    return VersionedFile("slo", file, store, read, datacenter=datacenter, on_event=on_event, clock_s=clock_s)
