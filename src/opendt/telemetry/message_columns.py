"""Fragments as columns out of parsed JSON, checked by the column instead of by the row.

A week of a small datacenter holds two million fragments; a check of each by itself would cost more than all else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.model.base import MAX_U32
from opendt.model.errors import MessageError, shown
from opendt.telemetry.message_models import LATEST_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["FragmentRows", "batch_rows", "object_rows", "parts_rows", "task_fragments"]


_INTEGERS: Final = frozenset((int,))
_NUMBERS: Final = frozenset((int, float))
_FLAGS: Final = frozenset((bool,))
_IDS: Final = frozenset((int, str))
_PART_KEYS: Final = ("id", "first_fragment", "duration", "cpu_usage", "complete")
_BATCH_KEYS: Final = ("id", "submission_time", "duration", "cpu_usage")


@dataclass(frozen=True, slots=True, eq=False)
class FragmentRows:
    """Fragments, one entry a fragment.

    Attributes
    ----------
    ids : list of (int or str)
        Task of each.
    place : int64 array
        Index of the fragment in its task; in the older pair the time at which it began, ms since the epoch.
    duration_ms : int64 array
        Length.
    cpu_mhz : float64 array
        Demand over all cores.
    gpu_mhz : float64 array or None
        Demand of accelerators; None when nobody states any.
    last : bool array
        Whether it is the last of its task.
    """

    ids: list[int | str]
    place: NDArray[np.int64]
    duration_ms: NDArray[np.int64]
    cpu_mhz: NDArray[np.float64]
    gpu_mhz: NDArray[np.float64] | None
    last: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __len__(self) -> int:
        """Return the number of fragments."""
        return len(self.ids)

    def part(self, begin: int, end: int) -> FragmentRows:
        """Take the rows from `begin` to `end`."""
        some = slice(begin, end)
        gpu_mhz = None if self.gpu_mhz is None else self.gpu_mhz[some]
        return FragmentRows(
            self.ids[some], self.place[some], self.duration_ms[some], self.cpu_mhz[some], gpu_mhz, self.last[some]
        )

    @staticmethod
    def join(pieces: Sequence[FragmentRows]) -> FragmentRows:
        """Put pieces behind one another; those without demands of accelerators get zeros where others have some."""
        gpu_mhz = None
        if any(piece.gpu_mhz is not None for piece in pieces):
            gpu_mhz = np.concatenate([np.zeros(len(p)) if p.gpu_mhz is None else p.gpu_mhz for p in pieces])
        return FragmentRows(
            list(chain.from_iterable(piece.ids for piece in pieces)),
            np.concatenate([piece.place for piece in pieces]),
            np.concatenate([piece.duration_ms for piece in pieces]),
            np.concatenate([piece.cpu_mhz for piece in pieces]),
            gpu_mhz,
            np.concatenate([piece.last for piece in pieces]),
        )


def parts_rows(topic: str, columns: Sequence[dict[str, Any]]) -> tuple[FragmentRows, NDArray[np.int64]]:
    """Join the columns of `parts` messages and check them together.

    Parameters
    ----------
    topic : str
        For messages of errors.
    columns : sequence of dict
        The value of ``parts`` of each message.

    Returns
    -------
    FragmentRows
        Of all messages, in order.
    int64 array
        Number of rows of each message.

    Raises
    ------
    MessageError
        When any of the messages is wrong; call it with one at a time to learn which.
    """
    columns, with_gpu = _with_gpu(topic, "parts", columns)
    known = {*_PART_KEYS, "gpu_usage"}
    if {*map(len, columns)} != {len(_PART_KEYS) + with_gpu}:
        for one in columns:
            if extra := set(one) - known:
                raise MessageError(f"parts.{min(extra)}", "a key of this name", "only known keys", file=topic)
    rows, counts = _joined(topic, "parts", columns, _PART_KEYS, with_gpu)
    result = FragmentRows(
        _ids(topic, "parts.id", rows["id"]),
        _whole(topic, "parts.first_fragment", rows["first_fragment"], MAX_U32),
        _whole(topic, "parts.duration", rows["duration"], MAX_U32),
        _amounts(topic, "parts.cpu_usage", rows["cpu_usage"]),
        _amounts(topic, "parts.gpu_usage", rows["gpu_usage"]) if with_gpu else None,
        _flags(topic, "parts.complete", rows["complete"]),
    )
    return result, counts


def batch_rows(topic: str, columns: Sequence[dict[str, Any]]) -> tuple[FragmentRows, NDArray[np.int64]]:
    """Join the columns of batches of the older pair; as `parts_rows`.

    Raises
    ------
    MessageError
        When any of the messages is wrong.
    """
    columns, with_gpu = _with_gpu(topic, "", columns)
    rows, counts = _joined(topic, "", columns, _BATCH_KEYS, with_gpu)
    result = FragmentRows(
        _ids(topic, "id", rows["id"]),
        _whole(topic, "submission_time", rows["submission_time"], LATEST_MS),
        _whole(topic, "duration", rows["duration"], MAX_U32),
        _amounts(topic, "cpu_usage", rows["cpu_usage"]),
        _amounts(topic, "gpu_usage", rows["gpu_usage"]) if with_gpu else None,
        np.zeros(len(rows["id"]), np.bool_),
    )
    return result, counts


def object_rows(topic: str, place: str, rows: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """Turn a list of objects into columns; `gpu_usage` is added when any of them states it.

    Raises
    ------
    MessageError
        When something in the list is no object or lacks a key.
    """
    if not isinstance(rows, list):
        raise MessageError(place, rows, "a list of fragments", file=topic)
    columns: dict[str, Any] = {}
    try:
        for key in keys:
            columns[key] = [row[key] for row in rows]
        if any("gpu_usage" in row for row in rows):
            columns["gpu_usage"] = [0.0 if (usage := row.get("gpu_usage")) is None else usage for row in rows]
    except (KeyError, TypeError, IndexError, AttributeError):
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise MessageError(f"{place}[{number}]", row, "an object", file=topic) from None
            for key in keys:
                if key not in row:
                    raise MessageError(f"{place}[{number}].{key}", "no such key", "this key", file=topic) from None
        raise
    return columns


def task_fragments(topic: str, rows: Any) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Durations (ms), demands and accelerators' demands (MHz, or None) of the fragments inside a task message.

    Raises
    ------
    MessageError
        Naming the fragment.
    """
    columns = object_rows(topic, "task.fragments", rows, ("duration", "cpu_usage"))
    gpu = columns.get("gpu_usage")
    return (
        _whole(topic, "task.fragments.duration", columns["duration"], MAX_U32),
        _amounts(topic, "task.fragments.cpu_usage", columns["cpu_usage"]),
        None if gpu is None else _amounts(topic, "task.fragments.gpu_usage", gpu),
    )


