"""Streams through a real Kafka broker: in order, shared, resumed, and whole whatever happens to the broker."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from opendt.model.errors import InputError, TransportError
from opendt.telemetry.kafka import KafkaSink, KafkaSource, ensure_topics
from opendt.telemetry.source import Partition, Record
from scripts.kafka import SASL_PASSWORD, SASL_USER
from tests.parts import require_part

DEADLINE_S = 30.0  # what takes longer has failed
SOON = {"session.timeout.ms": "2000", "heartbeat.interval.ms": "300", "topic.metadata.refresh.interval.ms": "500"}


class Reader:
    """A source with what it was told; subscribed to one topic."""

    def __init__(self, bootstrap, group, topic, *, begin=None, settings=None):
        self.told = []
        self.gaps = []
        self.records = []
        self.assigned = set()
        self.revoked = []
        self.begin = {} if begin is None else begin  # as a ledger: where to go on
        self.source = KafkaSource(
            bootstrap,
            group,
            settings={**SOON, **(settings or {})},
            on_error=self.told.append,
            on_gap=lambda *gap: self.gaps.append(gap),
        )
        self.source.subscribe([topic], on_assigned=self.on_assigned, on_revoked=self.on_revoked)

    def on_assigned(self, partitions):
        self.assigned.update(partitions)
        return {partition: self.begin[partition] for partition in partitions if partition in self.begin}

    def on_revoked(self, partitions):
        self.assigned.difference_update(partitions)
        self.revoked += partitions

    def poll(self, timeout_s=0.1, **options):
        records = self.source.poll(timeout_s=timeout_s, **options)
        self.keep(records)
        return records

    def keep(self, records):
        self.records += records
        self.begin.update({Partition(record.topic, record.partition): record.offset + 1 for record in records})

    @property
    def values(self):
        return [record.value for record in self.records]


@pytest.fixture
def reader(kafka_broker):
    """Makes readers of the shared broker, and closes them."""
    readers = []

    def make(*arguments, bootstrap=kafka_broker.bootstrap, **options):
        readers.append(Reader(bootstrap, *arguments, **options))
        return readers[-1]

    yield make
    for each in readers:
        each.source.close()


@pytest.fixture
def topic(kafka_broker, fresh_name):
    """Makes a topic and returns its name."""

    def make(partitions=1, bootstrap=kafka_broker.bootstrap):
        name = fresh_name("topic")
        assert ensure_topics(bootstrap, [name], partitions=partitions) == [name]
        return name

    return make


@pytest.fixture
def sink(kafka_broker):
    made = KafkaSink(kafka_broker.bootstrap)
    yield made
    made.close()


def until(condition, *readers):
    """Poll the readers until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        for each in readers:
            each.poll()
        if time.monotonic() > deadline:
            pytest.fail(f"not within {DEADLINE_S:g} s; told: {[each.told for each in readers]}")


def numbers(start, stop):
    return [b"%d" % number for number in range(start, stop)]


def send(sink, topic, values, keys=("datacenter",)):
    for value, key in zip(values, itertools.cycle(keys), strict=False):
        sink.send(topic, value, key=key)
    sink.flush()


def test_a_record_arrives_as_it_was_sent(reader, sink, topic, fresh_name):
    name = topic()
    now_ms = time.time_ns() // 1_000_000  # retention would remove what is old
    sink.send(name, b'{"power_draw": 1.5}', key="north", timestamp_ms=now_ms)
    sink.send(name, b"", key="north", timestamp_ms=now_ms - 1)
    sink.send(name, b"x" * 3_000_000, key="", timestamp_ms=now_ms - 2)
    sink.flush()
    one = reader(fresh_name("group"), name)
    until(lambda: len(one.records) == 3, one)
    assert one.records == [
        Record(name, 0, 0, "north", now_ms, b'{"power_draw": 1.5}'),
        Record(name, 0, 1, "north", now_ms - 1, b""),
        Record(name, 0, 2, "", now_ms - 2, b"x" * 3_000_000),
    ]
    assert isinstance(one.records[0], Record)


