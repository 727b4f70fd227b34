"""What a sweep has finished, on disk as soon as it is known: a file of lines beside the result.

The first line says what is swept: the spec, hashes of its inputs, the engine. Each further line is a finished row. A line
that a killed process left half written is dropped when the journal is opened again.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from opendt.model.errors import FormatError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

__all__ = ["Journal"]

_FORMAT: Final = 1
_MOST_DIFFERENCES: Final = 5
_HINT: Final = "Choose another result with -o, or give up what is kept with --force."


class Journal:
    """Finished rows of one sweep, appended one by one; a context, closed at its end.

    Parameters
    ----------
    path : Path
        The file; made when it is not there.
    identity : mapping
        What is swept, as JSON values.
    row_count : int
        Rows of the sweep.
    force : bool
        Begin anew, whatever is there.

    Raises
    ------
    FormatError
        When the file is of another sweep (naming what differs), damaged, in use by another process, or cannot be written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], row_count: int, *, force: bool = False) -> None:
        self.path = path
        self.totals: dict[int, dict[str, Any]] = {}
        self._row_count = row_count
        # As it will read: tuples become lists, keys text.
        self._identity = json.loads(json.dumps({"journal": _FORMAT, **identity}))
        self._file = self._opened()
        try:
            if force:
                self._file.truncate(0)
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, row: int, totals: Mapping[str, Any]) -> None:
        """Keep a finished row; it survives the end of this process, however that comes."""
        self._write({"row": row, "totals": dict(totals)})
        self.totals[row] = dict(totals)

    def kept(self) -> int:
        """Count the rows on disk, which an interrupt may have left more than those in memory."""
        self._file.flush()
        self._file.seek(0)
        return self._file.read().count(b"\n") - 1

    def _opened(self) -> BinaryIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")
        except OSError as error:
            raise FormatError(self.path, "", error.strerror or str(error), "a place that can be written") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            found = "in use by another process"
            raise FormatError(self.path, "", found, "one sweep at a time", "Wait for it, or use -o.") from error
        return file

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        lines = content[:whole].splitlines()
        if not lines:
            self._write(self._identity)
            return
        records = [self._record(number, line) for number, line in enumerate(lines, start=1)]
        self._refuse_another(records[0])
        for number, record in enumerate(records[1:], start=2):
            row, totals = record.get("row"), record.get("totals")
            if type(row) is not int or not 0 <= row < self._row_count or not isinstance(totals, dict):
                raise FormatError(self.path, f"line {number}", shown(record), "a finished row", _HINT)
            self.totals[row] = totals

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise FormatError(self.path, f"line {number}", "damaged text", "a line of JSON", _HINT) from error
        if not isinstance(record, dict):
            raise FormatError(self.path, f"line {number}", shown(record), "a line of a journal", _HINT)
        return record

    def _refuse_another(self, kept: dict[str, Any]) -> None:
        before, now = dict(_leaves(kept)), dict(_leaves(self._identity))
        places = [place for place in {**before, **now} if before.get(place) != now.get(place)]
        if not places:
            return
        words = [
            f"{place} {before.get(place, 'absent')} (now {now.get(place, 'absent')})"
            for place in places[:_MOST_DIFFERENCES]
        ]
        if len(places) > _MOST_DIFFERENCES:
            words.append(f"{len(places) - _MOST_DIFFERENCES} other keys that differ")
        found = f"rows of another sweep: {', '.join(words)}"
        raise FormatError(self.path, "", found, "the sweep that it was begun with", _HINT)

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise FormatError(self.path, "", error.strerror or str(error), "room to write") from error


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Places in nested values -> what is there, shortened; a list of plain values is one place."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{number}]")
    else:
        yield place, json.dumps(value)
