"""SPECpower_ssj2008 results as power curves by server.

A result gives mean wall power at 100, 90, … 10 % of the server's throughput and at active idle; taking throughput as
utilisation, these are eleven points of a curve. The results are SPEC's: cite spec.org and the date of access.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from opendt.formats.textfile import open_text
from opendt.model.errors import FormatError
from opendt.model.power import CurvePower

__all__ = ["ServerPower", "read_specpower"]

_LOADS: Final = tuple(range(10, 101, 10))
_COLUMNS: Final = ("ActiveIdle", *(f"{load}_AvgPower" for load in _LOADS))
_UTILIZATION: Final = (0.0, *(load / 100 for load in _LOADS))


@dataclass(frozen=True)
class ServerPower:
    """Measured curve of one server; `cores` and `memory_gb` are None where the result does not say them."""

    name: str
    cpu: str
    cores: int | None
    memory_gb: float | None
    power: CurvePower


def read_specpower(path: Path | str) -> dict[str, ServerPower]:
    """Read a table of results, server name -> curve, in the order of the file.

    A name is "vendor model (CPU)"; results under the same name get " #2", " #3" and so on. Rows with a missing power
    are left out.

    Raises
    ------
    FormatError
        Naming line and column.
    """
    servers: dict[str, ServerPower] = {}
    seen: dict[str, int] = {}
    with open_text(path) as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in (*_COLUMNS, "HW_Vendor", "HW_Model") if name not in (reader.fieldnames or ())]
        if missing:
            raise FormatError(path, "header", "no such column", f"a column {missing[0]}")
        for row in reader:
            if not all(row[name] for name in _COLUMNS):
                continue
            watts = tuple(_watts(path, reader.line_num, name, row[name]) for name in _COLUMNS)
            model = row["HW_Model"]
            vendor = "" if model.startswith(row["HW_Vendor"].split(" ")[0]) else f"{row['HW_Vendor']} "
            cpu = row.get("HW_CPUName") or ""
            name = f"{vendor}{model}{f' ({cpu})' if cpu else ''}"
            seen[name] = seen.get(name, 0) + 1
            key = name if seen[name] == 1 else f"{name} #{seen[name]}"
            cores, memory_gb = _number(row.get("CPUCores")), _number(row.get("HW_MemAmountGB"))
            power = CurvePower(utilization=_UTILIZATION, power_w=watts)
            servers[key] = ServerPower(key, cpu, None if cores is None else int(cores), memory_gb, power)
    if not servers:
        raise FormatError(path, "", "no results", "at least one result")
    return servers


def _watts(path: Path | str, line: int, name: str, text: str) -> float:
    value = _number(text)
    if value is None or not 0 <= value < 1e6:
        raise FormatError(path, f"line {line}, column {name}", repr(text), "a power in W")
    return value


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
