"""The schema: made from nothing, brought from every earlier one to the newest with its rows, never from a newer one."""

from __future__ import annotations

import io
import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from opendt.model.errors import LedgerError
from opendt.verification import migrations
from opendt.verification.ledger import Ledger
from opendt.verification.ledger_patience import Patience
from opendt.verification.migrations.tables import METADATA
from opendt.verification.migrations.upgrade import NEWEST, bring_to_newest
from tests.unit.verification.ledger_sample import entry, fill

SCRIPTS = Path(migrations.__file__).parent
REVISIONS = [revision.revision for revision in ScriptDirectory(str(SCRIPTS)).walk_revisions()][::-1]

# A revision that may come one day.
LATER = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{newest}"


def upgrade():
    op.add_column("windows", sa.Column("later", sa.Text, nullable=False, server_default="x"))
    {trouble}
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    return f"sqlite:///{tmp_path}/ledger.sqlite"


@pytest.fixture
def engine(url):
    made = sa.create_engine(url, poolclass=sa.NullPool)
    yield made
    made.dispose()


def exported(url):
    stream = io.BytesIO()
    with Ledger.open(url, read_only=True) as ledger:
        ledger.export(stream)
        assert ledger.verify() == []
    return stream.getvalue()


def schema_at(engine, revision):
    script = ScriptDirectory(str(SCRIPTS))
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context):
            for step in reversed(list(script.iterate_revisions(revision, "base"))):
                step.module.upgrade()
        context.stamp(script, revision)


def later_scripts(folder, trouble="pass"):
    shutil.copytree(SCRIPTS / "versions", folder / "versions")
    (folder / "versions" / "r9999_later.py").write_text(LATER.format(newest=NEWEST, trouble=trouble))
    return folder


def test_the_newest_revision_is_the_one_that_is_looked_for():
    assert REVISIONS[-1] == NEWEST


def test_the_revisions_make_the_tables(url, engine):
    Ledger.open(url).close()
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA) == []
        inspector = sa.inspect(connection)
        for name, table in METADATA.tables.items():
            assert inspector.get_pk_constraint(name)["constrained_columns"] == [c.name for c in table.primary_key]
            assert len(inspector.get_foreign_keys(name)) == len(table.foreign_key_constraints)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_ledger_of_every_schema_is_brought_to_the_newest_with_its_rows(url, engine, tmp_path, revision):
    """Rows are written as that schema had them, from those of a ledger of today."""
    with Ledger.open(tmp_path / "today.sqlite") as ledger:
        fill(ledger, 6)
    schema_at(engine, revision)
    old = sa.MetaData()
    with sqlite3.connect(tmp_path / "today.sqlite") as source, engine.begin() as connection:
        source.row_factory = sqlite3.Row
        old.reflect(connection)
        for table in (METADATA.tables[name] for name in METADATA.tables if name in old.tables):
            columns = [c.name for c in old.tables[table.name].columns if c.name in table.columns]
            rows = [dict(row) for row in source.execute(f"SELECT {', '.join(columns)} FROM {table.name}")]
            if rows:
                connection.execute(old.tables[table.name].insert(), rows)
    source.close()
    Ledger.open(url).close()
    assert exported(url) == exported(tmp_path / "today.sqlite")


def test_a_later_schema_is_reached_with_the_rows_of_this_one(url, engine, tmp_path):
    with Ledger.open(url) as ledger:
        fill(ledger, 3)
    with engine.begin() as connection:
        bring_to_newest(connection, scripts=later_scripts(tmp_path / "later"))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT DISTINCT later FROM windows")).scalars().all() == ["x"]
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == ["9999"]
    for read_only in (True, False):
        with pytest.raises(LedgerError, match=f"schema is 9999, expected {NEWEST}.*a newer OpenDT wrote it"):
            Ledger.open(url, read_only=read_only, patience=Patience(limit_s=0))


def test_a_migration_that_fails_leaves_everything_as_it_was(postgres, tmp_path):
    with Ledger.open(postgres) as ledger:
        fill(ledger, 2)
    before = exported(postgres)
    engine = sa.create_engine(postgres, poolclass=sa.NullPool)
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        bring_to_newest(connection, scripts=later_scripts(tmp_path / "later", "1 / 0"))
    assert exported(postgres) == before


def test_a_database_of_someone_else_is_refused(url, engine):
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE windows (id int)"))
    with pytest.raises(LedgerError, match="a table windows that no ledger made"):
        Ledger.open(url, patience=Patience(limit_s=0))


def test_a_reader_refuses_what_is_no_ledger_yet(tmp_path):
    with pytest.raises(LedgerError, match=r"x\.sqlite: no such file, expected a ledger"):
        Ledger.open(tmp_path / "x.sqlite", read_only=True)
    assert not (tmp_path / "x.sqlite").exists()
    sqlite3.connect(tmp_path / "empty.sqlite").close()
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(LedgerError, match="found an empty database, expected a ledger"):
        Ledger.open(tmp_path / "empty.sqlite", read_only=True, patience=Patience(limit_s=0))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://root:hunter2@db/x", "found a URL of mysql, expected a file, sqlite:///FILE or postgresql://"),
        ("::://hunter2", "found what is no URL"),
        ("postgresql://u:hunter2@h:port/x", "found what is no URL"),
        ("nowhere/at/all.sqlite", r"nowhere/at/all.sqlite: its folder does not exist"),
    ],
)
def test_a_wrong_place_is_refused_without_its_password(url, message):
    with pytest.raises(LedgerError, match=message) as caught:
        Ledger.open(url, patience=Patience(limit_s=0))
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "x.sqlite").write_bytes(b"power,12\n" * 1000)
    with pytest.raises(LedgerError, match=r"x\.sqlite: file is not a database"):
        Ledger.open(tmp_path / "x.sqlite", patience=Patience(limit_s=0))


def test_a_ledger_in_memory_serves_a_test():
    with Ledger.open("sqlite://") as ledger, ledger.lease("surf"):
        fill(ledger, 2)
        assert ledger.record_window(entry(1)) is False


def test_sqlite_waits_for_the_disk_only_where_that_is_promised(tmp_path):
    normal, full = 1, 2
    with Ledger.open(tmp_path / "x.sqlite") as ledger:

        def setting(name, *, durable):
            return ledger._session.run(
                lambda connection: connection.exec_driver_sql(f"PRAGMA {name}").scalar(), write=True, durable=durable
            )[0]

        levels = [setting("synchronous", durable=durable) for durable in (False, True, True, False)]
        assert levels == [normal, full, full, normal]
        assert setting("journal_mode", durable=False) == "wal"
        assert setting("foreign_keys", durable=False) == 1


def test_postgresql_is_told_to_keep_what_it_acknowledged(postgres):
    with sa.create_engine(postgres, poolclass=sa.NullPool).connect() as connection:
        name = connection.engine.url.database
        connection.execute(sa.text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
        connection.commit()
    with Ledger.open(postgres) as ledger:
        shown, _ = ledger._session.run(
            lambda connection: connection.exec_driver_sql("SHOW synchronous_commit").scalar(), write=False
        )
    assert shown == "on"
