"""Power in watts as a function of utilisation: the models of the reference and measured curves.

Utilisation u is demand over capacity, in [0, 1]; I is idle power and M is maximum power, both in W.

============  ==========================================================================
constant      ``power_w``, whatever the load
linear        I + (M - I) u
sqrt          I + (M - I) sqrt(u)
square        I + (M - I) u^2
cubic         I + (M - I) u^3
mse           I + (M - I) (2u - u^c): exceeds M for c > 1 (Fan et al., ISCA 2007)
asymptotic    I + (M - I)/2 (1 + v - exp(-v/a)) with v = u^3 under DVFS, else u (GreenCloud)
curve         straight lines between measured points, as SPECpower publishes them
============  ==========================================================================

How far to trust them: against SPECpower measurements, straight lines and the like are off by several percent of the
maximum in the middle of the range; a measured curve of the same server type is as good as the measurement.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from opendt.model.base import Flag, Model, NonNegative, Positive, Ratio

__all__ = [
    "AsymptoticPower",
    "ConstantPower",
    "CubicPower",
    "CurvePower",
    "LinearPower",
    "MsePower",
    "PowerModel",
    "SqrtPower",
    "SquarePower",
]


class ConstantPower(Model):
    """The same power at every load."""

    type: Literal["constant"] = "constant"
    power_w: NonNegative

    def watts_at(self, utilization: float) -> float:
        """Power in W at a utilisation in [0, 1]."""
        del utilization
        return self.power_w


class _IdleMaxPower(Model):
    """Power that starts at `idle_w` and is scaled by `max_w` - `idle_w`."""

    idle_w: NonNegative
    max_w: NonNegative

    @model_validator(mode="after")
    def _max_not_below_idle(self) -> _IdleMaxPower:
        if self.max_w < self.idle_w:
            raise ValueError(f"max_w ({self.max_w:g} W) must be at least idle_w ({self.idle_w:g} W)")
        return self

    @abstractmethod
    def shape(self, utilization: float) -> float:
        """Share of the dynamic power at a utilisation in [0, 1]."""

    def watts_at(self, utilization: float) -> float:
        """Power in W at a utilisation in [0, 1]."""
        return self.idle_w + (self.max_w - self.idle_w) * self.shape(min(max(utilization, 0.0), 1.0))


class LinearPower(_IdleMaxPower):
    """Power that grows with utilisation."""

    type: Literal["linear"] = "linear"
    idle_w: NonNegative = 200.0
    max_w: NonNegative = 400.0

    def shape(self, utilization: float) -> float:
        """Share of the dynamic power at a utilisation in [0, 1]."""
        return utilization


class SqrtPower(_IdleMaxPower):
    """Power that grows with the square root of utilisation."""

    type: Literal["sqrt"] = "sqrt"

    def shape(self, utilization: float) -> float:
        """Share of the dynamic power at a utilisation in [0, 1]."""
        return math.sqrt(utilization)


class SquarePower(_IdleMaxPower):
    """Power that grows with the square of utilisation."""

    type: Literal["square"] = "square"

    def shape(self, utilization: float) -> float:
        """Share of the dynamic power at a utilisation in [0, 1]."""
        return utilization**2


class CubicPower(_IdleMaxPower):
    """Power that grows with the cube of utilisation."""

    type: Literal["cubic"] = "cubic"

    def shape(self, utilization: float) -> float:
        """Share of the dynamic power at a utilisation in [0, 1]."""
        return utilization**3


class MsePower(_IdleMaxPower):
    """Power fitted by least squares with exponent `calibration_factor`; exceeds `max_w` when that is above 1."""

    type: Literal["mse"] = "mse"
    calibration_factor: Positive

    def shape(self, utilization: float) -> float:
        """Share of the dynamic power at a utilisation in [0, 1]."""
        return 2.0 * utilization - math.pow(utilization, self.calibration_factor)


class AsymptoticPower(_IdleMaxPower):
    """Power that bends at utilisation `asym_util`; 0 is the limit in which the exponential is 1 at u = 0 and else 0."""

    type: Literal["asymptotic"] = "asymptotic"
    asym_util: NonNegative
    dvfs: Flag

    def shape(self, utilization: float) -> float:
        """Share of the dynamic power at a utilisation in [0, 1]."""
        v = utilization**3 if self.dvfs else utilization
        bend = math.exp(-v / self.asym_util) if self.asym_util > 0 else float(v == 0)
        return (1.0 + v - bend) / 2.0


class CurvePower(Model):
    """Straight lines between measured points: `power_w[i]` at `utilization[i]`, rising from 0 to 1."""

    type: Literal["curve"] = "curve"
    utilization: tuple[Ratio, ...]
    power_w: tuple[NonNegative, ...]

    @model_validator(mode="after")
    def _rises_from_0_to_1(self) -> CurvePower:
        u = self.utilization
        if len(u) != len(self.power_w):
            raise ValueError(f"{len(u)} utilisations but {len(self.power_w)} powers; give one power for each")
        if len(u) < 2 or u[0] != 0 or u[-1] != 1 or any(b <= a for a, b in pairwise(u)):
            raise ValueError(f"utilization must rise from 0 to 1, found {u}")
        return self

    def watts_at(self, utilization: float) -> float:
        """Power in W at a utilisation in [0, 1]."""
        x = min(max(utilization, 0.0), 1.0)
        right = min(bisect_right(self.utilization, x), len(self.utilization) - 1)
        x0, x1 = self.utilization[right - 1], self.utilization[right]
        y0, y1 = self.power_w[right - 1], self.power_w[right]
        return y0 + (y1 - y0) * ((x - x0) / (x1 - x0))


PowerModel = Annotated[
    ConstantPower | LinearPower | SqrtPower | SquarePower | CubicPower | MsePower | AsymptoticPower | CurvePower,
    Field(discriminator="type"),
]
"""Any of the power models, told apart by `type`."""
