"""Everything of a simulation that is not topology or workload.

The records mirror ``crates/opendt-engine/src/spec.rs`` field by field: ``model_dump_json()`` is what the engine reads.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from opendt.model.base import MAX_I64, Count, Flag, Milliseconds, Model, Positive, Ratio, Real, Size

__all__ = [
    "Allocation",
    "Checkpoint",
    "ComputeFilter",
    "ConstantDistribution",
    "CoreRamWeigher",
    "CustomFailures",
    "DifferentHostFilter",
    "Distribution",
    "ExponentialDistribution",
    "FailureEvent",
    "FailureModel",
    "Filter",
    "FilterAllocation",
    "GammaDistribution",
    "InstanceCountFilter",
    "InstanceCountWeigher",
    "LogNormalDistribution",
    "MemorizingAllocation",
    "NormalDistribution",
    "Options",
    "ParetoDistribution",
    "RamFilter",
    "RamWeigher",
    "SameHostFilter",
    "ScalingPolicy",
    "TaskStopper",
    "TimeShiftAllocation",
    "TraceFailures",
    "UniformDistribution",
    "VCpuCapacityFilter",
    "VCpuCapacityWeigher",
    "VCpuFilter",
    "VCpuWeigher",
    "VGpuCapacityFilter",
    "VGpuFilter",
    "VGpuWeigher",
    "WeibullDistribution",
    "Weigher",
]

ScalingPolicy = Literal["no_delay", "perfect"]
"""Whether a fragment lasts its duration, or until its work (demand x duration) is done."""


class ComputeFilter(Model):
    """The host is up."""

    type: Literal["compute"] = "compute"


class VCpuFilter(Model):
    """Enough free cores, counting each `allocation_ratio` times."""

    type: Literal["v_cpu"] = "v_cpu"
    allocation_ratio: Positive = 1.0


class RamFilter(Model):
    """Enough free memory, counting it `allocation_ratio` times."""

    type: Literal["ram"] = "ram"
    allocation_ratio: Positive = 1.0


class InstanceCountFilter(Model):
    """Fewer tasks than `limit` on the host."""

    type: Literal["instance_count"] = "instance_count"
    limit: Count


class VCpuCapacityFilter(Model):
    """MHz per core of the host at least those of the task."""

    type: Literal["v_cpu_capacity"] = "v_cpu_capacity"


class VGpuFilter(Model):
    """Enough free GPU cores, counting each `allocation_ratio` times."""

    type: Literal["v_gpu"] = "v_gpu"
    allocation_ratio: Positive = 1.0


class VGpuCapacityFilter(Model):
    """MHz per GPU core of the host at least those of the task."""

    type: Literal["v_gpu_capacity"] = "v_gpu_capacity"


class SameHostFilter(Model):
    """On the host of the named tasks."""

    type: Literal["same_host"] = "same_host"


class DifferentHostFilter(Model):
    """Not on the host of the named tasks."""

    type: Literal["different_host"] = "different_host"


Filter = Annotated[
    ComputeFilter
    | VCpuFilter
    | RamFilter
    | InstanceCountFilter
    | VCpuCapacityFilter
    | VGpuFilter
    | VGpuCapacityFilter
    | SameHostFilter
    | DifferentHostFilter,
    Field(discriminator="type"),
]
"""A condition that a host must meet for a task."""


class RamWeigher(Model):
    """Free memory."""

    type: Literal["ram"] = "ram"
    multiplier: Real = 1.0


class CoreRamWeigher(Model):
    """Free memory per core."""

    type: Literal["core_ram"] = "core_ram"
    multiplier: Real = 1.0


class InstanceCountWeigher(Model):
    """Tasks on the host."""

    type: Literal["instance_count"] = "instance_count"
    multiplier: Real = 1.0


class VCpuCapacityWeigher(Model):
    """MHz of the host minus MHz per core of the task."""

    type: Literal["v_cpu_capacity"] = "v_cpu_capacity"
    multiplier: Real = 1.0


class VCpuWeigher(Model):
    """`allocation_ratio` minus provisioned cores."""

    type: Literal["v_cpu"] = "v_cpu"
    multiplier: Real = 1.0
    allocation_ratio: Positive = 1.0


class VGpuWeigher(Model):
    """`allocation_ratio` minus provisioned GPU cores."""

    type: Literal["v_gpu"] = "v_gpu"
    multiplier: Real = 1.0
    allocation_ratio: Positive = 1.0


Weigher = Annotated[
    RamWeigher | CoreRamWeigher | InstanceCountWeigher | VCpuCapacityWeigher | VCpuWeigher | VGpuWeigher,
    Field(discriminator="type"),
]
"""A preference among hosts; larger is better after multiplication."""


class FilterAllocation(Model):
    """Hosts that pass all filters, ordered by the sum of the weighers; `subset_size` 0 chooses among all of them."""

    type: Literal["filter"] = "filter"
    filters: tuple[Filter, ...]
    weighers: tuple[Weigher, ...] = ()
    subset_size: Count = 1


class MemorizingAllocation(Model):
    """Fewest tasks first, skipping tasks that do not fit."""

    type: Literal["memorizing"] = "memorizing"
    filters: tuple[Filter, ...]


class TaskStopper(Model):
    """Pauses all running tasks while the intensity is above a quantile of its forecast."""

    window_size: Size = 168
    forecast: Flag = True
    forecast_threshold: Ratio = 0.6
    forecast_size: Size = 24


class TimeShiftAllocation(Model):
    """Delays deferrable tasks to times of low carbon intensity; sizes count rows of the carbon trace."""

    type: Literal["time_shift"] = "time_shift"
    filters: tuple[Filter, ...]
    weighers: tuple[Weigher, ...] = ()
    subset_size: Count = 1
    window_size: Size = 168
    forecast: Flag = True
    short_forecast_threshold: Ratio = 0.2
    long_forecast_threshold: Ratio = 0.35
    forecast_size: Size = 24
    memorize: Flag = True
    task_stopper: TaskStopper | None = None


Allocation = Annotated[
    FilterAllocation | MemorizingAllocation | TimeShiftAllocation,
    Field(discriminator="type"),
]
"""Which host a task gets."""


class ConstantDistribution(Model):
    """Always `value`."""

    type: Literal["constant"] = "constant"
    value: Real


class ExponentialDistribution(Model):
    """Exponential with mean `mean`."""

    type: Literal["exponential"] = "exponential"
    mean: Positive


class GammaDistribution(Model):
    """Gamma."""

    type: Literal["gamma"] = "gamma"
    shape: Positive
    scale: Positive


class LogNormalDistribution(Model):
    """exp of a normal with mean `scale` and deviation `shape`."""

    type: Literal["log_normal"] = "log_normal"
    scale: Real
    shape: Positive


class NormalDistribution(Model):
    """Normal."""

    type: Literal["normal"] = "normal"
    mean: Real
    std: Positive


class ParetoDistribution(Model):
    """Pareto with smallest value `scale` and tail index `shape`."""

    type: Literal["pareto"] = "pareto"
    scale: Positive
    shape: Positive


class UniformDistribution(Model):
    """Uniform from `lower` to `upper`."""

    type: Literal["uniform"] = "uniform"
    lower: Real
    upper: Real

    @model_validator(mode="after")
    def _lower_below_upper(self) -> UniformDistribution:
        if self.lower >= self.upper:
            raise ValueError(f"lower ({self.lower:g}) must be below upper ({self.upper:g})")
        return self


class WeibullDistribution(Model):
    """Weibull with shape `alpha` and scale `beta`."""

    type: Literal["weibull"] = "weibull"
    alpha: Positive
    beta: Positive


Distribution = Annotated[
    ConstantDistribution
    | ExponentialDistribution
    | GammaDistribution
    | LogNormalDistribution
    | NormalDistribution
    | ParetoDistribution
    | UniformDistribution
    | WeibullDistribution,
    Field(discriminator="type"),
]
"""A probability distribution."""


class FailureEvent(Model):
    """Wait `interval_ms` since the end of the previous failure, then fail `host_ratio` of the hosts for `duration_ms`."""

    interval_ms: Milliseconds
    duration_ms: Milliseconds
    host_ratio: Annotated[float, Field(strict=True, gt=0, le=1)]


class TraceFailures(Model):
    """Recorded failures from event `start_point` on, again and again when `repeat`."""

    type: Literal["trace"] = "trace"
    events: tuple[FailureEvent, ...]
    start_point: Count = 0
    repeat: Flag = True

    @model_validator(mode="after")
    def _start_inside(self) -> TraceFailures:
        if self.start_point and self.start_point >= len(self.events):
            raise ValueError(
                f"start_point ({self.start_point}) must be below the number of events ({len(self.events)})"
            )
        if self.repeat and self.events and all(e.interval_ms + e.duration_ms == 0 for e in self.events):
            raise ValueError("events that repeat must take time; give an interval_ms or a duration_ms above 0")
        return self


class CustomFailures(Model):
    """Failures drawn from distributions: times in hours, `host_ratio` clamped to [0, 1]."""

    type: Literal["custom"] = "custom"
    interarrival_hours: Distribution
    duration_hours: Distribution
    host_ratio: Distribution


FailureModel = Annotated[TraceFailures | CustomFailures, Field(discriminator="type")]
"""How hosts fail."""


class Checkpoint(Model):
    """Snapshots of running tasks: the first after `interval_ms`, each adding `duration_ms` of work."""

    interval_ms: Annotated[int, Field(strict=True, ge=1, le=MAX_I64)] = 3_600_000
    duration_ms: Milliseconds = 300_000
    interval_scaling: Positive = 1.0


def _default_allocation() -> FilterAllocation:
    """Return the default of the reference: `Mem`, with its memory ratio of 2025."""
    return FilterAllocation(
        filters=(ComputeFilter(), VCpuFilter(), RamFilter(allocation_ratio=1.5)), weighers=(RamWeigher(),)
    )


class Options(Model):
    """Policies of a simulation; `start_epoch_ms` is the absolute time of simulated time 0.

    The last three keep what the reference does where that is a matter of taste: failed hosts draw idle power, the
    closing sample is repeated when it falls on a tick, and a task's times are in whole seconds without its last interval.
    """

    seed: Annotated[int, Field(strict=True, ge=0, le=2**64 - 1)] = 0
    scaling_policy: ScalingPolicy = "no_delay"
    allocation: Allocation = Field(default_factory=_default_allocation)
    scheduling_quantum_ms: Annotated[int, Field(strict=True, ge=1, le=MAX_I64)] = 1000
    max_failures: Count = 10
    failures: FailureModel | None = None
    checkpoint: Checkpoint | None = None
    start_epoch_ms: Annotated[int, Field(strict=True, ge=-MAX_I64, le=MAX_I64)] = 0
    failed_hosts_draw_idle: Flag = True
    repeat_closing_sample: Flag = True
    reference_task_times: Flag = True
