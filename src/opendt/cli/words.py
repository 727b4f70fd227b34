"""How numbers are told to a person."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

__all__ = ["duration", "facts", "moment"]

_UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
_SUFFIXES: Final = {"_w": " W", "_g_per_kwh": " g/kWh", "_s": " s"}


def duration(ms: float) -> str:
    """Tell a length of time in the largest unit that it fills.

    Examples
    --------
    >>> duration(5_400_000), duration(86_400_000), duration(12)
    ('1.5 h', '1 d', '12 ms')
    """
    for size, unit in _UNITS:
        if ms >= size:
            number = ms / size
            return f"{number:,.0f} {unit}" if number >= 1000 else f"{number:.3g} {unit}"
    return f"{ms:.3g} ms"


def moment(time_ms: int) -> str:
    """Tell a point in time, UTC.

    Examples
    --------
    >>> moment(1_709_510_400_000)
    '2024-03-04 00:00:00'
    """
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def facts(values: dict[str, int | float | str]) -> str:
    """Tell facts in a line: names lose their units, which go behind the numbers; counts of nothing are left out.

    Examples
    --------
    >>> facts({"tasks": 1200, "span_ms": 86_400_000, "gpus": 0, "dialect": "SDK"})
    '1,200 tasks, span 1 d, dialect SDK'
    """
    return ", ".join(_fact(name, value) for name, value in values.items() if value != 0)


def _fact(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return f"{name.replace('_', ' ')} {value}"
    if name.endswith("_ms"):
        return f"{name.removesuffix('_ms').replace('_', ' ')} {duration(value)}"
    for suffix, unit in _SUFFIXES.items():
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix).replace('_', ' ')} {value:,.6g}{unit}"
    shown = f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
    return f"{shown} {_singular(name) if value == 1 else name.replace('_', ' ')}"


def _singular(name: str) -> str:
    noun = name.replace("_", " ")
    return f"{noun.removesuffix('ies')}y" if noun.endswith("ies") else noun.removesuffix("s")
