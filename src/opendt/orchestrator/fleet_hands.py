"""Hands that act on Kubernetes: a stage becomes a pod that runs the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opendt.kubernetes.actuator import Actuator, ActuatorSettings
from opendt.kubernetes.pod_manifest import PodSettings, StagePod, pod_name
from opendt.model.fleet_action import Evict, Scale, SetSchedulable
from opendt.orchestrator.fleet_ports import ActionError
from opendt.twin.scaling import scale_job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opendt.model.fleet import PodRole

    Annotate = Callable[["Plan", "Job", str], Mapping[str, str]]

    from opendt.kubernetes.actions import Actions, DryRun
    from opendt.kubernetes.cluster_manager import ClusterManager
    from opendt.model.job import Job
    from opendt.model.plan import Placement, Plan
    from opendt.orchestrator.settings_model import FleetSettings
    from opendt.twin.scaling import ScaledStage

__all__ = ["MEMORY_FILL_RATIO", "PROGRAM_MIB", "KubernetesHands"]

MEMORY_FILL_RATIO: Final = 0.8
"""Share of its memory that a stage holds at most: the rest is for the program and what the kernel counts to it."""
PROGRAM_MIB: Final = 32.0
"""Memory that is left for the program however small a stage is: an emulator takes some 20 MiB of its own."""

_WRITTEN_MS: Final = "opendt.io/written-ms"


class KubernetesHands:
    """Makes and removes pods; see `opendt.orchestrator.fleet_ports.Hands`.

    Parameters
    ----------
    manager : ClusterManager
        The clusters.
    fleet : FleetSettings
        Namespace, image and how pods come to their nodes.
    clock_ms : callable
        Wall clock, ms since the epoch.
    may_act : callable, optional
        Asked before every action.
    annotate : callable, optional
        Gives further annotations of a stage's pod, as simulated nodes want them.
    arch_of : callable, optional
        Gives the architecture of a placement's node, where images are named by it.
    """

    def __init__(
        self,
        manager: ClusterManager,
        fleet: FleetSettings,
        clock_ms: Callable[[], int],
        *,
        may_act: Callable[[], bool] = lambda: True,
        annotate: Annotate | None = None,
        arch_of: Callable[[Placement], str] = lambda _placement: "",
    ) -> None:
        pods = PodSettings(
            namespace=fleet.namespace,
            image=fleet.image,
            image_pull_policy=fleet.image_pull_policy,
            binds_directly=fleet.binds_directly,
            runtime_classes={"wasm": "wasm"},
        )
        self._arch_of = arch_of
        self._images = fleet.images
        self._clock_ms = clock_ms
        self._annotate = annotate
        self._namespace = fleet.namespace
        self._actuator = Actuator(manager, ActuatorSettings(pods=pods), may_act=may_act)

    def create(self, plan: Plan, job: Job, stage_id: str, placement: Placement, *, role: PodRole) -> str:
        """Make a stage's pod, unless it is there; gives its name."""
        one = next(one for one in scale_job(job, plan.scale).stages if one.stage.id == stage_id)
        annotations = {_WRITTEN_MS: str(self._clock_ms())}
        if self._annotate is not None:
            annotations |= self._annotate(plan, job, stage_id)
        pod = StagePod(
            placement,
            one.cpu_millicores,
            one.memory_mib,
            gpu=one.stage.gpu,
            gpu_millis=one.stage.gpu_millis,
            arguments=_arguments(one),
            image=self._image(placement),
            tolerations=one.stage.constraints.tolerations,
            annotations=annotations,
            origin_cluster="" if job.origin is None else job.origin.cluster,
            role=role,
        )
        _raise_problems(self._actuator.apply(plan, [pod]))
        return pod_name(plan.plan_id, stage_id, role=role)

    def _image(self, placement: Placement) -> str:
        """By form; what runs natively by the node's architecture too, where no image holds all of them. Else the settings'."""
        known = self._images.get(placement.exec_format, "")
        if known or placement.exec_format != "native" or not self._images:
            return known
        return self._images.get(self._arch_of(placement), "")

    def delete(self, plan: Plan, stage_id: str, cluster: str, *, role: PodRole) -> None:
        """Remove a stage's pod from a cluster, where it is there."""
        name = pod_name(plan.plan_id, stage_id, role=role)
        result = self._actuator.delete_pod(cluster, self._namespace, name, grace_s=0)
        if not result.is_done:
            raise ActionError(result.message or result.reason, is_final=result.outcome == "refused")

    def clear(self, plan: Plan, cluster: str) -> None:
        """Remove all that a plan made in a cluster."""
        _raise_problems(self._actuator.delete_plan(plan.plan_id, [cluster]))

    def act(self, request: SetSchedulable | Evict | Scale, *, dry_run: bool) -> bool:
        """Do what a person asks for, or ask the API server whether it would; tells whether anything changes."""
        actuator = self._actuator
        mode: DryRun = "server" if dry_run else "no"
        match request:
            case SetSchedulable(action="cordon"):
                result = actuator.cordon(request.cluster, request.node, dry_run=mode)
            case SetSchedulable():
                result = actuator.uncordon(request.cluster, request.node, dry_run=mode)
            case Evict():
                result = actuator.evict(
                    request.cluster, request.namespace, request.pod, grace_s=request.grace_s, dry_run=mode
                )
            case Scale():
                result = actuator.scale(
                    request.cluster, request.namespace, request.deployment, request.replicas, dry_run=mode
                )
        if result.outcome not in ("done", "unchanged", "dry_run"):
            raise ActionError(result.message or result.reason, is_final=result.outcome == "refused")
        return result.outcome != "unchanged"

    def close(self) -> None:
        """End the threads."""
        self._actuator.close()


def _arguments(one: ScaledStage) -> tuple[str, ...]:
    """What the worker is told: its work is scaled already."""
    kind = "integer" if one.stage.work is None else one.stage.work.kind
    seconds = one.cpu_seconds or 0.0
    memory_mib = max(min(one.memory_mib * MEMORY_FILL_RATIO, one.memory_mib - PROGRAM_MIB), 0.0)
    return (f"--kind={kind}", f"--cpu-seconds={seconds:.6f}", f"--memory-mib={memory_mib:.1f}")


def _raise_problems(actions: Actions) -> None:
    problems = actions.problems
    if problems:
        is_final = any(one.outcome == "refused" for one in problems)
        raise ActionError(
            "; ".join(f"{one.target}: {one.message or one.reason}" for one in problems), is_final=is_final
        )
