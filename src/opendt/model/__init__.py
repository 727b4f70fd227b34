"""The vocabulary of OpenDT: frozen, validated records with units in their names; imports nothing else of OpenDT.

Names are found in their modules when they are first used, so that ``import opendt.model`` costs nothing and the
records, which need pydantic, cost only those who use them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opendt.model.change import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.errors import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.fleet import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.job import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.options import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.plan import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.power import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.slo import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.tasks import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.topology import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.units import *  # noqa: F403  (each module says in __all__ what it gives)
    from opendt.model.workload import *  # noqa: F403  (each module says in __all__ what it gives)

_NAMES: Final = {
    "errors": (
        "EngineError FormatError InputError LedgerError MessageError ModelError OpenDTError PastTimeError SnapshotError "
        "TransportError UnknownNameError"
    ),
    "units": "parse_data_mib parse_frequency_mhz parse_power_w parse_time_ms",
    "workload": "Workload",
    "tasks": "workload_from_tasks",
    "change": (
        "AddHosts AllHosts CancelTask Change ClusterHosts ConserveWork DropFuture FailHosts GroupHosts Hosts "
        "MigrateTask NamedHosts RemoveHosts RepairHosts ResizeHosts SetAllocation SetCarbon SetLink SetPowerCap "
        "SetPowerModel SetRemainingWork ThrottleHosts Work"
    ),
    "power": (
        "AsymptoticPower ConstantPower CubicPower CurvePower LinearPower MsePower PowerModel SqrtPower SquarePower"
    ),
    "topology": (
        "Battery BatteryPolicy BestEffort CarbonPoint Cluster ConstantOverhead DoubleThreshold EqualShare "
        "FirstFit FixedShare Gpu GpuOverhead HostGroup Link MaxMinFairness NoOverhead PowerSource RunningMean "
        "RunningMeanPlus RunningMedian RunningQuartiles ShareBasedOverhead Sharing SingleThreshold Topology"
    ),
    "options": (
        "Allocation Checkpoint ComputeFilter ConstantDistribution CoreRamWeigher CustomFailures "
        "DifferentHostFilter Distribution ExponentialDistribution FailureEvent FailureModel Filter "
        "FilterAllocation GammaDistribution InstanceCountFilter InstanceCountWeigher LogNormalDistribution "
        "MemorizingAllocation NormalDistribution Options ParetoDistribution RamFilter RamWeigher "
        "SameHostFilter ScalingPolicy TaskStopper TimeShiftAllocation TraceFailures UniformDistribution "
        "VCpuCapacityFilter VCpuCapacityWeigher VCpuFilter VCpuWeigher VGpuCapacityFilter VGpuFilter "
        "VGpuWeigher WeibullDistribution Weigher"
    ),
    "job": "Constraints Job Locality Origin Stage StageWork Toleration",
    "plan": (
        "Infeasible Interval Misfit Placement Plan PlanObservation PlanPrediction PlanVerdict Quantity "
        "StageObservation StagePrediction TimeShare"
    ),
    "fleet": "ClusterState FleetSnapshot LatencyMatrix NodeState PodState Reading Taint",
    "slo": (
        "CarbonTarget CostTarget DurationTarget EnergyTarget ErrorBudget PeakPowerTarget RuntimeTargets Slo SloKind "
        "SlowdownTarget UtilizationBand read_slo slo_schema write_slo_schema"
    ),
}
_HOMES: Final = {name: home for home, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'opendt.model' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"opendt.model.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