def test_a_key_stays_in_its_partition_and_in_order(reader, sink, topic, fresh_name):
    name = topic(partitions=4)
    keys = [f"dc-{number}" for number in range(16)]
    send(sink, name, numbers(0, 1600), keys)
    one = reader(fresh_name("group"), name)
    until(lambda: len(one.records) == 1600, one)
    assert len({record.partition for record in one.records}) == 4
    for index, key in enumerate(keys):
        mine = [record for record in one.records if record.key == key]
        assert len({record.partition for record in mine}) == 1
        assert [int(record.value) for record in mine] == list(range(index, 1600, 16))


def test_the_partition_of_a_key_is_the_one_javas_producers_choose(reader, sink, topic, fresh_name):
    # murmur2("21") = -973932308 in Kafka's own tests; positive, modulo 7.
    name = topic(partitions=7)
    send(sink, name, [b"1"], ["21"])
    one = reader(fresh_name("group"), name)
    until(lambda: one.records, one)
    assert one.records[0].partition == (-973932308 & 0x7FFFFFFF) % 7


def test_two_readers_of_a_group_share_and_take_over(reader, sink, topic, fresh_name):
    name, group = topic(partitions=4), fresh_name("group")
    everything = {Partition(name, number) for number in range(4)}
    one = reader(group, name)
    until(lambda: one.assigned == everything, one)
    two = reader(group, name)
    until(lambda: len(two.assigned) == 2, one, two)
    assert one.assigned | two.assigned == everything
    assert one.assigned.isdisjoint(two.assigned)
    # Cooperative: what moved was given up, what stayed was never taken away.
    assert sorted(one.revoked) == sorted(two.assigned)
    send(sink, name, numbers(0, 400), [f"dc-{number}" for number in range(40)])
    until(lambda: len(one.records) + len(two.records) == 400, one, two)
    assert sorted(map(int, one.values + two.values)) == list(range(400))
    assert {Partition(record.topic, record.partition) for record in one.records} <= one.assigned
    two.source.close()
    until(lambda: one.assigned == everything, one)
    assert len(two.revoked) == 0


def test_members_that_come_and_go_amid_a_backlog_read_each_record_once(reader, sink, topic, fresh_name):
    name, group, ledger = topic(partitions=4), fresh_name("group"), {}
    send(sink, name, numbers(0, 40_000), [f"dc-{number}" for number in range(40)])
    one = reader(group, name, begin=ledger)
    until(lambda: one.records, one)
    values = []
    for _ in range(3):
        guest = reader(group, name, begin=ledger)
        deadline = time.monotonic() + DEADLINE_S
        while not guest.records and time.monotonic() < deadline:
            one.poll(max_records=100)
            guest.poll(max_records=100)
        guest.source.close()
        assert guest.records
        values += guest.values
    until(lambda: len(one.records) + len(values) >= 40_000, one)
    assert sorted(map(int, one.values + values)) == list(range(40_000))


MEMBER = """
import sys
from opendt.telemetry.kafka import KafkaSource
bootstrap, group, topic = sys.argv[1:]
source = KafkaSource(bootstrap, group, settings={"session.timeout.ms": "2000", "heartbeat.interval.ms": "300"})
def assigned(partitions):
    print(len(partitions), flush=True)
    return {}
source.subscribe([topic], on_assigned=assigned, on_revoked=lambda partitions: None)
while True:
    source.poll(timeout_s=0.5)
"""


def test_partitions_of_a_killed_member_move(reader, kafka_broker, topic, fresh_name):
    name, group = topic(partitions=2), fresh_name("group")
    one = reader(group, name)
    until(lambda: len(one.assigned) == 2, one)
    member = subprocess.Popen(
        [sys.executable, "-c", MEMBER, kafka_broker.bootstrap, group, name], stdout=subprocess.PIPE
    )
    try:
        until(lambda: len(one.assigned) == 1, one)
        assert member.stdout.readline() == b"1\n"
    finally:
        member.kill()
        member.communicate()
    until(lambda: len(one.assigned) == 2, one)


