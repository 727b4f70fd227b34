r"""The schema of the ledger as it is today.

Types are those that SQLite and PostgreSQL keep alike, to the bit: 64-bit integers, doubles, text and bytes. JSON is text,
because PostgreSQL's own JSON types change what they are given (order of keys, spelling of numbers, no ``\u0000``), and the
hashes are over what was given. Columns of float64 and int64 are bytes, little-endian.

``recorded_ms`` is the wall clock, for people: it is in no hash and in no export.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = [
    "CERTIFICATES",
    "DECISIONS",
    "EVENTS",
    "METADATA",
    "OBSERVATIONS",
    "PLANS",
    "PREDICTIONS",
    "PROPOSALS",
    "SLO_VERSIONS",
    "SOURCE_OFFSETS",
    "TOPOLOGY_VERSIONS",
    "VERDICTS",
    "WINDOWS",
]

METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s",
        "ix": "ix_%(table_name)s_window",
    }
)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _integer(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _double(name: str) -> Column[float]:
    return Column(name, Double, nullable=True)


def _bytes(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=False)


def _of_window() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["datacenter", "window_index"], ["windows.datacenter", "windows.window_index"])


def _versions(name: str) -> Table:
    return Table(
        name,
        METADATA,
        _text("datacenter"),
        _integer("version"),
        _integer("from_index"),  # the first window that it holds for
        _text("source"),
        _text("content"),
        _text("previous_hash"),
        _text("hash"),
        _integer("recorded_ms"),
        PrimaryKeyConstraint("datacenter", "version"),
    )


TOPOLOGY_VERSIONS: Final = _versions("topology_versions")
SLO_VERSIONS: Final = _versions("slo_versions")

WINDOWS: Final = Table(
    "windows",
    METADATA,
    _text("datacenter"),
    _integer("window_index"),
    _integer("start_ms"),
    _integer("end_ms"),
    _text("input_hash"),
    _text("metrics"),
    _text("slo"),
    _double("score"),
    _text("positions"),
    _integer("topology_version", nullable=True),
    _integer("slo_version", nullable=True),
    _text("previous_hash"),
    _text("hash"),
    _bytes("digests"),  # the head of each section's digest: says which section differs when the hash does
    _integer("recorded_ms"),
    PrimaryKeyConstraint("datacenter", "window_index"),
    ForeignKeyConstraint(
        ["datacenter", "topology_version"], ["topology_versions.datacenter", "topology_versions.version"]
    ),
    ForeignKeyConstraint(["datacenter", "slo_version"], ["slo_versions.datacenter", "slo_versions.version"]),
)

PREDICTIONS: Final = Table(
    "predictions",
    METADATA,
    _text("datacenter"),
    _text("kind"),
    _integer("issued_ms"),
    _integer("window_index"),
    _integer("first_target_ms"),
    _integer("tick_ms"),
    _text("columns"),  # names, of which each has its share of `data`, in this order
    _bytes("data"),
    _text("input_hash"),
    _text("version"),
    PrimaryKeyConstraint("datacenter", "kind", "issued_ms"),
    _of_window(),
    Index(None, "datacenter", "window_index"),
)

OBSERVATIONS: Final = Table(
    "observations",
    METADATA,
    _text("datacenter"),
    _integer("window_index"),
    _bytes("time_ms"),
    _bytes("power_w"),
    PrimaryKeyConstraint("datacenter", "window_index"),
    _of_window(),
)

VERDICTS: Final = Table(
    "verdicts",
    METADATA,
    _text("datacenter"),
    _text("kind"),
    _integer("issued_ms"),
    _integer("window_index"),
    _integer("points"),
    _double("error_ratio"),
    _double("bias_ratio"),
    _double("coverage_ratio"),
    _double("persistence_error_ratio"),
    _double("skill_ratio"),
    PrimaryKeyConstraint("datacenter", "kind", "issued_ms"),
    ForeignKeyConstraint(
        ["datacenter", "kind", "issued_ms"], ["predictions.datacenter", "predictions.kind", "predictions.issued_ms"]
    ),
    _of_window(),
    Index(None, "datacenter", "window_index"),
)


def _documents(name: str) -> Table:
    return Table(
        name,
        METADATA,
        _text("datacenter"),
        _text("id"),
        _integer("window_index", nullable=True),  # null: recorded between windows
        _text("proposal_id"),
        _text("content"),
        _text("hash"),
        _integer("recorded_ms"),
        PrimaryKeyConstraint("datacenter", "id"),
        _of_window(),
        Index(None, "datacenter", "window_index"),
    )


PROPOSALS: Final = _documents("proposals")
CERTIFICATES: Final = _documents("certificates")
DECISIONS: Final = _documents("decisions")
PLANS: Final = _documents("plans")

EVENTS: Final = Table(
    "events",
    METADATA,
    # Only for following the events as they come; SQLite counts rows in a column of just this type.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    _text("datacenter"),
    _text("key"),
    _integer("window_index", nullable=True),
    _integer("time_ms"),
    _text("kind"),
    _text("level"),
    _text("content"),
    _integer("recorded_ms"),
    UniqueConstraint("datacenter", "key"),
    _of_window(),
    Index(None, "datacenter", "window_index"),
    sqlite_autoincrement=True,
)

SOURCE_OFFSETS: Final = Table(
    "source_offsets",
    METADATA,
    _text("datacenter"),
    _text("topic"),
    _integer("partition"),
    _integer("resume_offset"),
    _integer("next_offset"),
    _integer("watermark_ms"),
    PrimaryKeyConstraint("datacenter", "topic", "partition"),
)
