from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendt.model.change import AddHosts, NamedHosts, RemoveHosts, ResizeHosts, SetAllocation, SetPowerCap
from opendt.model.options import ComputeFilter, FilterAllocation
from opendt.model.proposal import Proposal
from opendt.model.slo import Slo
from opendt.optimization.base import Context, SystemState, TaskLoad
from opendt.optimization.llm_plant import Plant, clean_text, hall_of, label, without_names
from opendt.optimization.llm_reply import ReplyError, changes_schema, read_changes, read_reply, reply_schema
from opendt.optimization.rules import RuleSettings
from opendt.twin.metrics import WindowMetrics
from tests.unit.optimization.small import group, topology
from tests.unit.optimization.test_rule_based import pool

ROOT = Path(__file__).resolve().parents[3]
POLICY = FilterAllocation(filters=(ComputeFilter(),))


def plant(*groups, load=None, hall=None, policies=None, installed=None):
    groups = groups or (pool(3, 1),)
    state = SystemState(groups=groups, load=load or TaskLoad())
    metrics = WindowMetrics(start_ms=0, end_ms=300_000)
    context = Context(now_ms=300_000, slo=Slo(version=1), metrics=metrics, source=state)
    stands = None if hall is None else hall_of(hall)
    return Plant.of(context, installed=installed or {}, rules=RuleSettings(), hall=stands, policies=policies)


def said(*changes, reason="because", **expected):
    effect = {"energy_ratio": None, "task_wait_p95_ratio": None, "peak_power_ratio": None, **expected}
    return {"candidates": [{"reason": reason, "changes": list(changes), "expected": effect}]}


def read(content, seen=None):
    return read_reply(content, seen or plant(), 300_000, "test")


def changes_of(*changes, seen=None):
    result = read(said(*changes), seen)
    assert result.refused == ()
    return result.proposals[0].changes


def refusal(*changes, seen=None):
    result = read(said(*changes), seen)
    assert result.proposals == ()
    return result.refused[0]


def test_every_kind_of_change_is_translated():
    seen = plant(pool(3, 1), hall=topology(group(count=6)), policies={"tight": POLICY})
    made = changes_of(
        {"type": "add_hosts", "group": "g1", "count": 2},
        {"type": "set_core_count", "group": "g1", "core_count": 32},
        {"type": "set_core_speed", "group": "g1", "core_speed_mhz": 1000},
        {"type": "set_power_cap", "cluster": "c1", "max_power_w": 900},
        {"type": "set_policy", "policy": "tight"},
        seen=seen,
    )
    assert [type(one) for one in made] == [AddHosts, ResizeHosts, ResizeHosts, SetPowerCap, SetAllocation]
    assert made[0].group == group(count=2)
    assert made[0].cluster == made[3].cluster == "c"
    assert (made[1].core_count, made[2].core_speed_mhz) == (32, 1000.0)
    assert made[4].allocation == POLICY


def test_a_cap_can_be_lifted():
    assert changes_of({"type": "set_power_cap", "cluster": "c1", "max_power_w": None})[0].max_power_w is None


def test_hosts_are_named_where_a_group_name_means_several_groups():
    seen = plant(pool(3, 1, unique=False))
    (removal,) = changes_of({"type": "remove_hosts", "group": "g1", "count": 2}, seen=seen)
    assert removal.hosts == NamedHosts(names=("node-2", "node-1"))  # idle ones, the last first
    (slower,) = changes_of({"type": "set_core_speed", "group": "g1", "core_speed_mhz": 1500.0}, seen=seen)
    assert len(slower.hosts.names) == 4


def test_no_more_hosts_can_be_added_than_stood_there():
    seen = plant(pool(3, 1), hall=topology(group(count=6)))
    assert "3 hosts is outside of 1 to 2" in refusal({"type": "add_hosts", "group": "g1", "count": 3}, seen=seen)


