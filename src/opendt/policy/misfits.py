"""Why a job has no place: a reason per stage and node group, with the smallest change that would give it one.

Changes are compared by how many are needed first, then by how large they are: a request that must shrink by 5 % before one that must
halve; something that must be there or not (a label, a taint, an architecture) counts as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opendt.model.plan import Infeasible, Misfit
from opendt.policy.refusals import Refusal, refusals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opendt.policy.index import FleetIndex, NodeGroup
    from opendt.twin.scaling import ScaledJob, ScaledStage

__all__ = ["deadline_missed", "explain_misfits"]


_BESIDE: Final = Refusal("room for it alone, but not beside the job's other stages", "split the job, or ask for less")


@dataclass(frozen=True, slots=True)
class _Change:
    """All that would have to change for a stage to fit one group."""

    misfit: Misfit
    count: int
    size: float


def explain_misfits(index: FleetIndex, scaled: ScaledJob, stages: Sequence[str], note: str = "") -> Infeasible:
    """Say why each of `stages` has no place, group by group.

    Parameters
    ----------
    index : FleetIndex
        The fleet as it is.
    scaled : ScaledJob
        The job.
    stages : sequence of str
        Those that found no place.
    note : str
        What else there is to say, at the end of the remedy.
    """
    index.refresh()
    misfits: list[Misfit] = []
    remedies: list[str] = []
    for one in scaled.stages:
        if one.stage.id not in stages:
            continue
        changes = [_change(index, scaled, one, group) for group in index.groups]
        misfits.extend(change.misfit for change in changes)
        if not changes:
            remedies.append(f"{one.stage.id}: the fleet has no nodes")
            continue
        least = min(changes, key=lambda change: (change.count, change.size))
        remedies.append(f"{one.stage.id}: {least.misfit.remedy} ({least.misfit.group})")
    return Infeasible(misfits=tuple(misfits), remedy="; ".join(remedies) + note)


def deadline_missed(scaled: ScaledJob, latency_ms: float, *, is_certain: bool) -> Infeasible:
    """Say that even the earliest layout is late."""
    deadline_ms = scaled.job.deadline_ms
    assert deadline_ms is not None  # nobody is late without one
    last = scaled.stages[-1].stage.id
    least_ms = int(latency_ms) + 1
    sure = "" if is_certain else ", of the layouts that were looked at"
    misfit = Misfit(
        stage_id=last,
        group="all",
        nodes=0,
        reason=f"the earliest finish is expected after {least_ms} ms{sure}, the deadline is {deadline_ms} ms",
        remedy=f"raise deadline_ms to {least_ms}",
    )
    return Infeasible(misfits=(misfit,), remedy=misfit.remedy)


def _change(index: FleetIndex, scaled: ScaledJob, one: ScaledStage, group: NodeGroup) -> _Change:
    cluster = index.view.snapshot.clusters.get(group.sample.cluster)
    found = [*refusals(one.stage, group.sample, cluster, group.slots), *_too_far(index, scaled, one, group)]
    # A change that is named must be enough: what else would be in the way belongs to it.
    room = _no_room(index, one, group)
    if room or not found:
        found += room or [_BESIDE]
    misfit = Misfit(
        stage_id=one.stage.id,
        group=group.name,
        nodes=len(group.slots),
        reason="; ".join(refusal.reason for refusal in found),
        remedy=" and ".join(refusal.remedy for refusal in found),
    )
    return _Change(misfit, len(found), sum(refusal.size for refusal in found))


def _too_far(index: FleetIndex, scaled: ScaledJob, one: ScaledStage, group: NodeGroup) -> list[Refusal]:
    limit_ms, origin = one.stage.constraints.max_latency_ms, scaled.job.origin
    if limit_ms is None or origin is None or one.stage.needs:
        return []
    found_ms = index.view.snapshot.latency.between(origin.cluster, group.sample.cluster)
    if found_ms <= limit_ms:
        return []
    return [
        Refusal(
            f"{found_ms:g} ms from {origin.cluster}, at most {limit_ms:g} asked for",
            f"raise max_latency_ms to {found_ms:g}",
            1.0 - limit_ms / found_ms,
        )
    ]


def _no_room(index: FleetIndex, one: ScaledStage, group: NodeGroup) -> list[Refusal]:
    """What the node that comes nearest lacks now; nothing when a node has room."""
    wanted = one.stage.constraints.node
    slots = [slot for name, slot in group.slots.items() if wanted in (None, name)] or list(group.slots.values())
    usable = [slot for slot in slots if slot.is_open]
    if not usable:
        state = index.view.snapshot.clusters.get(group.sample.cluster)
        if state is not None and not state.is_reachable:
            return [Refusal(f"cluster {state.name} does not answer", f"wait for cluster {state.name}")]
        cordoned = sum(slot.node.is_cordoned for slot in slots)
        what = "uncordon a node" if cordoned else "wait for a node to be ready"
        return [Refusal(f"{cordoned} of {len(slots)} nodes cordoned, {len(slots) - cordoned} not ready", what)]
    lacks = [_lack(one, slot.free_cpu, slot.free_memory, slot.free_pods, slot.devices) for slot in usable]
    least = min(lacks, key=lambda found: (len(found), sum(refusal.size for refusal in found)))
    if not least:
        return []
    node = group.sample
    size = _lack(one, node.cpu_millicores, node.memory_mib, node.max_pods, [1000] * node.gpu)
    return size or [Refusal(f"{one.reason}, busy", f"{one.remedy}, or wait", one.size) for one in least]


def _lack(one: ScaledStage, cpu: int, memory: int, pods: int, devices: Sequence[int]) -> list[Refusal]:
    found = []
    stage = one.stage
    if cpu < one.cpu_millicores:
        most = int(max(cpu, 0) * one.cpu_ratio)
        found.append(
            Refusal(
                f"{max(cpu, 0)} millicores, {one.cpu_millicores} needed",
                f"ask for at most {most} cpu_millicores",
                1.0 - max(cpu, 0) / one.cpu_millicores,
            )
        )
    if memory < one.memory_mib:
        most = max(memory, 0) * stage.memory_mib // one.memory_mib
        found.append(
            Refusal(
                f"{max(memory, 0)} MiB of memory, {one.memory_mib} needed",
                f"ask for at most {most} memory_mib",
                1.0 - max(memory, 0) / one.memory_mib,
            )
        )
    if pods < 1:
        found.append(Refusal("no pod more", "wait for a pod to end"))
    fitting = sum(room >= stage.gpu_millis for room in devices)
    if len(devices) >= stage.gpu > fitting:  # fewer devices than asked for are a refusal already
        found.append(
            Refusal(
                f"{fitting} GPUs with {stage.gpu_millis} thousandths, {stage.gpu} needed",
                f"ask for at most {fitting} GPUs" if fitting else "ask for no GPU",
                (stage.gpu - fitting) / stage.gpu,
            )
        )
    return found
