"""Settings of the live process: flags before environment before file before defaults, and which of them each value came from.

The file is TOML, or JSON by its suffix. A path in it is relative to it. An environment variable is ``OPENDT_`` and the
key in capitals, with two underscores between section and key: ``OPENDT_KAFKA__BOOTSTRAP_SERVERS``.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from opendt.formats.json_cursor import load_json
from opendt.model.errors import FormatError, InputError, shown
from opendt.orchestrator.settings_model import (
    DEFAULT_DATACENTER,
    SECRET_NAME,
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

DEFAULT_FILE: Final = "opendt.toml"
HIDDEN: Final = "set (hidden)"
_PREFIX: Final = "OPENDT_"
_FILE_VARIABLE: Final = "OPENDT_CONFIG"
_PATHS: Final = (("state_dir",), ("health_file",), ("log", "directory"))
_NO_SETTINGS: Final = frozenset({_FILE_VARIABLE, "OPENDT_DATA", "OPENDT_SOAK", "OPENDT_ACCEPT", "OPENDT_REQUIRE_PARTS"})
# What Kubernetes puts into every container beside a Service named opendt or opendt-…
_SERVICE_LINK: Final = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")

_SECRETS: Final = frozenset({"kafka.password", "kafka.key_password", "openai.api_key"})
_WORDS: Final = {
    "missing": "this key",
    "model_type": "a section",
    "dict_type": "a section",
    "path_type": "a path",
    "string_pattern_mismatch": "letters, digits, '.', '_' and '-', the first a letter or digit",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "string_type": "text",
}

Key = tuple[str, ...]


class Row(NamedTuple):
    """A setting as a person sees it: its key, its value (secrets hidden) and where the value came from."""

    key: str
    value: str
    source: str


@dataclass(frozen=True)
class _Layer:
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
        names = [_variable(path[:length]) for length in range(len(path), 0, -1)]
        return next((name for name in names if name in self.variables), names[0])


class _Environment(EnvSettingsSource):
    """The library's reader of nested variables, over a given mapping instead of the process's own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._given = {name.lower(): value for name, value in environ.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return dict(self._given)


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
    return _build(_layers(file, flags, environ))


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
    layers = _layers(file, flags, environ)
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


def _origin(layers: list[_Layer], path: Key) -> str:
    if path[0] == "datacenter" and path[-1] == "name" and not any(layer.has(path) for layer in layers):
        path = path[:-1]  # the name of the section
    return next((layer.name(path) for layer in layers if layer.has(path)), "default")


def known_keys() -> list[str]:
    """All keys; ``NAME`` stands for the name of a datacenter."""
    return [".".join(path) for path in _known(Settings)]


def _layers(
    file: Path | str | None, flags: Mapping[str, Any] | None, environ: Mapping[str, str] | None
) -> list[_Layer]:
    """Sources, the strongest first."""
    environ = os.environ if environ is None else environ
    path = _settings_file(file, environ)
    layers = [_Layer("flag", _nested(flags or {}))]
    in_file = _Layer("", {}) if path is None else _file_layer(path)
    layers += [_environment_layer(environ, in_file.values), in_file]
    if path is not None:  # so that commands find the same state from any working directory
        state_dir = path.absolute().parent / Settings.model_fields["state_dir"].default
        layers.append(_Layer("default", {"state_dir": state_dir}))
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


def _file_layer(path: Path) -> _Layer:
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
    return _Layer(str(path), values)


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


def _environment_layer(environ: Mapping[str, str], in_file: Mapping[str, Any]) -> _Layer:
    ours = {name: value for name, value in environ.items() if name.upper().startswith(_PREFIX)}
    ours = {k: v for k, v in ours.items() if k.upper() not in _NO_SETTINGS and not _SERVICE_LINK.search(k.upper())}
    for name in ours:
        top = name.upper().removeprefix(_PREFIX).split("__")[0].lower()
        if top not in Settings.model_fields:
            _refuse_unknown("", name, name.lower().removeprefix(_PREFIX.lower()).replace("__", "."), _variable)
    try:
        values = _Environment(ours)()
    except SettingsError as error:
        section = next(iter(re.findall(r'field "(\w+)"', str(error))), "")
        raise InputError(
            _variable((section,)), "text that is not JSON", "JSON of the section, or one key each"
        ) from error
    sections = values.get("datacenter")
    if isinstance(sections, dict):  # variables have no upper and lower case: the file's spelling holds
        in_sections = in_file.get("datacenter")
        written = {name.casefold(): name for name in in_sections} if isinstance(in_sections, dict) else {}
        values["datacenter"] = {written.get(name.casefold(), name): entry for name, entry in sections.items()}
    return _Layer("environment", values, frozenset(name.upper() for name in ours))


def _build(layers: list[_Layer]) -> Settings:
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = _over(layer.values, merged)
    sections = merged.get("datacenter")
    if isinstance(sections, dict):
        named = {name: {"name": name} | entry if isinstance(entry, dict) else entry for name, entry in sections.items()}
        merged["datacenter"] = named
    try:
        return Settings(**merged)
    except ValidationError as error:
        _refuse(layers, error)


def _over(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two layers, key by key."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        is_section = isinstance(value, Mapping)
        merged[key] = _over(value, below if isinstance(below, Mapping) else {}) if is_section else value
    return merged


def _refuse(layers: list[_Layer], error: ValidationError) -> NoReturn:
    """Turn the first complaint into the project's message; values of secrets are not in it."""
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path = tuple(str(part) for part in first["loc"] if not str(part).startswith("function-"))
    path = path[: _depth(path)]
    layer = next((x for x in layers if x.has(path)), None) or next((x for x in layers if x.has(path[:-1])), None)
    source = "" if layer is None else layer.source
    in_environment = layer is not None and source == "environment"
    file = source if source not in ("environment", "flag", "default") else ""
    place = layer.variable(path) if layer is not None and in_environment else ".".join(path)
    if first["type"] == "extra_forbidden":
        _refuse_unknown(file, place, ".".join(path), _variable if in_environment else None)
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("Input should ")
    hint = "It was given on the command line." if source == "flag" else "`opendt config show` lists the settings."
    found = "no such key" if first["type"] == "missing" else _found(path, first["input"])
    raise InputError(place, found, _WORDS.get(first["type"], message), hint, file=file) from error


def _found(path: Key, value: Any) -> str:
    """Show what was found, with nothing in it that may be secret."""
    if isinstance(value, Mapping):
        return "keys " + ", ".join(map(str, value)) if value else "an empty section"
    return "a value (hidden)" if _is_secret(path) or path == ("ledger_url",) else shown(value)


def _depth(path: Key) -> int:
    """How many parts of a complaint's place are keys: what follows names a member of a union."""
    if path[:2] == ("kafka", "settings"):
        return 3
    return 3 if path[:1] == ("datacenter",) else 2


def _refuse_unknown(file: str, place: str, key: str, spelled: Callable[[Key], str] | None) -> NoReturn:
    known = known_keys()
    parts = key.split(".")
    is_of_one = parts[0] == "datacenter" and len(parts) > 2
    sought = f"datacenter.NAME.{parts[-1]}" if is_of_one else key
    near = difflib.get_close_matches(sought, known, 1, 0.6)
    if not near:  # the right name in the wrong section
        last = sought.rsplit(".", 1)[-1]
        ends = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
        near = [ends[end] for end in difflib.get_close_matches(last, list(ends), 1, 0.7)]
    if near and is_of_one:
        near = [near[0].replace("NAME", ".".join(parts[1:-1]))]
    nearest = "" if not near else spelled(tuple(near[0].split("."))) if spelled else near[0]
    hint = f"The nearest is {nearest}." if nearest else "`opendt config show` lists the settings."
    raise InputError(place, "an unknown setting", "a known one", hint, file=file)


def _variable(path: Key) -> str:
    return _PREFIX + "__".join(path).upper()


def _known(model: type[BaseModel]) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        if name == "datacenter":
            yield from ((name, "NAME", *path) for path in _known(DatacenterSettings))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from ((name, *path) for path in _known(field.annotation))
        else:
            yield (name,)


def _leaves(value: BaseModel | Mapping[str, Any], path: Key) -> Iterator[tuple[Key, Any]]:
    """All keys with their values, those of `kafka.settings` one by one."""
    items = value if isinstance(value, Mapping) else {name: getattr(value, name) for name in type(value).model_fields}
    for name, item in items.items():
        if isinstance(item, BaseModel) or (isinstance(item, Mapping) and item):
            yield from _leaves(item, (*path, name))
        else:
            yield (*path, name), item


def _is_secret(path: Key) -> bool:
    """Whether a value is secret: by its key, or by its name where names are not ours."""
    return ".".join(path) in _SECRETS or (path[:2] == ("kafka", "settings") and bool(SECRET_NAME.search(path[-1])))


def _shown(path: Key, value: Any) -> str:
    if value is None or (isinstance(value, Mapping) and not value):
        return "-"
    if path == ("ledger_url",):
        return without_password(value.get_secret_value() if isinstance(value, SecretStr) else value)
    if isinstance(value, SecretStr) or _is_secret(path):
        return HIDDEN
    return str(value).lower() if isinstance(value, bool) else without_password(str(value))