def test_reading_begins_at_the_offsets_given(reader, sink, topic, fresh_name):
    name = topic(partitions=2)
    send(sink, name, numbers(0, 100), [f"dc-{number}" for number in range(10)])
    begin = {Partition(name, 0): 7}
    one = reader(fresh_name("group"), name, begin=begin)
    until(lambda: all(one.source.is_at_end(Partition(name, number)) for number in range(2)), one)
    firsts = {number: min(r.offset for r in one.records if r.partition == number) for number in range(2)}
    assert firsts == {0: 7, 1: 0}
    assert len(one.records) == 93


def test_committed_offsets_are_for_the_brokers_tools_only(reader, sink, topic, fresh_name):
    name, group = topic(), fresh_name("group")
    send(sink, name, numbers(0, 10))
    one = reader(group, name)
    until(lambda: len(one.records) == 10, one)
    one.source.commit({Partition(name, 0): 6})
    one.source.close()
    two = reader(group, name)
    until(lambda: len(two.records) == 10, two)
    [place] = two.source._consumer.committed([TopicPartition(name, 0)], timeout=10)
    assert place.offset == 6


def test_pause_and_resume_lose_and_repeat_nothing(reader, sink, topic, fresh_name):
    name = topic(partitions=2)
    send(sink, name, numbers(0, 40_000), [f"dc-{number}" for number in range(10)])
    one = reader(fresh_name("group"), name)
    first, second = Partition(name, 0), Partition(name, 1)
    until(lambda: one.records, one)
    for turn in range(8):
        paused, other = (first, second) if turn % 2 else (second, first)
        one.source.pause([paused])
        for _ in range(3):
            assert {record.partition for record in one.poll()} <= {other.number}
            one.poll(max_records=100)
        one.source.resume([paused])
        one.poll(max_records=500)
    until(lambda: len(one.records) >= 40_000, one)
    for partition in (0, 1):
        offsets = [record.offset for record in one.records if record.partition == partition]
        assert offsets == list(range(len(offsets)))
    assert len(one.records) == 40_000


def test_the_end_is_where_nothing_more_is_now(reader, sink, topic, fresh_name):
    name = topic(partitions=2)
    full, empty = Partition(name, 0), Partition(name, 1)
    key = next(f"dc-{n}" for n in range(99) if goes_to(n, 2) == 0)
    send(sink, name, numbers(0, 10), [key])
    one = reader(fresh_name("group"), name)
    assert not one.source.is_at_end(full)
    until(lambda: one.source.is_at_end(full) and one.source.is_at_end(empty), one)
    assert len(one.records) == 10
    send(sink, name, numbers(10, 20), [key])
    assert not one.source.is_at_end(full)  # although nothing of it was fetched yet
    assert one.source.is_at_end(empty)
    until(lambda: one.source.is_at_end(full), one)
    assert one.values == numbers(0, 20)
    one.source.pause([full])
    send(sink, name, numbers(20, 30), [key])
    one.poll()
    assert not one.source.is_at_end(full)


def goes_to(number, partitions):
    """Partition of the key dc-number: murmur2, as Kafka's DefaultPartitioner computes it."""
    data = f"dc-{number}".encode()
    mask, mixer = 0xFFFFFFFF, 0x5BD1E995
    state = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * mixer & mask
        word = (word ^ word >> 24) * mixer & mask
        state = state * mixer & mask ^ word
    if data[whole:]:
        state = (state ^ int.from_bytes(data[whole:], "little")) * mixer & mask
    state = (state ^ state >> 13) * mixer & mask
    return ((state ^ state >> 15) & 0x7FFFFFFF) % partitions


def test_topologies_are_compacted_and_streams_are_not(empty_kafka_broker):
    bootstrap = empty_kafka_broker.bootstrap
    names = ["dc.topology", "sim.topology", "dc.power"]
    assert sorted(ensure_topics(bootstrap, names)) == sorted(names)
    assert ensure_topics(bootstrap, names) == []
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    answers = admin.describe_configs(resources)
    policies = {
        resource.name: answer.result(timeout=10)["cleanup.policy"].value for resource, answer in answers.items()
    }
    assert policies == {"dc.topology": "compact", "sim.topology": "compact", "dc.power": "delete"}


