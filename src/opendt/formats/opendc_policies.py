"""Allocation policies, failure models, checkpoints and export settings of OpenDC experiments, in both dialects.

Readers of entries that OpenDC keeps in sets give (identity, value): two entries are the same when their identities
are, as for OpenDC; a prefab is not the same as the policy it stands for.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from opendt.formats.opendc_dialect import RUNNER, Dialect, OpenDCReading, as_format_error, reference
from opendt.model import options as model
from opendt.model.units import parse_time_ms

if TYPE_CHECKING:
    from opendt.formats.json_cursor import Cursor, Keys
    from opendt.model.base import Model

__all__ = ["OUTPUT_FILES", "ExportOptions", "allocation", "checkpoint", "export", "failures", "prefab"]

OUTPUT_FILES: Final = ("host", "task", "powerSource", "battery", "service")
_LARGEST_COUNT: Final = 2**32 - 1
_FILTERS: Final = {
    name: name
    for name in (
        "Compute",
        "SameHost",
        "DifferentHost",
        "InstanceCount",
        "Ram",
        "VCpuCapacity",
        "VCpu",
        "VGpu",
        "VGpuCapacity",
    )
}
_WEIGHERS: Final = {
    "Ram": model.RamWeigher,
    "CoreRam": model.CoreRamWeigher,
    "InstanceCount": model.InstanceCountWeigher,
    "VCpuCapacity": model.VCpuCapacityWeigher,
    "VCpu": model.VCpuWeigher,
    "VGpu": model.VGpuWeigher,
}
_PREFAB_WEIGHERS: Final[dict[str, tuple[model.Weigher, ...]]] = {
    "Mem": (model.RamWeigher(multiplier=1.0),),
    "MemInv": (model.RamWeigher(multiplier=-1.0),),
    "CoreMem": (model.CoreRamWeigher(multiplier=1.0),),
    "CoreMemInv": (model.CoreRamWeigher(multiplier=-1.0),),
    "ActiveServers": (model.InstanceCountWeigher(multiplier=-1.0),),
    "ActiveServersInv": (model.InstanceCountWeigher(multiplier=1.0),),
    "ProvisionedCores": (model.VCpuWeigher(multiplier=1.0),),
    "ProvisionedCoresInv": (model.VCpuWeigher(multiplier=-1.0),),
    "ProvisionedCpuGpuCores": (model.VCpuWeigher(multiplier=1.0), model.VGpuWeigher(multiplier=1.0)),
    "ProvisionedCpuGpuCoresInv": (model.VCpuWeigher(multiplier=-1.0), model.VGpuWeigher(multiplier=-1.0)),
    "Random": (),
    "TaskNumMemorizing": (),
    "GpuTaskMemorizing": (),
    "Timeshift": (model.RamWeigher(multiplier=1.0),),
}
_PREFABS_WITH_GPU: Final = ("ProvisionedCpuGpuCores", "ProvisionedCpuGpuCoresInv", "GpuTaskMemorizing")

# Kondo, Javadi, Iosup and Epema, "The Failure Trace Archive" (CCGRID 2010), hours. For each site and family first the
# parameters of the inter-arrival time, then those of the duration: exponential mean; Weibull shape and scale; mean and
# deviation of the logarithm; gamma shape and scale.
_FAILURE_FAMILIES: Final = ("Exp", "Wbl", "LogN", "Gam")
_FAILURE_SITES: Final = """
G5k06        32.41  7.41  .48  14.37 .35  .47  1.51 2.42 -2.0  2.2   .34   94.35 .19  39.92
Lanl05     1779.99  5.92  .48 816.60 .58 2.18  5.56 2.39   .05 1.42  .35 5102.71 .38  15.44
Ldns04      141.06  8.61  .51  79.30 .63 5.62  3.25 2.33   .91 1.64  .39  362.43 .51  16.87
Microsoft99  67.01 16.49  .55  35.30 .60 9.34  2.62 1.84  1.42 1.54  .41  162.19 .46  35.52
Nd07cpu      13.73  4.25  .45   4.16 .51  .74   .30 2.20 -1.02 1.27  .30   46.16 .28  15.07
Overnet03     2.29 12.00  .85   2.04 .44 2.98   .19  .98   .08 1.80  .91    2.53 .29  41.64
Pl05        159.49 49.61  .33  19.35 .36 5.59  1.44 2.86   .40 2.45  .20  788.03 .21 237.65
Skype06      16.27 14.31  .64  10.86 .63 9.48  1.60 1.57  1.40 1.73  .53   30.79 .50  28.53
Websites02   11.85  1.18  .46   3.68 .65  .61   .23 2.02 -1.12 1.13  .31   38.67 .50   2.37
"""


@dataclass(frozen=True)
class ExportOptions:
    """What a run writes: which files, how often, and which columns of each (all where a file is not named)."""

    interval_ms: int = 300_000
    print_frequency: int | None = 24
    files: tuple[str, ...] = OUTPUT_FILES
    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()


def prefab(name: str, ram_ratio: float = 1.5) -> model.Allocation:
    """Give the policy that a prefab stands for.

    Parameters
    ----------
    name : str
        As in OpenDC, for example ``Mem``.
    ram_ratio : float
        How often memory is counted: 1.5 as in 2025, 1.0 as in 2026.
    """
    gpu = (model.VGpuFilter(),) if name in _PREFABS_WITH_GPU else ()
    filters = (model.ComputeFilter(), model.VCpuFilter(), *gpu, model.RamFilter(allocation_ratio=ram_ratio))
    weighers = _PREFAB_WEIGHERS[name]
    if name.endswith("Memorizing"):
        return model.MemorizingAllocation(filters=filters)
    if name == "Timeshift":
        return model.TimeShiftAllocation(filters=filters, weighers=weighers, memorize=False)
    return model.FilterAllocation(filters=filters, weighers=weighers, subset_size=0 if name == "Random" else 1)


def allocation(cursor: Cursor, dialect: Dialect, ram_ratio: float) -> tuple[Hashable, model.Allocation]:
    """Read an allocation policy."""
    keys = cursor.open()
    kind = keys.choice("type", {name: name for name in ("prefab", "filter", "timeshift")})
    if kind == "prefab":
        name = keys.choice(
            "policyName" if dialect is RUNNER else "prefabName", {name: name for name in _PREFAB_WEIGHERS}, "Mem"
        )
        keys.close()
        return ("prefab", name), prefab(name, ram_ratio)
    filters = tuple(_filter(item) for item in keys.items("filters")) or (model.ComputeFilter(),)
    weighers = tuple(_weigher(item) for item in keys.items("weighers"))
    subset_size = keys.integer("subsetSize", 1, least=1, most=_LARGEST_COUNT)
    policy: model.Allocation
    if kind == "timeshift":
        policy = _time_shift(keys, filters, weighers, subset_size)
    elif dialect is not RUNNER and keys.flag("memorize", False):
        policy = model.MemorizingAllocation(filters=filters)
    else:
        policy = model.FilterAllocation(filters=filters, weighers=weighers, subset_size=subset_size)
    keys.close()
    return policy, policy


def _time_shift(
    keys: Keys, filters: tuple[model.Filter, ...], weighers: tuple[model.Weigher, ...], subset_size: int
) -> model.TimeShiftAllocation:
    stopper = keys.get("taskStopper")
    return model.TimeShiftAllocation(
        filters=filters,
        weighers=weighers,
        subset_size=subset_size,
        window_size=keys.integer("windowSize", 168, least=1, most=_LARGEST_COUNT),
        forecast=keys.flag("forecast", True),
        short_forecast_threshold=keys.number("shortForecastThreshold", 0.2, 0, most=1),
        long_forecast_threshold=keys.number("longForecastThreshold", 0.35, 0, most=1),
        forecast_size=keys.integer("forecastSize", 24, least=1, most=_LARGEST_COUNT),
        memorize=keys.flag("memorize", True),
        task_stopper=None if stopper is None else _task_stopper(stopper),
    )


def _task_stopper(cursor: Cursor) -> model.TaskStopper:
    keys = cursor.open()
    stopper = model.TaskStopper(
        window_size=keys.integer("windowSize", 168, least=1, most=_LARGEST_COUNT),
        forecast=keys.flag("forecast", True),
        forecast_threshold=keys.number("forecastThreshold", 0.6, 0, most=1),
        forecast_size=keys.integer("forecastSize", 24, least=1, most=_LARGEST_COUNT),
    )
    keys.close()
    return stopper


def _filter(cursor: Cursor) -> model.Filter:
    keys = cursor.open()
    kind = keys.choice("type", _FILTERS)
    found: model.Filter
    if kind in ("Ram", "VCpu", "VGpu"):
        ratio = keys.number("allocationRatio", 1.0, above=0)
        ratio_filter = {"Ram": model.RamFilter, "VCpu": model.VCpuFilter, "VGpu": model.VGpuFilter}[kind]
        found = ratio_filter(allocation_ratio=ratio)
    elif kind == "InstanceCount":
        found = model.InstanceCountFilter(limit=keys.integer("limit", most=_LARGEST_COUNT))
    else:
        plain = {
            "Compute": model.ComputeFilter,
            "SameHost": model.SameHostFilter,
            "DifferentHost": model.DifferentHostFilter,
            "VCpuCapacity": model.VCpuCapacityFilter,
            "VGpuCapacity": model.VGpuCapacityFilter,
        }
        found = plain[kind]()
    keys.close()
    return found


def _weigher(cursor: Cursor) -> model.Weigher:
    keys = cursor.open()
    kind = keys.choice("type", _WEIGHERS)
    weigher: model.Weigher = kind(multiplier=keys.number("multiplier", 1.0))
    keys.close()
    return weigher


def failures(cursor: Cursor, dialect: Dialect, reading: OpenDCReading) -> tuple[Hashable, model.FailureModel | None]:
    """Read a failure model; None is no failures."""
    if cursor.value is None:
        return None, None
    runner = dialect is RUNNER
    keys = cursor.open()
    none, trace = ("no", "trace-based") if runner else ("none", "traceBased")
    kind = keys.choice("type", {none: "none", trace: "trace", "prefab": "prefab", "custom": "custom"})
    identity: Hashable = kind
    found: model.FailureModel | None = None
    with as_format_error(cursor):
        if kind == "trace":
            place = keys.need("pathToFile" if runner else "source")
            path = place.text() if runner else reference(place)
            start, repeat = keys.number("startPoint", 0.0, 0), keys.flag("repeat", True)
            identity = (kind, path, start, repeat)
            found = _trace_failures(keys, reading.failures(place, path), start, repeat)
        elif kind == "prefab":
            family, parameters = keys.choice("prefabName", _failure_prefabs())
            found = _failure_prefab(family, parameters)
            identity = (kind, found)
        elif kind == "custom":
            names = (
                ("iatSampler", "durationSampler", "nohSampler")
                if runner
                else ("interArrival", "duration", "hostFraction")
            )
            interarrival, duration, share = (_distribution(keys.need(name)) for name in names)
            found = model.CustomFailures(interarrival_hours=interarrival, duration_hours=duration, host_ratio=share)
            identity = found
    keys.close()
    return identity, found


def _trace_failures(
    keys: Keys, events: tuple[model.FailureEvent, ...], start: float, repeat: bool
) -> model.TraceFailures:
    """`startPoint` is the relative position in the trace, in [0, 1)."""
    if start >= 1:
        raise keys.need("startPoint").error("a share of the trace in [0, 1)", "0.5 starts in the middle.")
    return model.TraceFailures(events=events, start_point=int(start * len(events)), repeat=repeat)


def _failure_prefabs() -> dict[str, tuple[str, list[float]]]:
    """Name of a prefab -> its family and its parameters, those of the inter-arrival time first."""
    prefabs = {}
    for row in _FAILURE_SITES.split("\n")[1:-1]:
        site, *texts = row.split()
        numbers = [float(text) for text in texts]
        for place, family in enumerate(_FAILURE_FAMILIES):
            begin = 4 * place - 2
            prefabs[site + family] = (family, numbers[begin : begin + 4] if place else numbers[:2])
    return prefabs


def _failure_prefab(family: str, parameters: list[float]) -> model.CustomFailures:
    half = len(parameters) // 2
    return model.CustomFailures(
        interarrival_hours=_fitted(family, parameters[:half]),
        duration_hours=_fitted(family, parameters[half:]),
        host_ratio=model.UniformDistribution(lower=0.0, upper=1.0),
    )


def _fitted(family: str, parameters: list[float]) -> model.Distribution:
    if family == "Exp":
        return model.ExponentialDistribution(mean=parameters[0])
    first, second = parameters
    if family == "Wbl":
        return model.WeibullDistribution(alpha=first, beta=second)
    if family == "LogN":
        return model.LogNormalDistribution(scale=first, shape=second)
    return model.GammaDistribution(shape=first, scale=second)


def _distribution(cursor: Cursor) -> model.Distribution:
    kinds: dict[str, type[Model]] = {
        "constant": model.ConstantDistribution,
        "exponential": model.ExponentialDistribution,
        "gamma": model.GammaDistribution,
        "log-normal": model.LogNormalDistribution,
        "normal": model.NormalDistribution,
        "pareto": model.ParetoDistribution,
        "uniform": model.UniformDistribution,
        "weibull": model.WeibullDistribution,
    }
    keys = cursor.open()
    kind = keys.choice("type", kinds)
    with as_format_error(cursor):
        parameters = {name: keys.number(name) for name in kind.model_fields if name != "type"}
        found = cast(model.Distribution, kind(**parameters))
    keys.close()
    return found


def checkpoint(cursor: Cursor, dialect: Dialect) -> model.Checkpoint | None:
    """Read a checkpoint model; None is no checkpoints."""
    if cursor.value is None:
        return None
    names = ("interval", "duration", "intervalScaling")
    if dialect is RUNNER:
        names = ("checkpointInterval", "checkpointDuration", "checkpointIntervalScaling")
    keys = cursor.open()
    found = model.Checkpoint(
        interval_ms=round(keys.quantity(names[0], parse_time_ms, 3_600_000.0, 1)),
        duration_ms=round(keys.quantity(names[1], parse_time_ms, 300_000.0, 0)),
        interval_scaling=keys.number(names[2], 1.0, above=0),
    )
    keys.close()
    return found


def export(cursor: Cursor, dialect: Dialect) -> ExportOptions:
    """Read export settings; a bare interval is seconds for the runner and ms for the SDK."""
    bare_unit_ms = 1000.0 if dialect is RUNNER else 1.0
    keys = cursor.open()
    interval = keys.quantity(
        "exportInterval", lambda value: parse_time_ms(value, bare_unit_ms=bare_unit_ms), 300_000.0, 1
    )
    frequency = keys.get("printFrequency")
    silent = frequency is None and keys.has("printFrequency")
    names = {name: name for name in OUTPUT_FILES}
    listed = keys.get("filesToExport")
    chosen = OUTPUT_FILES if listed is None else tuple(item.choice(names) for item in listed.items())
    columns = _runner_columns(keys) if dialect is RUNNER else _sdk_columns(keys)
    keys.close()
    return ExportOptions(
        interval_ms=round(interval),
        print_frequency=None if silent else 24 if frequency is None else frequency.integer(1),
        files=tuple(name for name in OUTPUT_FILES if name in chosen),
        columns=columns,
    )


def _runner_columns(keys: Keys) -> tuple[tuple[str, tuple[str, ...]], ...]:
    config = keys.get("computeExportConfig")
    if config is None:
        return ()
    inner = config.open()
    found = []
    for name in OUTPUT_FILES:
        columns = inner.get(f"{name}ExportColumns")
        if columns is not None:
            found.append((name, tuple(_column(item) for item in columns.items())))
    inner.close()
    return tuple(found)


def _sdk_columns(keys: Keys) -> tuple[tuple[str, tuple[str, ...]], ...]:
    config = keys.get("columns")
    if config is None:
        return ()
    inner = config.open()
    found = []
    for name in OUTPUT_FILES:
        selection = inner.get(name)
        if selection is None:
            continue
        part = selection.open()
        if part.choice("type", {"all": False, "only": True}):
            found.append((name, tuple(_column(item) for item in part.need("columns").items())))
        part.close()
    inner.close()
    return tuple(found)


def _column(cursor: Cursor) -> str:
    """Name of a column; case does not count, and a space stands for ``_``."""
    return cursor.text().strip().lower().replace(" ", "_")
