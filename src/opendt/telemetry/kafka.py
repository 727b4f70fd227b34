"""Streams through Apache Kafka, by librdkafka.

The ledger says where to begin; what is committed to the broker serves its own tools only. A broker that is away is waited for:
`KafkaSource.poll` returns nothing meanwhile, `KafkaSink.flush` waits for `message.timeout.ms` (300 s unless set otherwise).
"""

from __future__ import annotations

import functools
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from opendt.model.errors import InputError, TransportError
from opendt.telemetry.kafka_hearing import QUIET_LOG, Hearing
from opendt.telemetry.kafka_settings import (
    CONSUMER_DEFAULTS,
    LARGEST_MESSAGE_BYTES,
    OURS,
    PRODUCER_DEFAULTS,
    refuse_ours,
    secrets_of,
)
from opendt.telemetry.messages import COMPACTED
from opendt.telemetry.source import Partition, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from opendt.telemetry.kafka_settings import Settings

__all__ = ["KafkaSink", "KafkaSource", "ensure_topics"]

_LEAVE_S: Final = 5.0
_HOPELESS = {KafkaError._AUTHENTICATION, KafkaError._SSL}  # noqa: SLF001 - librdkafka's own codes are spelled so
_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_record = functools.partial(tuple.__new__, Record)  # three times as fast as Record(...), which checks what we know