def test_a_topic_that_is_made_later_is_followed(reader, sink, fresh_name):
    name = fresh_name("later")
    one = reader(fresh_name("group"), name)
    one.poll()
    sink.send(name, b"1", key="datacenter")
    sink.flush()
    until(lambda: one.values == [b"1"], one)


def test_records_that_retention_took_are_told_and_the_stream_goes_on(reader, sink, kafka_broker, topic, fresh_name):
    name = topic()
    send(sink, name, numbers(0, 100))
    admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
    for deleted in admin.delete_records([TopicPartition(name, 0, 40)]).values():
        deleted.result(timeout=10)
    one = reader(fresh_name("group"), name, begin={Partition(name, 0): 10})
    until(lambda: len(one.records) == 60, one)
    assert one.values == numbers(40, 100)
    assert one.gaps == [(Partition(name, 0), 10, 40)]


def test_a_topic_that_ends_before_where_we_were_is_an_error(reader, sink, topic, fresh_name):
    name = topic()
    send(sink, name, numbers(0, 10))
    one = reader(fresh_name("group"), name, begin={Partition(name, 0): 500})
    with pytest.raises(TransportError, match=f"{name}, partition 0: found its end at offset 10, expected 500 or more"):
        until(lambda: False, one)


def test_a_broker_that_dies_mid_stream_costs_no_record_and_doubles_none(own_kafka_broker):
    bootstrap, name = own_kafka_broker.bootstrap, "stream"
    sink_told = []
    sink = KafkaSink(bootstrap, on_error=sink_told.append)
    send(sink, name, numbers(0, 5_000))
    one = Reader(bootstrap, "group", name)
    until(lambda: len(one.records) == 5_000, one)
    for value in numbers(5_000, 50_000):
        sink.send(name, value, key="datacenter")
    own_kafka_broker.kill()  # with batches on their way
    for value in numbers(50_000, 60_000):
        sink.send(name, value, key="datacenter")
    until(lambda: one.told, one)
    assert not one.source.is_at_end(Partition(name, 0))
    own_kafka_broker.start()
    sink.flush()
    until(lambda: len(one.records) >= 60_000, one)
    until(lambda: one.source.is_at_end(Partition(name, 0)), one)
    assert one.values == numbers(0, 60_000)
    until(lambda: sink.flush() or len(sink_told) >= 2, one)
    away = f"Kafka at {bootstrap} cannot be reached: "
    for told in (sink_told, [words for words in one.told if "did not hear of this process" not in words]):
        assert [words.split(": ")[0] + ": " if words.startswith(away) else words for words in told] == [
            away,
            f"Kafka at {bootstrap} can be reached again",
        ]
    # Away for good: closing ends all the same, although librdkafka would wait for the answer to a commit.
    one.source.commit({Partition(name, 0): 60_000})
    own_kafka_broker.kill()
    one.source.close()
    sink.close()


def test_an_address_where_nobody_listens_is_said(fresh_name):
    source = KafkaSource("127.0.0.1:1", "group", connect_timeout_s=0.5)
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1: no broker answered within 0.5 s: .*Connection refused"):
        source.subscribe(["x"], on_assigned=lambda _: {}, on_revoked=lambda _: None)
    source.close()
    with pytest.raises(TransportError, match="no broker answered"):
        ensure_topics("127.0.0.1:1", ["x"], connect_timeout_s=0.5)
    sink = KafkaSink("127.0.0.1:1", connect_timeout_s=0.5)
    with pytest.raises(TransportError, match="no broker answered"):
        sink.send("x", b"", key="datacenter")
    sink.close()


