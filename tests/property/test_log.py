"""Whatever is written, torn or interleaved: what is read is the prefix of whole frames, and what goes on goes on behind it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from opendt.telemetry.log import LogDirectory, LogSink
from opendt.telemetry.log_format import Body, decode_frame, encode_body, encode_frame, read_chunk
from tests.unit.telemetry.log_streams import open_sink, open_source, read_all, segment_files

INT64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.sampled_from(["", "datacenter", "Zürich"]) | st.text(max_size=5).filter(lambda s: s.isprintable())
MESSAGES = st.lists(st.tuples(st.binary(max_size=60), KEYS, INT64), max_size=8)


def contents(records):
    return [(record.value, record.key, record.timestamp_ms) for record in records]


def send_all(sink, messages, topic="t"):
    for value, key, timestamp_ms in messages:
        sink.send(topic, value, key=key, timestamp_ms=timestamp_ms)


@given(messages=MESSAGES.filter(bool), base_offset=st.integers(0, 2**63))
def test_a_frame_holds_what_was_put_into_it(messages, base_offset):
    values, keys, timestamps_ms = zip(*messages, strict=True)
    names = list(dict.fromkeys(keys))
    body = encode_body(values, timestamps_ms, [name.encode() for name in names], [names.index(key) for key in keys])
    with tempfile.TemporaryFile() as file:
        file.write(encode_frame(body, base_offset))
        file.flush()
        chunk = read_chunk(file.fileno(), Path("segment"), 0, base_offset)
    (frame,) = chunk.frames
    records = decode_frame(chunk.data, frame, "t")
    assert contents(records) == messages
    assert [record.offset for record in records] == list(range(base_offset, base_offset + len(messages)))
    assert frame.newest_timestamp_ms == max(timestamps_ms)


STEPS = st.lists(
    st.tuples(st.just("append"), MESSAGES)
    | st.tuples(st.just("reopen"), st.none())
    | st.tuples(st.just("tear"), st.integers(0, 400))
    | st.tuples(st.just("junk"), st.binary(min_size=1, max_size=200)),
    max_size=25,
)


@given(steps=STEPS, segment_bytes=st.integers(1, 1_500), chunk_bytes=st.integers(40, 2_000))
def test_what_is_read_is_the_prefix_of_whole_frames(steps, segment_bytes, chunk_bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        directory = LogDirectory(path, segment_bytes=segment_bytes)
        sink = open_sink(directory)
        frames = []  # (segment, where it ends, its messages), of what must still be there
        for step, given_ in steps:
            if step == "append":
                send_all(sink, given_)
                sink.flush()
                if given_:
                    newest = segment_files(path)[-1]
                    frames.append((newest, newest.stat().st_size, given_))
            else:
                sink.close()
                if (step in {"tear", "junk"}) and frames:
                    newest = segment_files(path)[-1]
                    size = max(newest.stat().st_size - given_, 0) if step == "tear" else newest.stat().st_size
                    os.truncate(newest, size)
                    if step == "junk":
                        with newest.open("ab") as file:
                            file.write(given_)
                    frames = [(segment, end, sent) for segment, end, sent in frames if segment != newest or end <= size]
                sink = open_sink(directory)
            records = read_all(path, chunk_bytes=chunk_bytes)
            assert contents(records) == [message for _, _, sent in frames for message in sent]
            assert [record.offset for record in records] == list(range(len(records)))
        sink.close()


@given(
    turns=st.lists(st.tuples(st.integers(0, 2), MESSAGES, st.booleans()), max_size=25),
    segment_bytes=st.integers(1, 1_500),
    write_bytes=st.integers(1, 300),
    limit=st.integers(1, 20),
)
def test_writers_take_turns_and_a_follower_sees_each_in_its_order(turns, segment_bytes, write_bytes, limit):
    with tempfile.TemporaryDirectory() as folder:
        directory = LogDirectory(Path(folder), segment_bytes=segment_bytes)
        sinks = [LogSink(directory, write_bytes=write_bytes, is_durable=False) for _ in range(3)]
        sent = [[], [], []]
        source, _ = open_source(folder)
        followed = []
        for writer, messages, is_flushed in turns:
            marked = [(bytes([writer]) + value, key, timestamp_ms) for value, key, timestamp_ms in messages]
            send_all(sinks[writer], marked)
            sent[writer] += marked
            if is_flushed:
                sinks[writer].flush()
            followed += source.poll(limit)
        for sink in sinks:
            sink.close()
        while batch := source.poll(limit):
            followed += batch
        source.close()
        assert [record.offset for record in followed] == list(range(sum(map(len, sent))))
        for writer, messages in enumerate(sent):
            assert [message for message in contents(followed) if message[0][0] == writer] == messages
        assert read_all(folder) == followed


@given(
    keys=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    segment_bytes=st.integers(100, 800),
    readers=st.lists(st.integers(0, 60), max_size=4),
)
def test_compaction_keeps_the_last_record_of_each_key_for_readers_wherever_they_are(keys, segment_bytes, readers):
    with tempfile.TemporaryDirectory() as folder:
        directory = LogDirectory(Path(folder), segment_bytes=segment_bytes, compacted=frozenset({"t"}))
        sinks = [open_sink(directory), open_sink(directory)]
        sources = {start: open_source(folder, starts={("t", 0): 0}, group=str(start))[0] for start in readers}
        seen = {start: [] for start in sources}
        for offset, key in enumerate(keys):
            sink = sinks[key % 2]
            send_all(sink, [(b"%d" % offset, f"key {key}", 0)])
            sink.flush()
            if offset in sources:
                seen[offset] += sources[offset].poll(3)
        for sink in sinks:
            sink.close()
        expected = {f"key {key}": offset for offset, key in enumerate(keys)}
        for start, source in sources.items():
            while batch := source.poll():
                seen[start] += batch
            source.close()
        for records in [read_all(folder), *seen.values()]:
            offsets = [record.offset for record in records]
            assert offsets == sorted(set(offsets))
            assert all(record.value == b"%d" % record.offset for record in records)
            assert {record.key: record.offset for record in records} == expected


@given(values=st.lists(st.binary(max_size=30), min_size=2, max_size=6), data=st.data())
def test_a_damaged_byte_is_never_passed_over(values, data):
    """Damage anywhere but in the last frame is refused; what is delivered before is what was written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{0:020d}.log"
        frames = [encode_frame(encode_body([v], [0], [b"k"], [0]), n) for n, v in enumerate(values)]
        frames.append(encode_frame(Body(b"", 0, 0, 0, 0), len(values), 2))
        content = bytearray(b"".join(frames))
        at = data.draw(st.integers(0, len(content) - len(frames[-1]) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        topic = Path(folder) / "topics" / "t"
        topic.mkdir(parents=True)
        (topic / path.name).write_bytes(content)
        source, _ = open_source(folder)
        delivered = []
        error = None
        for _ in range(len(values) + 2):
            try:
                delivered += source.poll(1)
            except Exception as caught:  # noqa: BLE001, whatever it is, its type is checked below
                error = caught
                break
        source.close()
        whole = sum(sum(map(len, frames[: n + 1])) <= at for n in range(len(values)))
        assert type(error).__name__ == "TransportError"
        assert [record.value for record in delivered] == values[:whole]