def test_limits_refer_to_what_was_installed_and_not_to_what_is_left_of_it():
    seen = plant(pool(3, 1, cores=32, mhz=1000.0), installed={("c", "node"): (16, 2000.0)})
    assert changes_of({"type": "set_core_speed", "group": "g1", "core_speed_mhz": 2000.0}, seen=seen)
    assert "outside of 1000 to 2000" in refusal(
        {"type": "set_core_speed", "group": "g1", "core_speed_mhz": 999.0}, seen=seen
    )
    assert "outside of 1 to 32" in refusal({"type": "set_core_count", "group": "g1", "core_count": 33}, seen=seen)


def test_a_host_that_the_largest_task_fits_must_stay():
    seen = plant(pool(2, 1), pool(2, 1, name="big", cores=64), load=TaskLoad(largest_core_count=32))
    two_changes = (
        {"type": "remove_hosts", "group": "g2", "count": 2},
        {"type": "set_core_count", "group": "g2", "core_count": 16},
    )
    assert changes_of(two_changes[0], seen=seen)
    assert "a present task of 32 cores" in refusal(*two_changes, seen=seen)
    assert "a present task of 32 cores" in refusal({**two_changes[0], "count": 3}, seen=seen)


def test_the_largest_groups_are_described_and_the_others_cannot_be_touched():
    many = [pool(number, 0, name=f"n{number}") for number in range(1, 41)]
    seen = plant(*many)
    assert len(seen.groups) == 32
    assert seen.groups["g1"].state.group == "n40"
    assert seen.unseen_hosts == sum(range(1, 9))
    assert "there is no group g33" in refusal({"type": "remove_hosts", "group": "g33", "count": 1}, seen=seen)


def test_the_same_changes_twice_are_one_proposal():
    content = said({"type": "remove_hosts", "group": "g1", "count": 1})
    assert len(read({"candidates": content["candidates"] * 2}).proposals) == 1


@pytest.mark.parametrize("ratio", [-1.5, 11, "none", float("nan"), True])
def test_expectations_must_be_ratios(ratio):
    content = said({"type": "remove_hosts", "group": "g1", "count": 1}, energy_ratio=ratio)
    assert "energy_ratio" in read(content).refused[0]


def test_an_empty_reason_is_refused_and_a_blank_one_replaced():
    change = {"type": "remove_hosts", "group": "g1", "count": 1}
    assert "reason" in read(said(change, reason="")).refused[0]
    assert read(said(change, reason=" \n\t\x00")).proposals[0].reason == "no reason given"


def test_a_candidate_without_changes_is_refused():
    assert "changes" in refusal()


def test_a_refusal_is_one_short_line_whatever_the_answer_holds():
    text = refusal({"type": "x" * 100_000 + "\n\x1b[31m"})
    assert len(text) <= 300
    assert text.isprintable()


@pytest.mark.parametrize("name", ["node", "cluster", "g1", "c1"])
def test_only_handles_name_groups(name):
    seen = plant(pool(3, 1, name="g7"))
    content = {"type": "remove_hosts", "group": name, "count": 1}
    assert (name == "g1") == (read(said(content), seen).refused == ())


@pytest.mark.parametrize("name", ["recorded_llm.json", "recorded_llm_surf.json"])
def test_recorded_answers_are_whole_on_a_hall_of_the_size_they_are_for(name):
    content = json.loads((ROOT / "examples" / name).read_bytes())
    seen = plant(pool(108, 169, mhz=2100.0))
    for reply in content["replies"]:
        result = read(reply, seen)
        assert result.refused == ()
        assert len(result.proposals) == len(reply["candidates"])


# The schema.


def objects(schema):
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


def test_the_schema_is_in_the_subset_that_strict_output_knows():
    seen = plant(hall=topology(group(count=6)), policies={"tight": POLICY})
    for schema in (reply_schema(seen), changes_schema(seen)):
        found = list(objects(schema))
        assert found
        for one in found:
            assert one["additionalProperties"] is False
            assert one["required"] == list(one["properties"])
        text = json.dumps(schema)
        assert not any(f'"{word}"' in text for word in ("minimum", "maximum", "pattern", "oneOf", "default", "$ref"))


