"""Small help for reading and writing parquet with pyarrow: clear errors, and files that appear only when complete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opendt.model.errors import FormatError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["column_numpy", "read_columns", "write_table"]


def read_columns(path: Path, wanted: Mapping[str, bool]) -> pa.Table:
    """Read columns of a parquet file.

    Parameters
    ----------
    path : Path
        The file.
    wanted : mapping of str to bool
        Column name -> whether it must be there.

    Raises
    ------
    FormatError
        When the file is missing, is not parquet, is damaged, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise FormatError(path, "", "no such file", "a parquet file")
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for name, required in wanted.items():
                if required and name not in names:
                    raise FormatError(path, f"column {name}", f"columns {', '.join(names)}", f"a column {name}")
            return file.read([name for name in wanted if name in names])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(path, "", reason, "a complete parquet file", "It may be truncated: copy it again.") from error


def column_numpy(path: Path, table: pa.Table, name: str, dtype: str) -> Any:
    """Get a column as a NumPy array of `dtype`, without nulls; timestamps become ms since the epoch.

    Raises
    ------
    FormatError
        When the column has nulls, or holds what `dtype` cannot.
    """
    import numpy as np
    import pyarrow as pa

    column = table[name].combine_chunks()
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise FormatError(path, f"row {row}, column {name}", "null", "a value")
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise FormatError(path, f"column {name}", f"type {column.type}", "a column of numbers")
    array = column.to_numpy(zero_copy_only=False)
    if np.dtype(dtype).kind in "iu" and array.dtype.kind == "f":
        limit = float(2**62)
        bad = ~((np.abs(array) < limit) & (array == np.floor(array)))
        if bad.any():
            row = int(bad.argmax())
            raise FormatError(path, f"row {row}, column {name}", str(array[row]), "a whole number")
    return array.astype(dtype)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table, uncompressed and always to the same bytes; the file appears when it is complete."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, temporary, compression="none", store_schema=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
