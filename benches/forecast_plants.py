"""Synthetic weeks of load and measured power for benches of the forecasts: plants and meters that were declared beforehand.

A plant is some days of `opendt.formats.synthetic` (its load, its hidden power curves, its slow drift and its heat), changed in three
ways that are stated here, not taken from any recorded week. Every plant meets every meter, with the two noises in turn: twenty in all.

- *plant*: as it is; a datasheet that is wrong by a quarter in idle power and a fifth in dynamic power; a step of 5 % after a
  third of the time; a drift of -10 % a week;
- *noise* of each reading: what the generator has (0.2 % of mean power), and 1 %;
- *meter*: exact; one value for two minutes, of all hosts; one for five minutes, of half of the hosts; the running mean of five
  minutes; the mean of five minutes, once in five minutes.

That meters do so is documented: Redfish's `PowerMetrics` gives `AverageConsumedWatts` over the last `IntervalInMin`, in whole minutes
(DMTF DSP0268); DCMI's `Get Power Reading` names the period over which the controller averaged (DCMI specification 1.5); HP's intelligent power
distribution units give one sample in five minutes (HP OneView REST API, `power-devices`, view `native`); a GPU's sensor sees as little as a
quarter of the time (Yang, Adamek, Armour, "Part-time Power Measurements", SC 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from opendt.engine.simulation import Simulation, to_engine
from opendt.formats.synthetic import synthesize_week
from opendt.model.options import Options
from opendt.twin.live import host_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from opendt.formats.power import MeasuredPower
    from opendt.model.topology import Topology
    from opendt.model.workload import Workload
    from opendt.twin.curve import HostClass

    Floats = NDArray[np.float64]

TICK_MS: Final = 30_000
DAY_TICKS: Final = 2880
HOUR_TICKS: Final = 120

PLANTS: Final = ("as it is", "wrong datasheet", "step", "drift")
NOISE_RATIOS: Final = (0.0, 0.01)
FIRST_SEED: Final = 1000
"""Seeds of the plants follow from here, far from those of demos, tests and figures."""


@dataclass(frozen=True, eq=False)
class Week:
    """Load of the hosts and readings in W, a row per tick."""

    name: str
    classes: list[HostClass]
    features: Floats
    hosts_up: Floats
    measured_w: Floats


@dataclass(frozen=True, kw_only=True)
class Meter:
    """What a meter does with the power of `share` of the hosts; the others' is read as it is.

    `mean_ticks`: the mean over so many ticks is taken; `hold_ticks`: so long stands what was read.
    """

    name: str
    share: float = 1.0
    mean_ticks: int = 1
    hold_ticks: int = 1

    def read(self, power_w: Floats) -> Floats:
        """Readings of a series of power, W."""
        total = np.concatenate([[0.0], np.cumsum(power_w)])
        tick = np.arange(1, power_w.size + 1)
        first = np.maximum(tick - self.mean_ticks, 0)
        seen = (total[tick] - total[first]) / (tick - first)
        refreshed = np.maximum((tick // self.hold_ticks) * self.hold_ticks, 1) - 1
        return np.asarray(self.share * seen[refreshed] + (1.0 - self.share) * power_w)


METERS: Final = (
    Meter(name="exact"),
    Meter(name="all held 2 min", hold_ticks=4),
    Meter(name="half held 5 min", hold_ticks=10, share=0.5),
    Meter(name="running mean 5 min", mean_ticks=10),
    Meter(name="mean of 5 min, held", mean_ticks=10, hold_ticks=10),
)


def played(name: str, topology: Topology, workload: Workload, power: MeasuredPower, days: float) -> Week:
    """Simulate a week and put its readings beside the load."""
    tasks = to_engine(workload)
    options = Options(start_epoch_ms=tasks.first_submission_ms)
    simulation = Simulation(topology, options, sample_interval_ms=TICK_MS, settled=True, with_basis=True)
    simulation.submit(tasks)
    ticks = min(round(days * DAY_TICKS), int(power.timestamp_ms.max()) // TICK_MS)
    simulation.advance(ticks * TICK_MS)
    series = simulation.take_series()
    measured_w = np.full(ticks, np.nan)
    place = np.asarray(power.timestamp_ms) // TICK_MS - 1
    inside = (place >= 0) & (place < ticks)
    measured_w[place[inside]] = np.asarray(power.power_w, float)[inside]
    return Week(name, host_classes(topology), series["basis"], series["class_hosts"], measured_w)


def synthetic(seed: int, days: float) -> Week:
    """The week that `opendt.formats.synthetic` makes of a seed."""
    made = synthesize_week(seed)
    return played(f"synthetic {seed}", made.topology, made.workload, made.power, days)


def varied(week: Week, plant: str, noise_ratio: float, meter: Meter, seed: int) -> Week:
    """A week with another plant, noise and meter; see the module."""
    ticks = week.measured_w.size
    share_of_week = np.arange(ticks) / (7 * DAY_TICKS)
    factor = np.ones(ticks)
    classes = week.classes
    if plant == "wrong datasheet":
        classes = [_misprinted(one) for one in classes]
    elif plant == "step":
        factor[ticks // 3 :] = 1.05
    elif plant == "drift":
        factor -= 0.1 * share_of_week
    noise = noise_ratio * np.random.default_rng(seed).standard_normal(ticks)
    # The noise is the sensor's: it is held and averaged with what it reads.
    measured_w = meter.read(week.measured_w * factor * (1.0 + noise))
    name = f"{plant}, noise {noise_ratio:.0%}, {meter.name}"
    return replace(week, name=name, classes=classes, measured_w=measured_w)


def _misprinted(host_class: HostClass) -> HostClass:
    idle_w = host_class.power_w[0]
    return replace(host_class, power_w=tuple(0.75 * idle_w + 1.2 * (watts - idle_w) for watts in host_class.power_w))


def count() -> int:
    """How many plants there are."""
    return len(PLANTS) * len(METERS)


def plant(index: int, days: float = 7.0) -> Week:
    """Plant number `index` of `count()`, each with a seed of its own; whole hours."""
    place, which = divmod(index, len(METERS))
    noise_ratio = NOISE_RATIOS[(place + which) % len(NOISE_RATIOS)]
    seed = FIRST_SEED + index
    week = varied(synthetic(seed, days), PLANTS[place], noise_ratio, METERS[which], seed)
    ticks = week.measured_w.size // HOUR_TICKS * HOUR_TICKS
    return replace(
        week,
        features=week.features[:ticks],
        hosts_up=week.hosts_up[:ticks],
        measured_w=week.measured_w[:ticks],
    )
