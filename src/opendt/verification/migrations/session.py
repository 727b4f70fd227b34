"""The one connection to the database: makes it, makes it again when it breaks, waits, and holds the leases."""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.pool import NullPool, StaticPool

from opendt.model.errors import LedgerError
from opendt.verification.ledger_lease import FileLease, LeaseGoneError
from opendt.verification.ledger_patience import Away

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

    from opendt.verification.ledger_patience import Waiting

__all__ = ["Session", "parse_url"]

T = TypeVar("T")

_LEASE_KEY: Final = sa.text(
    "SELECT hashtextextended('opendt ledger ' || coalesce(current_schema(), '') || chr(10) || :datacenter, 0)"
)
_LEASE_HOLDER: Final = sa.text(
    "SELECT l.pid, coalesce(a.application_name, '') FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid "
    "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND l.classid::bigint = :high AND l.objid::bigint = :low"
)

# SQLite's primary result codes, from its documentation: what may pass if it is tried again.
_SQLITE_FULL: Final = 13
_SQLITE_CANTOPEN: Final = 14
_SQLITE_PASSING: Final = {5: "busy", 6: "locked", 10: "input or output failed", 15: "locking protocol"}
# Classes of PostgreSQL's SQLSTATE, from its appendix A: connections, rollbacks of conflicts, resources, operators.
_POSTGRES_PASSING: Final = ("08", "40", "53", "57")
# A refused connection carries no SQLSTATE; these refusals do not pass by waiting.
_POSTGRES_LASTING: Final = ("authentication failed", "does not exist", "no password supplied", "no pg_hba.conf entry")
_URLS: Final = "a file, sqlite:///FILE or postgresql://USER@HOST/DATABASE"


