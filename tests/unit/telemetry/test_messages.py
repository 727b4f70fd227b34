"""The border: what is taken, what is refused and in which words, and that encoding is the inverse of decoding."""

from __future__ import annotations

import json

import numpy as np
import pytest

from opendt.model.errors import MessageError
from opendt.telemetry import messages
from opendt.telemetry.message_columns import FragmentRows
from opendt.telemetry.message_models import PowerMessage, ResultMessage, SettingMessage, TopologyMessage
from opendt.telemetry.messages import Fragments, Heartbeat, Parts, Task, TaskArrival, decode

ROWS = FragmentRows(["a", 7], np.array([3, 0]), np.array([30, 40]), np.array([1.5, 2.0]), None, np.array([False, True]))


def refused(topic, value):
    with pytest.raises(MessageError) as caught:
        decode(topic, value if isinstance(value, bytes) else json.dumps(value).encode())
    return str(caught.value)


def test_a_task_of_an_existing_producer_is_taken_with_all_its_extra_keys():
    fragments = [{"id": i, "task_id": 5, "duration": 30_000, "cpu_count": 2, "cpu_usage": i / 2} for i in range(14_401)]
    body = {"id": 5, "submission_time": "2022-10-06T22:00:00Z", "duration": 9, "cpu_count": 2, "cpu_capacity": 2100.0}
    body |= {"mem_capacity": 128.0, "fragments": fragments}
    value = json.dumps({"message_type": "task", "timestamp": "2022-10-06T22:00:00", "task": body}).encode()
    message = decode("dc.workload", value)
    assert isinstance(message, Task)
    assert (message.timestamp_ms, message.task.submission_ms) == (1_665_093_600_000, 1_665_093_600_000)
    assert message.task.memory_mib == 128
    assert len(message.duration_ms) == 14_401
    assert message.cpu_mhz[-1] == 7_200.0
    assert message.complete


@pytest.mark.parametrize(("fragments", "given", "complete"), [([], None, False), ([], True, True), (None, None, False)])
def test_a_task_without_fragments_is_open_unless_it_says_otherwise(fragments, given, complete):
    body = {"id": 5, "submission_time": 1, "cpu_count": 2, "fragments": fragments or [], "complete": given}
    message = decode("dc.workload", json.dumps({"message_type": "task", "timestamp": 1, "task": body}).encode())
    assert isinstance(message, Task)
    assert message.complete is complete


def test_heartbeats_are_taken_on_every_topic_that_windows_wait_for():
    value = b'{"message_type":"heartbeat","timestamp":5,"task":null}'
    assert [decode(t, value) for t in ("dc.workload", "dc.power", "tasks", "fragments")] == [Heartbeat(5)] * 4


def test_what_is_encoded_is_decoded_to_the_same():
    arrival = TaskArrival("x", 5, -1, 4, 8_000.0, 64, 2, 1.0, 16, 99, ("y", 3))
    one = Task(6, arrival, np.array([3, 4]), np.array([1.0, 2.0]), np.array([0.0, 5.0]), 2, complete=False)
    task = decode("dc.workload", messages.encode_task(one))
    assert isinstance(task, Task)
    assert (task.timestamp_ms, task.task, task.first_fragment, task.complete) == (6, arrival, 2, False)
    assert task.gpu_mhz is not None
    assert [task.duration_ms.tolist(), task.cpu_mhz.tolist(), task.gpu_mhz.tolist()] == [[3, 4], [1.0, 2.0], [0.0, 5.0]]
    older = decode("tasks", messages.encode_older_task(arrival))
    assert isinstance(older, Task)
    assert older.task == arrival
    part = decode("dc.workload", messages.encode_parts(9, ROWS))
    batch = decode("fragments", messages.encode_fragments(ROWS))
    assert isinstance(part, Parts)
    assert isinstance(batch, Fragments)
    for rows in (part.rows, batch.rows):
        assert rows.ids == ROWS.ids
        assert [rows.place.tolist(), rows.duration_ms.tolist(), rows.cpu_mhz.tolist()] == [[3, 0], [30, 40], [1.5, 2.0]]
    assert part.rows.last.tolist() == [False, True]
    assert decode("dc.workload", messages.encode_heartbeat(4)) == Heartbeat(4)
    assert decode("dc.power", messages.encode_power(4, 2.5, 75.0)) == PowerMessage(
        timestamp=4, power_draw=2.5, energy_usage=75.0
    )


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("dc.topology", TopologyMessage(timestamp=1, topology={"clusters": []}, version=3, source="file")),
        ("sim.topology", TopologyMessage(timestamp=1, topology={"clusters": []})),
        ("sys.config", SettingMessage(setting_key="mode", new_value={"a": [1]}, timestamp=1, source="me")),
        (
            "sim.results",
            ResultMessage(
                timestamp=2, datacenter="d", window=0, start=1, end=2, input_hash="", metrics={"energy_j": 1.0}
            ),
        ),
    ],
)
def test_messages_with_a_model_come_back_as_they_were(topic, message):
    assert decode(topic, messages.encode(message)) == message


