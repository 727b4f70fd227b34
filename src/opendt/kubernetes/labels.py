"""Labels of nodes as hardware: ``docs/reference/labels.md`` lists each with its unit.

A label that cannot be read costs its node nothing but that label: the default stands in, and the problem is told.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from opendt.kubernetes.quantities import mib_down, millicores_down
from opendt.model.fleet import NodeState, Taint
from opendt.model.job import ExecFormat

__all__ = ["ClusterLabels", "NodeDefaults", "cluster_labels", "decode_node"]

CLUSTER_NAME: Final = "dt.cluster.name"
CLUSTER_TYPE: Final = "dt.cluster.type"
CLUSTER_RESILIENCY: Final = "dt.cluster.resiliency"
IDLE_W: Final = "dt.hardware.idle_w"
MAX_W: Final = "dt.hardware.max_w"
MHZ: Final = "dt.hardware.mhz"
GPU_MODEL: Final = ("dt.hardware.gpu_model", "nvidia.com/gpu.product", "gpu-model")
GPU_MEMORY_MIB: Final = ("dt.hardware.gpu_memory_mib", "nvidia.com/gpu.memory")
FORMATS: Final = "dt.exec.formats"
GPU_RESOURCES: Final = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "opendt.io/gpu")
"""Resources that count devices; a node has those of one maker."""

_FORMATS: Final = frozenset(get_args(ExecFormat))
_HIGHEST: Final = {MHZ: 1e5, IDLE_W: 1e6, MAX_W: 1e6}


@dataclass(frozen=True, slots=True)
class NodeDefaults:
    """What a node without labels is taken for: speed of a core, power at rest and at full load.

    They are assumptions of a plain two-socket server's order, and no measurement; label nodes where power matters.
    """

    core_speed_mhz: float = 2400.0
    idle_w: float = 100.0
    max_w: float = 350.0


@dataclass(frozen=True, slots=True)
class ClusterLabels:
    """What labels of a node say of its cluster; None where they say nothing."""

    name: str | None = None
    type: str | None = None
    resiliency_ratio: float | None = None


def decode_node(
    cluster: str, thing: Mapping[str, Any], defaults: NodeDefaults | None = None
) -> tuple[NodeState, tuple[str, ...]]:
    """Make a node of its object, and say what is wrong with its labels.

    Raises
    ------
    KeyError, TypeError, ValueError
        When it is no node, or its resources are no quantities.
    """
    known = defaults or NodeDefaults()
    metadata, spec, status = thing["metadata"], thing.get("spec") or {}, thing.get("status") or {}
    labels = {sys.intern(key): sys.intern(value) for key, value in (metadata.get("labels") or {}).items()}
    problems: list[str] = []
    idle_w, max_w = _power(labels, known, problems)
    has = status.get("capacity") or {}
    gives = status.get("allocatable") or has
    cpu_millicores = millicores_down(str(gives.get("cpu", "0")))
    state = NodeState(
        cluster=cluster,
        name=metadata["name"],
        arch=labels.get("kubernetes.io/arch") or (status.get("nodeInfo") or {}).get("architecture", ""),
        exec_formats=_formats(labels, problems),
        cpu_millicores=cpu_millicores,
        reserved_millicores=max(millicores_down(str(has.get("cpu", "0"))) - cpu_millicores, 0),
        memory_mib=mib_down(str(gives.get("memory", "0"))),
        gpu=gpu_count(gives),
        gpu_memory_mib=_gpu_memory_mib(labels, problems),
        gpu_model=next((labels[key] for key in GPU_MODEL if key in labels), ""),
        core_speed_mhz=_number(labels, MHZ, known.core_speed_mhz, problems, least=1.0),
        idle_w=idle_w,
        max_w=max_w,
        max_pods=int(gives.get("pods", 110)),
        is_ready=_is_ready(status),
        is_cordoned=bool(spec.get("unschedulable", False)),
        labels=labels,
        taints=tuple(
            Taint(taint["key"], taint.get("value", ""), taint["effect"]) for taint in spec.get("taints") or ()
        ),
        resource_version=metadata["resourceVersion"],
    )
    if labels.get(CLUSTER_NAME, cluster) != cluster:
        problems.append(
            f"{CLUSTER_NAME}: found {labels[CLUSTER_NAME]!r}, expected {cluster!r}, by which its cluster is known here"
        )
    return state, tuple(problems)


def cluster_labels(node: NodeState) -> tuple[ClusterLabels, tuple[str, ...]]:
    """Read what a node says of its cluster."""
    problems: list[str] = []
    resiliency = None
    if CLUSTER_RESILIENCY in node.labels:
        resiliency = _number(node.labels, CLUSTER_RESILIENCY, math.nan, problems, highest=1.0)
    return (
        ClusterLabels(
            name=node.labels.get(CLUSTER_NAME),
            type=node.labels.get(CLUSTER_TYPE),
            resiliency_ratio=None if resiliency is None or math.isnan(resiliency) else resiliency,
        ),
        tuple(problems),
    )


def gpu_count(resources: Mapping[str, Any]) -> int:
    """Devices among resources, of whichever maker."""
    return next((int(resources[name]) for name in GPU_RESOURCES if name in resources), 0)


def _power(labels: Mapping[str, str], known: NodeDefaults, problems: list[str]) -> tuple[float, float]:
    """Power at rest and at full load; where only one is said, the other keeps the proportion of the defaults."""
    idle_w = _number(labels, IDLE_W, math.nan, problems)
    max_w = _number(labels, MAX_W, math.nan, problems)
    if math.isnan(max_w):
        is_enough = idle_w > 0 and known.idle_w > 0  # not so for NaN either
        max_w = idle_w * known.max_w / known.idle_w if is_enough else known.max_w
    if math.isnan(idle_w):
        idle_w = max_w * known.idle_w / known.max_w
    if idle_w > max_w:
        problems.append(
            f"{IDLE_W}: found {idle_w:g} W, expected at most {MAX_W}, {max_w:g} W. "
            f"Taken for {known.idle_w:g} and {known.max_w:g} W"
        )
        return known.idle_w, known.max_w
    return idle_w, max_w


def _number(
    labels: Mapping[str, str],
    key: str,
    default: float,
    problems: list[str],
    *,
    least: float = 0.0,
    highest: float | None = None,
) -> float:
    if key not in labels:
        return default
    most = _HIGHEST[key] if highest is None else highest
    try:
        value = float(labels[key])
    except ValueError:
        value = math.nan
    if least <= value <= most:
        return value
    instead = ". Passed over" if math.isnan(default) else f". Taken for {default:g}"
    problems.append(f"{key}: found {labels[key]!r}, expected a number from {least:g} to {most:g}{instead}")
    return default


def _gpu_memory_mib(labels: Mapping[str, str], problems: list[str]) -> int:
    key = next((key for key in GPU_MEMORY_MIB if key in labels), None)
    if key is None:
        return 0
    return int(_number(labels, key, 0.0, problems, highest=2.0**31))


def _formats(labels: Mapping[str, str], problems: list[str]) -> tuple[str, ...]:
    """Forms in the order of the label; every node runs what was made for it."""
    named = [name for name in labels.get(FORMATS, "").split(".") if name]
    unknown = [name for name in named if name not in _FORMATS]
    if unknown:
        problems.append(f"{FORMATS}: found {unknown[0]!r}, expected some of {', '.join(sorted(_FORMATS))}. Left out")
    return tuple(dict.fromkeys(("native", *(sys.intern(name) for name in named if name in _FORMATS))))


def _is_ready(status: Mapping[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ())