class Session:
    """The one connection to the database: reconnects, waits, and holds the leases.

    On PostgreSQL a lease is an advisory lock of the very session that writes, so there is no moment at which this process
    could still write but no longer held it: when the connection breaks the writing fails with it, and whoever connects
    again takes its leases again before anything else.
    """

    def __init__(self, url: URL, waiting: Waiting, *, read_only: bool) -> None:
        self.waiting = waiting
        self.is_file = url.get_backend_name() == "sqlite"
        self.file = Path(url.database) if self.is_file and url.database not in (None, "", ":memory:") else None
        self.place = str(self.file) if self.file is not None else _shown(url)
        self.lock = threading.RLock()
        self.leases: dict[str, FileLease | None] = {}
        self._lost: dict[str, str] = {}
        self._secrets = [str(secret) for secret in (url.password, *_secret_query(url)) if secret]
        self._name = f"opendt {socket.gethostname()[:24]} {os.getpid()} {secrets.token_hex(4)}"
        self._read_only = read_only
        self._begin = "BEGIN"
        self._durable = False
        self._connection: Connection | None = None
        self._engine = self._sqlite_engine(url) if self.is_file else self._postgres_engine(url)

    def _sqlite_engine(self, url: URL) -> Engine:
        engine = sa.create_engine(
            url,
            poolclass=StaticPool if self.file is None else NullPool,
            connect_args={"check_same_thread": False, "timeout": 5.0},
            hide_parameters=True,
        )

        @sa.event.listens_for(engine, "connect")
        def _(connection: Any, record: object) -> None:
            del record
            connection.isolation_level = None  # transactions begin where we say so
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            # What is recorded of a window survives the process, killed or not; when the machine loses power the last ones
            # may go, together with their offsets, and are derived again. `run(durable=True)` waits for the disk.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA query_only = {'ON' if self._read_only else 'OFF'}")

        @sa.event.listens_for(engine, "begin")
        def _(connection: Connection) -> None:
            connection.exec_driver_sql(self._begin)

        return engine

    def _postgres_engine(self, url: URL) -> Engine:
        # A peer that vanished without a word is noticed in half a minute at either end, not in hours.
        keepalives = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}
        options = " ".join(f"-c tcp_{name}={value}" for name, value in keepalives.items())
        options += " -c idle_in_transaction_session_timeout=60s"
        if self._read_only:
            options += " -c default_transaction_read_only=on"
        arguments = {"connect_timeout": 5, "application_name": self._name, "options": options, **keepalives}
        engine = sa.create_engine(url, poolclass=NullPool, connect_args=arguments, hide_parameters=True)

        @sa.event.listens_for(engine, "connect")
        def _(connection: Any, record: object) -> None:
            del record
            with connection.cursor() as cursor:  # a server set up to forget its last commits would break our promise
                cursor.execute(
                    "SELECT set_config('synchronous_commit', 'on', false) "
                    "WHERE current_setting('synchronous_commit') = 'off'"
                )
            connection.commit()

        return engine

    def run(self, work: Callable[[Connection], T], *, write: bool, durable: bool = False) -> tuple[T, bool]:
        """Run `work` in a transaction, again and again until it is committed.

        Parameters
        ----------
        work : callable
            Gets the connection. It may run several times, also after a commit of which the answer was lost: it looks before it
            writes.
        write : bool
            Whether it writes.
        durable : bool
            Whether SQLite waits for the disk as well.

        Returns
        -------
        tuple
            What `work` gave, and whether an earlier commit of it was lost sight of.
        """
        doubtful = False

        def attempt() -> T:
            nonlocal doubtful
            try:
                connection = self._connected()
                self._prepare(connection, write=write, durable=durable)
                transaction = connection.begin()
                try:
                    result = work(connection)
                except BaseException:
                    with suppress(DBAPIError):
                        transaction.rollback()
                    raise
                try:
                    transaction.commit()
                except BaseException:
                    doubtful = True
                    self.drop()
                    raise
                return result
            except DBAPIError as error:
                self.drop()
                raise self.judged(error) from None

        with self.lock:
            return self.waiting.run(attempt), doubtful

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._engine.connect()
            try:
                if not self.is_file:
                    with connection.begin():
                        for datacenter in self.leases:
                            self._take_again(connection, datacenter)
            except BaseException:
                connection.invalidate()
                connection.close()
                raise
            self._connection, self._durable = connection, False
        return self._connection

    def _prepare(self, connection: Connection, *, write: bool, durable: bool) -> None:
        if not self.is_file:
            return
        self._begin = "BEGIN IMMEDIATE" if write else "BEGIN"
        if durable != self._durable:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def tidy(self) -> None:
        """Move what SQLite's log holds into the file, by a connection of its own beside whoever writes.

        Else one write in a hundred or so does it when the log is long enough, and whoever waits for that one waits for this, too.
        """
        if self.file is None or self._read_only:
            return
        with suppress(sqlite3.Error, DBAPIError), self._engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def drop(self) -> None:
        """Let go of the connection; the next transaction makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                if not self.is_file:
                    connection.invalidate()
                connection.close()

    def judged(self, error: DBAPIError) -> Away | LedgerError:
        """What an error of the database means: worth waiting for, or not. Never with a password in it."""
        text = str(error.orig).strip().replace("\n", " ")
        for secret in self._secrets:
            text = text.replace(secret, "***")
        passing = self._sqlite_passing(error) if self.is_file else self._postgres_passing(error, text)
        if passing is None:
            return LedgerError(f"{self.place}: {text}")
        return Away(f"{self.place}: {passing}")

    def _sqlite_passing(self, error: DBAPIError) -> str | None:
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code == _SQLITE_FULL:
            return "the disk is full, expected room to record. Make some"
        if code == _SQLITE_CANTOPEN and self.file is not None and self.file.exists():
            return "cannot be opened at the moment"
        return _SQLITE_PASSING.get(code)

    def _postgres_passing(self, error: DBAPIError, text: str) -> str | None:
        state = getattr(error.orig, "sqlstate", None)
        if state is not None:
            return text if state.startswith(_POSTGRES_PASSING) else None
        if any(refusal in text for refusal in _POSTGRES_LASTING):
            return None
        return text if isinstance(error, OperationalError | InterfaceError) else None

    def acquire(self, datacenter: str) -> None:
        """Take the lease of a datacenter.

        Raises
        ------
        LedgerError
            When another process has it, or this one already.
        """
        with self.lock:
            if datacenter in self.leases:
                raise LedgerError(f"{self.place}: datacenter {datacenter} is followed by this process already")
            if self.file is not None:
                self.leases[datacenter] = FileLease(self.file.resolve(), datacenter)
                return
            if not self.is_file:
                holder, _ = self.run(lambda connection: self._try_lease(connection, datacenter), write=True)
                if holder is not None:
                    raise LedgerError(self._taken(datacenter, holder))
            self.leases[datacenter] = None

    def release(self, datacenter: str) -> None:
        """Give the lease of a datacenter back; a connection that is gone has given it back already."""
        with self.lock:
            lease = self.leases.pop(datacenter, None)
            self._lost.pop(datacenter, None)
            if lease is not None:
                lease.release()
            elif not self.is_file and self._connection is not None:
                try:
                    with self._connection.begin():
                        key = self._lease_key(self._connection, datacenter)
                        self._connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))
                except DBAPIError:
                    self.drop()

    def check_lease(self, datacenter: str) -> None:
        """Refuse to go on where the lease went to someone else while the connection was away."""
        holder = self._lost.get(datacenter)
        if holder is not None:
            words = f"{self._taken(datacenter, holder)} It was taken while the connection was away."
            raise LeaseGoneError(words, datacenter=datacenter, holder=holder)

    def _taken(self, datacenter: str, holder: str) -> str:
        return (
            f"{self.place}: datacenter {datacenter} is followed by {holder} already, expected none. End that one first."
        )

    def _lease_key(self, connection: Connection, datacenter: str) -> int:
        return int(connection.execute(_LEASE_KEY, {"datacenter": datacenter}).scalar_one())

    def _try_lease(self, connection: Connection, datacenter: str) -> str | None:
        """Take a lease, or say who has it."""
        key = self._lease_key(connection, datacenter)
        if connection.execute(sa.select(sa.func.pg_try_advisory_lock(key))).scalar_one():
            return None
        bits = key & 0xFFFF_FFFF_FFFF_FFFF
        found = connection.execute(_LEASE_HOLDER, {"high": bits >> 32, "low": bits & 0xFFFF_FFFF}).first()
        if found is None:
            raise Away(f"{self.place}: the lease of {datacenter} is just being given back")
        backend, name = found
        if name == self._name:  # our own session of before, which the server does not yet know to be dead
            connection.execute(sa.select(sa.func.pg_terminate_backend(backend)))
            raise Away(f"{self.place}: the connection of before still holds {datacenter}")
        words = name.split()
        if len(words) == 4 and words[0] == "opendt":
            return f"process {words[2]} on {words[1]}"
        return f"a session with server process {backend}"

    def _take_again(self, connection: Connection, datacenter: str) -> None:
        if datacenter not in self._lost:
            holder = self._try_lease(connection, datacenter)
            if holder is not None:
                self._lost[datacenter] = holder

    def close(self) -> None:
        """Give everything back."""
        with self.lock:
            for datacenter in list(self.leases):
                self.release(datacenter)
            self.drop()
            self._engine.dispose()


def parse_url(url: str | Path) -> URL:
    """Read the URL of a ledger; a path without a scheme is a file of SQLite.

    Raises
    ------
    LedgerError
        When it is of another database, or no URL. The message repeats nothing of it, since it may hold a password.
    """
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(url))
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise LedgerError(f"ledger: found what is no URL, expected {_URLS}") from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        return parsed.set(drivername="sqlite")
    raise LedgerError(f"ledger: found a URL of {backend}, expected {_URLS}")


def _secret_query(url: URL) -> list[str]:
    return [str(value) for name, value in url.query.items() if "password" in name]


def _shown(url: URL) -> str:
    """A URL for people: without passwords, also those among its parameters."""
    return url.difference_update_query([name for name in url.query if "password" in name]).render_as_string()
