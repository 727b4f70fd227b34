"""A small synthetic plant: hosts with a hidden power curve, a load that wanders and jumps, a meter with noise that may hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opendt.twin.curve import KNOTS, HostClass, hat_weights

IDLE_W, PEAK_W = 50.0, 200.0
TRUE_IDLE_W = 58.0


def datasheet(name: str = "node", hosts: int = 60) -> HostClass:
    """A straight line from idle to peak."""
    return HostClass(name, hosts, KNOTS, tuple(IDLE_W + (PEAK_W - IDLE_W) * u for u in KNOTS))


def true_power_w(utilization):
    """The hidden curve of a busy host: more at idle than the datasheet says, and bent."""
    return TRUE_IDLE_W + 140.0 * np.asarray(utilization) ** 0.7


@dataclass
class Run:
    features: np.ndarray  # (ticks, 1, knots)
    hosts: np.ndarray  # (ticks, 1)
    power_w: np.ndarray  # without noise and hold
    measured_w: np.ndarray


def run(ticks=2880, hosts=60, seed=0, noise_w=0.0, period=1, phase=0, factor=1.0):
    """Advance the plant; host i is busy for random stretches at a random utilisation."""
    rng = np.random.default_rng(seed)
    utilization = np.full((ticks, hosts), np.nan)
    for host in range(hosts):
        tick = int(rng.integers(0, 40))
        while tick < ticks:
            busy, idle = int(rng.geometric(1 / 80)), int(rng.geometric(1 / 60))
            stretch = slice(tick, min(ticks, tick + busy))
            level = rng.uniform(0.05, 1.0)
            utilization[stretch, host] = np.clip(level + 0.05 * rng.standard_normal(stretch.stop - tick), 0, 1)
            tick += busy + idle
    there = np.isfinite(utilization)
    weights = hat_weights(np.where(there, utilization, 0.0)) * there[..., None]
    power = np.where(there, true_power_w(np.where(there, utilization, 0.0)), TRUE_IDLE_W).sum(axis=1)
    power = power * factor
    ticks_from_one = np.arange(1, ticks + 1)
    shown = np.maximum(ticks_from_one - (ticks_from_one - phase) % period, 1) - 1
    measured = power[shown] + noise_w * rng.standard_normal(ticks)
    return Run(weights.sum(axis=1)[:, None, :], np.full((ticks, 1), float(hosts)), power, measured)


def forecast_errors(calibrator, plant, step=120):
    """Relative errors of forecasts issued every `step` ticks before the calibrator sees them."""
    out = []
    for start in range(0, len(plant.power_w), step):
        part = slice(start, start + step)
        mean = calibrator.predict(plant.features[part], plant.hosts[part]).mean_w
        out.append(np.abs(mean / plant.measured_w[part] - 1.0))
        calibrator.update(plant.features[part], plant.hosts[part], plant.measured_w[part])
    return np.concatenate(out)