def test_what_cannot_be_delivered_is_said_at_flush(sink, kafka_broker, fresh_name):
    name = fresh_name("small")
    admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
    small = NewTopic(name, num_partitions=1, config={"max.message.bytes": "1000"})
    admin.create_topics([small])[name].result(timeout=10)
    with pytest.raises(TransportError, match=f"did not take 3 messages: topic {name}: .*too large"):
        send(sink, name, [random.Random(seed).randbytes(5000) for seed in range(3)])
    send(sink, name, [b"1"])  # said once; the sink is as good as before


@pytest.fixture
def login(kafka_broker):
    """Settings for the listener of the broker that wants TLS and a login."""
    require_part("openssl")
    return {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(kafka_broker.certificate),
        "sasl.mechanism": "PLAIN",
        "sasl.username": SASL_USER,
        "sasl.password": SASL_PASSWORD,
    }


def test_tls_and_login_reach_the_broker(reader, kafka_broker, login, fresh_name):
    bootstrap, name = kafka_broker.secure_bootstrap, fresh_name("topic")
    ensure_topics(bootstrap, [name], settings=login)
    sink = KafkaSink(bootstrap, settings=login)
    send(sink, name, [b"1"])
    sink.close()
    one = reader(fresh_name("group"), name, bootstrap=bootstrap, settings=login)
    until(lambda: one.values == [b"1"] and one.source.is_at_end(Partition(name, 0)), one)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sasl.password": "geheim"}, "Authentication failed: Invalid username or password"),
        ({"ssl.ca.location": None}, "certificate verify failed"),
        ({"security.protocol": "SASL_PLAINTEXT"}, "no broker answered within 1 s: .*security.protocol"),
    ],
)
def test_a_broker_that_refuses_us_says_why_without_the_password(kafka_broker, login, changed, message):
    settings = {name: value for name, value in (login | changed).items() if value is not None}
    source = KafkaSource(kafka_broker.secure_bootstrap, "group", settings=settings, connect_timeout_s=1.0)
    with pytest.raises(TransportError, match=message) as caught:
        source.subscribe(["x"], on_assigned=lambda _: {}, on_revoked=lambda _: None)
    assert settings["sasl.password"] not in str(caught.value)
    source.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sasl.pasword": "geheim"}, 'No such configuration property: "sasl.pasword"'),
        ({"security.protocol": "TSL"}, 'Invalid value "TSL" for configuration property "security.protocol"'),
        ({"ssl.key.pem": "geheim", "security.protocol": "SSL"}, "ssl.key.pem"),
        ({"enable.auto.commit": "true"}, "Kafka setting enable.auto.commit: found true, expected False, which OpenDT"),
    ],
)
@pytest.mark.parametrize("client", [lambda settings: KafkaSource("x", "y", settings=settings), None])
def test_a_setting_that_is_wrong_is_named_and_no_secret_shown(client, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        (client or (lambda settings: KafkaSink("x", settings=settings)))(settings)
    assert "geheim" not in str(caught.value)


TAKES_LONG_TO_BEGIN = """
import sys, time
from opendt.telemetry.kafka import KafkaSource

bootstrap, group, workload, power = sys.argv[1:]
source = KafkaSource(bootstrap, group, companions={workload: (power,)})

def on_assigned(partitions):
    time.sleep(2.5)  # as a twin does that is read from a slow disk: meanwhile the client's statistics pile up
    return {}

source.subscribe([workload, power], on_assigned=on_assigned, on_revoked=lambda _: None)
deadline_s, records = time.monotonic() + 30, []
while len(records) < 2:
    assert time.monotonic() < deadline_s, "no records"
    records += source.poll(timeout_s=0.2)
source.close()
"""


def test_a_member_that_takes_long_to_begin_is_not_aborted_by_its_client(kafka_broker, fresh_name):
    topics = [fresh_name("workload"), fresh_name("power")]
    sink = KafkaSink(kafka_broker.bootstrap)
    for topic in topics:
        sink.send(topic, b"{}", key="a")
    sink.close()
    # In a process of its own, which an abort would end.
    words = [sys.executable, "-c", TAKES_LONG_TO_BEGIN, kafka_broker.bootstrap, fresh_name("group"), *topics]
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S + 10, check=False)
    assert done.returncode == 0, done.stderr
