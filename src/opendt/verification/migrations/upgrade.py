"""Bringing a database to the schema of this version, or saying why that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from opendt.model.errors import LedgerError
from opendt.verification.migrations.tables import METADATA

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["NEWEST", "bring_to_newest", "schema_of", "unknown_schema"]

NEWEST: Final = "0001"
_SCRIPTS: Final = Path(__file__).parent
# Any number, as long as nobody else locks it in this database: one process at a time changes the schema.
_SCHEMA_LOCK: Final = 0x6F70_656E_6474_0001


def schema_of(connection: Connection) -> str | None:
    """Revision of the schema in a database; None when it is empty.

    Raises
    ------
    LedgerError
        When it holds tables of these names that no ledger made.
    """
    tables = set(sa.inspect(connection).get_table_names())
    if "alembic_version" in tables:
        revisions = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all()
        if revisions:
            return str(revisions[0])
    foreign = sorted(tables & set(METADATA.tables))
    if foreign:
        raise LedgerError(
            f"the database has a table {foreign[0]} that no ledger made, expected an empty database or a ledger. "
            "Give the ledger a database of its own."
        )
    return None


def bring_to_newest(connection: Connection, *, scripts: Path = _SCRIPTS) -> None:
    """Make or migrate the schema, within the transaction that `connection` is in: wholly, or not at all.

    Parameters
    ----------
    connection : Connection
        In a transaction that no other process can write beside (SQLite: ``BEGIN IMMEDIATE``).
    scripts : Path
        Folder with ``versions``; for tests of what comes later.

    Raises
    ------
    LedgerError
        When the database is of a schema that this version does not know.
    """
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
    found = schema_of(connection)
    script = ScriptDirectory(str(scripts))
    known = [revision.revision for revision in script.walk_revisions()]
    if found is not None and found not in known:
        raise unknown_schema(found, known[0])
    context = MigrationContext.configure(connection)
    with Operations.context(context):
        for revision in reversed(list(script.iterate_revisions("head", found or "base"))):
            revision.module.upgrade()
    context.stamp(script, "head")


def unknown_schema(found: str, newest: str = NEWEST) -> LedgerError:
    """Say that a database is newer than this version of OpenDT."""
    return LedgerError(
        f"the ledger's schema is {found}, expected {newest} or older: a newer OpenDT wrote it. "
        "Use that version, or give this one another ledger."
    )
