"""Pods as they are made: one for a stage on a node, with as few rights as it can run with.

The name follows from plan, stage and copy alone, so making a pod twice makes one pod.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from opendt.kubernetes.pods import EXEC_FORMAT, GPU_COUNT, GPU_MILLIS, JOB, ORIGIN, PLAN_ID, ROLE, STAGE
from opendt.kubernetes.quantities import bytes_text, millicores_text
from opendt.model.errors import InputError

if TYPE_CHECKING:
    from opendt.model.fleet import PodRole
    from opendt.model.job import Toleration
    from opendt.model.plan import Placement, Plan

__all__ = ["PodSettings", "StagePod", "anchor_manifest", "anchor_name", "pod_manifest", "pod_name"]

_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_LONGEST: Final = 63
NOBODY: Final = 65532
"""The user that images without a distribution run as."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What all pods of ours share.

    Parameters
    ----------
    namespace : str
        Where they are made.
    image : str
        Image of the worker, unless a stage names its own.
    image_pull_policy : str
        ``Never`` where images were imported by hand.
    runtime_classes : mapping of str to str
        Exec format -> RuntimeClass, for formats that need one.
    gpu_resource : str
        Resource that counts GPUs.
    binds_directly : bool
        Whether to name the node in the pod itself beside the affinity, for clusters without a scheduler.
    grace_s : int
        Time between being told to end and being ended.
    """

    namespace: str = "opendt"
    image: str = "opendt/worker:dev"
    image_pull_policy: str = "IfNotPresent"
    runtime_classes: Mapping[str, str] = field(default_factory=dict)
    gpu_resource: str = "nvidia.com/gpu"
    binds_directly: bool = False
    grace_s: int = 2


@dataclass(frozen=True, slots=True)
class StagePod:
    """One stage that is to run on one node.

    Parameters
    ----------
    placement : Placement
        Where, and in which form.
    cpu_millicores, memory_mib : float
        What it asks for, scaled already.
    cpu_limit_millicores, memory_limit_mib : float, optional
        What it gets at most; as much as it asks for unless given.
    gpu, gpu_millis : int
        GPUs, and thousandths of each. Kubernetes counts whole ones; shares are kept in annotations only.
    arguments : tuple of str
        Of the worker.
    environment : mapping of str to str
        Variables of the worker.
    image : str
        Image, when it is not the settings'.
    tolerations : tuple of Toleration
        Taints that it puts up with.
    labels, annotations : mapping of str to str
        More of them.
    origin_cluster : str
        Where its job comes from.
    role : {"stage", "replica", "shadow"}
        Whether it is the stage's own, runs beside it, or stands in for it.
    copy : int
        0 for the first pod of the stage in that role; higher for copies and after migrations.
    deadline_s : int, optional
        After which the cluster ends it.
    """

    placement: Placement
    cpu_millicores: float
    memory_mib: float
    cpu_limit_millicores: float | None = None
    memory_limit_mib: float | None = None
    gpu: int = 0
    gpu_millis: int = 1000
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    tolerations: tuple[Toleration, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    origin_cluster: str = ""
    role: PodRole = "stage"
    copy: int = 0
    deadline_s: int | None = None


def anchor_name(plan_id: str) -> str:
    """Name of the object that owns all pods of a plan in a cluster.

    Raises
    ------
    InputError
        When the plan's id cannot be a label.

    Examples
    --------
    >>> anchor_name("plan-7"), anchor_name("Plan.7")
    ('opendt-plan-7', 'opendt-9454a188fe65b218')
    """
    if _LABEL.fullmatch(plan_id) is None:
        expected = "at most 63 letters, digits, '-', '_' and '.', as labels of Kubernetes allow"
        raise InputError("plan_id", plan_id, expected)
    is_name = _NAME.fullmatch(plan_id) is not None
    return f"opendt-{plan_id if is_name else hashlib.sha256(plan_id.encode()).hexdigest()[:16]}"


def pod_name(plan_id: str, stage_id: str, *, role: PodRole = "stage", copy: int = 0) -> str:
    """Name of a stage's pod: from plan, stage, role and copy alone, and another for each of them.

    Examples
    --------
    >>> pod_name("plan-7", "s1"), pod_name("plan-7", "s1", role="shadow", copy=2)
    ('opendt-plan-7-s1-501243e3', 'opendt-plan-7-s1-shadow-2-d9965b60')
    """
    name = f"{anchor_name(plan_id)}-{stage_id}{'' if role == 'stage' else f'-{role}'}{f'-{copy}' if copy else ''}"
    # Without it, stage "b-c" of plan "a" and stage "c" of plan "a-b" would share a name.
    digest = hashlib.sha256(f"{plan_id}/{stage_id}/{role}/{copy}".encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9].rstrip('-')}-{digest}"


def anchor_manifest(plan: Plan, settings: PodSettings) -> dict[str, Any]:
    """Make what owns the pods of a plan in one cluster: deleted, it takes them along."""
    said = {"plan_id": plan.plan_id, "job_id": plan.job_id, "strategy": plan.strategy, "accepted_ms": plan.accepted_ms}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": anchor_name(plan.plan_id),
            "namespace": settings.namespace,
            "labels": {PLAN_ID: plan.plan_id, JOB: plan.job_id},
        },
        "data": {"plan.json": orjson.dumps(said).decode()},
    }


def pod_manifest(plan: Plan, stage: StagePod, settings: PodSettings, anchor_uid: str) -> dict[str, Any]:
    """Make the pod of a stage.

    Parameters
    ----------
    anchor_uid : str
        Uid of the plan's anchor in that cluster.
    """
    placement = stage.placement
    annotations = dict(stage.annotations)
    if stage.gpu:
        annotations |= {GPU_COUNT: str(stage.gpu), GPU_MILLIS: str(stage.gpu_millis)}
    spec = _spec(stage, settings)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(plan.plan_id, placement.stage_id, role=stage.role, copy=stage.copy),
            "namespace": settings.namespace,
            "labels": {
                **stage.labels,
                "app.kubernetes.io/managed-by": "opendt",
                PLAN_ID: plan.plan_id,
                JOB: plan.job_id,
                STAGE: placement.stage_id,
                EXEC_FORMAT: placement.exec_format,
                ROLE: stage.role,
                **({ORIGIN: stage.origin_cluster} if stage.origin_cluster else {}),
            },
            "annotations": annotations,
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "name": anchor_name(plan.plan_id),
                    "uid": anchor_uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": spec,
    }


def _spec(stage: StagePod, settings: PodSettings) -> dict[str, Any]:
    placement = stage.placement
    only_there = {"key": "metadata.name", "operator": "In", "values": [placement.node_name]}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",  # a stage that fails is planned again, not run again where it failed
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.grace_s,
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [only_there]}]}
            }
        },
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "runAsGroup": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(stage, settings)],
    }
    if stage.tolerations:
        spec["tolerations"] = [_toleration(each) for each in stage.tolerations]
    if settings.binds_directly:
        spec["nodeName"] = placement.node_name
    if placement.exec_format in settings.runtime_classes:
        spec["runtimeClassName"] = settings.runtime_classes[placement.exec_format]
    if stage.deadline_s is not None:
        spec["activeDeadlineSeconds"] = stage.deadline_s
    return spec


def _container(stage: StagePod, settings: PodSettings) -> dict[str, Any]:
    asked = {"cpu": millicores_text(stage.cpu_millicores), "memory": bytes_text(stage.memory_mib)}
    most_cpu = stage.cpu_millicores if stage.cpu_limit_millicores is None else stage.cpu_limit_millicores
    most_memory = stage.memory_mib if stage.memory_limit_mib is None else stage.memory_limit_mib
    limits = {"cpu": millicores_text(most_cpu), "memory": bytes_text(most_memory)}
    if stage.gpu and stage.gpu_millis == 1000:
        asked[settings.gpu_resource] = limits[settings.gpu_resource] = str(stage.gpu)
    container: dict[str, Any] = {
        "name": "worker",
        "image": stage.image or settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": {"requests": asked, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if stage.arguments:
        container["args"] = list(stage.arguments)
    if stage.environment:
        container["env"] = [{"name": name, "value": value} for name, value in sorted(stage.environment.items())]
    return container


def _toleration(toleration: Toleration) -> dict[str, str]:
    if toleration.value is None:
        said = {"key": toleration.key, "operator": "Exists"}
    else:
        said = {"key": toleration.key, "operator": "Equal", "value": toleration.value}
    return said if toleration.effect is None else {**said, "effect": toleration.effect}
