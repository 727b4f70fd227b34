"""Reading a JSON file with errors that name the file and the key, and with no key left unread in silence.

A `Cursor` stands on one JSON value and knows where it is. `Cursor.open` turns an object into a `Keys`, whose typed
getters mark what was read; `Keys.close` then reports what nobody read: an error in strict mode, a warning otherwise.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from opendt.model.errors import FormatError, shown

__all__ = ["Cursor", "Keys", "Reading", "load_json"]

T = TypeVar("T")
_REQUIRED: Final[Any] = object()
_KINDS: Final = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
_IMPORT_KEY: Final = "importFrom"
_DEEPEST_IMPORT: Final = 16


@dataclass
class Reading:
    """What holds for a whole read: where paths lead, how strict it is, and what was warned about."""

    strict: bool = False
    imports: bool = False
    working_directory: Path = field(default_factory=Path)
    warnings: list[str] = field(default_factory=list)

    def find(self, name: str, beside: Path) -> Path | None:
        """Resolve a path relative to the file it stands in, then to the working directory."""
        for folder in (beside.parent, self.working_directory):
            if (folder / name).exists():
                return folder / name
        return None


def load_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises
    ------
    FormatError
        When it cannot be read, is not JSON, or gives a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FormatError(path, "", error.strerror or str(error), "a readable JSON file") from error
    except UnicodeDecodeError as error:
        raise FormatError(path, f"byte {error.start}", "bytes that are not UTF-8", "a JSON file in UTF-8") from error
    try:
        return json.loads(text, object_pairs_hook=_unrepeated, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise FormatError(path, place, error.msg, "JSON") from error
    except ValueError as error:
        raise FormatError(path, "", str(error), "JSON without repeated keys, NaN or Infinity") from error
    except RecursionError as error:
        raise FormatError(path, "", "values nested without end", "a topology or an experiment") from error


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} twice")
    return result


def _no_constant(name: str) -> float:
    raise ValueError(name)


@dataclass(frozen=True)
class Cursor:
    """One JSON value with the file and the path it has there."""

    value: Any
    file: Path
    path: str
    reading: Reading

    @classmethod
    def at_file(cls, path: Path, reading: Reading) -> Cursor:
        """Stand on the top of a JSON file."""
        return cls(load_json(path), path, "", reading)

    def error(self, expected: str, hint: str = "", *, found: str | None = None) -> FormatError:
        """Make the error that this value is not what was expected."""
        kind = _KINDS.get(type(self.value))
        default = kind if isinstance(self.value, (dict, list)) and kind else shown(self.value)
        return FormatError(self.file, self.path, found or default, expected, hint)

    def at(self, key: str | int, value: Any) -> Cursor:
        """Stand on a part of this value."""
        path = f"{self.path}[{key}]" if isinstance(key, int) else f"{self.path}.{key}".removeprefix(".")
        return Cursor(value, self.file, path, self.reading)

    def open(self) -> Keys:
        """Open an object, following ``importFrom`` where the dialect has it."""
        if not isinstance(self.value, dict):
            raise self.error("an object")
        values = {key: self.at(key, value) for key, value in self.value.items()}
        if self.reading.imports and _IMPORT_KEY in values:
            values = {**self._imported(values.pop(_IMPORT_KEY)), **values}
        return Keys(self, values)

    def _imported(self, reference: Cursor) -> dict[str, Cursor]:
        """Keys of the object in another file; keys beside ``importFrom`` win over them."""
        source, chain = reference, [self.file.resolve()]
        layers: list[dict[str, Cursor]] = []
        while True:
            path = source.reading.find(source.text(), source.file)
            if path is None:
                raise source.error(
                    "a file that exists", "Paths are relative to this file, then to the working directory."
                )
            if path.resolve() in chain or len(chain) > _DEEPEST_IMPORT:
                raise source.error("files that do not import each other in a circle")
            chain.append(path.resolve())
            top = Cursor.at_file(path, self.reading)
            if not isinstance(top.value, dict):
                raise top.error("an object")
            layer = {key: top.at(key, value) for key, value in top.value.items()}
            following = layer.pop(_IMPORT_KEY, None)
            layers.append(layer)
            if following is None:
                return {key: value for layer in reversed(layers) for key, value in layer.items()}
            source = following

    def items(self) -> list[Cursor]:
        """Open a list."""
        if not isinstance(self.value, list):
            raise self.error("a list")
        return [self.at(index, value) for index, value in enumerate(self.value)]

    def text(self) -> str:
        """Read text."""
        if not isinstance(self.value, str):
            raise self.error("text")
        return self.value

    def flag(self) -> bool:
        """Read true or false."""
        if not isinstance(self.value, bool):
            raise self.error("true or false")
        return self.value

    def integer(self, least: int = 0, most: int = 2**63 - 1) -> int:
        """Read a whole number; 4.0 is one, as it is for the reference."""
        value = self.value
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or not least <= value <= most:
            upper = "" if most >= 2**62 else f" and <= {most}"
            raise self.error(f"a whole number >= {least}{upper}")
        return int(value)

    def number(self, least: float | None = None, *, above: float | None = None, most: float | None = None) -> float:
        """Read a finite number."""
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            raise self.error("a number")
        return self._bounded(float(self.value) if abs(self.value) < 1e300 else math.inf, least, above, most)

    def quantity(
        self, parse: Callable[[object], float], least: float | None = None, *, above: float | None = None
    ) -> float:
        """Read a number or a text with a unit."""
        try:
            number = parse(self.value)
        except ValueError as error:
            raise self.error(str(error).rsplit(", not ", 1)[0]) from error
        return self._bounded(number, least, above, None)

    def _bounded(self, number: float, least: float | None, above: float | None, most: float | None) -> float:
        bounds = [f">= {least:g}"] if least is not None else []
        bounds += [f"> {above:g}"] if above is not None else []
        bounds += [f"<= {most:g}"] if most is not None else []
        outside = (
            not math.isfinite(number)
            or (least is not None and number < least)
            or (above is not None and number <= above)
            or (most is not None and number > most)
        )
        if outside:
            raise self.error(f"a finite number {' and '.join(bounds)}".rstrip())
        return number

    def choice(self, choices: dict[str, T]) -> T:
        """Read one of several names; case, ``-``, ``_`` and spaces do not count."""
        found = choices_by_fold(choices).get(fold(self.text()))
        if found is None:
            close = difflib.get_close_matches(self.text(), list(choices), n=1)
            hint = f"Did you mean {close[0]!r}?" if close else ""
            raise self.error(f"one of {', '.join(choices)}", hint)
        return found[0]


def fold(name: str) -> str:
    """Reduce a name to what both dialects agree on.

    Examples
    --------
    >>> fold("MAX_MIN_FAIRNESS") == fold("maxMinFairness")
    True
    """
    return "".join(char for char in name.lower() if char.isalnum())


def choices_by_fold(choices: dict[str, T]) -> dict[str, tuple[T]]:
    """Folded name -> choice, wrapped so that a choice may be None."""
    return {fold(name): (value,) for name, value in choices.items()}


class Keys:
    """The keys of one JSON object; reading one marks it as known."""

    def __init__(self, cursor: Cursor, values: dict[str, Cursor]) -> None:
        self.cursor = cursor
        self._values = values
        self._known: set[str] = set()

    def get(self, key: str) -> Cursor | None:
        """Stand on the value of a key, or None when it is absent or null."""
        self._known.add(key)
        found = self._values.get(key)
        return None if found is None or found.value is None else found

    def need(self, key: str) -> Cursor:
        """Stand on the value of a key that must be there."""
        found = self.get(key)
        if found is None:
            unread = [name for name in self._values if name not in self._known]
            close = difflib.get_close_matches(key, unread, n=1)
            hint = f"Did you mean it by {close[0]!r}?" if close else ""
            missing = self._values.get(key) or self.cursor.at(key, None)
            raise missing.error("this key", hint, found="null" if key in self._values else "no such key")
        return found

    def has(self, key: str) -> bool:
        """Whether a key is there, even as null."""
        return key in self._values

    def text(self, key: str, default: str = _REQUIRED) -> str:
        """Read text."""
        return self._read(key, default, Cursor.text)

    def flag(self, key: str, default: bool = _REQUIRED) -> bool:
        """Read true or false."""
        return self._read(key, default, Cursor.flag)

    def integer(self, key: str, default: int = _REQUIRED, least: int = 0, most: int = 2**63 - 1) -> int:
        """Read a whole number."""
        return self._read(key, default, lambda cursor: cursor.integer(least, most))

    def number(
        self,
        key: str,
        default: float = _REQUIRED,
        least: float | None = None,
        *,
        above: float | None = None,
        most: float | None = None,
    ) -> float:
        """Read a finite number."""
        return self._read(key, default, lambda cursor: cursor.number(least, above=above, most=most))

    def quantity(
        self,
        key: str,
        parse: Callable[[object], float],
        default: float = _REQUIRED,
        least: float | None = None,
        *,
        above: float | None = None,
    ) -> float:
        """Read a number or a text with a unit."""
        return self._read(key, default, lambda cursor: cursor.quantity(parse, least, above=above))

    def choice(self, key: str, choices: dict[str, T], default: T = _REQUIRED) -> T:
        """Read one of several names."""
        return self._read(key, default, lambda cursor: cursor.choice(choices))

    def items(self, key: str) -> list[Cursor]:
        """Read a list; an absent key is an empty one."""
        found = self.get(key)
        return [] if found is None else found.items()

    def ignore(self, *keys: str) -> None:
        """Accept keys that the reference accepts and does not use either."""
        self._known.update(keys)

    def close(self) -> None:
        """Report keys that nobody read.

        Raises
        ------
        FormatError
            In strict mode, for the first of them.
        """
        for key in self._unread():
            close = difflib.get_close_matches(key, sorted(self._known), n=1, cutoff=0.7)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known here: {', '.join(sorted(self._known))}."
            error = self._values[key].error("no such key", hint, found=f"unknown key {key!r}")
            if self.cursor.reading.strict:
                raise error
            self.cursor.reading.warnings.append(error.message.replace(", expected no such key. ", " is ignored. "))

    def _unread(self) -> Iterable[str]:
        return [key for key in self._values if key not in self._known]

    def _read(self, key: str, default: T, read: Callable[[Cursor], T]) -> T:
        found = self.get(key) if default is not _REQUIRED else self.need(key)
        return default if found is None else read(found)
