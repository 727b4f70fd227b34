"""Options that say where messages go to or come from, and the ends of the transport they name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from opendt.orchestrator.settings_model import Settings
    from opendt.telemetry.source import Sink, Source

__all__ = ["Transport", "transport_options"]


def transport_options(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a transport; `name` is that which chooses it, as ``--to``."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        options = (
            click.option(
                name, "transport", type=click.Choice(("log", "kafka")), help="Transport [default: of the settings]."
            ),
            click.option("--log", "log", type=click.Path(path_type=Path), metavar="DIR", help="Directory of the log."),
            click.option("--bootstrap-servers", metavar="HOST:PORT,...", help="Brokers of Kafka."),
            click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings file."),
        )
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@dataclass(frozen=True)
class Transport:
    """The transport that settings and options choose."""

    settings: Settings

    @classmethod
    def of(
        cls, transport: str | None, log: Path | None, bootstrap_servers: str | None, config: Path | None
    ) -> Transport:
        """Read the settings; an option beats what they say."""
        from opendt.orchestrator.settings import load_settings

        if transport is None and (log is None) != (bootstrap_servers is None):
            transport = "log" if log is not None else "kafka"
        flags: dict[str, Any] = {
            "transport": transport,
            "log.directory": log,
            "kafka.bootstrap_servers": bootstrap_servers,
        }
        return cls(load_settings(config, flags))

    @property
    def place(self) -> str:
        """Where messages are, in words."""
        if self.settings.transport == "kafka":
            return f"kafka at {self.settings.kafka.bootstrap_servers}"
        return f"the log in {self.settings.log_directory}"

    @contextmanager
    def sink(self) -> Iterator[Sink]:
        """Open the end that takes messages."""
        sink: Sink
        if self.settings.transport == "kafka":
            from opendt.telemetry.kafka import KafkaSink

            kafka = self.settings.kafka
            sink = KafkaSink(
                kafka.bootstrap_servers,
                settings=kafka.client_settings(),
                partitions=kafka.partitions,
                on_error=_tell,
            )
        else:
            from opendt.orchestrator.transports import log_directory
            from opendt.telemetry.log import LogSink

            sink = LogSink(log_directory(self.settings))
        try:
            yield sink
        finally:
            sink.close()

    @contextmanager
    def source(self, purpose: str) -> Iterator[Source]:
        """Open the end that gives messages, in a consumer group of its own."""
        group = f"opendt-{purpose}-{os.getpid()}"
        source: Source
        if self.settings.transport == "kafka":
            from opendt.telemetry.kafka import KafkaSource

            kafka = self.settings.kafka
            source = KafkaSource(kafka.bootstrap_servers, group, settings=kafka.client_settings(), on_error=_tell)
        else:
            from opendt.telemetry.log import LogSource

            source = LogSource(self.settings.log_directory, group)
        try:
            yield source
        finally:
            source.close()


def _tell(words: str) -> None:
    click.echo(words, err=True)
