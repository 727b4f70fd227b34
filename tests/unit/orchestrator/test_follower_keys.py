"""Records reach their datacenter in the order of their partition, whatever their keys are."""

from __future__ import annotations

import pytest

from opendt.orchestrator.follower import Follower
from opendt.orchestrator.settings_model import DatacenterSettings, Settings
from opendt.telemetry.messages import FRAGMENTS, POWER, TASKS, WORKLOAD
from opendt.telemetry.source import Record


def follower(tmp_path, *datacenters: DatacenterSettings) -> Follower:
    settings = Settings(state_dir=tmp_path, datacenter={one.name: one for one in datacenters})
    return Follower(settings, pytest.fail, tuple(settings.datacenter), pytest.fail, pytest.fail)


def record(topic: str, offset: int, key: str) -> Record:
    return Record(topic, 0, offset, key, 0, b"")


def test_the_older_pair_keys_its_messages_by_task_and_stays_in_order(tmp_path) -> None:
    keys = ['{"id":1}', '{"id":2}', '{"id":1}', '{"id":3}', '{"id":2}']
    records = [record(topic, offset, key) for topic in (TASKS, FRAGMENTS) for offset, key in enumerate(keys)]
    assert follower(tmp_path, DatacenterSettings(name="west"))._by_datacenter(records) == {"west": records}


def test_keys_are_names_of_datacenters(tmp_path) -> None:
    records = [record(WORKLOAD, 0, "west"), record(WORKLOAD, 1, "east"), record(POWER, 0, "west")]
    found = follower(tmp_path, DatacenterSettings(name="west"), DatacenterSettings(name="east"))._by_datacenter(records)
    assert found == {"west": [records[0], records[2]], "east": [records[1]]}


def test_other_keys_are_taken_only_where_it_is_said(tmp_path) -> None:
    records = [record(WORKLOAD, 0, "task-1"), record(WORKLOAD, 1, "heartbeat"), record(WORKLOAD, 2, "west")]
    strict = follower(tmp_path, DatacenterSettings(name="west"))._by_datacenter(records)
    assert strict == {"task-1": [records[0]], "heartbeat": [records[1]], "west": [records[2]]}
    lenient = follower(tmp_path, DatacenterSettings(name="west", any_key=True))._by_datacenter(records)
    assert lenient == {"west": records}
