"""Objectives of a run: those of a file, or modest ones made from the datasheet when none are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opendt.model.slo import (
    DurationTarget,
    EnergyTarget,
    PeakPowerTarget,
    RuntimeTargets,
    Slo,
    SlowdownTarget,
    UtilizationBand,
)

if TYPE_CHECKING:
    from opendt.model.topology import Topology

__all__ = ["default_slo"]

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
