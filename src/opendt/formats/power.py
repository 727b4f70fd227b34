"""Measured power of a datacenter: ``consumption.parquet`` beside a workload.

``timestamp`` is in ms since the first submission, rising; ``power_draw`` in W, of all hosts together; ``energy_usage``
in J since the sample before. Other columns are not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opendt.model.errors import FormatError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MeasuredPower", "read_power", "write_power"]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPower:
    """Power in W at times in ms since the first submission."""

    timestamp_ms: NDArray[np.int64]
    power_w: NDArray[np.float64]

    @property
    def energy_j(self) -> NDArray[np.float64]:
        """Energy in J of the interval that ends at each sample; the first interval is as long as the second."""
        import numpy as np

        if len(self.timestamp_ms) < 2:
            return np.zeros(len(self.timestamp_ms))
        steps_ms = np.diff(self.timestamp_ms)
        result: NDArray[np.float64] = self.power_w * np.concatenate((steps_ms[:1], steps_ms)) / 1000.0
        return result


def read_power(path: Path | str) -> MeasuredPower:
    """Read measured power.

    Raises
    ------
    FormatError
        When the file is damaged, lacks a column, or a value is out of bounds; names the row.
    """
    import numpy as np

    from opendt.formats.parquet import column_numpy, read_columns

    file = Path(path)
    table = read_columns(file, {"timestamp": True, "power_draw": True})
    timestamp_ms = column_numpy(file, table, "timestamp", "int64")
    power_w = column_numpy(file, table, "power_draw", "float64")
    late = np.flatnonzero(np.diff(timestamp_ms) <= 0)
    if len(late):
        row = int(late[0]) + 1
        raise FormatError(file, f"row {row}, column timestamp", str(timestamp_ms[row]), "a time after the row before")
    bad = np.flatnonzero(~(np.isfinite(power_w) & (power_w >= 0)))
    if len(bad):
        row = int(bad[0])
        raise FormatError(file, f"row {row}, column power_draw", str(power_w[row]), "a finite number >= 0 (W)")
    return MeasuredPower(timestamp_ms, power_w)


def write_power(power: MeasuredPower, path: Path | str) -> None:
    """Write measured power; the file appears when it is complete."""
    import pyarrow as pa

    from opendt.formats.parquet import write_table

    columns = {
        "power_draw": pa.array(power.power_w),
        "energy_usage": pa.array(power.energy_j),
        "timestamp": pa.array(power.timestamp_ms),
    }
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    write_table(pa.table(columns, schema=pa.schema(fields)), Path(path))
