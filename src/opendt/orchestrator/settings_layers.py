"""The sources of settings, each as a layer of nested mappings: flags, environment, file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from opendt.formats.json_cursor import load_json
from opendt.model.errors import FormatError, InputError, shown
from opendt.orchestrator.settings_errors import Key, refuse_unknown, variable
from opendt.orchestrator.settings_model import FleetSettings, Settings

__all__ = ["DEFAULT_FILE", "Layer", "merged", "read_layers"]

DEFAULT_FILE: Final = "opendt.toml"
_PREFIX: Final = "OPENDT_"
_FILE_VARIABLE: Final = "OPENDT_CONFIG"
_PATHS: Final = (
    ("state_dir",),
    ("health_file",),
    ("log", "directory"),
    ("fleet", "kubeconfig"),
    ("fleet", "spec"),
    ("fleet", "latency"),
    ("fleet", "report_dir"),
)
_NO_SETTINGS: Final = frozenset({_FILE_VARIABLE, "OPENDT_DATA", "OPENDT_SOAK", "OPENDT_ACCEPT", "OPENDT_REQUIRE_PARTS"})
# What Kubernetes puts into every container beside a Service named opendt or opendt-…
_SERVICE_LINK: Final = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")


@dataclass(frozen=True)
class Layer:
    """What one source says, as nested mappings."""

    source: str
    values: Mapping[str, Any]
    variables: frozenset[str] = frozenset()

    def has(self, path: Key) -> bool:
        """Whether this layer says anything of the key."""
        value: Any = self.values
        for part in path:
            if not isinstance(value, Mapping) or part not in value:
                return False
            value = value[part]
        return True

    def name(self, path: Key) -> str:
        """Where in this source the key stands."""
        return f"{self.source} {self.variable(path)}" if self.source == "environment" else self.source

    def variable(self, path: Key) -> str:
        """The variable that says it: the key's own, or one that holds a whole section as JSON."""
        names = [variable(path[:length]) for length in range(len(path), 0, -1)]
        return next((name for name in names if name in self.variables), names[0])


class _Environment(EnvSettingsSource):
    """The library's reader of nested variables, over a given mapping instead of the process's own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._given = {name.lower(): value for name, value in environ.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return dict(self._given)


def read_layers(
    file: Path | str | None, flags: Mapping[str, Any] | None, environ: Mapping[str, str] | None
) -> list[Layer]:
    """Sources, the strongest first."""
    environ = os.environ if environ is None else environ
    path = _settings_file(file, environ)
    layers = [Layer("flag", _nested(flags or {}))]
    in_file = Layer("", {}) if path is None else _file_layer(path)
    layers += [_environment_layer(environ, in_file.values), in_file]
    if path is not None:  # so that commands find the same state from any working directory
        state_dir = path.absolute().parent / Settings.model_fields["state_dir"].default
        report_dir = path.absolute().parent / FleetSettings.model_fields["report_dir"].default
        layers.append(Layer("default", {"state_dir": state_dir, "fleet": {"report_dir": report_dir}}))
    return [layer for layer in layers if layer.values]


def _settings_file(file: Path | str | None, environ: Mapping[str, str]) -> Path | None:
    if file is not None:
        return Path(file)
    if environ.get(_FILE_VARIABLE):
        return Path(environ[_FILE_VARIABLE])
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None


def _nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in flags.items():
        if value is not None:
            *sections, name = key.split(".")
            place = values
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = value
    return values


def _file_layer(path: Path) -> Layer:
    values = _by_name(path, load_json(path) if path.suffix == ".json" else _load_toml(path))
    folder = path.absolute().parent
    named = values.get("datacenter")
    names = named if isinstance(named, dict) else ()
    places = [*_PATHS, *(("datacenter", name, key) for name in names for key in ("topology", "slo"))]
    for *sections, key in places:
        place: Any = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if isinstance(place, dict) and isinstance(place.get(key), str):
            place[key] = folder / place[key]
    url = values.get("ledger_url")
    if isinstance(url, str) and re.match(r"sqlite:///[^/:]", url):
        values["ledger_url"] = f"sqlite:///{folder / url.removeprefix('sqlite:///')}"
    return Layer(str(path), values)


def _load_toml(path: Path) -> Any:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(path, "", error.strerror or str(error), "a readable settings file") from error
    except UnicodeDecodeError as error:
        raise FormatError(path, f"byte {error.start}", "bytes that are not UTF-8", "TOML in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        hint = "Text stands in quotes; a file of JSON is named .json."
        raise FormatError(path, "", f"broken TOML ({error})", "TOML", hint) from error


def _by_name(path: Path, values: Any) -> dict[str, Any]:
    """Turn a list of datacenters into sections."""
    if not isinstance(values, dict):
        raise FormatError(path, "", shown(values), "an object of settings")
    found = values.get("datacenter")
    if isinstance(found, list):
        named: dict[str, Any] = {}
        for row, entry in enumerate(found):
            name = entry.get("name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or name in named:
                wrong = "no name" if name is None else shown(name)
                raise FormatError(path, f"datacenter[{row}].name", wrong, "a name that no other datacenter has")
            named[name] = entry
        return values | {"datacenter": named}
    return values


def _environment_layer(environ: Mapping[str, str], in_file: Mapping[str, Any]) -> Layer:
    ours = {name: value for name, value in environ.items() if name.upper().startswith(_PREFIX)}
    ours = {k: v for k, v in ours.items() if k.upper() not in _NO_SETTINGS and not _SERVICE_LINK.search(k.upper())}
    ours = {name: value for name, value in ours.items() if value}  # tools that fill a form write empty ones
    for name in ours:
        top = name.upper().removeprefix(_PREFIX).split("__")[0].lower()
        if top not in Settings.model_fields:
            refuse_unknown("", name, name.lower().removeprefix(_PREFIX.lower()).replace("__", "."), variable)
    try:
        values = _Environment(ours)()
    except SettingsError as error:
        section = next(iter(re.findall(r'field "(\w+)"', str(error))), "")
        raise InputError(
            variable((section,)), "text that is not JSON", "JSON of the section, or one key each"
        ) from error
    sections = values.get("datacenter")
    if isinstance(sections, dict):  # variables have no upper and lower case: the file's spelling holds
        in_sections = in_file.get("datacenter")
        written = {name.casefold(): name for name in in_sections} if isinstance(in_sections, dict) else {}
        values["datacenter"] = {written.get(name.casefold(), name): entry for name, entry in sections.items()}
    return Layer("environment", values, frozenset(name.upper() for name in ours))


def merged(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two layers, key by key."""
    result = dict(lower)
    for key, value in upper.items():
        below = result.get(key)
        is_section = isinstance(value, Mapping)
        result[key] = merged(value, below if isinstance(below, Mapping) else {}) if is_section else value
    return result
