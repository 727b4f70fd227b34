"""What is read of a ledger: windows in pages, predictions, documents, events, counts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa

from opendt.model.errors import LedgerError
from opendt.verification.ledger_codec import (
    CHILDREN,
    DOCUMENT_TABLES,
    RawWindow,
    decode_document,
    decode_event,
    decode_prediction,
    decode_verdict,
    decode_version,
    decode_window,
    decode_window_row,
    decoded,
)
from opendt.verification.ledger_rows import PositionRow
from opendt.verification.migrations import tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Select

    from opendt.verification.ledger_codec import Columns
    from opendt.verification.ledger_rows import (
        PredictionRow,
        RecordedDocument,
        RecordedEvent,
        RecordedVersion,
        RecordedWindow,
        VerdictRow,
        WindowRow,
    )
    from opendt.verification.migrations.session import Session

__all__ = ["VERSION_TABLES", "LedgerReading", "version_row", "window_pages"]

T = TypeVar("T")

VERSION_TABLES: Final = {"topology": tables.TOPOLOGY_VERSIONS, "slo": tables.SLO_VERSIONS}
"""Tables of versions, by kind."""

_PAGE: Final = 256
_TABLES: Final = tables.METADATA.tables
_W: Final = tables.WINDOWS.c
_E: Final = tables.EVENTS.c


class LedgerReading:
    """The reading half of `Ledger`.

    Parameters
    ----------
    session : Session
        The connection.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def _read(self, work: Callable[[Connection], T]) -> T:
        return self._session.run(work, write=False)[0]

    def _rows(self, statement: Select[Any]) -> list[Columns]:
        return self._read(lambda connection: _all(connection, statement))

    def datacenters(self) -> list[str]:
        """Names of all datacenters that anything but events is recorded of, sorted."""
        recorded = (tables.WINDOWS, *VERSION_TABLES.values(), *(_TABLES[kind] for kind in DOCUMENT_TABLES))
        return sorted({name for table in recorded for name in self._read(partial(_names, table=table))})

    def last_window(self, datacenter: str) -> WindowRow | None:
        """The last window of a datacenter; None when there is none yet."""
        statement = sa.select(tables.WINDOWS).where(_W.datacenter == datacenter)
        rows = self._rows(statement.order_by(_W.window_index.desc()).limit(1))
        return decoded(decode_window_row, rows[0]) if rows else None

    def positions(self, datacenter: str) -> tuple[PositionRow, ...]:
        """Where every partition of a datacenter has been read to."""
        return self.progress(datacenter)[1]

    def progress(self, datacenter: str) -> tuple[int, tuple[PositionRow, ...]]:
        """Number of the last window (-1: none yet) and where every partition has been read to, as of one moment."""
        last = sa.select(sa.func.max(_W.window_index).label("last")).where(_W.datacenter == datacenter).subquery()
        offsets = tables.SOURCE_OFFSETS
        joined = last.outerjoin(offsets, offsets.c.datacenter == datacenter)
        rows = self._rows(sa.select(last.c.last, offsets).select_from(joined))
        found = rows[0]["last"]
        names = [column.name for column in offsets.c if column.name != "datacenter"]
        positions = [PositionRow(**{name: row[name] for name in names}) for row in rows if row["topic"] is not None]
        return -1 if found is None else found, tuple(sorted(positions))

    def windows(self, datacenter: str, first: int = 0, last: int | None = None) -> Iterator[WindowRow]:
        """Windows `first` to `last` (none: all that are there now), without what hangs on them."""
        for lower, upper in self._ranges(datacenter, first, last):
            statement = sa.select(tables.WINDOWS).where(
                _W.datacenter == datacenter, _W.window_index.between(lower, upper)
            )
            yield from _decoded(decode_window_row, self._rows(statement.order_by(_W.window_index)))

    def entries(self, datacenter: str, first: int = 0, last: int | None = None) -> Iterator[RecordedWindow]:
        """Windows `first` to `last` (none: all that are there now), whole."""
        for raw in self.raw_windows(datacenter, first, last):
            yield decode_window(raw.window, raw.children)

    def raw_windows(self, datacenter: str, first: int = 0, last: int | None = None) -> Iterator[RawWindow]:
        """Windows as their rows stand in the tables, for whoever doubts them."""
        for lower, upper in self._ranges(datacenter, first, last):
            yield from self._read(partial(window_pages, datacenter=datacenter, first=lower, last=upper))

    def _ranges(self, datacenter: str, first: int, last: int | None) -> Iterator[tuple[int, int]]:
        """Bounds of pages. What is recorded does not change, so pages of several transactions fit together."""
        bounds = sa.select(sa.func.min(_W.window_index).label("least"), sa.func.max(_W.window_index).label("most"))
        found = self._rows(bounds.where(_W.datacenter == datacenter))[0]
        if found["most"] is None:
            return
        most = found["most"] if last is None else min(last, found["most"])
        for lower in range(max(first, found["least"]), most + 1, _PAGE):
            yield lower, min(lower + _PAGE - 1, most)

    def predictions(
        self, datacenter: str, *, kind: str | None = None, since_ms: int | None = None, until_ms: int | None = None
    ) -> list[PredictionRow]:
        """Predictions by kind and moment of issue, those issued from `since_ms` until before `until_ms`."""
        statement = _issued(tables.PREDICTIONS, datacenter, kind, since_ms, until_ms)
        return sorted(_decoded(decode_prediction, self._rows(statement)), key=_by_kind)

    def verdicts(
        self, datacenter: str, *, kind: str | None = None, since_ms: int | None = None, until_ms: int | None = None
    ) -> list[VerdictRow]:
        """Verdicts by kind and moment of issue, of predictions issued from `since_ms` until before `until_ms`."""
        statement = _issued(tables.VERDICTS, datacenter, kind, since_ms, until_ms)
        return sorted(_decoded(decode_verdict, self._rows(statement)), key=_by_kind)

    def topology_versions(self, datacenter: str) -> tuple[RecordedVersion, ...]:
        """All versions of the topology, oldest first."""
        return self._versions("topology", datacenter)

    def slo_versions(self, datacenter: str) -> tuple[RecordedVersion, ...]:
        """All versions of the SLOs, oldest first."""
        return self._versions("slo", datacenter)

    def _versions(self, kind: str, datacenter: str) -> tuple[RecordedVersion, ...]:
        table = VERSION_TABLES[kind]
        statement = sa.select(table).where(table.c.datacenter == datacenter).order_by(table.c.version)
        return tuple(_decoded(decode_version, self._rows(statement)))

    def documents(self, kind: str, datacenter: str, *, proposal_id: str | None = None) -> tuple[RecordedDocument, ...]:
        """All documents of a kind (proposals, certificates, decisions, plans), or those about one proposal, by id."""
        if kind not in DOCUMENT_TABLES:
            raise LedgerError(f"documents: found {kind!r}, expected one of {', '.join(DOCUMENT_TABLES)}")
        table = _TABLES[kind]
        statement = sa.select(table).where(table.c.datacenter == datacenter)
        if proposal_id is not None:
            statement = statement.where(table.c.proposal_id == proposal_id)
        return tuple(sorted(_decoded(decode_document, self._rows(statement)), key=lambda row: row.document.id))

    def events(
        self,
        since_id: int = 0,
        datacenter: str | None = None,
        limit: int = 1000,
        *,
        kinds: Sequence[str] | None = None,
        levels: Sequence[str] | None = None,
        since_ms: int | None = None,
        newest: bool = False,
    ) -> list[RecordedEvent]:
        """Events after the one numbered `since_id`, oldest first: ask again with the last one's number to follow them.

        Parameters
        ----------
        since_id : int
            Number of the last event known; 0 for all.
        datacenter : str, optional
            Only of this one; empty for those of no datacenter.
        limit : int
            At most so many.
        kinds, levels : sequence of str, optional
            Only of these.
        since_ms : int, optional
            Only those whose time is not before this one, ms since the epoch.
        newest : bool
            Where there are more than `limit`: the last ones, not the first.
        """
        order = _E.id.desc() if newest else _E.id
        statement = sa.select(tables.EVENTS).where(_E.id > since_id).order_by(order).limit(limit)
        if datacenter is not None:
            statement = statement.where(_E.datacenter == datacenter)
        if kinds is not None:
            statement = statement.where(_E.kind.in_(kinds))
        if levels is not None:
            statement = statement.where(_E.level.in_(levels))
        if since_ms is not None:
            statement = statement.where(_E.time_ms >= since_ms)
        found = _decoded(decode_event, self._rows(statement))
        return found[::-1] if newest else found

    def counts(self, datacenter: str) -> dict[str, int]:
        """Rows of a datacenter in each table."""
        statements = (
            sa.select(sa.literal(name).label("name"), sa.func.count().label("rows"))
            .select_from(table)
            .where(table.c.datacenter == datacenter)
            for name, table in _TABLES.items()
        )
        return {row["name"]: row["rows"] for row in self._rows(sa.union_all(*statements))}  # type: ignore[arg-type]

    def orphans(self, datacenter: str) -> dict[str, int]:
        """Tables with rows of windows that are not there, and how many: none unless someone reached around the ledger."""
        found = {}
        for name in CHILDREN:
            table = _TABLES[name]
            statement = (
                sa.select(sa.func.count().label("rows"))
                .select_from(
                    table.outerjoin(
                        tables.WINDOWS,
                        (table.c.datacenter == _W.datacenter) & (table.c.window_index == _W.window_index),
                    )
                )
                .where(table.c.datacenter == datacenter, table.c.window_index.is_not(None), _W.datacenter.is_(None))
            )
            rows = self._rows(statement)[0]["rows"]
            if rows:
                found[name] = rows
        return found


