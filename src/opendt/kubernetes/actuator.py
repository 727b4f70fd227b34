"""Acts on clusters: makes the pods of plans, and cordons, evicts, moves, copies and scales.

Every action may be asked again without harm: names follow from the plan, and what is so already is left alone. Every action
comes back as a typed result, also when it was refused or the cluster is away; nothing is raised for what a cluster does.
Clusters are worked on side by side, each by threads of its own, so one that is slow or away holds up no other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from opendt.kubernetes.actions import ActionKind, ActionResult, Actions, DryRun
from opendt.kubernetes.attempts import Attempt, NotYetError, RetrySettings, attempt
from opendt.kubernetes.client import ApiError, ClusterClient, path_of
from opendt.kubernetes.pod_manifest import (
    PodSettings,
    StagePod,
    anchor_manifest,
    anchor_name,
    pod_manifest,
    pod_name,
)
from opendt.kubernetes.pods import PLAN_ID
from opendt.model.errors import InputError

if TYPE_CHECKING:
    from opendt.kubernetes.cluster_manager import ClusterManager
    from opendt.model.plan import Plan

__all__ = ["Actuator", "ActuatorSettings"]

Result = TypeVar("Result")
_NOT_FOUND: Final = 404
_ENDED: Final = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class ActuatorSettings:
    """How clusters are acted on.

    Parameters
    ----------
    pods : PodSettings
        What pods share.
    retry : RetrySettings
        How often an action is tried.
    workers : int
        Actions at a time in one cluster.
    field_manager : str
        Under which name fields are held.
    """

    pods: PodSettings = field(default_factory=PodSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    workers: int = 4
    field_manager: str = "opendt"


class Actuator:
    """Acts on the clusters of a fleet.

    Parameters
    ----------
    manager : ClusterManager
        The clusters.
    settings : ActuatorSettings, optional
        How to act.
    may_act : callable, optional
        Asked before every action, such as `LeaderElection.is_leading`; what may not be done is refused with ``NotLeading``.
    clock_s, sleep : callable, optional
        Monotonic clock in s, and waiting.
    """

    def __init__(
        self,
        manager: ClusterManager,
        settings: ActuatorSettings | None = None,
        *,
        may_act: Callable[[], bool] = lambda: True,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> None:
        self._manager = manager
        self._settings = settings or ActuatorSettings()
        self._may_act = may_act
        self._clock_s = clock_s
        self._sleep = sleep
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._making_pools = threading.Lock()

    def close(self) -> None:
        """End the threads; actions under way are waited for."""
        with self._making_pools:
            for pool in self._pools.values():
                pool.shutdown()
            self._pools.clear()

    # plans

    def apply(self, plan: Plan, stages: Sequence[StagePod], *, dry_run: DryRun = "no") -> Actions:
        """Make the pods of stages of a plan, and in each cluster the object that owns them.

        Parameters
        ----------
        plan : Plan
            The plan; with its `dry_run` set, nothing is done either.
        stages : sequence of StagePod
            Those that are to run now.

        Returns
        -------
        Actions
            For each cluster the anchor, then its pods in the order given. A pod whose anchor could not be made is not tried
            and has its anchor's outcome.

        Raises
        ------
        InputError
            When the plan's id cannot be a label, or a cluster is not one of the fleet's.
        """
        mode: DryRun = "ours" if plan.dry_run and dry_run == "no" else dry_run
        by_cluster: dict[str, list[StagePod]] = {}
        for stage in stages:
            by_cluster.setdefault(self._manager[stage.placement.cluster].name, []).append(stage)
        anchor_name(plan.plan_id)
        anchors = {name: self._submit(name, partial(self._anchor, name, plan, mode)) for name in by_cluster}
        pods: list[tuple[str, Future[ActionResult]]] = []
        results: list[ActionResult] = []
        # A pod's thread waits for its anchor; anchors were submitted first, so that cannot lock up.
        for name, some in by_cluster.items():
            pods += [
                (name, self._submit(name, partial(self._create, plan, each, anchors[name], mode))) for each in some
            ]
        for name in by_cluster:
            results.append(anchors[name].result())
            results += [future.result() for where, future in pods if where == name]
        return Actions(tuple(results))

    def delete_plan(self, plan_id: str, clusters: Iterable[str] | None = None, *, dry_run: DryRun = "no") -> Actions:
        """Delete all that belongs to a plan: its pods, and in each cluster what owns them."""
        anchor = anchor_name(plan_id)
        names = self._manager.names if clusters is None else tuple(clusters)
        futures = [self._submit(name, partial(self._delete_all, name, plan_id, anchor, dry_run)) for name in names]
        return Actions(tuple(result for future in futures for result in future.result()))

    def replicate(self, plan: Plan, stage: StagePod, copies: int, *, dry_run: DryRun = "no") -> Actions:
        """Make further pods of a stage, numbered from its own number on."""
        more = [replace(stage, copy=stage.copy + 1 + number) for number in range(copies)]
        return self.apply(plan, more, dry_run=dry_run)

    def migrate(
        self, plan: Plan, old: StagePod, new: StagePod, *, wait_running_s: float = 0.0, dry_run: DryRun = "no"
    ) -> Actions:
        """Move a stage: make its pod anew elsewhere, then evict the old one.

        When the old one may not be evicted, the new one is deleted again; `Actions.is_done` is then false, and
        the results say what was done and what was not.

        Parameters
        ----------
        old, new : StagePod
            The pod as it is, and as it is to be; within one cluster with another `copy`, since the name follows from that.
        wait_running_s : float
            For how long to wait until the new pod runs before the old one goes; 0 does not wait.

        Raises
        ------
        InputError
            When both would have one name in one cluster.
        """
        name = self._pod_name(plan, new)
        if (old.placement.cluster, self._pod_name(plan, old)) == (new.placement.cluster, name):
            raise InputError(f"stage {new.placement.stage_id}: copy", new.copy, "another number than the old pod's")
        made = self.apply(plan, [new], dry_run=dry_run)
        if made.problems:
            return made
        steps = list(made.results)
        if wait_running_s > 0 and dry_run == "no":
            steps.append(self._wait_running(new.placement.cluster, name, wait_running_s))
        if steps[-1].is_done or dry_run != "no":
            gone = self.evict(old.placement.cluster, self._namespace, self._pod_name(plan, old), dry_run=dry_run)
            steps.append(replace(gone, stage_id=old.placement.stage_id))
        result = Actions(tuple(steps))
        if result.problems:
            undone = self.delete_pod(new.placement.cluster, self._namespace, name)
            return Actions((*steps, replace(undone, stage_id=new.placement.stage_id)))
        return result

    # nodes

    def cordon(self, cluster: str, node: str, *, dry_run: DryRun = "no") -> ActionResult:
        """Keep new pods off a node."""
        return self._set_schedulable(cluster, node, wanted=False, dry_run=dry_run)

    def uncordon(self, cluster: str, node: str, *, dry_run: DryRun = "no") -> ActionResult:
        """Let pods come to a node again."""
        return self._set_schedulable(cluster, node, wanted=True, dry_run=dry_run)

    # pods and deployments

    def evict(
        self, cluster: str, namespace: str, pod: str, *, grace_s: int | None = None, dry_run: DryRun = "no"
    ) -> ActionResult:
        """Ask a pod to leave, as disruption budgets allow it; what they do not allow within the deadline is `failed`.

        `done` says that its deletion began; the reason of a budget's refusal is ``DisruptionBudget``.
        """
        path = self._pod_path(namespace, pod)
        options = {} if grace_s is None else {"gracePeriodSeconds": grace_s}

        def ask(client: ClusterClient) -> tuple[bool, Any]:
            if dry_run == "ours":
                client.get(path)
                return True, {}
            body = {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": pod, "namespace": namespace},
                "deleteOptions": {**options, **({"dryRun": ["All"]} if dry_run == "server" else {})},
            }
            return True, client.create(f"{path}/eviction", body)

        return self._act("evict", cluster, f"pod/{namespace}/{pod}", _gone_is_fine(ask), dry_run)

    def delete_pod(
        self, cluster: str, namespace: str, pod: str, *, grace_s: int | None = None, dry_run: DryRun = "no"
    ) -> ActionResult:
        """Delete a pod, whatever disruption budgets say."""
        path = self._pod_path(namespace, pod)
        query = {} if grace_s is None else {"gracePeriodSeconds": str(grace_s)}

        def ask(client: ClusterClient) -> tuple[bool, Any]:
            if dry_run == "ours":
                return True, client.get(path)
            return True, client.delete(path, query | _dry(dry_run))

        return self._act("delete", cluster, f"pod/{namespace}/{pod}", _gone_is_fine(ask), dry_run)

    def scale(
        self, cluster: str, namespace: str, deployment: str, replicas: int, *, dry_run: DryRun = "no"
    ) -> ActionResult:
        """Set how many pods a Deployment has."""
        path = path_of("apis", "apps", "v1", "namespaces", namespace, "deployments", deployment, "scale")

        def ask(client: ClusterClient) -> tuple[bool, Any]:
            now = client.get(path)
            if now["spec"].get("replicas", 0) == replicas:
                return False, now
            if dry_run == "ours":
                return True, now
            return True, client.merge(path, {"spec": {"replicas": replicas}}, _dry(dry_run))

        return self._act("scale", cluster, f"deployment/{namespace}/{deployment}", ask, dry_run)

    # how

    @property
    def _namespace(self) -> str:
        return self._settings.pods.namespace

    def _submit(self, cluster: str, work: Callable[[], Result]) -> Future[Result]:
        with self._making_pools:
            if cluster not in self._pools:
                pool = ThreadPoolExecutor(self._settings.workers, thread_name_prefix=f"act-{cluster}")
                self._pools[cluster] = pool
            return self._pools[cluster].submit(work)

    def _anchor(self, cluster: str, plan: Plan, dry_run: DryRun) -> ActionResult:
        body = anchor_manifest(plan, self._settings.pods)
        path = path_of("api", "v1", "namespaces", self._namespace, "configmaps", anchor_name(plan.plan_id))
        ask = self._applying(path, body, dry_run)
        return self._act("anchor", cluster, f"configmap/{self._namespace}/{anchor_name(plan.plan_id)}", ask, dry_run)

    def _create(self, plan: Plan, stage: StagePod, anchored: Future[ActionResult], dry_run: DryRun) -> ActionResult:
        anchor = anchored.result()
        cluster, stage_id = stage.placement.cluster, stage.placement.stage_id
        name = self._pod_name(plan, stage)
        target = f"pod/{self._namespace}/{name}"
        if not anchor.is_done and anchor.outcome != "dry_run":
            # Where the anchor of a plan is not found it is the namespace that is missing.
            hint = ". Apply deploy/rbac/opendt.yaml there" if anchor.reason == "NotFound" else ""
            said = f"what would own it could not be made: {anchor.message}{hint}"
            return replace(anchor, action="create", target=target, message=said, attempts=0, stage_id=stage_id)
        body = pod_manifest(plan, stage, self._settings.pods, anchor.uid or "unknown")
        ask = self._applying(self._pod_path(self._namespace, name), body, dry_run)
        return replace(self._act("create", cluster, target, ask, dry_run), stage_id=stage_id)

    def _applying(
        self, path: str, body: dict[str, Any], dry_run: DryRun
    ) -> Callable[[ClusterClient], tuple[bool, Any]]:
        def ask(client: ClusterClient) -> tuple[bool, Any]:
            if dry_run == "ours":
                return True, {}
            created, thing = client.apply(path, body, self._settings.field_manager, dry_run=dry_run == "server")
            if "deletionTimestamp" in thing["metadata"]:
                raise NotYetError("Terminating", "one of this name is being deleted")
            return created, thing

        return ask

    def _delete_all(self, cluster: str, plan_id: str, anchor: str, dry_run: DryRun) -> list[ActionResult]:
        pods = path_of("api", "v1", "namespaces", self._namespace, "pods")
        mine = {"labelSelector": f"{PLAN_ID}={plan_id}"}

        def ask_pods(client: ClusterClient) -> tuple[bool, Any]:
            found = client.get(pods, mine)["items"]
            if found and dry_run != "ours":
                client.delete(pods, mine | _dry(dry_run))
            return bool(found), {}

        def ask_anchor(client: ClusterClient) -> tuple[bool, Any]:
            path = path_of("api", "v1", "namespaces", self._namespace, "configmaps", anchor)
            if dry_run == "ours":
                return True, client.get(path)
            return True, client.delete(path, _dry(dry_run) | {"propagationPolicy": "Background"})

        return [
            self._act("delete", cluster, f"pods/{self._namespace}/{PLAN_ID}={plan_id}", ask_pods, dry_run),
            self._act("delete", cluster, f"configmap/{self._namespace}/{anchor}", _gone_is_fine(ask_anchor), dry_run),
        ]

    def _set_schedulable(self, cluster: str, node: str, *, wanted: bool, dry_run: DryRun) -> ActionResult:
        path = path_of("api", "v1", "nodes", node)

        def ask(client: ClusterClient) -> tuple[bool, Any]:
            now = client.get(path)
            if now["spec"].get("unschedulable", False) is not wanted:
                return False, now
            if dry_run == "ours":
                return True, now
            body = {"spec": {"unschedulable": None if wanted else True}}
            return True, client.merge(path, body, _dry(dry_run))

        return self._act("uncordon" if wanted else "cordon", cluster, f"node/{node}", ask, dry_run)

    def _wait_running(self, cluster: str, name: str, patience_s: float) -> ActionResult:
        path = self._pod_path(self._namespace, name)
        retry = replace(self._settings.retry, deadline_s=patience_s)

        def ask(client: ClusterClient) -> tuple[bool, Any]:
            thing = client.get(path)
            phase = thing["status"].get("phase")
            if phase not in ("Running", *_ENDED):
                raise NotYetError("NotRunning", f"its phase is {phase}")
            return True, thing

        return self._act("wait", cluster, f"pod/{self._namespace}/{name}", ask, "no", retry)

    def _act(
        self,
        action: ActionKind,
        cluster: str,
        target: str,
        ask: Callable[[ClusterClient], tuple[bool, Any]],
        dry_run: DryRun,
        retry: RetrySettings | None = None,
    ) -> ActionResult:
        """Ask for one action; `ask` gives whether anything changed, and the object."""
        managed = self._manager[cluster]
        if dry_run == "no" and not self._may_act():
            tried = Attempt("refused", 0, reason="NotLeading", message="another controller acts")
        else:
            tried = attempt(
                lambda: ask(managed.client),
                retry or self._settings.retry,
                is_reachable=lambda: managed.is_reachable,
                clock_s=self._clock_s,
                sleep=self._sleep,
            )
        changed, thing = tried.answer if tried.outcome == "done" else (True, {})
        outcome = tried.outcome
        if outcome == "done":
            outcome = "unchanged" if not changed else "done" if dry_run == "no" else "dry_run"
        metadata = thing.get("metadata") or {}
        return ActionResult(
            action,
            cluster,
            target,
            outcome,
            tried.reason,
            tried.message,
            tried.attempts,
            self._manager.clock_ms(),
            uid=metadata.get("uid", ""),
            resource_version=metadata.get("resourceVersion", ""),
        )

    def _pod_path(self, namespace: str, name: str) -> str:
        return path_of("api", "v1", "namespaces", namespace, "pods", name)

    def _pod_name(self, plan: Plan, stage: StagePod) -> str:
        return pod_name(plan.plan_id, stage.placement.stage_id, role=stage.role, copy=stage.copy)


def _dry(dry_run: DryRun) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run == "server" else {}


def _gone_is_fine(
    ask: Callable[[ClusterClient], tuple[bool, Any]],
) -> Callable[[ClusterClient], tuple[bool, Any]]:
    """Take what is no more for what was asked: a first try that was not answered may have been carried out."""

    def ask_once(client: ClusterClient) -> tuple[bool, Any]:
        try:
            return ask(client)
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return False, {}
            raise

    return ask_once
