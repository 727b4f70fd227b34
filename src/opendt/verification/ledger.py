"""The ledger: what was said, what was measured, what was decided, and how far every stream has been read.

One transaction records a window with all that hangs on it and the offsets that it was read to, so a window is counted exactly
once whenever the process ends. Each window's hash is over its content and the hash of the window before. SQLite by default,
PostgreSQL by URL; the same content in either, to the byte.

docs/concepts/ledger.md tells what is promised and how it is checked.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import sqlalchemy as sa

from opendt.model.errors import LedgerError
from opendt.verification import ledger_export, ledger_verify
from opendt.verification.ledger_chain import (
    BEFORE_THE_FIRST,
    Sealed,
    VersionHashes,
    as_json,
    canonical_json,
    differing_sections,
    event_key,
    first_difference,
    seal,
    version_content,
    version_hash,
)
from opendt.verification.ledger_codec import (
    CHILDREN,
    decode_version,
    decode_window,
    encode_document,
    encode_event,
    encode_window,
)
from opendt.verification.ledger_patience import Patience, Waiting
from opendt.verification.ledger_reading import VERSION_TABLES, LedgerReading, version_row, window_pages
from opendt.verification.ledger_rows import datacenter_name, word
from opendt.verification.migrations import tables
from opendt.verification.migrations.session import Session, parse_url
from opendt.verification.migrations.upgrade import NEWEST, bring_to_newest, schema_of, unknown_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO, Self

    from sqlalchemy import Connection

    from opendt.verification.ledger_codec import Columns
    from opendt.verification.ledger_rows import (
        DocumentRow,
        EventRow,
        VersionRow,
        WindowEntry,
    )
    from opendt.verification.ledger_verify import Problem

__all__ = ["Ledger"]

T = TypeVar("T")

_LEASE_PAUSE_S: Final = 0.1
_TABLES: Final = tables.METADATA.tables
_INSERTS: Final = {name: sa.insert(table) for name, table in _TABLES.items()}

_W: Final = tables.WINDOWS.c
_HASH_OF: Final = {
    name: sa.select(table.c.hash).where(
        table.c.datacenter == sa.bindparam("datacenter"), table.c.id == sa.bindparam("id")
    )
    for name, table in _TABLES.items()
    if {"datacenter", "id", "hash"} <= set(table.c.keys())
}
"""Of documents, by table: a statement costs as much to write as to run."""
_LAST: Final = (
    sa.select(_W.window_index, _W.end_ms, _W.hash)
    .where(_W.datacenter == sa.bindparam("datacenter"))
    .order_by(_W.window_index.desc())
    .limit(1)
)
_HASHES: Final = sa.select(_W.previous_hash, _W.hash).where(
    _W.datacenter == sa.bindparam("datacenter"), _W.window_index == sa.bindparam("window_index")
)
_E: Final = tables.EVENTS.c
_FORGET_OFFSETS: Final = sa.delete(tables.SOURCE_OFFSETS).where(
    tables.SOURCE_OFFSETS.c.datacenter == sa.bindparam("of_datacenter")
)

# Serialises what several processes may write at a time, so that ids of events are visible in their order and a name is
# looked for and given by one of them. Any number, as long as nobody else locks it in this database.
_WRITE_LOCK: Final = 0x6F70_656E_6474_0002
_SERIALISE: Final = sa.select(sa.func.pg_advisory_xact_lock(_WRITE_LOCK))


class _Last(NamedTuple):
    """What the next window follows."""

    window_index: int
    end_ms: int
    hash: str


class Ledger(LedgerReading):
    """The ledger of one or many datacenters. One instance may be used by several threads; it does one thing at a time.

    Every method waits while the database is away (`Patience`) and raises `LedgerError` when that takes too long.
    """

    def __init__(
        self,
        session: Session,
        clock_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        super().__init__(session)
        self._clock_ms = clock_ms
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._version_hashes: dict[tuple[str, str, int], str] = {}
        self._last: dict[str, tuple[Connection, _Last]] = {}

    @classmethod
    def open(
        cls,
        url: str | Path,
        *,
        read_only: bool = False,
        patience: Patience | None = None,
        on_trouble: Callable[[str], None] | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Self:
        """Open a ledger; an empty database becomes one, an older one is migrated.

        Parameters
        ----------
        url : str or Path
            File of SQLite, or ``sqlite:///FILE``, or ``postgresql://USER:PASSWORD@HOST/DATABASE``.
        read_only : bool
            Change nothing: what is not there or older is refused.
        patience : Patience, optional
            How long to wait for a database that is away.
        on_trouble : callable, optional
            Told once when the database goes away, and once when it is back. It must not use the ledger.
        clock_ms, monotonic_s, sleep : callable
            The wall clock, ms since the epoch; a clock for waiting, seconds; how to wait, seconds.

        Raises
        ------
        LedgerError
            When the URL is none, the database cannot be reached or is of a newer schema.
        """
        parsed = parse_url(url)
        waiting = Waiting(patience or Patience(), monotonic_s=monotonic_s, sleep=sleep, on_trouble=on_trouble)
        session = Session(parsed, waiting, read_only=read_only)
        if session.file is not None:
            if read_only and not session.file.exists():
                raise LedgerError(f"{session.file}: no such file, expected a ledger")
            if not session.file.absolute().parent.is_dir():
                raise LedgerError(f"{session.file}: its folder does not exist, expected one. Make it")
        try:
            session.run(lambda connection: _check_schema(connection, session.place, read_only), write=not read_only)
        except BaseException:
            session.close()
            raise
        return cls(session, clock_ms, monotonic_s, sleep)

    def tidy(self) -> None:
        """Do now, beside whoever writes, what a later write would do and wait for; only SQLite has such work."""
        self._session.tidy()

    def close(self) -> None:
        """Give back leases and connection."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def place(self) -> str:
        """File or URL, without passwords."""
        return self._session.place

    @property
    def is_file(self) -> bool:
        """Whether it is a file of SQLite, which belongs to one machine."""
        return self._session.is_file

    @property
    def schema(self) -> str:
        """Revision of the schema."""
        return NEWEST

    @contextmanager
    def lease(self, datacenter: str, *, wait_s: float = 0.0) -> Iterator[None]:
        """Be the only process that records windows of a datacenter while the block runs.

        Parameters
        ----------
        datacenter : str
            Name.
        wait_s : float
            How long to wait for one who has it, seconds.

        Raises
        ------
        LedgerError
            When another process has it; names that process.
        """
        self._last.pop(datacenter, None)  # others may record until we have it
        until_s = self._monotonic_s() + wait_s
        while True:
            try:
                self._session.acquire(datacenter_name(datacenter))
                break
            except LedgerError:
                if self._monotonic_s() >= until_s:
                    raise
            self._sleep(_LEASE_PAUSE_S)
        try:
            yield
        finally:
            self._session.release(datacenter)

    # Recording

    def record_window(self, entry: WindowEntry) -> bool:
        """Record a window, all that hangs on it and its offsets, in one transaction.

        The lease of its datacenter is taken for the call unless it is held.

        Returns
        -------
        bool
            False when it was there already, the same: a restart derives windows again.

        Raises
        ------
        LedgerError
            When it was there with another content, does not follow the last one, names a version that is not recorded, or
            another process follows the datacenter.
        """
        if entry.datacenter not in self._session.leases:
            with self.lease(entry.datacenter):
                return self._write(lambda connection: self._record_window(connection, entry))
        return self._write(lambda connection: self._record_window(connection, entry))

    def _write(self, work: Callable[[Connection], bool], *, durable: bool = False) -> bool:
        recorded, doubtful = self._session.run(work, write=True, durable=durable)
        # If the answer to a commit was lost and it is found recorded now, then it was recorded by that commit.
        return recorded or doubtful

    def _record_window(self, connection: Connection, entry: WindowEntry) -> bool:
        self._session.check_lease(entry.datacenter)
        last = self._last_of(connection, entry.datacenter)
        versions = self._hashes_of_versions(connection, entry)
        if last is not None and entry.index <= last.window_index:
            self._compare(connection, entry, versions)
            return False
        _check_follows(entry, last)
        sealed = seal(entry, versions, BEFORE_THE_FIRST if last is None else last.hash)
        rows = encode_window(entry, sealed, self._clock_ms())
        for name in ("windows", *CHILDREN):
            if rows[name]:
                if name == "events":
                    self._serialise(connection)
                connection.execute(_INSERTS[name], rows[name])
        connection.execute(_FORGET_OFFSETS, {"of_datacenter": entry.datacenter})
        if rows["source_offsets"]:
            connection.execute(_INSERTS["source_offsets"], rows["source_offsets"])
        self._last[entry.datacenter] = (connection, _Last(entry.index, entry.end_ms, sealed.hash))
        return True

    def _last_of(self, connection: Connection, datacenter: str) -> _Last | None:
        """The last window: as we wrote it, if that was by this connection, which is given up whenever a commit fails."""
        writer, last = self._last.pop(datacenter, (None, None))
        if writer is connection:
            return last
        found = connection.execute(_LAST, {"datacenter": datacenter}).first()
        return None if found is None else _Last(*found)

    def _serialise(self, connection: Connection) -> None:
        if not self._session.is_file:
            connection.execute(_SERIALISE)

    def _hashes_of_versions(self, connection: Connection, entry: WindowEntry) -> VersionHashes:
        return (
            self._hash_of_version(connection, "topology", entry.datacenter, entry.topology_version),
            self._hash_of_version(connection, "slo", entry.datacenter, entry.slo_version),
        )

    def _hash_of_version(self, connection: Connection, kind: str, datacenter: str, version: int | None) -> str | None:
        if version is None:
            return None
        known = self._version_hashes.get((kind, datacenter, version))
        if known is None:
            found = version_row(connection, kind, datacenter, version)
            if found is None:
                raise LedgerError(
                    f"datacenter {datacenter}: {kind} version {version} is not in the ledger, expected it there before "
                    "the first window that it holds for"
                )
            known = self._version_hashes[kind, datacenter, version] = str(found["hash"])
        return known

    def _compare(self, connection: Connection, entry: WindowEntry, versions: VersionHashes) -> None:
        """Refuse a window that is recorded with another content, and say what differs."""
        key = {"datacenter": entry.datacenter, "window_index": entry.index}
        hashes = connection.execute(_HASHES, key).first()
        if hashes is not None and seal(entry, versions, hashes.previous_hash).hash == hashes.hash:
            return
        found = window_pages(connection, entry.datacenter, entry.index, entry.index)
        if not found:
            raise LedgerError(
                f"datacenter {entry.datacenter}, window {entry.index}: is missing, though later ones are recorded. "
                "Run `opendt ledger verify`."
            )
        there = found[0]
        sealed = seal(entry, versions, there.window["previous_hash"])
        recorded = decode_window(there.window, there.children).entry
        stored = seal(recorded, self._hashes_of_versions(connection, recorded), there.window["previous_hash"])
        raise LedgerError(_difference(entry, sealed, stored, there.window["digests"]))

    def record_topology_version(self, datacenter: str, row: VersionRow) -> bool:
        """Record a version of the topology, safe on disk when this returns; False when it was there, the same.

        Raises
        ------
        LedgerError
            When the number is there with another content, or leaves a gap.
        """
        return self._record_version("topology", datacenter, row)

    def record_slo_version(self, datacenter: str, row: VersionRow) -> bool:
        """Record a version of the SLOs, like `record_topology_version`."""
        return self._record_version("slo", datacenter, row)

    def _record_version(self, kind: str, datacenter: str, row: VersionRow) -> bool:
        datacenter_name(datacenter)

        def work(connection: Connection) -> bool:
            self._session.check_lease(datacenter)
            self._serialise(connection)
            there = version_row(connection, kind, datacenter, row.version)
            if there is not None:
                content = decode_version(there).row.content
                found = first_difference(content, as_json(row.content), f"{kind} version {row.version}")
                if found is not None:
                    raise LedgerError(
                        f"datacenter {datacenter}: {found}; expected the same content, or the next number"
                    )
                return False
            before = version_row(connection, kind, datacenter, row.version - 1)
            if before is None and row.version != 1:
                raise LedgerError(
                    f"datacenter {datacenter}: {kind} version {row.version} comes without the one before it"
                )
            previous = BEFORE_THE_FIRST if before is None else before["hash"]
            columns = {
                "datacenter": datacenter,
                "version": row.version,
                "from_index": row.from_index,
                "source": row.source,
                "content": canonical_json(row.content).decode(),
                "previous_hash": previous,
                "hash": version_hash(version_content(kind, datacenter, row), previous),
                "recorded_ms": self._clock_ms(),
            }
            connection.execute(_INSERTS[VERSION_TABLES[kind].name], [columns])
            return True

        return self._write(work, durable=True)

    def record_event(self, event: EventRow, datacenter: str = "") -> bool:
        """Record an event that belongs to no window; it is not exported. False when it was there, the same.

        Parameters
        ----------
        event : EventRow
            What happened.
        datacenter : str
            Where; empty for the process as a whole.
        """
        return self.record_events([event], datacenter)

    def record_events(self, events: Sequence[EventRow], datacenter: str = "") -> bool:
        """Record events like `record_event`, all in one transaction; False when all were there."""
        word("datacenter", datacenter)
        keys = [event_key(event) for event in events]

        def work(connection: Connection) -> bool:
            self._serialise(connection)
            there = sa.select(_E.key).where(_E.datacenter == datacenter, _E.key.in_(keys))
            known = set(connection.execute(there).scalars())
            fresh = {key: event for key, event in zip(keys, events, strict=True) if key not in known}
            if fresh:
                connection.execute(
                    _INSERTS["events"],
                    [
                        {"datacenter": datacenter, "window_index": None} | encode_event(event, key, self._clock_ms())
                        for key, event in fresh.items()
                    ],
                )
            return bool(fresh)

        return self._write(work)

    def record_proposal(self, datacenter: str, document: DocumentRow) -> bool:
        """Record a proposal between windows, safe on disk when this returns; False when it was there, the same.

        Raises
        ------
        LedgerError
            When its id is there with another content.
        """
        return self._record_document("proposals", datacenter, document)

    def record_certificate(self, datacenter: str, document: DocumentRow) -> bool:
        """Record a certificate, like `record_proposal`."""
        return self._record_document("certificates", datacenter, document)

    def record_decision(self, datacenter: str, document: DocumentRow) -> bool:
        """Record a decision, like `record_proposal`."""
        return self._record_document("decisions", datacenter, document)

    def record_plans(self, datacenter: str, documents: Sequence[DocumentRow]) -> bool:
        """Record plans, like `record_proposal`, all in one transaction; False when all were there."""
        return self._record_documents("plans", datacenter, documents)

    def _record_document(self, kind: str, datacenter: str, document: DocumentRow) -> bool:
        return self._record_documents(kind, datacenter, (document,))

    def _record_documents(self, kind: str, datacenter: str, documents: Sequence[DocumentRow]) -> bool:
        datacenter_name(datacenter)

        def work(connection: Connection) -> bool:
            self._serialise(connection)
            now_ms = self._clock_ms()
            added = [
                {"datacenter": datacenter, "window_index": None} | columns
                for document in documents
                if (columns := _new_document(connection, kind, datacenter, document, now_ms)) is not None
            ]
            if added:
                connection.execute(_INSERTS[kind], added)
            return bool(added)

        return self._write(work, durable=True)

    def export(self, stream: BinaryIO, datacenters: Sequence[str] | None = None) -> int:
        """Write everything that is a function of the inputs as canonical JSON lines; gives their number.

        Equal inputs give equal bytes, on either database: no wall clock, no number that depends on what else is there.

        Parameters
        ----------
        stream : binary file
            Where to.
        datacenters : sequence of str, optional
            Only these, in order of their names.
        """
        return ledger_export.write(self, stream, self._named(datacenters))

    def verify(self, datacenters: Sequence[str] | None = None) -> list[Problem]:
        """Compute every hash again, and check all that must fit together; what does not match, in words."""
        return ledger_verify.verify(self, self._named(datacenters))

    def _named(self, datacenters: Sequence[str] | None) -> list[str]:
        """Names in their order; those of all when None."""
        known = self.datacenters()
        unknown = sorted(set(datacenters or ()) - set(known))
        if unknown:
            raise LedgerError(
                f"{self.place}: datacenter {unknown[0]} is not in the ledger, expected one of {', '.join(known) or 'none'}"
            )
        return known if datacenters is None else sorted(set(datacenters))


