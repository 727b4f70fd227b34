"""How a wrong setting is told: its source, its key, what was found, what was expected; and no secret in it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pydantic import BaseModel, ValidationError

from opendt.model.errors import InputError, shown
from opendt.orchestrator.settings_model import SECRET_NAME, DatacenterSettings, Settings

if TYPE_CHECKING:
    from opendt.orchestrator.settings_layers import Layer

__all__ = ["Key", "is_secret", "known_paths", "refuse", "refuse_unknown", "variable"]

Key = tuple[str, ...]

_PREFIX: Final = "OPENDT_"
_SECRETS: Final = frozenset({"api.token", "kafka.password", "kafka.key_password", "openai.api_key"})
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


def refuse(layers: Sequence[Layer], error: ValidationError) -> NoReturn:
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
        refuse_unknown(file, place, ".".join(path), variable if in_environment else None)
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("Input should ")
    hint = "It was given on the command line." if source == "flag" else "`opendt config show` lists the settings."
    found = "no such key" if first["type"] == "missing" else _found(path, first["input"])
    expected = _WORDS.get(first["type"], message)
    raise InputError(place, found, expected, hint, file=file) from None  # the library's error holds all values


def _found(path: Key, value: Any) -> str:
    """Show what was found, with nothing in it that may be secret."""
    if isinstance(value, Mapping):
        return "keys " + ", ".join(map(str, value)) if value else "an empty section"
    return "a value (hidden)" if is_secret(path) or path == ("ledger_url",) else shown(value)


def _depth(path: Key) -> int:
    """How many parts of a complaint's place are keys: what follows names a member of a union."""
    if path[:2] == ("kafka", "settings"):
        return 3
    return 3 if path[:1] == ("datacenter",) else 2


def refuse_unknown(file: str, place: str, key: str, spelled: Callable[[Key], str] | None) -> NoReturn:
    """Refuse a key that there is not, and name the nearest.

    Parameters
    ----------
    file, place : str
        Where it stands.
    key : str
        With dots.
    spelled : callable, optional
        How this source spells a key, when not with dots.
    """
    known = [".".join(path) for path in known_paths(Settings)]
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


def variable(path: Key) -> str:
    """Name the environment variable of a key."""
    return _PREFIX + "__".join(path).upper()


def known_paths(model: type[BaseModel]) -> Iterator[Key]:
    """All keys of a model; ``NAME`` stands for the name of a datacenter."""
    for name, field in model.model_fields.items():
        if name == "datacenter":
            yield from ((name, "NAME", *path) for path in known_paths(DatacenterSettings))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from ((name, *path) for path in known_paths(field.annotation))
        else:
            yield (name,)


def is_secret(path: Key) -> bool:
    """Whether a value is secret: by its key, or by its name where names are not ours."""
    return ".".join(path) in _SECRETS or (path[:2] == ("kafka", "settings") and bool(SECRET_NAME.search(path[-1])))