def _decoded(decode: Callable[[Mapping[str, Any]], T], rows: Sequence[Mapping[str, Any]]) -> list[T]:
    return [decoded(decode, row) for row in rows]


def _all(connection: Connection, statement: Select[Any]) -> list[Columns]:
    return [row._asdict() for row in connection.execute(statement)]


def _names(connection: Connection, table: sa.Table) -> list[str]:
    """Datacenters of a table, each found by the key behind the one before: not by reading every row."""
    names: list[str] = []
    statement = sa.select(sa.func.min(table.c.datacenter))
    found = connection.execute(statement).scalar()
    while found is not None:
        names.append(found)
        found = connection.execute(statement.where(table.c.datacenter > found)).scalar()
    return names


def version_row(connection: Connection, kind: str, datacenter: str, version: int) -> Columns | None:
    """A version as its row stands in its table; None when there is none of that number."""
    table = VERSION_TABLES[kind]
    found = _all(connection, sa.select(table).where(table.c.datacenter == datacenter, table.c.version == version))
    return found[0] if found else None


def window_pages(connection: Connection, datacenter: str, first: int, last: int) -> list[RawWindow]:
    """Windows with the rows that hang on them."""

    def rows(name: str) -> list[Columns]:
        table = _TABLES[name]
        statement = sa.select(table).where(table.c.datacenter == datacenter, table.c.window_index.between(first, last))
        if name == "events":
            statement = statement.order_by(table.c.id)
        return _all(connection, statement)

    windows = {row["window_index"]: RawWindow(row, {name: [] for name in CHILDREN}) for row in rows("windows")}
    for name in CHILDREN:
        for row in rows(name):
            if row["window_index"] in windows:
                windows[row["window_index"]].children[name].append(row)
    return [windows[index] for index in sorted(windows)]


def _issued(
    table: sa.Table, datacenter: str, kind: str | None, since_ms: int | None, until_ms: int | None
) -> Select[Any]:
    statement = sa.select(table).where(table.c.datacenter == datacenter)
    if kind is not None:
        statement = statement.where(table.c.kind == kind)
    if since_ms is not None:
        statement = statement.where(table.c.issued_ms >= since_ms)
    if until_ms is not None:
        statement = statement.where(table.c.issued_ms < until_ms)
    return statement


def _by_kind(row: PredictionRow | VerdictRow) -> tuple[str, int]:
    return row.kind, row.issued_ms
