"""What somebody outside tells of a fleet: the bodies of ``POST /observe``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, RootModel

from opendt.model.base import Milliseconds, Model, NonNegative

__all__ = ["ChaosObservation", "FleetObservation", "NodeObservation", "TelemetryObservation"]

Name = Annotated[str, Field(min_length=1, max_length=253)]


class NodeObservation(Model):
    """A node went down or came up.

    Parameters
    ----------
    type : {"node_down", "node_up"}
        Which.
    cluster, node : str
        Where.
    time_ms : int, optional
        When, ms since the epoch (UTC); now unless given.
    reason : str
        Why, for people.
    """

    type: Literal["node_down", "node_up"]
    cluster: Name
    node: Name
    time_ms: Milliseconds | None = None
    reason: Annotated[str, Field(max_length=1000)] = ""


class TelemetryObservation(Model):
    """What a node uses.

    Parameters
    ----------
    cluster, node : str
        Where.
    cpu_usage_millicores, memory_usage_mib, power_w : float, optional
        What it uses; absent ones stay as they are.
    time_ms : int, optional
        When it was measured, ms since the epoch (UTC); now unless given.
    """

    type: Literal["telemetry"]
    cluster: Name
    node: Name
    cpu_usage_millicores: NonNegative | None = None
    memory_usage_mib: NonNegative | None = None
    power_w: NonNegative | None = None
    time_ms: Milliseconds | None = None


class ChaosObservation(Model):
    """A failure that somebody injects on purpose.

    Parameters
    ----------
    cluster : str
        Where.
    target : str
        What is hit: a node, a pod, a link.
    what : str
        What is done to it.
    time_ms, until_ms : int, optional
        From when until when, ms since the epoch (UTC).
    """

    type: Literal["chaos"]
    cluster: Name
    target: Name
    what: Annotated[str, Field(min_length=1, max_length=1000)]
    time_ms: Milliseconds | None = None
    until_ms: Milliseconds | None = None


class FleetObservation(
    RootModel[Annotated[NodeObservation | TelemetryObservation | ChaosObservation, Field(discriminator="type")]]
):
    """One observation of any kind."""