class KafkaSource:
    """A member of a consumer group; a `Source`.

    Parameters
    ----------
    bootstrap_servers : str
        ``host:port`` of one broker or several, separated by commas.
    group : str
        Consumer group: its members share the partitions.
    companions : mapping, optional
        Topics that come along with a topic: whoever is given a partition of it reads the partition of the same number of
        each of them too. The group alone would hand topics out one by one, and what belongs together would be torn apart.
    settings : mapping
        Settings of librdkafka, for TLS and login above all.
    on_error : callable, optional
        Told in words, once each, when no broker can be reached any more, when one can again, and of what else goes wrong
        without ending the stream.
    on_gap : callable, optional
        Told, within `poll`, that records are gone (retention) that were still wanted: partition, wanted offset, oldest offset
        there is. The stream goes on at the oldest.
    connect_timeout_s : float
        How long `subscribe` waits for a first broker.

    Raises
    ------
    InputError
        When librdkafka refuses a setting, or a setting is not the user's to choose.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        group: str,
        *,
        companions: Mapping[str, Sequence[str]] | None = None,
        settings: Settings | None = None,
        on_error: Callable[[str], None] | None = None,
        on_gap: Callable[[Partition, int, int], None] | None = None,
        connect_timeout_s: float = 10.0,
    ) -> None:
        self._line = _Line(bootstrap_servers, settings or {}, on_error)
        self._companions = dict(companions or {})
        self._on_gap = on_gap
        self._connect_timeout_s = connect_timeout_s
        self._consumer: Consumer = self._line.client(Consumer, {**CONSUMER_DEFAULTS, "group.id": group})
        self._mine: dict[Partition, int] = {}  # partition -> offset at which reading began
        self._next: dict[tuple[str, int], int] = {}  # partition -> offset after the last record delivered
        self._gone: set[Partition] = set()  # those that were taken from us while records were being collected
        self._closing = False
        self._asker: AdminClient | None = None
        self._last_said = ""

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assigned: Callable[[Collection[Partition]], Mapping[Partition, int]],
        on_revoked: Callable[[Collection[Partition]], None],
    ) -> None:
        """Ask for topics; see `Source.subscribe`.

        Raises
        ------
        TransportError
            When no broker answers in time, or it refuses the login.
        """
        self._line.wait_for_broker(self._consumer, self._connect_timeout_s)

        def assigned(consumer: Consumer, given: list[TopicPartition]) -> None:
            partitions = _partitions(given)
            partitions += self._companions_of(partitions, self._partition_counts() if self._companions else {})
            offsets = on_assigned(partitions) if partitions else {}
            self._begin(consumer, {partition: offsets.get(partition, OFFSET_BEGINNING) for partition in partitions})

        def revoked(consumer: Consumer, taken: list[TopicPartition]) -> None:
            partitions = self._end(taken)
            if partitions and not self._closing:
                on_revoked(partitions)
            consumer.incremental_unassign(_wire(partitions))

        def lost(consumer: Consumer, taken: list[TopicPartition]) -> None:
            partitions = self._end(taken)
            if partitions and not self._closing:
                names = ", ".join(f"{topic}[{number}]" for topic, number in sorted(partitions))
                self._line.say(f"Kafka took {names} away: it did not hear of this process in time")
                on_revoked(partitions)
            consumer.incremental_unassign(_wire(partitions))

        brought_along = {topic for others in self._companions.values() for topic in others}
        own = [topic for topic in topics if topic not in brought_along]
        self._consumer.subscribe(own, on_assign=assigned, on_revoke=revoked, on_lost=lost)

    def _partition_counts(self) -> dict[str, int]:
        """Partitions of every topic that exists.

        Not asked of the consumer: it would forget that it is in the midst of a poll, and abort the process (confluent-kafka's
        `CallState_get`) when its statistics come in the same one.
        """
        topics = self._questions().list_topics(timeout=self._connect_timeout_s).topics
        return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}

    def _companions_of(self, partitions: Collection[Partition], counts: Mapping[str, int]) -> list[Partition]:
        """Partitions of the same number of the topics that come along, as far as they exist."""
        found = []
        for topic, number in partitions:
            for other in self._companions.get(topic, ()):
                if number < counts.get(other, 0):
                    found.append(Partition(other, number))
                elif other in counts:
                    self._line.say(
                        f"Kafka topic {other}: found {counts[other]} partitions, expected as many as {topic} has, "
                        f"{counts.get(topic)}: keys must fall into partitions of the same number"
                    )
        return found

    def poll(self, max_records: int = 10_000, timeout_s: float = 0.0) -> list[Record]:
        """Records in order within each partition; waits for the first of them at most so long.

        Raises
        ------
        TransportError
            When the broker refuses access, or the client has failed for good.
        """
        deadline = time.monotonic() + timeout_s
        try:
            # `consume` with a timeout would wait until the batch is full; so take what is there, or wait for one.
            records = self._delivered(self._consumer.consume(max_records, 0))
            while not records and (left_s := deadline - time.monotonic()) > 0:
                first = self._consumer.poll(left_s)
                if first is not None:
                    records = self._delivered([first, *self._consumer.consume(max_records - 1, 0)])
        except KafkaException as error:
            raise self._line.failure("cannot be read", error) from error
        self._line.check()
        return records

    def pause(self, partitions: Collection[Partition]) -> None:
        """Deliver nothing of these until they are resumed."""
        self._consumer.pause(_wire(self._mine.keys() & partitions))

    def resume(self, partitions: Collection[Partition]) -> None:
        """Deliver these again."""
        self._consumer.resume(_wire(self._mine.keys() & partitions))

    def is_at_end(self, partition: Partition) -> bool:
        """Whether everything that the partition holds now has been delivered.

        Asks the broker, unless it is already known that there is more; no answer is a no.
        """
        position = self._next.get(partition)
        if position is None or partition not in self._mine:
            return False
        place = TopicPartition(*partition)
        try:
            _, known_end = self._consumer.get_watermark_offsets(place, cached=True)
            if known_end > position or self._line.is_away:
                return False
            question = {place: OffsetSpec.latest()}  # type: ignore[no-untyped-call]
            answer = self._questions().list_offsets(
                question, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=1.0
            )[place]
            return position >= int(answer.result().offset)
        except KafkaException:
            # It asks by the leaders it knows: after a restart of the broker it would be refused (FENCED_LEADER_EPOCH) for ever.
            if self._asker is not None:
                with suppress(KafkaException):
                    self._asker.list_topics(timeout=1.0)
            return False

    def _questions(self) -> AdminClient:
        if self._asker is None:
            self._asker = self._line.asker()
        return self._asker

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tell the broker the next offset of each partition, without waiting for it; the ledger's are the ones that count."""
        mine = [TopicPartition(*partition, offset) for partition, offset in offsets.items() if partition in self._mine]
        if mine and not self._line.is_away:
            self._consumer.commit(offsets=mine, asynchronous=True)

    def close(self) -> None:
        """Leave the group, so that others get the partitions at once; `on_revoked` is not called any more.

        With the brokers away they get them when the session ends: librdkafka would wait for ever for the answer to a commit
        (its issue 3740), so after five seconds it is left to itself, and ends with the process.
        """
        self._closing = True
        leaving = threading.Thread(target=self._consumer.close, name="leave Kafka", daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S)

    def _begin(self, consumer: Consumer, offsets: Mapping[Partition, int]) -> None:
        for partition, offset in offsets.items():
            self._next.pop(partition, None)
            if offset >= 0:
                self._next[partition] = offset
        consumer.incremental_assign([TopicPartition(*partition, offset) for partition, offset in offsets.items()])
        if offsets:
            consumer.resume(_wire(offsets))  # they may have been paused when they were ours before
        self._mine.update(offsets)

    def _begin_again(self, partition: Partition, offset: int) -> None:
        self._consumer.incremental_unassign(_wire([partition]))
        self._begin(self._consumer, {partition: offset})

    def _end(self, taken: list[TopicPartition]) -> list[Partition]:
        partitions = _partitions(taken)
        partitions += [
            one for one in self._companions_of(partitions, dict.fromkeys(self._topics(), 2**31)) if one in self._mine
        ]
        self._gone.update(partitions)
        for partition in partitions:
            self._mine.pop(partition, None)
        return partitions

    def _topics(self) -> set[str]:
        return {partition.topic for partition in self._mine}

    def _without_gone(self, records: list[Record]) -> list[Record]:
        """Drop what was taken from the queue before its partition went: the new owner delivers it.

        That may be us again. Which of the records are then from before cannot be told, so it begins once more.
        """
        gone, self._gone = self._gone, set()
        for partition in gone & self._mine.keys():
            self._begin_again(partition, self._mine[partition])
        return [record for record in records if (record.topic, record.partition) not in gone]

    def _delivered(self, messages: list[Message]) -> list[Record]:
        """Return the records among what librdkafka gave, and take note of the rest."""
        records: list[Record] = []
        events: list[Message] = []
        for message in messages:
            if message.error() is not None:
                events.append(message)
                continue
            key = message.key()
            records.append(
                _record(
                    (
                        message.topic(),
                        message.partition(),
                        message.offset(),
                        key.decode("utf-8", "replace") if key else "",
                        message.timestamp()[1],
                        message.value() or b"",
                    )
                )
            )
        self._next.update({(topic, partition): offset + 1 for topic, partition, offset, *_ in records})
        for event in events:
            self._note(event)
        return self._without_gone(records) if self._gone else records

    def _note(self, event: Message) -> None:
        error = event.error()
        assert error is not None
        code = error.code()
        if code == KafkaError._PARTITION_EOF:  # noqa: SLF001
            # Past what compaction or transactions left at the end, where there is no record to tell the offset.
            partition = _partition(event)
            self._next[partition] = max(self._next.get(partition, 0), event.offset() or 0)
        elif code == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            self._bridge_gap(_partition(event))
        elif code in _FORBIDDEN or error.fatal():
            raise KafkaException(error)
        else:
            words = f"Kafka at {self._line.servers}: {error.str()}"
            if words != self._last_said:  # such as a topic that is not there yet, every few seconds
                self._last_said = words
                self._line.say(words)

    def _bridge_gap(self, partition: Partition) -> None:
        if partition not in self._mine:
            return
        place = TopicPartition(*partition)
        wanted = self._next[partition]
        oldest, end = self._consumer.get_watermark_offsets(place, timeout=10.0)
        if wanted > end:
            raise TransportError(
                f"Kafka topic {partition.topic}, partition {partition.number}: found its end at offset {end}, expected "
                f"{wanted} or more, where this group has read to. The topic was made again or lost its end; follow it "
                "under a new state directory, or restore the topic"
            )
        if self._on_gap is not None and oldest > wanted:
            self._on_gap(partition, wanted, oldest)
        self._begin_again(partition, max(oldest, wanted))