def _with_gpu(topic: str, place: str, columns: Sequence[dict[str, Any]]) -> tuple[Sequence[dict[str, Any]], bool]:
    """Give all messages a column of accelerators' demands when any has one; those without state none."""
    try:
        if {*map(type, columns)} != {dict}:
            raise TypeError
        has = ["gpu_usage" in one and one["gpu_usage"] is not None for one in columns]
        if not any(has) or all(has):
            return columns, any(has)
        return [
            one if its else {**one, "gpu_usage": [0.0] * len(one["id"])} for one, its in zip(columns, has, strict=True)
        ], True
    except TypeError:
        raise MessageError(place, "no columns", "an object of columns", file=topic) from None
    except KeyError:
        raise MessageError(f"{place}.id", "no such key", "a list with one entry a fragment", file=topic) from None


def _joined(
    topic: str, place: str, columns: Sequence[dict[str, Any]], keys: tuple[str, ...], with_gpu: bool
) -> tuple[dict[str, list[Any]], NDArray[np.int64]]:
    """Concatenate each column over the messages, whose columns must be lists of equal length."""
    prefix = f"{place}." if place else ""
    keys = (*keys, "gpu_usage") if with_gpu else keys
    try:
        lists = list(zip(*map(itemgetter(*keys), columns), strict=True))
    except KeyError as error:
        expected = "a list with one entry a fragment"
        raise MessageError(f"{prefix}{error.args[0]}", "no such key", expected, file=topic) from None
    counts: list[int] = []
    for key, of_key in zip(keys, lists, strict=True):
        if {*map(type, of_key)} - {list}:
            found = next(one for one in of_key if type(one) is not list)
            raise MessageError(f"{prefix}{key}", found, "a list with one entry a fragment", file=topic)
        lengths = list(map(len, of_key))
        if counts and counts != lengths:
            row = next(i for i, length in enumerate(lengths) if length != counts[i])
            expected = f"{counts[row]}, as many as {prefix}{keys[0]}"
            raise MessageError(f"{prefix}{key}", f"{lengths[row]} entries", expected, file=topic)
        counts = lengths
    joined = {key: list(chain.from_iterable(of_key)) for key, of_key in zip(keys, lists, strict=True)}
    return joined, np.array(counts, np.int64)


def _check_types(topic: str, place: str, values: list[Any], allowed: frozenset[type], expected: str) -> None:
    if not set(map(type, values)) <= allowed:
        row = next(i for i, value in enumerate(values) if type(value) not in allowed)
        raise MessageError(f"{place}[{row}]", shown(values[row]), expected, file=topic)


def _ids(topic: str, place: str, values: list[Any]) -> list[int | str]:
    _check_types(topic, place, values, _IDS, "a whole number or a text")
    return values


def _whole(topic: str, place: str, values: list[Any], most: int) -> NDArray[np.int64]:
    expected = f"a whole number from 0 to {most}"
    if set(map(type, values)) - _INTEGERS:
        values = [int(v) if type(v) is float and v.is_integer() else v for v in values]
        _check_types(topic, place, values, _INTEGERS, expected)
    try:
        array = np.array(values, np.int64)
    except OverflowError:
        row = next(i for i, value in enumerate(values) if not 0 <= value <= most)
        raise MessageError(f"{place}[{row}]", shown(values[row]), expected, file=topic) from None
    _check_each(topic, place, array, (array >= 0) & (array <= most), expected)
    return array


def _amounts(topic: str, place: str, values: list[Any]) -> NDArray[np.float64]:
    _check_types(topic, place, values, _NUMBERS, "a finite number >= 0")
    try:
        array = np.array(values, np.float64)
    except OverflowError:
        raise MessageError(place, "a number beyond all bounds", "finite numbers >= 0", file=topic) from None
    _check_each(topic, place, array, np.isfinite(array) & (array >= 0), "a finite number >= 0")
    return array


def _flags(topic: str, place: str, values: list[Any]) -> NDArray[np.bool_]:
    _check_types(topic, place, values, _FLAGS, "true or false")
    return np.array(values, np.bool_)


def _check_each(topic: str, place: str, array: NDArray[Any], good: NDArray[np.bool_], expected: str) -> None:
    if not good.all():
        row = int((~good).argmax())
        raise MessageError(f"{place}[{row}]", str(array[row]), expected, file=topic)
