"""What all tests share: how many examples a property gets, and the real servers that some of them talk to.

By default each property runs a fixed, seeded sample, the same on every machine; OPENDT_SOAK=1 (``make soak``) draws many
more, at random, and remembers what failed.

Servers start when the first test asks for one, listen on 127.0.0.1 only, and end with the tests, also when those are
interrupted or killed. A test on a shared server uses names of its own (`fresh_name`).
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from scripts.kafka import KafkaBroker
from scripts.postgres import PostgresServer
from tests.fleet import ControlPlane, control_plane, require_kubernetes
from tests.parts import require_kafka, require_postgres

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]

# No deadline: a busy machine is not a defect, and each test has its timeout.
settings.register_profile(
    "sample", max_examples=50, derandomize=True, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE
)
settings.register_profile(
    "soak", max_examples=2_000, deadline=None, print_blob=True, suppress_health_check=SLOW_IS_FINE
)
settings.load_profile("soak" if os.environ.get("OPENDT_SOAK") == "1" else "sample")

# A shell that runs us in the background lets us, and all that we start, ignore Ctrl-C; tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_numbers = count(1)


@pytest.fixture
def fresh_name() -> Callable[[str], str]:
    """Names that no other test uses: ``fresh_name("group")``; for topics, groups, databases."""
    return lambda stem: f"{stem}_{next(_numbers)}"


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """One broker for all tests: `bootstrap`, and `secure_bootstrap` with TLS and login. Not to be stopped."""
    require_kafka()
    with tempfile.TemporaryDirectory(prefix="opendt-kafka-") as folder, KafkaBroker(Path(folder)) as broker:
        yield broker


@pytest.fixture
def empty_kafka_broker(kafka_broker: KafkaBroker) -> KafkaBroker:
    """The broker for all tests without any topic, for tests of programs whose topics have fixed names."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})

    def topics() -> list[str]:
        return [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]

    names = topics()
    for deleted in admin.delete_topics(names).values() if names else ():
        deleted.result(timeout=10)
    deadline = time.monotonic() + 10
    while topics():  # the controller forgets a topic first, the broker a little later
        assert time.monotonic() < deadline, "topics are still there"
    return kafka_broker


@pytest.fixture
def own_kafka_broker() -> Iterator[KafkaBroker]:
    """A broker for this test alone, which may `kill`, `stop` and `start` it."""
    require_kafka()
    with tempfile.TemporaryDirectory(prefix="opendt-kafka-") as folder, KafkaBroker(Path(folder)) as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests. Not to be stopped."""
    require_postgres()
    # Not pytest's tmp_path: under root the server runs as another user, who may not enter that.
    with tempfile.TemporaryDirectory(prefix="opendt-postgres-") as folder, PostgresServer(Path(folder)) as server:
        yield server


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A server for this test alone, which may `kill`, `stop` and `start` it."""
    require_postgres()
    with tempfile.TemporaryDirectory(prefix="opendt-postgres-") as folder, PostgresServer(Path(folder)) as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer, fresh_name: Callable[[str], str]) -> Iterator[str]:
    """URL of an empty database, as SQLAlchemy takes it."""
    name = fresh_name("test")
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def kubernetes_programs() -> Path:
    """The program that is every part of Kubernetes."""
    return require_kubernetes()


@pytest.fixture(scope="module")
def plane(kubernetes_programs: Path) -> Iterator[ControlPlane]:
    """A light control plane for the tests of one file: etcd, API server, KWOK; without nodes. Not to be stopped."""
    with tempfile.TemporaryDirectory(prefix="opendt-plane-") as folder, control_plane(Path(folder), "one") as started:
        yield started


@pytest.fixture(scope="module")
def two_planes(kubernetes_programs: Path) -> Iterator[dict[str, ControlPlane]]:
    """Two light control planes by cluster name, for the tests of one file, who may stop parts and start them again."""
    with (
        tempfile.TemporaryDirectory(prefix="opendt-planes-") as folder,
        control_plane(Path(folder), "left") as left,
        control_plane(Path(folder), "right") as right,
    ):
        yield {"left": left, "right": right}
