"""OpenDT: a closed-loop digital twin for datacenters and fleets of clusters.

The twin is one live simulation, kept in step with the real system and forked to answer "what if". This module names what
people who write Python use; each name is imported when it is first touched, so that ``import opendt`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opendt.engine.simulation import EngineWorkload, Simulation, load_workload
    from opendt.model.change import (
        AddHosts,
        AllHosts,
        CancelTask,
        Change,
        ClusterHosts,
        ConserveWork,
        DropFuture,
        FailHosts,
        GroupHosts,
        MigrateTask,
        NamedHosts,
        RemoveHosts,
        RepairHosts,
        ResizeHosts,
        SetAllocation,
        SetCarbon,
        SetLink,
        SetPowerCap,
        SetPowerModel,
        SetRemainingWork,
        ThrottleHosts,
        Work,
    )
    from opendt.model.errors import (
        EngineError,
        FormatError,
        InputError,
        LedgerError,
        MessageError,
        ModelError,
        OpenDTError,
        PastTimeError,
        SnapshotError,
        TransportError,
        UnknownNameError,
    )
    from opendt.model.options import Options
    from opendt.model.power import (
        AsymptoticPower,
        ConstantPower,
        CubicPower,
        CurvePower,
        LinearPower,
        MsePower,
        SqrtPower,
        SquarePower,
    )
    from opendt.model.tasks import workload_from_tasks
    from opendt.model.topology import Battery, CarbonPoint, Cluster, Gpu, HostGroup, Link, PowerSource, Topology
    from opendt.model.workload import Workload

__all__ = [
    "AddHosts",
    "AllHosts",
    "AsymptoticPower",
    "Battery",
    "CancelTask",
    "CarbonPoint",
    "Change",
    "Cluster",
    "ClusterHosts",
    "ConserveWork",
    "ConstantPower",
    "CubicPower",
    "CurvePower",
    "DropFuture",
    "EngineError",
    "EngineWorkload",
    "FailHosts",
    "FormatError",
    "Gpu",
    "GroupHosts",
    "HostGroup",
    "InputError",
    "LedgerError",
    "LinearPower",
    "Link",
    "MessageError",
    "MigrateTask",
    "ModelError",
    "MsePower",
    "NamedHosts",
    "OpenDTError",
    "Options",
    "PastTimeError",
    "PowerSource",
    "RemoveHosts",
    "RepairHosts",
    "ResizeHosts",
    "SetAllocation",
    "SetCarbon",
    "SetLink",
    "SetPowerCap",
    "SetPowerModel",
    "SetRemainingWork",
    "Simulation",
    "SnapshotError",
    "SqrtPower",
    "SquarePower",
    "ThrottleHosts",
    "Topology",
    "TransportError",
    "UnknownNameError",
    "Work",
    "Workload",
    "__version__",
    "load_workload",
    "workload_from_tasks",
]

__version__ = "0.1.0"

# Module -> the public names it defines. Add a name here, to __all__ and to the imports for types above.
_NAMES: Final = {
    "engine.simulation": "EngineWorkload Simulation load_workload",
    "model.change": (
        "AddHosts AllHosts CancelTask Change ClusterHosts ConserveWork DropFuture FailHosts GroupHosts MigrateTask "
        "NamedHosts RemoveHosts RepairHosts ResizeHosts SetAllocation SetCarbon SetLink SetPowerCap SetPowerModel "
        "SetRemainingWork ThrottleHosts Work"
    ),
    "model.errors": (
        "EngineError FormatError InputError LedgerError MessageError ModelError OpenDTError PastTimeError SnapshotError "
        "TransportError UnknownNameError"
    ),
    "model.options": "Options",
    "model.power": ("AsymptoticPower ConstantPower CubicPower CurvePower LinearPower MsePower SqrtPower SquarePower"),
    "model.tasks": "workload_from_tasks",
    "model.topology": "Battery CarbonPoint Cluster Gpu HostGroup Link PowerSource Topology",
    "model.workload": "Workload",
}
_HOMES: Final = {name: home for home, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'opendt' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"opendt.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