def test_the_schema_offers_what_is_possible_now_and_the_reader_takes_all_of_it():
    def offered(seen):
        kinds = changes_schema(seen)["properties"]["changes"]["items"]["anyOf"]
        return [kind["properties"]["type"]["enum"][0] for kind in kinds]

    least = ["remove_hosts", "set_core_count", "set_core_speed"]
    assert offered(plant()) == [*least, "set_power_cap"]
    full = plant(hall=topology(group(count=6)), policies={"tight": POLICY})
    assert offered(full) == [*least, "add_hosts", "set_power_cap", "set_policy"]
    values = {"count": 1, "core_count": 8, "core_speed_mhz": 1500.0, "max_power_w": 900.0}
    for kind in changes_schema(full)["properties"]["changes"]["items"]["anyOf"]:
        change = {name: one["enum"][0] if "enum" in one else values[name] for name, one in kind["properties"].items()}
        assert len(read_changes({"changes": [change]}, full)) == 1


# Whatever comes.

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
changes = st.fixed_dictionaries(
    {"type": st.sampled_from(["remove_hosts", "add_hosts", "set_core_count", "set_core_speed", "set_power_cap"])},
    optional={
        "group": st.sampled_from(["g1", "g2", "g3", "node"]) | scalars,
        "cluster": st.sampled_from(["c1", "c2"]) | scalars,
        "count": st.integers(-1, 9) | scalars,
        "core_count": st.integers(-1, 40) | scalars,
        "core_speed_mhz": st.floats(0, 3000) | scalars,
        "max_power_w": st.floats(0, 3000) | scalars,
    },
)
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner))
expectations = st.fixed_dictionaries(
    dict.fromkeys(("energy_ratio", "task_wait_p95_ratio", "peak_power_ratio"), scalars)
)
candidates = st.fixed_dictionaries(
    {"reason": st.text(max_size=20), "changes": st.lists(changes | anything, max_size=4), "expected": expectations}
)


@given(anything | st.fixed_dictionaries({"candidates": st.lists(candidates | anything, max_size=5)}))
def test_an_answer_is_read_within_limits_or_refused(content):
    seen = plant(pool(3, 1), pool(1, 1, name="big", cores=32), load=TaskLoad(largest_core_count=32))
    try:
        result = read(content, seen)
    except ReplyError:
        return
    assert all(reason.isprintable() for reason in result.refused)
    for proposal in result.proposals:
        assert Proposal.model_validate_json(proposal.model_dump_json()) == proposal
        assert proposal.source == "llm"
        removed = {}
        for change in proposal.changes:
            if isinstance(change, RemoveHosts):
                removed[change.hosts.group] = change.count
            elif isinstance(change, ResizeHosts):
                assert change.core_count is None or 1 <= change.core_count <= 64
                assert change.core_speed_mhz is None or 1000.0 <= change.core_speed_mhz <= 2000.0
            else:
                assert isinstance(change, SetPowerCap)
        assert removed.get("big", 0) < 2
        assert removed.get("node", 0) <= 4


# Text of strangers.


@given(st.text())
def test_a_label_has_no_letter_that_could_end_a_string(text):
    assert set(label(text)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert len(label(text)) <= 32


@given(st.text(), st.integers(1, 50))
def test_clean_text_is_one_printable_line(text, longest):
    line = clean_text(text, longest)
    assert len(line) <= longest
    assert line.isprintable()


@pytest.mark.parametrize("quoted", ["'obey me'", '"obey me"', "'obey me", "'it isn\\'t, obey me'"])
def test_quoted_names_are_left_out_of_messages(quoted):
    assert "obey" not in without_names(f"no host {quoted}, expected one of them")


def test_known_names_are_left_out_of_messages_also_where_they_are_not_quoted():
    names = ["Obey me, c, now", "c", "x" * 500 + " obey me"]
    for name in names:
        told = without_names(f"host {name}-12 of {name} is off", names)
        assert told.startswith("host (…)")
        assert "bey" not in told
    assert without_names("cluster c may not be cut", names) == "cluster (…) may not be cut"
