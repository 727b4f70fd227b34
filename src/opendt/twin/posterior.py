"""Power curves drawn from what calibration knows and does not know, so that futures differ in their prices, too.

Seeds of tasks alone cannot average out an error of the model: were the curve wrong, a thousand futures would all be wrong alike.
A draw takes a member of the calibrator's family by its weight, a state from the normal distribution that the member's filter
holds, and makes the curve of it that the engine would adopt (`PowerCalibrator.curve`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opendt.model.change import AddHosts, GroupHosts, NamedHosts, SetPowerModel
from opendt.model.power import CurvePower
from opendt.twin.futures import stream
from opendt.twin.scenarios import changes_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from opendt.engine.simulation import Simulation
    from opendt.model.change import Change
    from opendt.model.topology import HostGroup, Topology
    from opendt.twin.calibrate import PowerCalibrator
    from opendt.twin.futures import Purpose

__all__ = ["CurveDraws", "draw_curves", "priced_changes"]

_CURVES = 1


@dataclass(frozen=True, slots=True, eq=False)
class CurveDraws:
    """Power curves of host groups, several draws of each.

    Attributes
    ----------
    groups : tuple of str
        Names of host groups.
    utilization : ndarray, shape (groups, knots)
        Utilisations, rising from 0 to 1.
    power_w : ndarray, shape (draws, groups, knots)
        Power of one host, W.
    """

    groups: tuple[str, ...]
    utilization: NDArray[np.float64]
    power_w: NDArray[np.float64]

    def changes(self, number: int) -> bytes:
        """The changes that give the groups the curves of a draw, as the engine reads them; draws are counted round."""
        if not len(self.power_w):
            return b""
        watts = self.power_w[number % len(self.power_w)]
        return changes_json(
            [
                SetPowerModel(
                    hosts=GroupHosts(group=group),
                    power_model=CurvePower(utilization=tuple(knots.tolist()), power_w=tuple(power_w.tolist())),
                )
                for group, knots, power_w in zip(self.groups, self.utilization, watts, strict=True)
            ]
        )


def draw_curves(
    calibrator: PowerCalibrator,
    present: Simulation,
    count: int,
    seed: int,
    *,
    purpose: Purpose = "search",
    round_: int = 0,
) -> CurveDraws:
    """Draw power curves from a calibrator, which is not changed.

    Parameters
    ----------
    calibrator : PowerCalibrator
        What was learned, with its covariance.
    present : Simulation
        Whose groups get the curves. A name that several clusters use stands for hosts of several classes: the engine cannot
        tell them apart by it, so they keep what they have, as they do in the live twin.
    count : int
        Draws.
    seed, purpose, round_
        As `opendt.twin.futures.stream`.
    """
    hosts = present.hosts()
    clusters_of: dict[str, set[str]] = {}
    for cluster, group in zip(hosts["cluster"], hosts["group"], strict=True):
        clusters_of.setdefault(group, set()).add(cluster)
    names = tuple(one.name for one in calibrator.classes if len(clusters_of.get(one.name, ())) == 1)
    roots = [_root(covariance) for covariance in calibrator.covariance]
    weights = calibrator.weights / calibrator.weights.sum()
    drawn = calibrator.fork()
    knots = np.array([calibrator.curve(name)[0] for name in names])
    watts = np.empty((count, *knots.shape))
    for number in range(count):
        rng = stream(purpose, seed, present.now_ms, number, round_, kind=_CURVES)
        member = int(rng.choice(len(weights), p=weights))
        # All members alike, so that their weighted mean is the draw.
        drawn.deviation[:] = calibrator.deviation[member] + roots[member] @ rng.standard_normal(len(roots[member]))
        watts[number] = [drawn.curve(name)[1] for name in names]
    return CurveDraws(names, knots, watts)


def priced_changes(
    changes: Sequence[Change], present: Simulation, installed: Topology, curves: CurveDraws | None
) -> tuple[Change, ...]:
    """Give new hosts of an installed kind the curve that was learned of that kind: the mean of the draws.

    Their datasheet would make them cheaper or dearer than the hosts beside them, and swapping a host for an equal one a saving.
    Hosts of other kinds keep their datasheet, since nothing was learned of them.

    Raises
    ------
    EngineError
        When the changes cannot be applied.
    """
    added = [change for change in changes if isinstance(change, AddHosts)]
    if not added or curves is None:
        return tuple(changes)
    trial = present.fork(with_basis=False)
    before = len(trial.hosts()["name"])
    trial.apply(*changes)
    names = iter(trial.hosts()["name"][before:])  # the engine adds them in order, and forgets none
    learned = {
        _kind(group): curves.groups.index(group.name)
        for cluster in installed.clusters
        for group in cluster.hosts
        if group.name in curves.groups
    }
    prices: list[Change] = []
    for change in added:
        own = tuple(next(names) for _ in range(change.group.count))
        index = learned.get(_kind(change.group))
        if index is not None:
            knots, watts = curves.utilization[index], curves.power_w[:, index].mean(axis=0)
            curve = CurvePower(utilization=tuple(knots.tolist()), power_w=tuple(watts.tolist()))
            prices.append(SetPowerModel(hosts=NamedHosts(names=own), power_model=curve))
    return (*changes, *prices)


def _kind(group: HostGroup) -> str:
    """What makes two groups the same hardware."""
    return group.model_copy(update={"name": "any", "count": 1}).model_dump_json()


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A root of a covariance; what rounding has made slightly negative counts as 0."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2.0)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
