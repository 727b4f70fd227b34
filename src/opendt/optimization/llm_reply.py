"""What a language model may answer: the JSON Schema it is given, and how its answer becomes proposals or is refused.

The schema keeps an honest model within bounds; the checks here hold whatever comes, since a server may ignore the schema. A
candidate is taken whole or refused whole, with the reason in our words. Nothing of it is executed, no name in it is looked
up except among the handles of `opendt.optimization.llm_plant`, and its prose is only ever shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, ValidationError

from opendt.model.base import Model, Positive, Size
from opendt.model.change import AddHosts, Change, ResizeHosts, SetAllocation, SetPowerCap
from opendt.model.errors import OpenDTError, shown
from opendt.model.proposal import Bounds, ExpectedEffect, Proposal
from opendt.optimization.llm_plant import clean_text

if TYPE_CHECKING:
    from opendt.optimization.llm_plant import GroupView, Plant

__all__ = ["Read", "ReplyError", "changes_schema", "read_changes", "read_reply", "reply_schema"]

MOST_CANDIDATES: Final = 4
MOST_CHANGES: Final = 16
_LONGEST_REASON: Final = 300
_LARGEST_RATIO: Final = 10.0
_M = TypeVar("_M", bound=Model)


class ReplyError(OpenDTError):
    """An answer, or one candidate of it, is not what was asked for."""


Handle = Annotated[str, Field(pattern=r"^[cg][1-9][0-9]{0,2}$")]
ExpectedRatio = Annotated[float, Field(strict=True, ge=-1, le=_LARGEST_RATIO)]


class _RemoveHosts(Model):
    type: Literal["remove_hosts"]
    group: Handle
    count: Size


class _AddHosts(Model):
    type: Literal["add_hosts"]
    group: Handle
    count: Size


class _SetCores(Model):
    type: Literal["set_core_count"]
    group: Handle
    core_count: Size


class _SetSpeed(Model):
    type: Literal["set_core_speed"]
    group: Handle
    core_speed_mhz: Positive


class _CapPower(Model):
    type: Literal["set_power_cap"]
    cluster: Handle
    max_power_w: Positive | None


class _SetPolicy(Model):
    type: Literal["set_policy"]
    policy: Annotated[str, Field(max_length=64)]


_Said = Annotated[
    _RemoveHosts | _AddHosts | _SetCores | _SetSpeed | _CapPower | _SetPolicy, Field(discriminator="type")
]


class _Expected(Model):
    energy_ratio: ExpectedRatio | None
    task_wait_p95_ratio: ExpectedRatio | None
    peak_power_ratio: ExpectedRatio | None


class _Changes(Model):
    changes: Annotated[tuple[_Said, ...], Field(min_length=1, max_length=MOST_CHANGES)]


class _Candidate(_Changes):
    reason: Annotated[str, Field(min_length=1)]
    expected: _Expected


class _Reply(Model):
    # Read one by one, so that a bad candidate does not take the good ones with it.
    candidates: Annotated[tuple[dict[str, Any], ...], Field(max_length=MOST_CANDIDATES)]


@dataclass(frozen=True, slots=True)
class Read:
    """An answer as far as it could be used: proposals in its order, and why the other candidates were refused."""

    proposals: tuple[Proposal, ...]
    refused: tuple[str, ...]


def read_reply(content: Any, plant: Plant, time_ms: int, rule: str) -> Read:
    """Turn a decoded answer into proposals.

    Parameters
    ----------
    content : Any
        What the JSON of the answer holds.
    plant : Plant
        What it may refer to.
    time_ms : int
        When it was asked, ms since the start.
    rule : str
        Kept with the proposals: which prompt they came from.

    Raises
    ------
    ReplyError
        When it is not an answer at all; says where and why. A single bad candidate is only refused.
    """
    reply = _validated(_Reply, content, "the answer")
    proposals: dict[str, Proposal] = {}
    refused = []
    for number, said in enumerate(reply.candidates, start=1):
        try:
            candidate = _validated(_Candidate, said, f"candidate {number}")
            changes, bounds = _translated(candidate.changes, plant, f"candidate {number}")
        except ReplyError as error:
            refused.append(str(error))
            continue
        reason = clean_text(candidate.reason, _LONGEST_REASON) or "no reason given"
        expected = ExpectedEffect(**candidate.expected.model_dump())
        proposal = Proposal.of("llm", time_ms, rule, reason, changes, bounds, expected)
        proposals.setdefault(proposal.id, proposal)  # the same changes twice are one proposal
    return Read(tuple(proposals.values()), tuple(refused))


def read_changes(content: Any, plant: Plant) -> tuple[Change, ...]:
    """Turn the arguments of a what-if question into changes.

    Raises
    ------
    ReplyError
        When they are not what was asked for or leave the limits.
    """
    question = _validated(_Changes, content, "the question")
    return _translated(question.changes, plant, "the question")[0]


def _validated(kind: type[_M], content: Any, place: str) -> _M:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:40] for part in (place, *first["loc"]))
        raise ReplyError(clean_text(f"{where}: found {shown(first['input'])}, {first['msg']}", 300)) from None


def _translated(said: Sequence[_Said], plant: Plant, place: str) -> tuple[tuple[Change, ...], Bounds]:
    """Check what was said against the plant, all of it together, and put it into our terms."""
    hosts = {handle: view.state.host_count for handle, view in plant.groups.items()}
    cores = {handle: view.state.core_count for handle, view in plant.groups.items()}
    touched: set[tuple[str, str]] = set()
    changes: list[Change] = []
    for number, one in enumerate(said, start=1):
        where = f"{place}, change {number} ({one.type})"
        key = _subject(one)
        if key in touched:
            raise ReplyError(f"{where}: the same thing is changed twice")
        touched.add(key)
        changes.append(_change(one, plant, where))
        if isinstance(one, _RemoveHosts | _AddHosts):
            hosts[one.group] += one.count if isinstance(one, _AddHosts) else -one.count
        elif isinstance(one, _SetCores):
            cores[one.group] = one.core_count
    _check_room(hosts, cores, plant, place)
    return tuple(changes), _bounds(plant)


def _subject(said: _Said) -> tuple[str, str]:
    """Tell what a change is about, since each thing may be changed once."""
    match said:
        case _RemoveHosts() | _AddHosts():
            return "hosts", said.group
        case _SetCores():
            return "cores", said.group
        case _SetSpeed():
            return "speed", said.group
        case _CapPower():
            return "cap", said.cluster
        case _SetPolicy():
            return "policy", ""


def _change(said: _Said, plant: Plant, where: str) -> Change:
    match said:
        case _SetPolicy():
            policy = plant.policies.get(said.policy)
            if policy is None:
                raise ReplyError(f"{where}: {shown(said.policy)} is none of the policies {_listed(plant.policies)}")
            return SetAllocation(allocation=policy)
        case _CapPower():
            return _cap(said, plant, where)
        case _RemoveHosts():
            view = _group(said.group, plant, where)
            _within(said.count, 1, view.state.host_count, "hosts", where)
            return view.removal(said.count)
        case _AddHosts():
            view = _group(said.group, plant, where)
            if view.template is None:
                raise ReplyError(f"{where}: no host can be added to {said.group}")
            _within(said.count, 1, view.addable, "hosts", where)
            cluster = plant.clusters[view.cluster]
            return AddHosts(cluster=cluster, group=view.template.model_copy(update={"count": said.count}))
        case _SetCores():
            view = _group(said.group, plant, where)
            _within(said.core_count, 1, view.max_core_count, "cores", where)
            return ResizeHosts(hosts=view.selector, core_count=said.core_count)
        case _SetSpeed():
            view = _group(said.group, plant, where)
            _within(said.core_speed_mhz, view.min_core_speed_mhz, view.max_core_speed_mhz, "MHz", where)
            return ResizeHosts(hosts=view.selector, core_speed_mhz=said.core_speed_mhz)


def _cap(said: _CapPower, plant: Plant, where: str) -> SetPowerCap:
    name = plant.clusters.get(said.cluster)
    if name is None:
        raise ReplyError(f"{where}: there is no cluster {said.cluster}, only {_listed(plant.clusters)}")
    rest_w = sum(
        view.state.idle_power_w * view.state.host_count
        for view in plant.groups.values()
        if view.cluster == said.cluster
    )
    if said.max_power_w is not None and said.max_power_w < rest_w:
        raise ReplyError(f"{where}: {said.max_power_w:g} W is less than the {rest_w:g} W of its hosts at rest")
    return SetPowerCap(cluster=name, max_power_w=said.max_power_w)


def _group(handle: str, plant: Plant, where: str) -> GroupView:
    view = plant.groups.get(handle)
    if view is None:
        raise ReplyError(f"{where}: there is no group {handle}, only {_listed(plant.groups)}")
    return view


def _within(value: float, low: float, high: float, unit: str, where: str) -> None:
    if not low <= value <= high:
        raise ReplyError(f"{where}: {value:g} {unit} is outside of {low:g} to {high:g}")


def _check_room(hosts: dict[str, int], cores: dict[str, int], plant: Plant, place: str) -> None:
    """Refuse to leave no host, or none that the largest present task fits."""
    if plant.groups and sum(hosts.values()) + plant.unseen_hosts < 1:
        raise ReplyError(f"{place}: no host would be left")
    largest = plant.largest_core_count
    fitted = any(view.state.core_count >= largest for view in plant.groups.values())
    fits = any(hosts[handle] > 0 and cores[handle] >= largest for handle in hosts)
    if largest and fitted and not fits:
        raise ReplyError(f"{place}: no host would be left that a present task of {largest} cores fits")


def _bounds(plant: Plant) -> Bounds:
    views = plant.groups.values()
    if not views:
        return Bounds(min_hosts=1)
    return Bounds(
        min_hosts=1,
        max_hosts=sum(view.state.host_count + view.addable for view in views) + plant.unseen_hosts,
        min_core_speed_mhz=min(view.min_core_speed_mhz for view in views),
        max_core_speed_mhz=max(view.max_core_speed_mhz for view in views),
        min_core_count=1,
        max_core_count=max(view.max_core_count for view in views),
    )


def _listed(handles: Any) -> str:
    return ", ".join(handles) if handles else "(none)"


# The schema, in the subset that strict structured output knows: every key required, none beside them, no numeric limits.


def _object(**keys: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, **keys}


def changes_schema(plant: Plant) -> dict[str, Any]:
    """Give the JSON Schema of the arguments of a what-if question."""
    return _object(properties={"changes": _changes(plant)}, required=["changes"])


def reply_schema(plant: Plant) -> dict[str, Any]:
    """Give the JSON Schema of an answer; it names the handles that exist and only the changes that are possible now."""
    ratio = {"type": ["number", "null"]}
    names = list(_Expected.model_fields)
    expected = _object(properties=dict.fromkeys(names, ratio), required=names)
    candidate = _object(
        properties={"reason": {"type": "string"}, "changes": _changes(plant), "expected": expected},
        required=["reason", "changes", "expected"],
    )
    return _object(
        properties={"candidates": {"type": "array", "items": candidate}},
        required=["candidates"],
    )


def _changes(plant: Plant) -> dict[str, Any]:
    groups = list(plant.groups)
    addable = [handle for handle, view in plant.groups.items() if view.addable]
    kinds = []
    if groups:
        kinds.append(_kind("remove_hosts", group=_one_of(groups), count={"type": "integer"}))
        kinds.append(_kind("set_core_count", group=_one_of(groups), core_count={"type": "integer"}))
        kinds.append(_kind("set_core_speed", group=_one_of(groups), core_speed_mhz={"type": "number"}))
    if addable:
        kinds.append(_kind("add_hosts", group=_one_of(addable), count={"type": "integer"}))
    if plant.clusters:
        cap = {"type": ["number", "null"]}
        kinds.append(_kind("set_power_cap", cluster=_one_of(list(plant.clusters)), max_power_w=cap))
    if plant.policies:
        kinds.append(_kind("set_policy", policy=_one_of(list(plant.policies))))
    return {"type": "array", "items": {"anyOf": kinds}}


def _kind(name: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return _object(properties={"type": _one_of([name]), **properties}, required=["type", *properties])


def _one_of(values: list[str]) -> dict[str, Any]:
    return {"type": "string", "enum": values}
