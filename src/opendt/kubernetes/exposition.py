"""Prometheus' text format, as far as metrics of kubelets, cAdvisor and Kepler need it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

__all__ = ["Sample", "read_exposition"]

_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_PLAIN: Final = {"n": "\n"}


class Sample(NamedTuple):
    """A measured value: name, labels, value, and ms since the epoch where the line says so."""

    name: str
    labels: dict[str, str]
    value: float
    time_ms: int | None


def read_exposition(text: str, names: Collection[str]) -> Iterator[Sample]:
    """Give the samples of some names; lines that cannot be read, and values that are no numbers, are left out.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/

    Examples
    --------
    >>> text = 'pod_cpu_usage_seconds_total{namespace="a",pod="p"} 1.5 1700000000000'
    >>> list(read_exposition(text, ["pod_cpu_usage_seconds_total"]))[0][1:]
    ({'namespace': 'a', 'pod': 'p'}, 1.5, 1700000000000)
    """
    for line in text.splitlines():
        name = re.split(r"[{ \t]", line, maxsplit=1)[0]
        if name not in names:
            continue
        labels, _, rest = line[len(name) :].rpartition("}")
        numbers = rest.split()
        try:
            value = float(numbers[0])
            time_ms = int(numbers[1]) if len(numbers) > 1 else None
        except (ValueError, IndexError):
            continue
        if not math.isnan(value):
            found = {key: _ESCAPED.sub(_unescape, said) for key, said in _LABEL.findall(labels)}
            yield Sample(name, found, value, time_ms)


def _unescape(match: re.Match[str]) -> str:
    return _PLAIN.get(match.group(1), match.group(1))
