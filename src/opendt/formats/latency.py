"""Network latency between sites: a list of ``src, dst, mean`` (round trip in ms) as links of a topology.

The form is that of the AWS matrix (``src,dst,mean,std``). A link's latency is one way: half the mean of both directions'
round trips. Pairs of a site with itself are left out, since inside a cluster transfers take no time.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from opendt.formats.textfile import open_text
from opendt.model.errors import FormatError
from opendt.model.topology import Link

__all__ = ["latency_links", "read_latency"]


def read_latency(path: Path | str) -> dict[tuple[str, str], float]:
    """Read a list, (from, to) -> mean round trip in ms.

    Raises
    ------
    FormatError
        Naming line and column.
    """
    found: dict[tuple[str, str], float] = {}
    with open_text(path) as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in ("src", "dst", "mean") if name not in (reader.fieldnames or ())]
        if missing:
            raise FormatError(path, "header", "no such column", f"a column {missing[0]}")
        for row in reader:
            try:
                round_trip_ms = float(row["mean"] or "")
            except ValueError:
                round_trip_ms = math.nan
            if not 0 <= round_trip_ms < math.inf:
                raise FormatError(path, f"line {reader.line_num}, column mean", repr(row["mean"]), "ms >= 0")
            found[row["src"], row["dst"]] = round_trip_ms
    return found


def latency_links(
    round_trip_ms: Mapping[tuple[str, str], float],
    sites: Mapping[str, str],
    *,
    bandwidth_mib_per_s: float | None = None,
) -> tuple[Link, ...]:
    """Make the links between clusters.

    Parameters
    ----------
    round_trip_ms : mapping
        (from, to) -> mean round trip in ms, as `read_latency` gives it.
    sites : mapping of str to str
        Cluster -> site.
    bandwidth_mib_per_s : float, optional
        Bandwidth of every link in MiB/s; unlimited unless given.

    Raises
    ------
    KeyError
        When no direction between two of the sites is known.
    """
    clusters = list(sites)
    pairs = ((a, b) for place, a in enumerate(clusters) for b in clusters[place + 1 :])
    return tuple(
        Link(
            from_=a,
            to=b,
            latency_ms=_mean(_directions(round_trip_ms, sites[a], sites[b])) / 2,
            bandwidth_mib_per_s=bandwidth_mib_per_s,
        )
        for a, b in pairs
    )


def _directions(round_trip_ms: Mapping[tuple[str, str], float], a: str, b: str) -> list[float]:
    found = [round_trip_ms[pair] for pair in ((a, b), (b, a)) if pair in round_trip_ms]
    if not found:
        raise KeyError(
            f"no latency between {a!r} and {b!r}; the sites are {sorted({s for p in round_trip_ms for s in p})}"
        )
    return found


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)
