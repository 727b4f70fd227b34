"""Why a group of nodes cannot run a stage, whatever room it has: each reason with the change that would lift it.

What a policy goes by (`FleetIndex.options`: no refusal at all) and what people are told come from here, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opendt.model.fleet import ClusterState, NodeState
    from opendt.model.job import Constraints, ExecFormat, Stage

__all__ = ["OWN_LABELS", "Refusal", "exec_formats_on", "refusals", "untolerated"]

OWN_LABELS: Final = frozenset({"kubernetes.io/hostname"})
"""Labels that each node has a value of its own of: looked at node by node."""
_KEEPS_OFF: Final = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason, what would lift it, and how large a change that is (1 for something that is there or not)."""

    reason: str
    remedy: str
    size: float = 1.0


def exec_formats_on(stage: Stage, arch: str, offered: Iterable[str]) -> tuple[ExecFormat, ...]:
    """Forms in which a node of an architecture can run a stage, in the order in which the stage names them."""
    found: list[ExecFormat] = []
    for form in stage.formats:
        ours: ExecFormat
        if form in {"native", "wasm"}:
            ours = form
        else:
            built_for = form.removeprefix("qemu-")
            ours = "native" if built_for == arch else f"qemu-{built_for}"  # type: ignore[assignment]
        if ours not in found and (ours == "native" or ours in offered):
            found.append(ours)
    return tuple(found)


def untolerated(constraints: Constraints, node: NodeState) -> str | None:
    """Give the taint that keeps a stage off, as KEY=VALUE:EFFECT; ``PreferNoSchedule`` keeps nobody off."""
    for taint in node.taints:
        if taint.effect in _KEEPS_OFF and not any(
            one.key == taint.key and one.value in (None, taint.value) and one.effect in (None, taint.effect)
            for one in constraints.tolerations
        ):
            return f"{taint.key}{'=' + taint.value if taint.value else ''}:{taint.effect}"
    return None


def refusals(
    stage: Stage, node: NodeState, cluster: ClusterState | None, names: Iterable[str] = ()
) -> Iterator[Refusal]:
    """Say all that keeps a stage off nodes like `node`; `names` are those of the group."""
    yield from _by_name(stage.constraints, node, names)
    yield from _by_kind(stage, node)
    constraints = stage.constraints
    if stage.gpu > node.gpu:
        yield Refusal(
            f"{node.gpu} GPUs, {stage.gpu} asked for", f"ask for at most {node.gpu} GPUs", stage.gpu - node.gpu
        )
    elif stage.gpu and node.gpu_memory_mib < constraints.gpu_memory_mib:
        yield Refusal(
            f"GPUs of {node.gpu_memory_mib} MiB, {constraints.gpu_memory_mib} asked for",
            f"ask for at most {node.gpu_memory_mib} MiB of GPU memory",
            1.0 - node.gpu_memory_mib / constraints.gpu_memory_mib,
        )
    if cluster is not None and cluster.resiliency_ratio < constraints.min_resiliency_ratio:
        yield Refusal(
            f"resiliency {cluster.resiliency_ratio:g}, at least {constraints.min_resiliency_ratio:g} asked for",
            f"lower min_resiliency_ratio to {cluster.resiliency_ratio:g}",
            constraints.min_resiliency_ratio - cluster.resiliency_ratio,
        )
    for data in constraints.data:
        if data.required and data.cluster != node.cluster:
            yield Refusal(
                f"its data lies in {data.cluster} and must not travel", f"let data of {data.cluster} be transferred"
            )


def _by_name(constraints: Constraints, node: NodeState, names: Iterable[str]) -> Iterator[Refusal]:
    if constraints.clusters and node.cluster not in constraints.clusters:
        yield Refusal(f"cluster {node.cluster} is not among those allowed", f"allow cluster {node.cluster}")
    if node.cluster in constraints.excluded_clusters:
        yield Refusal(f"cluster {node.cluster} is excluded", f"do not exclude cluster {node.cluster}")
    if constraints.node is not None and constraints.node not in names:
        yield Refusal(f"node {constraints.node} is not here", f"allow other nodes than {constraints.node}")
    for key, wanted in constraints.labels.items():
        if key not in OWN_LABELS and node.labels.get(key) != wanted:
            found = node.labels.get(key)
            yield Refusal(
                f"label {key} is {found if found is not None else 'absent'}, {wanted} asked for", f"drop label {key}"
            )


def _by_kind(stage: Stage, node: NodeState) -> Iterator[Refusal]:
    constraints = stage.constraints
    if constraints.arch and node.arch not in constraints.arch:
        yield Refusal(f"architecture {node.arch}, {' or '.join(constraints.arch)} asked for", f"allow {node.arch}")
    elif not exec_formats_on(stage, node.arch, node.exec_formats):
        yield Refusal(
            f"{node.arch} nodes that run {', '.join(node.exec_formats)} cannot run {', '.join(stage.formats)}",
            f"build it for {node.arch}",
        )
    taint = untolerated(constraints, node)
    if taint is not None:
        yield Refusal(f"taint {taint}", f"tolerate {taint}")
