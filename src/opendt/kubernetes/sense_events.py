"""What the sensing of clusters has to tell: events with one sentence for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["SenseEvent", "SenseEventKind", "TellEvent"]

SenseEventKind = Literal[
    "cluster_away",
    "cluster_back",
    "watch_expired",
    "watch_broken",
    "label_invalid",
    "object_invalid",
    "report_invalid",
    "metrics_away",
    "metrics_back",
    "listener_failed",
]


@dataclass(frozen=True, slots=True)
class SenseEvent:
    """Something that a person may want to know.

    Parameters
    ----------
    kind : str
        What sort of thing.
    cluster : str
        Where.
    subject : str
        What it is about: a node, a pod as namespace/name, a source of metrics; empty for the cluster as a whole.
    message : str
        What was found, what was expected, what follows.
    time_ms : int
        When, ms since the epoch.
    """

    kind: SenseEventKind
    cluster: str
    subject: str
    message: str
    time_ms: int


TellEvent = Callable[[SenseEvent], None]
"""Takes an event; called from threads of the sensing, one at a time for a cluster. It must not raise."""
