"""Replay and dead letters through a real broker."""

from __future__ import annotations

import time

import pyarrow as pa

from opendt.telemetry.deadletter import DeadLetter, encode_dead_letter
from opendt.telemetry.kafka import KafkaSink, KafkaSource
from opendt.telemetry.source import Partition
from opendt.telemetry.windows import WindowAssembler
from tests.command import opendt
from tests.small import fragments, tasks, write_workload

ORIGIN = 1_665_093_600_000


def test_what_a_replay_sends_to_kafka_closes_windows(empty_kafka_broker, tmp_path):
    bootstrap = empty_kafka_broker.bootstrap
    times = pa.array([ORIGIN, ORIGIN + 1_000, ORIGIN + 400_000], pa.int64())
    folder = write_workload(tmp_path / "week", tasks(submission_time=times), fragments())
    sent = opendt("replay", folder, "--to", "kafka", "--bootstrap-servers", bootstrap, cwd=tmp_path)
    assert (sent.returncode, sent.stdout) == (0, "")
    source = KafkaSource(bootstrap, "windows")
    source.subscribe(["dc.workload"], on_assigned=lambda _: {}, on_revoked=lambda _: None)
    assembler = WindowAssembler("datacenter", window_ms=300_000, lateness_ms=30_000, power_patience_ms=0)
    assembler.note_end(Partition("dc.power", 0))
    windows, deadline = [], time.monotonic() + 30
    while len(windows) < 2 and time.monotonic() < deadline:
        assembler.add(source.poll(timeout_s=0.1))
        while (window := assembler.next()) is not None:
            windows.append(window)
    source.close()
    assert [[task.id for task in window.tasks] for window in windows] == [[1, 2], [3]]
    assert [len(window.fragments) for window in windows] == [3, 1]
    assert assembler.take_dead() == []


def test_dead_letters_are_listed_and_sent_again_through_kafka(empty_kafka_broker, tmp_path):
    bootstrap = empty_kafka_broker.bootstrap
    letter = DeadLetter(ORIGIN, "east", "dc.power", 0, 5, "conflict: another value", b'{"timestamp":1}', "east")
    sink = KafkaSink(bootstrap)
    sink.send("dc.deadletter", encode_dead_letter(letter), key="east")
    sink.close()
    place = ("--from", "kafka", "--bootstrap-servers", bootstrap)
    listed = opendt("deadletter", "list", *place, cwd=tmp_path)
    assert listed.stdout == "2022-10-06T22:00:00Z  east  dc.power/0/5  conflict: another value\n"
    again = opendt("deadletter", "retry", *place, cwd=tmp_path)
    assert again.stderr == f"sent 1 message again to kafka at {bootstrap}\n"
    assert opendt("deadletter", "list", *place, cwd=tmp_path).stdout == ""