def test_a_single_fragment_a_list_and_columns_say_the_same():
    one = {"id": 1, "submission_time": 5, "duration": 3, "cpu_usage": 4, "cpu_count": 1}
    columns = {key: [value] for key, value in one.items()}
    found = [decode("fragments", json.dumps(form).encode()) for form in (one, [one], columns)]
    assert {(tuple(f.rows.ids), f.rows.place[0], f.rows.duration_ms[0], f.rows.cpu_mhz[0]) for f in found} == {
        ((1,), 5, 3, 4.0)
    }


PARTS = {"id": [1], "first_fragment": [0], "duration": [1], "cpu_usage": [2], "complete": [True]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cpu_usage": [-2]}, "dc.workload: parts.cpu_usage[0]: found -2.0, expected a finite number >= 0"),
        ({"cpu_usage": ["2"]}, "dc.workload: parts.cpu_usage[0]: found '2', expected a finite number >= 0"),
        ({"cpu_usage": [True]}, "dc.workload: parts.cpu_usage[0]: found True, expected a finite number >= 0"),
        (
            {"duration": [1.5]},
            "dc.workload: parts.duration[0]: found 1.5, expected a whole number from 0 to 4294967295",
        ),
        ({"duration": [10**30]}, "dc.workload: parts.duration[0]: found 1000"),
        (
            {"first_fragment": [0, 1]},
            "dc.workload: parts.first_fragment: found 2 entries, expected 1, as many as parts.id",
        ),
        ({"id": [None]}, "dc.workload: parts.id[0]: found None, expected a whole number or a text"),
        ({"complete": [1]}, "dc.workload: parts.complete[0]: found 1, expected true or false"),
        ({"duration": 1}, "dc.workload: parts.duration: found 1, expected a list with one entry a fragment"),
        ({"colour": [1]}, "dc.workload: parts.colour: found a key of this name, expected only known keys"),
        ({"gpu_usage": [1, 2]}, "dc.workload: parts.gpu_usage: found 2 entries, expected 1"),
    ],
)
def test_columns_that_are_wrong_are_refused_with_the_place(change, words):
    assert words in refused("dc.workload", {"message_type": "parts", "timestamp": 5, "parts": PARTS | change})


@pytest.mark.parametrize(
    ("topic", "value", "words"),
    [
        ("dc.workload", b"{", "dc.workload: found 1 bytes that are no JSON"),
        ("dc.workload", [1], "dc.workload: found [1], expected a JSON object"),
        (
            "dc.workload",
            {"message_type": "job"},
            "dc.workload: message_type: found job, expected task, parts or heartbeat",
        ),
        (
            "dc.workload",
            {"message_type": "task", "timestamp": 1},
            "dc.workload: task: found no such key, expected this key",
        ),
        ("dc.workload", {"message_type": "parts", "timestamp": -1, "parts": PARTS}, "timestamp: found -1, expected ms"),
        ("dc.workload", {"message_type": "parts", "timestamp": 1}, "dc.workload: parts: found no columns"),
        ("dc.power", {"timestamp": 1, "power_draw": "12"}, "dc.power: power_draw: found '12', expected a valid number"),
        ("dc.power", b'{"timestamp":1,"power_draw":NaN}', "no JSON"),
        (
            "dc.power",
            {"timestamp": 10**15, "power_draw": 1},
            "dc.power: timestamp: found 1000000000000000, expected less",
        ),
        ("tasks", {"id": 1.5, "submission_time": 5, "cpu_count": 1}, "tasks: id: found 1.5, expected a valid integer"),
        ("fragments", [{"id": 1}], "fragments: [0].submission_time: found no such key, expected this key"),
        ("fragments", [5], "fragments: [0]: found 5, expected an object"),
        ("sim.results", {"timestamp": 1}, "sim.results: datacenter: found no such key, expected this key"),
        ("elsewhere", {}, "found the topic elsewhere, expected one of dc.workload"),
    ],
)
def test_one_clear_reason_says_topic_place_found_and_expected(topic, value, words):
    assert words in refused(topic, value)


def test_fragments_of_a_task_are_refused_with_the_place():
    body = {
        "id": 5,
        "submission_time": 1,
        "cpu_count": 2,
        "fragments": [{"duration": 1, "cpu_usage": 1}, {"duration": 1}],
    }
    words = refused("dc.workload", {"message_type": "task", "timestamp": 1, "task": body})
    assert words == "dc.workload: task.fragments[1].cpu_usage: found no such key, expected this key"
