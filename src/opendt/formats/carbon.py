"""Carbon intensity over time: OpenDC's parquet of ``timestamp`` and ``carbon_intensity``.

Timestamps are ms since the epoch (UTC), annotated as timestamps or not; intensities are g CO2 per kWh. Rows are sorted
by time; each holds until the next one, the first also covers all earlier time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from opendt.model.errors import FormatError
from opendt.model.topology import CarbonPoint

__all__ = ["read_carbon", "write_carbon"]

_POINTS: Final = TypeAdapter(tuple[CarbonPoint, ...])

Reader = Callable[[str], Iterable[tuple[int, float]]]


def read_carbon(path: Path | str, *, reader: Reader | None = None) -> tuple[CarbonPoint, ...]:
    """Read a carbon trace.

    Parameters
    ----------
    path : Path or str
        Parquet file.
    reader : callable, optional
        Gives (timestamp in ms, g/kWh) for each row of a file; the engine's by default, which needs no pyarrow.

    Raises
    ------
    FormatError
        When the file is no such trace, two rows have one time, or an intensity is negative or not finite.
    """
    rows = sorted((reader or _engine_reader())(str(path)))
    if not rows:
        raise FormatError(path, "", "no rows", "at least one row of timestamp and carbon_intensity")
    previous = None
    for timestamp_ms, intensity in rows:
        if not 0 <= intensity < float("inf"):
            raise FormatError(path, f"carbon_intensity at {timestamp_ms} ms", intensity, "a finite number >= 0 (g/kWh)")
        if timestamp_ms == previous:
            raise FormatError(path, f"timestamp {timestamp_ms} ms", "two rows", "one row for each time")
        previous = timestamp_ms
    # All in one call: of the ways to make tens of thousands of records the quickest, though it checks them again.
    return _POINTS.validate_python([{"timestamp_ms": t, "intensity_g_per_kwh": v} for t, v in rows])


def write_carbon(points: Iterable[CarbonPoint], path: Path | str) -> None:
    """Write a carbon trace; the file appears when it is complete."""
    import pyarrow as pa

    from opendt.formats.parquet import write_table

    rows = list(points)
    table = pa.table(
        {
            "timestamp": pa.array([point.timestamp_ms for point in rows], pa.timestamp("ms")),
            "carbon_intensity": pa.array([point.intensity_g_per_kwh for point in rows], pa.float64()),
        },
        schema=pa.schema(
            [
                pa.field("timestamp", pa.timestamp("ms"), nullable=False),
                pa.field("carbon_intensity", pa.float64(), nullable=False),
            ]
        ),
    )
    write_table(table, Path(path))


def _engine_reader() -> Reader:
    from opendt import _engine

    reader: Reader = _engine.read_carbon
    return reader
