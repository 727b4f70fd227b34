"""Settings of librdkafka: those that are ours, those that we begin with, and which of a user's are secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from opendt.model.errors import InputError

__all__ = [
    "CONSUMER_DEFAULTS",
    "LARGEST_MESSAGE_BYTES",
    "OURS",
    "PRODUCER_DEFAULTS",
    "Settings",
    "refuse_ours",
    "secrets_of",
]

Settings = Mapping[str, str | int | float | bool]

LARGEST_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""Largest message that is sent, and that the topics made here take: a task with all its fragments exceeds Kafka's 1 MiB."""

# What a user's settings may not change, because the promises of this module rest on it.
OURS: Final[Mapping[str, object]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.idempotence": True,
    "enable.partition.eof": True,
    # Offsets that are gone come as an error, which becomes `on_gap` and the oldest record: never a silent jump.
    "auto.offset.reset": "error",
    "partition.assignment.strategy": "cooperative-sticky",
    "delivery.report.only.error": True,
    "statistics.interval.ms": 1000,
}

CONSUMER_DEFAULTS: Final[Mapping[str, object]] = {
    "session.timeout.ms": 10_000,  # a dead process's partitions move after this; 45 s would stall its datacenters
    "heartbeat.interval.ms": 2_000,
    "topic.metadata.refresh.interval.ms": 10_000,  # topics that are made later are noticed after this
    "fetch.wait.max.ms": 100,  # that a partition is empty is known after this
    "fetch.queue.backoff.ms": 20,  # fetch again soon after the queue was full, not after a second
    "reconnect.backoff.max.ms": 1_000,
    "socket.nagle.disable": True,  # halves the time from one process to the next
}

PRODUCER_DEFAULTS: Final[Mapping[str, object]] = {
    "message.max.bytes": LARGEST_MESSAGE_BYTES,
    "compression.type": "lz4",
    "linger.ms": 5,
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 131_072,
    # The partition of a key is the one that Java's producers choose: one datacenter stays in one partition.
    "partitioner": "murmur2_random",
    "reconnect.backoff.max.ms": 1_000,
    "socket.nagle.disable": True,  # halves the time from one process to the next
}

_SECRET: Final = re.compile(r"password|secret|token|credential|\.pem$|oauthbearer\.config|userinfo")


def refuse_ours(settings: Settings) -> None:
    """Refuse settings that the promises of the adapter rest on.

    Raises
    ------
    InputError
        Naming the setting.
    """
    for name in OURS.keys() & settings.keys():
        raise InputError(
            f"Kafka setting {name}", settings[name], f"{OURS[name]!r}, which OpenDT depends on", "Leave it out"
        )


def secrets_of(settings: Settings) -> list[str]:
    """Values that must stand in no message."""
    return [str(value) for name, value in settings.items() if value and _SECRET.search(name)]