class KafkaSink:
    """An idempotent producer: what it retries arrives once and in order; a `Sink`.

    Parameters
    ----------
    bootstrap_servers : str
        ``host:port`` of one broker or several, separated by commas.
    settings : mapping
        Settings of librdkafka, for TLS and login above all. ``message.timeout.ms`` says how long a broker may be away.
    partitions : int
        Partitions of topics made here.
    on_error : callable, optional
        Told in words, once each, when no broker can be reached any more and when one can again.
    connect_timeout_s : float
        How long the first message to a topic waits for a broker.

    Raises
    ------
    InputError
        When librdkafka refuses a setting, or a setting is not the user's to choose.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        settings: Settings | None = None,
        partitions: int = 1,
        on_error: Callable[[str], None] | None = None,
        connect_timeout_s: float = 10.0,
    ) -> None:
        self._line = _Line(bootstrap_servers, settings or {}, on_error)
        self._partitions = partitions
        self._connect_timeout_s = connect_timeout_s
        self._failed = 0
        self._first_failure = ""
        self._known: set[str] = set()
        self._sent = 0
        self._producer: Producer = self._line.client(Producer, PRODUCER_DEFAULTS, on_delivery=self._on_failure)

    def send(self, topic: str, value: bytes, *, key: str, timestamp_ms: int | None = None) -> None:
        """Hand over a message; see `Sink.send`. Waits while too much is on its way.

        Leave the timestamp alone for recorded data: by it the broker's retention removes messages, at once when it is old.

        Raises
        ------
        TransportError
            When the topic does not exist and cannot be made, the message is too large, or the client has failed for good.
        """
        if topic not in self._known:
            self._make(topic)
        while True:
            try:
                self._producer.produce(topic, value, key or None, timestamp=timestamp_ms or 0)
                break
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as error:
                raise self._line.failure(f"does not take {len(value)} bytes for {topic}", error) from error
        self._sent += 1
        if self._sent % 4096 == 0:
            self._producer.poll(0)  # hears of failures and of brokers going away

    def flush(self) -> None:
        """Wait until everything handed over is safe.

        Raises
        ------
        TransportError
            When something could not be delivered within ``message.timeout.ms``.
        """
        while self._producer.flush(0.5):
            pass  # in small steps, so that Ctrl-C gets through
        self._line.check()
        if self._failed:
            count, self._failed = self._failed, 0
            raise TransportError(
                f"Kafka at {self._line.servers} did not take {count} message{'s'[: count > 1]}: {self._first_failure}"
            )

    def close(self) -> None:
        """Flush, and free what is held."""
        try:
            self.flush()
        finally:
            self._producer.purge()  # interrupted with the broker away: no second wait for what is left
            self._producer.close()

    def _make(self, topic: str) -> None:
        self._line.make_topics(
            self._producer,
            [topic],
            partitions=self._partitions,
            compacted=COMPACTED,
            timeout_s=self._connect_timeout_s,
        )
        self._known.add(topic)

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        if not self._failed:
            self._first_failure = f"topic {message.topic()}: {self._line.explained(error.str())}"
        self._failed += 1


def ensure_topics(
    bootstrap_servers: str,
    names: Iterable[str],
    *,
    partitions: int = 1,
    compacted: Collection[str] = COMPACTED,
    settings: Settings | None = None,
    connect_timeout_s: float = 10.0,
) -> list[str]:
    """Make those topics that do not exist yet; others stay as they are.

    Parameters
    ----------
    bootstrap_servers : str
        ``host:port`` of one broker or several, separated by commas.
    names : iterable of str
        Topics.
    partitions : int
        Partitions of those that are made; replicas are the cluster's default.
    compacted : collection of str
        Which of them keep the last message of each key for ever, instead of all messages for a while.
    settings : mapping
        Settings of librdkafka.
    connect_timeout_s : float
        How long to wait for a broker.

    Returns
    -------
    list of str
        Names of the topics made.

    Raises
    ------
    TransportError
        When no broker answers in time, or it does not let us make them.
    """
    line = _Line(bootstrap_servers, settings or {}, None)
    client: AdminClient = line.client(AdminClient, {})
    return line.make_topics(client, names, partitions=partitions, compacted=compacted, timeout_s=connect_timeout_s)


class _Line(Hearing):
    """The way to the brokers: makes clients, and hears what they have to say."""

    def __init__(self, servers: str, settings: Settings, on_error: Callable[[str], None] | None) -> None:
        refuse_ours(settings)
        super().__init__(servers, secrets_of(settings), on_error)
        self._settings = settings

    def client(self, kind: Callable[..., Any], defaults: Mapping[str, object], **callbacks: object) -> Any:
        """Make a client of librdkafka, Consumer, Producer or AdminClient, that is polled for what it has to say."""
        callbacks |= {"error_cb": self._heard_error, "stats_cb": self.heard_statistics, "logger": QUIET_LOG}
        return self._made(kind, {**defaults, **self._settings, **OURS, **callbacks})

    def asker(self) -> AdminClient:
        """Make a client for questions, which on a consumer's own connection wait behind a fetch that waits for records."""
        silent = {"statistics.interval.ms": 0, "log_level": 0}  # nobody polls it: nothing may pile up
        client: AdminClient = self._made(AdminClient, {**self._settings, **OURS, **silent})
        return client

    def _made(self, kind: Callable[..., Any], config: dict[str, object]) -> Any:
        try:
            return kind({**config, "bootstrap.servers": self.servers})
        except (KafkaException, TypeError, ValueError) as error:
            raise InputError(
                "Kafka settings",
                self.clean(_words(error)),
                "names and values that librdkafka knows",
                "See docs/guides/kafka.md",
            ) from None

    def wait_for_broker(self, client: Any, timeout_s: float) -> Any:
        """Return what the cluster says about itself, once a broker answers."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            try:
                return client.list_topics(timeout=max(0.1, min(left_s, 0.5)))
            except KafkaException as error:
                client.poll(0)  # hears why
                if self.is_hopeless or left_s <= 0:
                    words = f"no broker answered within {timeout_s:g} s: {self.explained(error.args[0].str())}"
                    raise TransportError(
                        f"Kafka at {self.servers}: {self.reason if self.is_hopeless else words}. Check the address, "
                        "security.protocol and the login (docs/guides/kafka.md)"
                    ) from None

    def make_topics(
        self, client: Any, names: Iterable[str], *, partitions: int, compacted: Collection[str], timeout_s: float
    ) -> list[str]:
        """Make topics that are missing; return their names."""
        there = self.wait_for_broker(client, timeout_s).topics
        missing = [name for name in names if name not in there]
        if not missing:
            return []
        admin: AdminClient = client if isinstance(client, AdminClient) else self.client(AdminClient, {})
        topics = [
            NewTopic(
                name,
                num_partitions=partitions,
                config={
                    "cleanup.policy": "compact" if name in compacted else "delete",
                    "max.message.bytes": str(LARGEST_MESSAGE_BYTES),
                },
            )
            for name in missing
        ]
        made = []
        for name, done in admin.create_topics(topics, operation_timeout=timeout_s).items():
            try:
                done.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # someone else was faster
                    raise self.failure(f"does not make topic {name}", error) from error
            else:
                made.append(name)
        # The controller has made them; brokers hear of it a little later.
        deadline = time.monotonic() + timeout_s
        while not set(missing) <= self.wait_for_broker(client, timeout_s).topics.keys():
            if time.monotonic() > deadline:
                raise TransportError(f"Kafka at {self.servers} made {', '.join(missing)} but does not show them")
        return made

    def failure(self, what: str, error: KafkaException) -> TransportError:
        """Return the error to raise."""
        return TransportError(f"Kafka at {self.servers} {what}: {self.explained(error.args[0].str())}")

    def _heard_error(self, error: KafkaError) -> None:
        code = error.code()
        if error.fatal():
            self.heard_fatal(error.str())
        elif code == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self.heard_all_down()
        else:
            self.heard_trouble(error.str(), is_hopeless=code in _HOPELESS)


def _words(error: BaseException) -> str:
    first = error.args[0] if error.args else error
    return first.str() if isinstance(first, KafkaError) else str(first)


def _partition(event: Message) -> Partition:
    topic, number = event.topic(), event.partition()
    assert topic is not None
    assert number is not None
    return Partition(topic, number)


def _partitions(wire: Iterable[TopicPartition]) -> list[Partition]:
    return [Partition(place.topic, place.partition) for place in wire]


def _wire(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for topic, number in partitions]
