"""Quantities with their units written out, as OpenDC's JSON files hold them.

A quantity is a number (in the unit of the function's name) or a string: a number, optionally in exponent form, then a
prefix, then a unit. Frequency, power and time ignore case; data sizes tell ``b`` (bits) from ``B`` (bytes).

All functions raise ``ValueError`` with a message that says what is accepted; booleans, NaN and infinities never are.
"""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = ["parse_data_mib", "parse_frequency_mhz", "parse_power_w", "parse_time_ms"]

_QUANTITY: Final = re.compile(r"\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\s\d].*?)?\s*")
_DECIMAL: Final = {
    "": 1.0,
    "n": 1e-9,
    "nano": 1e-9,
    "micro": 1e-6,
    "µ": 1e-6,
    "m": 1e-3,
    "milli": 1e-3,
    "k": 1e3,
    "kilo": 1e3,
    "g": 1e9,
    "giga": 1e9,
    "t": 1e12,
    "tera": 1e12,
    "mega": 1e6,
}
_BINARY: Final = {
    **dict.fromkeys(("ki", "kibi"), 2.0**10),
    **dict.fromkeys(("mi", "mebi"), 2.0**20),
    **dict.fromkeys(("gi", "gibi"), 2.0**30),
    **dict.fromkeys(("ti", "tebi"), 2.0**40),
}
_HZ_BASE: Final = re.compile(r"(?P<prefix>.*?)(?:hz|hertz)", re.IGNORECASE)
_WATT_BASE: Final = re.compile(r"(?P<prefix>.*?)(?:w|watts?)", re.IGNORECASE)
_BYTE_BASE: Final = re.compile(r"(?P<prefix>.*?)(?:B|[Bb]ytes?)")
_BIT_BASE: Final = re.compile(r"(?P<prefix>.*?)(?:b|[Bb]its?)")
_TIME_UNITS_MS: Final = {
    **dict.fromkeys(("ns", "nanos", "nanosec", "nanosecs", "nanosecond", "nanoseconds"), 1e-6),
    **dict.fromkeys(("us", "µs", "micros", "microsec", "microsecs", "microsecond", "microseconds"), 1e-3),
    **dict.fromkeys(("ms", "millis", "millisec", "millisecs", "millisecond", "milliseconds"), 1.0),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1e3),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 6e4),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3.6e6),
    **dict.fromkeys(("d", "day", "days"), 8.64e7),
}
_ISO_DURATION: Final = re.compile(
    r"\s*P(?:(?P<d>\d+)D)?(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?\s*", re.IGNORECASE
)


def parse_frequency_mhz(value: object) -> float:
    """Frequency in MHz; a bare number is MHz.

    Examples
    --------
    >>> parse_frequency_mhz("2.1 GHz"), parse_frequency_mhz(2100)
    (2100.0, 2100.0)
    """
    accepted = 'a frequency such as 2100 (MHz) or "2.1 GHz"'
    number, unit = _split(value, accepted)
    if unit is None:
        return number
    match = _HZ_BASE.fullmatch(unit)
    # In a clock speed "m" can only be meant as mega: upper and lower case are not told apart, as in the reference.
    factor = _decimal_factor(match["prefix"], milli_is_mega=True) if match else None
    return _scaled(number, factor, 1e-6, value, accepted)


def parse_power_w(value: object) -> float:
    """Power in W; a bare number is W.

    Examples
    --------
    >>> parse_power_w("0.4 kW"), parse_power_w("120 Watts")
    (400.0, 120.0)
    """
    accepted = 'a power such as 400 (W) or "0.4 kW"'
    number, unit = _split(value, accepted)
    if unit is None:
        return number
    match = _WATT_BASE.fullmatch(unit)
    factor = _decimal_factor(match["prefix"], milli_is_mega=match["prefix"].startswith("M")) if match else None
    return _scaled(number, factor, 1.0, value, accepted)


def parse_data_mib(value: object) -> float:
    """Amount of data in MiB; a bare number is MiB, ``b`` is bits and ``B`` is bytes.

    Examples
    --------
    >>> parse_data_mib("128 GiB"), parse_data_mib("8 Mib"), parse_data_mib(512)
    (131072.0, 1.0, 512.0)
    """
    accepted = 'an amount of data such as 1024 (MiB) or "128 GiB"'
    number, unit = _split(value, accepted)
    if unit is None:
        return number
    for pattern, bytes_per_unit in ((_BYTE_BASE, 1.0), (_BIT_BASE, 0.125)):
        match = pattern.fullmatch(unit)
        if match is None:
            continue
        prefix = match["prefix"].strip().lower()
        factor = _BINARY.get(prefix) or _decimal_factor(prefix, milli_is_mega=True)
        if factor is not None:
            return _scaled(number, factor * bytes_per_unit, 2.0**-20, value, accepted)
    return _scaled(number, None, 1.0, value, accepted)


def parse_time_ms(value: object, *, bare_unit_ms: float = 1.0) -> float:
    """Length of time in ms; a bare number is in units of `bare_unit_ms`. ISO durations such as ``PT1H30M`` work too.

    Examples
    --------
    >>> parse_time_ms("300 seconds"), parse_time_ms(5), parse_time_ms("PT1M")
    (300000.0, 5.0, 60000.0)
    """
    accepted = 'a time such as "300 seconds", "5 min" or "PT5M"'
    if isinstance(value, str) and (iso := _ISO_DURATION.fullmatch(value)) and any(iso.groups()):
        days, hours, minutes, seconds = (float(part or 0) for part in iso.groups())
        return ((days * 24 + hours) * 60 + minutes) * 6e4 + seconds * 1e3
    number, unit = _split(value, accepted)
    if unit is None:
        return _scaled(number, 1.0, bare_unit_ms, value, accepted)
    return _scaled(number, _TIME_UNITS_MS.get(unit.lower()), 1.0, value, accepted)


def _split(value: object, accepted: str) -> tuple[float, str | None]:
    """Split a quantity into number and unit; the unit is None for a bare number."""
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value)
        if match is None:
            raise ValueError(f"{accepted}, not {value!r}")
        number, unit = float(match[1]), match[2]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number, unit = _as_float(value), None
    else:
        raise ValueError(f"{accepted}, not {value!r}")  # noqa: TRY004  (the module promises one kind of error)
    if not math.isfinite(number):
        raise ValueError(f"{accepted}, not {value!r}")
    return number, unit


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _decimal_factor(prefix: str, *, milli_is_mega: bool) -> float | None:
    folded = prefix.strip().lower()
    if folded == "m" and milli_is_mega:
        return 1e6
    return _DECIMAL.get(folded)


def _scaled(number: float, factor: float | None, to_base: float, value: object, accepted: str) -> float:
    if factor is None:
        raise ValueError(f"{accepted}, not {value!r}")
    # The two powers of ten are combined first, so that "2.1 GHz" is exactly 2100 MHz.
    result = number * _exact_product(factor, to_base)
    if not math.isfinite(result):
        raise ValueError(f"{accepted}, not {value!r}")
    return result


def _exact_product(factor: float, to_base: float) -> float:
    product = factor * to_base
    nearest = round(product)
    return float(nearest) if nearest and abs(product - nearest) < 1e-9 * abs(nearest) else product
