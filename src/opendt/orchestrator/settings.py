"""Settings of the live process: flags before environment before file before defaults, and which of them each value came from.

The file is TOML, or JSON by its suffix. A path in it is relative to it. An environment variable is ``OPENDT_`` and the
key in capitals, with two underscores between section and key: ``OPENDT_KAFKA__BOOTSTRAP_SERVERS``; an empty one is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, SecretStr, ValidationError

from opendt.orchestrator.settings_errors import Key, is_secret, known_paths, refuse
from opendt.orchestrator.settings_layers import DEFAULT_FILE, Layer, merged, read_layers
from opendt.orchestrator.settings_model import (
    DEFAULT_DATACENTER,
    DatacenterSettings,
    KafkaSettings,
    LogSettings,
    OpenAISettings,
    ResultsSettings,
    Settings,
    without_password,
)

__all__ = [
    "DEFAULT_DATACENTER",
    "DEFAULT_FILE",
    "HIDDEN",
    "DatacenterSettings",
    "KafkaSettings",
    "LogSettings",
    "OpenAISettings",
    "ResultsSettings",
    "Row",
    "Settings",
    "explain",
    "kafka_bootstrap_servers",
    "known_keys",
    "load_settings",
    "openai_api_key",
    "without_password",
]

HIDDEN: Final = "set (hidden)"


class Row(NamedTuple):
    """A setting as a person sees it: its key, its value (secrets hidden) and where the value came from."""

    key: str
    value: str
    source: str


def load_settings(
    file: Path | str | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings.

    Parameters
    ----------
    file : Path or str, optional
        TOML, or JSON by its suffix. Unless given: what ``OPENDT_CONFIG`` names, else ``opendt.toml`` in the working
        directory if it is there.
    flags : mapping, optional
        Key -> value from a command line; keys nested or with dots (``kafka.group``). None is a flag that was not given.
    environ : mapping, optional
        Environment variables; those of the process unless given.

    Raises
    ------
    InputError
        When a source cannot be read, or a key is unknown or holds what it must not; names source and key.
    """
    return _build(read_layers(file, flags, environ))


def explain(
    file: Path | str | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[Row]:
    """Say of each setting what it is and where that came from; secrets are hidden.

    Raises
    ------
    InputError
        As `load_settings`.
    """
    layers = read_layers(file, flags, environ)
    settings = _build(layers)
    derived = {
        ("log", "directory"): settings.log_directory,
        ("ledger_url",): settings.ledger_address,
        ("health_file",): settings.health_path,
    }
    return [
        Row(".".join(path), _shown(path, derived.get(path, value)), _origin(layers, path))
        for path, value in _leaves(settings, ())
    ]


def kafka_bootstrap_servers(settings: Settings | None = None) -> str:
    """Brokers to begin with, ``host:port`` separated by commas; of the default sources when no settings are given."""
    return (settings or load_settings()).kafka.bootstrap_servers


def openai_api_key(settings: Settings | None = None) -> str | None:
    """Key of the language model, None when none is set; of the default sources when no settings are given."""
    secret = (settings or load_settings()).openai.api_key
    return None if secret is None else secret.get_secret_value()


def known_keys() -> list[str]:
    """All keys; ``NAME`` stands for the name of a datacenter."""
    return [".".join(path) for path in known_paths(Settings)]


def _build(layers: Sequence[Layer]) -> Settings:
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        values = merged(layer.values, values)
    sections = values.get("datacenter")
    if isinstance(sections, dict):
        named = {name: {"name": name} | entry if isinstance(entry, dict) else entry for name, entry in sections.items()}
        values["datacenter"] = named
    try:
        return Settings(**values)
    except ValidationError as error:
        refuse(layers, error)


def _origin(layers: Sequence[Layer], path: Key) -> str:
    if path[0] == "datacenter" and path[-1] == "name" and not any(layer.has(path) for layer in layers):
        path = path[:-1]  # the name of the section
    return next((layer.name(path) for layer in layers if layer.has(path)), "default")


def _leaves(value: BaseModel | Mapping[str, Any], path: Key) -> Iterator[tuple[Key, Any]]:
    """All keys with their values, those of `kafka.settings` one by one."""
    items = value if isinstance(value, Mapping) else {name: getattr(value, name) for name in type(value).model_fields}
    for name, item in items.items():
        if isinstance(item, BaseModel) or (isinstance(item, Mapping) and item):
            yield from _leaves(item, (*path, name))
        else:
            yield (*path, name), item


def _shown(path: Key, value: Any) -> str:
    if value is None or (isinstance(value, Mapping) and not value):
        return "-"
    if path == ("ledger_url",):
        return without_password(value.get_secret_value() if isinstance(value, SecretStr) else value)
    if isinstance(value, SecretStr) or is_secret(path):
        return HIDDEN
    return str(value).lower() if isinstance(value, bool) else without_password(str(value))