def _check_schema(connection: Connection, place: str, read_only: bool) -> None:
    found = schema_of(connection)
    if found == NEWEST:
        return
    if not read_only:
        bring_to_newest(connection)
    elif found is None:
        raise LedgerError(f"{place}: found an empty database, expected a ledger")
    elif found > NEWEST:
        raise unknown_schema(found)
    else:
        raise LedgerError(
            f"{place}: the ledger's schema is {found}, expected {NEWEST}: an older OpenDT wrote it. "
            "`opendt run` brings it up to date."
        )


def _check_follows(entry: WindowEntry, last: _Last | None) -> None:
    place = f"datacenter {entry.datacenter}, window {entry.index}"
    expected = 0 if last is None else last.window_index + 1
    if entry.index != expected:
        raise LedgerError(f"{place}: expected window {expected}, since windows are recorded without gaps")
    if entry.end_ms <= entry.start_ms:
        raise LedgerError(
            f"{place}: found an end of {entry.end_ms} ms, expected one after its start, {entry.start_ms} ms"
        )
    if last is not None and entry.start_ms != last.end_ms:
        raise LedgerError(
            f"{place}: found a start of {entry.start_ms} ms, expected {last.end_ms} ms, where the window before it ends"
        )


def _difference(entry: WindowEntry, given: Sealed, stored: Sealed, digests: bytes) -> str:
    """Say in what a window given again differs from the one recorded."""
    place = f"datacenter {entry.datacenter}, window {entry.index}"
    names = differing_sections(given.digests, digests)
    for name in names:
        found = first_difference(as_json(stored.sections[name]), as_json(given.sections[name]), name)
        if found is not None:
            others = f" (and in {', '.join(other for other in names if other != name)})" if len(names) > 1 else ""
            return (
                f"{place}: is recorded with another content: {found}{others}. Expected the same from the same inputs."
            )
    return f"{place}: is recorded with a hash that its rows do not have. Run `opendt ledger verify`."


def _new_document(
    connection: Connection, kind: str, datacenter: str, document: DocumentRow, now_ms: int
) -> Columns | None:
    """Columns of a document that is not there yet; None when it is, the same."""
    found = connection.execute(_HASH_OF[kind], {"datacenter": datacenter, "id": document.id}).first()
    columns = encode_document(kind, datacenter, document, now_ms)
    if found is None:
        return columns
    if found.hash != columns["hash"]:
        raise LedgerError(
            f"datacenter {datacenter}: {kind} {document.id} is there with another content, expected the same, or a new id"
        )
    return None
