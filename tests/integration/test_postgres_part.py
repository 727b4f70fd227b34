"""The PostgreSQL server that tests use: real, empty for each test, and it keeps what was committed when it is killed."""

from __future__ import annotations

import psycopg
import pytest


def connect(url):
    return psycopg.connect(url.replace("+psycopg", ""))


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_an_empty_database(postgres, turn):
    with connect(postgres) as connection:
        connection.execute("CREATE TABLE turns (turn int)")
        connection.execute("INSERT INTO turns VALUES (%s)", [turn])
        assert connection.execute("SELECT turn FROM turns").fetchall() == [(turn,)]


def test_the_password_is_asked_for(postgres):
    user, rest = postgres.split("@")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(f"{user[:-1]}x@{rest}")


def test_what_was_committed_survives_a_crash(own_postgres_server):
    url = own_postgres_server.create_database("kept")
    with connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number")
    own_postgres_server.kill()
    own_postgres_server.start()
    with connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1000,)
