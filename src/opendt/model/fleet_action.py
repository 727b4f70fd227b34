"""What a person asks to be done to a fleet: one record for each kind, told apart by `action`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from opendt.model.base import Model, NonNegativeInt

__all__ = ["Evict", "FleetActionRequest", "FleetRequest", "RunElsewhere", "Scale", "SetSchedulable"]

Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""A name as Kubernetes has them."""
ClusterName = Annotated[str, Field(min_length=1)]
"""Contexts of kubeconfigs are named as anybody likes, `admin@west` or an ARN."""


class SetSchedulable(Model):
    """Keep new pods off a node (``cordon``), or let them come again (``uncordon``)."""

    action: Literal["cordon", "uncordon"]
    cluster: ClusterName
    node: Name

    @property
    def target(self) -> str:
        """What is acted on."""
        return f"node/{self.node}"


class Evict(Model):
    """Ask a pod to leave, as disruption budgets allow it."""

    action: Literal["evict"]
    cluster: ClusterName
    namespace: Name
    pod: Name
    grace_s: NonNegativeInt | None = None

    @property
    def target(self) -> str:
        """What is acted on."""
        return f"pod/{self.namespace}/{self.pod}"


class Scale(Model):
    """Set how many pods a Deployment has."""

    action: Literal["scale"]
    cluster: ClusterName
    namespace: Name
    deployment: Name
    replicas: NonNegativeInt

    @property
    def target(self) -> str:
        """What is acted on."""
        return f"deployment/{self.namespace}/{self.deployment}"


class RunElsewhere(Model):
    """Run a stage of a plan elsewhere, at its shadow placement or at another place with room.

    In place of its own pod, which is removed (``migrate``), or beside it, until one of them succeeds (``replicate``).
    """

    action: Literal["migrate", "replicate"]
    plan_id: Annotated[str, Field(min_length=1)]
    stage_id: Annotated[str, Field(min_length=1)]

    @property
    def target(self) -> str:
        """What is acted on."""
        return f"stage/{self.plan_id}/{self.stage_id}"


FleetRequest = SetSchedulable | Evict | Scale | RunElsewhere
FleetActionRequest = Annotated[FleetRequest, Field(discriminator="action")]
