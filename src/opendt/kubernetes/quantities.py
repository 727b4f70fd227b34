"""Quantities as Kubernetes writes them (``250m``, ``1.5Gi``, ``2e3``), exactly.

What a node gives is rounded down and what a pod asks is rounded up, so that whole numbers never promise too much.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

__all__ = ["bytes_text", "mib_down", "mib_up", "millicores_down", "millicores_text", "millicores_up", "parse_quantity"]

_FORM: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d{1,2})|([KMGTPE]i|[numkMGTPE]))?")
_FACTOR: Final = {
    **{
        suffix: Fraction(1000) ** power
        for power, suffix in enumerate(["n", "u", "m", "", "k", "M", "G", "T", "P", "E"], -3)
    },
    **{suffix: Fraction(1024) ** power for power, suffix in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"], 1)},
}
_MIB: Final = 2**20


@lru_cache(maxsize=8192)
def parse_quantity(text: str) -> Fraction:
    """Read a quantity.

    Raises
    ------
    ValueError
        When it is none.

    Examples
    --------
    >>> parse_quantity("250m") * 1000, parse_quantity("1.5Gi") / 2**20, parse_quantity("2e3")
    (Fraction(250, 1), Fraction(1536, 1), Fraction(2000, 1))
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"found {text!r}, expected a quantity such as 250m or 1.5Gi")
    number, exponent, suffix = match.groups()
    if exponent is not None:
        return Fraction(number) * Fraction(10) ** int(exponent)
    return Fraction(number) * _FACTOR[suffix or ""]


@lru_cache(maxsize=8192)
def millicores_up(text: str) -> int:
    """CPU in thousandths of a core, rounded up."""
    return math.ceil(parse_quantity(text) * 1000)


@lru_cache(maxsize=8192)
def millicores_down(text: str) -> int:
    """CPU in thousandths of a core, rounded down."""
    return math.floor(parse_quantity(text) * 1000)


@lru_cache(maxsize=8192)
def mib_up(text: str) -> int:
    """Bytes in MiB, rounded up."""
    return math.ceil(parse_quantity(text) / _MIB)


@lru_cache(maxsize=8192)
def mib_down(text: str) -> int:
    """Bytes in MiB, rounded down."""
    return math.floor(parse_quantity(text) / _MIB)


def millicores_text(millicores: float) -> str:
    """Write CPU exactly, down to millionths of a millicore; Kubernetes itself counts in whole millicores.

    Examples
    --------
    >>> millicores_text(250), millicores_text(2.5)
    ('250m', '2500u')
    """
    if millicores == int(millicores):
        return f"{int(millicores)}m"
    micro = millicores * 1000
    return f"{int(micro)}u" if micro == int(micro) else f"{round(micro * 1000)}n"


def bytes_text(mib: float) -> str:
    """Write memory: whole MiB as such, anything else in bytes, rounded up.

    Examples
    --------
    >>> bytes_text(64), bytes_text(5.12)
    ('64Mi', '5368710')
    """
    return f"{int(mib)}Mi" if mib == int(mib) else str(math.ceil(mib * _MIB))
