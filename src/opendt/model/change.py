"""Changes of a running simulation, as records; field by field those of ``crates/opendt-engine/src/change.rs``.

At a frequency ratio r = f/f0 the capacity of a host scales by r and its dynamic power by r^k, with the power at rest
unchanged; k is the host group's ``frequency_exponent``. Cores scale capacity and dynamic power linearly. A change that
can take capacity away makes the simulation conserve work from then on: slower hosts take longer, they do not lose work.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from opendt.model.base import Count, Flag, Milliseconds, Model, NonNegative, NonNegativeInt, Positive, Size
from opendt.model.options import Allocation
from opendt.model.power import PowerModel
from opendt.model.topology import CarbonPoint, HostGroup, Link

__all__ = [
    "AddHosts",
    "AllHosts",
    "CancelTask",
    "Change",
    "ClusterHosts",
    "ConserveWork",
    "DropFuture",
    "FailHosts",
    "GroupHosts",
    "Hosts",
    "MigrateTask",
    "NamedHosts",
    "RemoveHosts",
    "RepairHosts",
    "ResizeHosts",
    "SetAllocation",
    "SetCarbon",
    "SetLink",
    "SetPowerCap",
    "SetPowerModel",
    "SetRemainingWork",
    "ThrottleHosts",
    "Work",
]


class AllHosts(Model):
    """Every host in service."""

    type: Literal["all"] = "all"


class ClusterHosts(Model):
    """The hosts of a cluster."""

    type: Literal["cluster"] = "cluster"
    cluster: str


class GroupHosts(Model):
    """The hosts of a group."""

    type: Literal["group"] = "group"
    group: str


class NamedHosts(Model):
    """Single hosts."""

    type: Literal["names"] = "names"
    names: tuple[str, ...]


Hosts = Annotated[AllHosts | ClusterHosts | GroupHosts | NamedHosts, Field(discriminator="type")]
"""Which hosts a change means."""


class AddHosts(Model):
    """Add ``group.count`` hosts to a cluster."""

    type: Literal["add_hosts"] = "add_hosts"
    cluster: str
    group: HostGroup


class RemoveHosts(Model):
    """Take hosts out of service, idle ones first; busy ones finish their tasks, or give them back when evicted."""

    type: Literal["remove_hosts"] = "remove_hosts"
    hosts: Hosts = AllHosts()
    count: Count | None = None
    evict: Flag = False


class ResizeHosts(Model):
    """Change cores, frequency or memory of hosts."""

    type: Literal["resize_hosts"] = "resize_hosts"
    hosts: Hosts = AllHosts()
    core_count: Size | None = None
    core_speed_mhz: Positive | None = None
    memory_mib: NonNegativeInt | None = None


class ThrottleHosts(Model):
    """Run hosts at a share of their group's frequency."""

    type: Literal["throttle_hosts"] = "throttle_hosts"
    hosts: Hosts = AllHosts()
    speed_ratio: Positive


class SetPowerModel(Model):
    """Give hosts another power model."""

    type: Literal["set_power_model"] = "set_power_model"
    hosts: Hosts = AllHosts()
    power_model: PowerModel


class FailHosts(Model):
    """Take hosts down; their tasks fail and are queued again."""

    type: Literal["fail_hosts"] = "fail_hosts"
    hosts: Hosts


class RepairHosts(Model):
    """Bring failed hosts back."""

    type: Literal["repair_hosts"] = "repair_hosts"
    hosts: Hosts = AllHosts()


class SetCarbon(Model):
    """Replace the carbon intensities of a cluster."""

    type: Literal["set_carbon"] = "set_carbon"
    cluster: str
    carbon: tuple[CarbonPoint, ...]


class SetPowerCap(Model):
    """Cap the power of a cluster's source; None lifts the cap."""

    type: Literal["set_power_cap"] = "set_power_cap"
    cluster: str
    max_power_w: Positive | None


class SetLink(Model):
    """Add or replace a link between clusters."""

    type: Literal["set_link"] = "set_link"
    link: Link


class SetAllocation(Model):
    """Replace the policy that places tasks."""

    type: Literal["set_allocation"] = "set_allocation"
    allocation: Allocation


class CancelTask(Model):
    """Cancel a task; it ends as terminated."""

    type: Literal["cancel_task"] = "cancel_task"
    task: str


class MigrateTask(Model):
    """Move a running task to another host, where it goes on."""

    type: Literal["migrate_task"] = "migrate_task"
    task: str
    host: str


class Work(Model):
    """A piece of work: demand over a stretch of time."""

    duration_ms: Milliseconds
    cpu_mhz: NonNegative
    gpu_mhz: NonNegative = 0.0


class SetRemainingWork(Model):
    """Replace all that a task has left to do."""

    type: Literal["set_remaining_work"] = "set_remaining_work"
    task: str
    work: tuple[Work, ...]


class DropFuture(Model):
    """Forget all tasks that are not submitted yet."""

    type: Literal["drop_future"] = "drop_future"


class ConserveWork(Model):
    """Let slower hosts take longer instead of losing work, from now on."""

    type: Literal["conserve_work"] = "conserve_work"


Change = (
    AddHosts
    | RemoveHosts
    | ResizeHosts
    | ThrottleHosts
    | SetPowerModel
    | FailHosts
    | RepairHosts
    | SetCarbon
    | SetPowerCap
    | SetLink
    | SetAllocation
    | CancelTask
    | MigrateTask
    | SetRemainingWork
    | DropFuture
    | ConserveWork
)
"""Any change."""
