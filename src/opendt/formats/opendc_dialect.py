"""OpenDC's two JSON dialects: what each calls things, how to tell them apart, and the files they refer to.

The *runner* dialect is that of the experiment runner (2024 on, "legacy" in OpenDC's own words); the *SDK* dialect is
that of the 2026 ``opendc`` command. They hold the same content under other names.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from opendt.formats.carbon import Reader as CarbonReader
from opendt.formats.carbon import read_carbon
from opendt.formats.failures import Reader as FailureReader
from opendt.formats.failures import read_failures
from opendt.formats.json_cursor import Cursor, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opendt.model.options import FailureEvent
    from opendt.model.topology import CarbonPoint

__all__ = ["RUNNER", "SDK", "Dialect", "OpenDCReading", "as_format_error", "dialect_of_topology", "reference", "unique"]


@dataclass(frozen=True)
class Dialect:
    """Names of keys that differ between the dialects."""

    name: str
    memory_size: str
    gpu_memory: str
    power_type: str
    arch: str
    overhead: str
    cpu_sharing: str
    gpu_sharing: str
    battery_policy: str
    carbon: str


RUNNER: Final = Dialect(
    name="runner",
    memory_size="memorySize",
    gpu_memory="memorySize",
    power_type="modelType",
    arch="arch",
    overhead="virtualizationOverHeadModel",
    cpu_sharing="cpuDistributionPolicy",
    gpu_sharing="gpuDistributionPolicy",
    battery_policy="batteryPolicy",
    carbon="carbonTracePath",
)
SDK: Final = Dialect(
    name="SDK",
    memory_size="size",
    gpu_memory="memory",
    power_type="type",
    arch="architecture",
    overhead="virtualizationOverhead",
    cpu_sharing="cpuDistribution",
    gpu_sharing="gpuDistribution",
    battery_policy="policy",
    carbon="carbon",
)
_RUNNER_MARKS: Final = frozenset(
    (
        "memorySize",
        "modelType",
        "carbonTracePath",
        "batteryPolicy",
        RUNNER.overhead,
        RUNNER.cpu_sharing,
        RUNNER.gpu_sharing,
    )
)
_SDK_MARKS: Final = frozenset(
    ("importFrom", "size", "carbon", "policy", SDK.overhead, SDK.cpu_sharing, SDK.gpu_sharing)
)


def dialect_of_topology(value: Any) -> Dialect:
    """Tell the dialect of a topology by the keys in it; the runner's when nothing differs."""
    marks = {"runner": 0, "sdk": 0}
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            marks["runner"] += len(_RUNNER_MARKS & part.keys())
            marks["sdk"] += len(_SDK_MARKS & part.keys())
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return SDK if marks["sdk"] > marks["runner"] else RUNNER


@dataclass
class OpenDCReading(Reading):
    """A read of OpenDC files, with the traces that they refer to, each read once."""

    carbon_reader: CarbonReader | None = None
    failure_reader: FailureReader | None = None
    ram_ratio: float = 1.5
    _carbon: dict[Path, tuple[CarbonPoint, ...]] = field(default_factory=dict)
    _failures: dict[Path, tuple[FailureEvent, ...]] = field(default_factory=dict)

    def existing(self, cursor: Cursor, name: str) -> Path:
        """Resolve a path that must exist."""
        path = self.find(name, cursor.file)
        if path is None:
            looked = f"Looked in {cursor.file.parent} and in {self.working_directory.resolve()}."
            raise cursor.error("a path that exists", looked, found=repr(name))
        return path

    def carbon(self, cursor: Cursor, name: str) -> tuple[CarbonPoint, ...]:
        """Read the carbon trace that a topology names."""
        path = self.existing(cursor, name)
        if path not in self._carbon:
            self._carbon[path] = read_carbon(path, reader=self.carbon_reader)
        return self._carbon[path]

    def carbon_path(self, points: tuple[CarbonPoint, ...]) -> Path | None:
        """Find the file that a trace was read from, which the model does not keep."""
        return next((path for path, read in self._carbon.items() if read == points), None)

    def failures(self, cursor: Cursor, name: str) -> tuple[FailureEvent, ...]:
        """Read the failure trace that an experiment names."""
        path = self.existing(cursor, name)
        if path not in self._failures:
            self._failures[path] = read_failures(path, reader=self.failure_reader)
        return self._failures[path]


def reference(cursor: Cursor) -> str:
    """Read a reference of the SDK, ``{"type": "named", "name"}`` or ``{"type": "uri", "uri"}``, as a path.

    A plain text is taken as a path; a URI must be relative or ``file:``, since nothing is downloaded.
    """
    if isinstance(cursor.value, str):
        return cursor.text()
    keys = cursor.open()
    key = keys.choice("type", {"named": "name", "uri": "uri"})
    place = keys.need(key)
    keys.close()
    if key == "name":
        return place.text()
    parts = urlsplit(place.text())
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise place.error("a path or a file: URI", "Download it first: OpenDT reads local files only.")
    return unquote(parts.path)


def unique(name: str, taken: set[str]) -> str:
    """Make a name unique as OpenDC does: ``H01``, then ``H01-0``, ``H01-1`` and so on.

    Examples
    --------
    >>> taken: set[str] = set()
    >>> [unique("C", taken) for _ in range(3)]
    ['C', 'C-0', 'C-1']
    """
    candidate, number = name, 0
    while candidate in taken:
        candidate, number = f"{name}-{number}", number + 1
    taken.add(candidate)
    return candidate


@contextmanager
def as_format_error(cursor: Cursor) -> Iterator[None]:
    """Turn a bound that a record of the model checks into an error at this place."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise cursor.error(f"values that fit together{f' ({place})' if place else ''}: {message}") from error


Parser = Callable[[Cursor], Any]
