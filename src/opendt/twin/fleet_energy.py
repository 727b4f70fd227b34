"""Energy, carbon and cost of a stage: its part of its node's.

A node draws ``idle_w`` at rest and ``max_w`` with all of its CPU busy, in between in proportion. A stage is answerable for the power
at rest in proportion to what it holds (its request), for as long as it runs, and for the rest in proportion to its CPU time::

    energy_j = idle_w * request / allocatable * seconds + (max_w - idle_w) * cpu_seconds / cores

This is attribution through a model, and is to be called that: within a node it is as right as its two powers are. Shares do not
change with the scale of a job, so a scaled stage has the energy of the node that it stands for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opendt.model.fleet import ClusterState, NodeState

__all__ = ["J_PER_KWH", "carbon_g", "cost", "kwh", "stage_energy_j"]

J_PER_KWH: Final = 3.6e6


def kwh(energy_j: float) -> float:
    """Give an energy in kWh.

    Examples
    --------
    >>> f"{kwh(95.0 * 1.05):.3g}"  # 95 W for 1.05 s
    '2.77e-05'
    """
    return energy_j / J_PER_KWH


def stage_energy_j(node: NodeState, cpu_millicores: int, cpu_seconds: float, seconds: float) -> float:
    """Attribute energy to a stage, J.

    Parameters
    ----------
    node : NodeState
        Where it runs.
    cpu_millicores : int
        What it holds.
    cpu_seconds : float
        CPU time that it takes.
    seconds : float
        How long it runs.

    Examples
    --------
    >>> from opendt.model.fleet import NodeState
    >>> node = NodeState("c", "n", "amd64", ("native",), 4000, 8192, 0, 0, "", 2400.0, idle_w=40.0, max_w=120.0)
    >>> stage_energy_j(node, 1000, 30.0, 60.0)
    1200.0
    """
    if node.cpu_millicores <= 0:
        return 0.0
    at_rest_w = node.idle_w * min(cpu_millicores / node.cpu_millicores, 1.0)
    return at_rest_w * seconds + (node.max_w - node.idle_w) * cpu_seconds * 1000.0 / node.cpu_millicores


def carbon_g(cluster: ClusterState | None, energy_j: float) -> float:
    """Carbon of an energy at a cluster's intensity, g CO2."""
    return 0.0 if cluster is None else kwh(energy_j) * cluster.carbon_g_per_kwh


def cost(cluster: ClusterState | None, cpu_millicores: int, scale: float, seconds: float) -> float:
    """Price of what a stage holds, in the currency of the fleet's description: cores *as designed*, thus times the scale."""
    return 0.0 if cluster is None else cluster.cost_per_core_h * cpu_millicores * scale / 1000.0 * seconds / 3600.0
