"""Small JSON and YAML documents, with errors that name file, key, what was found and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from opendt.formats.textfile import read_bytes
from opendt.model.errors import FormatError, shown

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

__all__ = ["first_problem", "read_document", "read_model"]

Record = TypeVar("Record", bound="BaseModel")


def read_document(path: Path | str) -> Any:
    """Read a YAML or JSON file (JSON is YAML, except that its errors are clearer).

    Raises
    ------
    FormatError
        When it is missing or is neither, naming the line.
    """
    data = read_bytes(path)
    if Path(path).suffix == ".json":
        import orjson

        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise FormatError(path, f"line {error.lineno}, column {error.colno}", error.msg, "JSON") from error
    import yaml

    try:
        return yaml.safe_load(data)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
        raise FormatError(path, place, error.problem or "no YAML", "YAML") from error
    except yaml.YAMLError as error:
        raise FormatError(path, "", str(error).splitlines()[0], "YAML") from error


def read_model(path: Path | str, kind: type[Record]) -> Record:
    """Read a file as a record of the model.

    Raises
    ------
    FormatError
        Naming the key of the first thing that is wrong.
    """
    from pydantic import ValidationError

    value = read_document(path)
    if not isinstance(value, dict):
        raise FormatError(path, "", shown(value), f"keys and values ({', '.join(kind.model_fields)})")
    try:
        # Lists of files are tuples of the model: what the model would read from JSON.
        return kind.model_validate_json(_json(path, value))
    except ValidationError as error:
        place, found, expected = first_problem(error)
        more = error.error_count() - 1
        hint = "" if more == 0 else f"{more} more {'problem' if more == 1 else 'problems'} after this one"
        raise FormatError(path, place, found, expected, hint) from error


def first_problem(error: ValidationError) -> tuple[str, str, str]:
    """Say place, what was found and what was expected of the first problem; unknown keys come first, as typos explain the rest."""
    problems = error.errors(include_url=False)
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    return _place(problem["loc"]), _found(problem), _expected(problem)


def _place(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _found(problem: ErrorDetails) -> str:
    if problem["type"] == "missing":
        return "nothing"
    if problem["type"] == "extra_forbidden":
        return "a key that is not known"
    return "what contradicts itself" if problem["type"] == "value_error" else shown(problem["input"])


def _expected(problem: ErrorDetails) -> str:
    if problem["type"] == "missing":
        return "this key"
    if problem["type"] == "extra_forbidden":
        return "one of the documented keys"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return message[0].lower() + message[1:]


def _json(path: Path | str, value: Any) -> bytes:
    import orjson

    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise FormatError(path, "", str(error), "text, numbers, lists and keys that are text") from error
