"""The transport that the settings name: where records come from and where results go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opendt.orchestrator import event_types as events
from opendt.telemetry.messages import (
    CONFIG,
    DEAD_LETTERS,
    FRAGMENTS,
    POWER,
    PROPOSALS,
    RESULTS,
    SIM_TOPOLOGY,
    TASKS,
    TOPOLOGY,
    WORKLOAD,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from opendt.orchestrator.events import EventBus
    from opendt.orchestrator.settings_model import Settings
    from opendt.telemetry.log import LogDirectory, TornEnd
    from opendt.telemetry.source import Partition, Sink, Source

__all__ = ["INPUTS", "OUTPUTS", "log_directory", "open_sink", "open_source", "send_request"]

INPUTS = (WORKLOAD, POWER, TASKS, FRAGMENTS, TOPOLOGY, CONFIG)
OUTPUTS = (RESULTS, PROPOSALS, DEAD_LETTERS)


def log_directory(settings: Settings) -> LogDirectory:
    """The embedded log of the settings."""
    from opendt.telemetry.log import LogDirectory

    log = settings.log
    return LogDirectory(
        settings.log_directory,
        segment_bytes=log.segment_mib << 20,
        retention_bytes=None if log.retention_mib is None else log.retention_mib << 20,
        retention_ms=None if log.retention_s is None else log.retention_s * 1000,
    )


def open_source(settings: Settings, bus: EventBus) -> Source:
    """Open what records come from."""

    def gap(partition: Partition, wanted: int, oldest: int) -> None:
        reason = f"records {wanted} to {oldest - 1} are gone, taken by retention before they were read"
        bus.publish(events.SourceGap(topic=partition.topic, partition=partition.number, reason=reason))

    if settings.transport == "log":
        from opendt.telemetry.log import LogSource

        return LogSource(log_directory(settings), settings.kafka.group, on_gap=gap, on_torn=_torn(bus))
    from opendt.telemetry.kafka import KafkaSource, ensure_topics

    ensure_topics(
        settings.kafka.bootstrap_servers,
        (*INPUTS, *OUTPUTS, SIM_TOPOLOGY),
        partitions=settings.kafka.partitions,
        settings=_client_settings(settings),
    )
    return KafkaSource(
        settings.kafka.bootstrap_servers,
        settings.kafka.group,
        # The group shares one topic's partitions: of several it would give each member as many, whatever belongs together.
        companions={WORKLOAD: (POWER, TASKS, FRAGMENTS, TOPOLOGY, CONFIG)},
        settings=_client_settings(settings),
        on_error=_line_of(bus),
        on_gap=gap,
    )


def open_sink(settings: Settings, bus: EventBus) -> Sink:
    """Open where results go. They can be derived again, so that nothing waits for the disk because of them."""
    if settings.transport == "log":
        from opendt.telemetry.log import LogSink

        return LogSink(log_directory(settings), is_durable=False, on_torn=_torn(bus))
    from opendt.telemetry.kafka import KafkaSink

    return KafkaSink(
        settings.kafka.bootstrap_servers,
        # Without end, unless set otherwise: a message that is given up would be missing for good.
        settings={"message.timeout.ms": 0, **_client_settings(settings)},
        partitions=settings.kafka.partitions,
        on_error=_line_of(bus),
    )


def send_request(settings: Settings, datacenter: str, message: bytes) -> str:
    """Send a message on ``sys.config``, delivered when this returns; gives the place that it went to, in words.

    Raises
    ------
    TransportError
        When it could not be delivered.
    """
    if settings.transport == "log":
        from opendt.telemetry.log import LogSink

        sink: Sink = LogSink(log_directory(settings))
        place = f"the log in {settings.log_directory}"
    else:
        from opendt.telemetry.kafka import KafkaSink

        kafka = settings.kafka
        sink = KafkaSink(kafka.bootstrap_servers, settings=_client_settings(settings), partitions=kafka.partitions)
        place = f"kafka at {kafka.bootstrap_servers}"
    try:
        sink.send(CONFIG, message, key=datacenter)
        sink.flush()
    finally:
        sink.close()
    return place


def _torn(bus: EventBus) -> Callable[[TornEnd], None]:
    """Tell of a topic that ends within a record."""

    def tell(torn: TornEnd) -> None:
        bus.publish(
            events.TornEnd(
                topic=torn.topic,
                partition=torn.partition,
                offset=torn.offset,
                dropped_bytes=torn.dropped_bytes,
                file=str(torn.path),
            )
        )

    return tell


def _line_of(bus: EventBus, clock_s: Callable[[], float] = time.monotonic) -> Callable[[str], None]:
    """Tell of brokers that go away and come back, and of what else the client has to say."""
    since_s: float | None = None

    def tell(words: str) -> None:
        nonlocal since_s
        if words.endswith("can be reached again") and since_s is not None:
            bus.publish(events.TransportRecovered(after_s=clock_s() - since_s))
            since_s = None
            return
        if "cannot be reached" in words and since_s is None:
            since_s = clock_s()
        bus.publish(events.TransportTrouble(reason=words))

    return tell


def _client_settings(settings: Settings) -> dict[str, str | int | float | bool]:
    given = settings.kafka.client_settings()
    return {name: value for name, value in given.items() if name != "bootstrap.servers"}
