"""Dead letters come back as they were, are sent again once, and stay to be looked at."""

from __future__ import annotations

import json

import pytest

from opendt.model.errors import MessageError
from opendt.telemetry.deadletter import DeadLetter, decode_dead_letter, encode_dead_letter, read_letters, retry
from opendt.telemetry.log import LogSink
from opendt.telemetry.messages import DEAD_LETTERS
from tests.command import opendt
from tests.unit.telemetry.streams import Memory

LATE = DeadLetter(1_665_093_600_000, "east", "dc.power", 2, 17, "late: by an hour", b'{"timestamp":1}', "east")
BROKEN = DeadLetter(1_665_093_900_000, "west", "dc.workload", 0, 3, "broken: no JSON", b"\xff\x00", "west")


def filled(*letters):
    memory = Memory()
    for letter in letters:
        memory.send(DEAD_LETTERS, encode_dead_letter(letter), key=letter.datacenter)
    return memory


def test_a_letter_comes_back_as_it_was():
    assert [decode_dead_letter(encode_dead_letter(one)) for one in (LATE, BROKEN)] == [LATE, BROKEN]
    with pytest.raises(MessageError, match=r"dc\.deadletter: value"):
        decode_dead_letter(encode_dead_letter(LATE).replace(b'"value":"', b'"value":"!'))


def test_letters_are_sent_again_once_and_stay():
    memory = filled(LATE, BROKEN)
    assert [one.letter for one in read_letters(memory)] == [LATE, BROKEN]
    assert retry(read_letters(memory)[:1], memory) == 1
    assert [(r.key, r.value) for r in memory.topics["dc.power"]] == [("east", LATE.value)]
    assert [one.is_retried for one in read_letters(memory)] == [True, False]
    assert retry(read_letters(memory), memory) == 1
    assert retry(read_letters(memory), memory) == 0
    assert [r.value for r in memory.topics["dc.workload"]] == [BROKEN.value]
    assert len(memory.topics["dc.power"]) == 1


def test_something_else_among_the_letters_is_shown_and_not_sent():
    memory = filled(LATE)
    memory.send(DEAD_LETTERS, b"nonsense", key="x")
    letters = read_letters(memory)
    assert letters[1].letter.reason.startswith("broken: dc.deadletter: found 8 bytes that are no JSON")
    assert retry(letters, memory) == 1


def test_no_topic_means_no_letters():
    times = iter(range(100))
    assert read_letters(Memory(), patience_s=3, clock=lambda: next(times)) == []


def test_the_command_lists_and_retries(tmp_path):
    sink = LogSink(tmp_path / "log")
    for letter in (LATE, BROKEN):
        sink.send(DEAD_LETTERS, encode_dead_letter(letter), key=letter.datacenter)
    sink.close()
    place = ("--log", tmp_path / "log")
    listed = opendt("deadletter", "list", *place, cwd=tmp_path)
    assert listed.stdout.splitlines() == [
        "2022-10-06T22:00:00Z  east  dc.power/2/17  late: by an hour",
        "2022-10-06T22:05:00Z  west  dc.workload/0/3  broken: no JSON",
    ]
    again = opendt("deadletter", "retry", *place, "--reason", "late", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, f"sent 1 message again to the log in {tmp_path / 'log'}\n")
    left = opendt("deadletter", "list", *place, "--json", cwd=tmp_path)
    assert [json.loads(line)["topic"] for line in left.stdout.splitlines()] == ["dc.workload"]
    every = opendt("deadletter", "list", *place, "--all", cwd=tmp_path)
    assert every.stdout.count("(sent again)") == 1
