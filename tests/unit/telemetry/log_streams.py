"""What the tests of the embedded log share: a clock that stands still, and readers of everything."""

from __future__ import annotations

from opendt.telemetry.log import LogSink, LogSource


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self, now=0.0):
        self.now = now
        self.waits = []

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


def never_wait(seconds):
    raise AssertionError(f"waited {seconds} s")


def open_sink(directory, **settings):
    """A sink that does not wait for the disk, which no test can see."""
    return LogSink(directory, **{"is_durable": False} | settings)


def open_source(directory, topics=("t",), starts=None, group="g", **settings):
    """A consumer that has subscribed, and the list of what it is told about partitions."""
    told = []
    source = LogSource(directory, group, **{"wait": never_wait} | settings)

    def on_assigned(partitions):
        told.append(("assigned", *sorted(partitions)))
        return starts or {}

    source.subscribe(topics, on_assigned=on_assigned, on_revoked=lambda p: told.append(("revoked", *sorted(p))))
    return source, told


def read_all(directory, topic="t", start=None, group="reader", **settings):
    """Every record of a topic that is there."""
    source, _ = open_source(directory, [topic], None if start is None else {(topic, 0): start}, group=group, **settings)
    records = []
    try:
        while batch := source.poll():
            records += batch
    finally:
        source.close()
    return records


def segment_files(directory, topic="t"):
    return sorted((directory / "topics" / topic).glob("*.log"))


def write(sink, *values, topic="t", key="dc", **more):
    """Send and flush, so that the values are one frame."""
    for value in values:
        sink.send(topic, value, key=key, **more)
    sink.flush()
