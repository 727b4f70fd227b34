"""The first schema: windows and what was said of them, what was proposed and decided, events, offsets."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None


def upgrade() -> None:
    """Make the tables."""
    _create_versions("topology_versions")
    _create_versions("slo_versions")
    _create_windows()
    _create_predictions()
    _create_observations()
    _create_verdicts()
    for name in ("proposals", "certificates", "decisions", "plans"):
        _create_documents(name)
    _create_events()
    _create_source_offsets()


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _integer(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _double(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=True)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")


def _of_window(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["datacenter", "window_index"],
        ["windows.datacenter", "windows.window_index"],
        name=f"fk_{table}_windows",
    )


def _index_by_window(table: str) -> None:
    op.create_index(f"ix_{table}_window", table, ["datacenter", "window_index"])


def _create_versions(name: str) -> None:
    op.create_table(
        name,
        _text("datacenter"),
        _integer("version"),
        _integer("from_index"),
        _text("source"),
        _text("content"),
        _text("previous_hash"),
        _text("hash"),
        _integer("recorded_ms"),
        _primary(name, "datacenter", "version"),
    )


def _create_windows() -> None:
    op.create_table(
        "windows",
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
        _bytes("digests"),
        _integer("recorded_ms"),
        _primary("windows", "datacenter", "window_index"),
        sa.ForeignKeyConstraint(
            ["datacenter", "topology_version"],
            ["topology_versions.datacenter", "topology_versions.version"],
            name="fk_windows_topology_versions",
        ),
        sa.ForeignKeyConstraint(
            ["datacenter", "slo_version"],
            ["slo_versions.datacenter", "slo_versions.version"],
            name="fk_windows_slo_versions",
        ),
    )


def _create_predictions() -> None:
    op.create_table(
        "predictions",
        _text("datacenter"),
        _text("kind"),
        _integer("issued_ms"),
        _integer("window_index"),
        _integer("first_target_ms"),
        _integer("tick_ms"),
        _text("columns"),
        _bytes("data"),
        _text("input_hash"),
        _text("version"),
        _primary("predictions", "datacenter", "kind", "issued_ms"),
        _of_window("predictions"),
    )
    _index_by_window("predictions")


def _create_observations() -> None:
    op.create_table(
        "observations",
        _text("datacenter"),
        _integer("window_index"),
        _bytes("time_ms"),
        _bytes("power_w"),
        _primary("observations", "datacenter", "window_index"),
        _of_window("observations"),
    )


def _create_verdicts() -> None:
    op.create_table(
        "verdicts",
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
        _primary("verdicts", "datacenter", "kind", "issued_ms"),
        sa.ForeignKeyConstraint(
            ["datacenter", "kind", "issued_ms"],
            ["predictions.datacenter", "predictions.kind", "predictions.issued_ms"],
            name="fk_verdicts_predictions",
        ),
        _of_window("verdicts"),
    )
    _index_by_window("verdicts")


def _create_documents(name: str) -> None:
    op.create_table(
        name,
        _text("datacenter"),
        _text("id"),
        _integer("window_index", nullable=True),
        _text("proposal_id"),
        _text("content"),
        _text("hash"),
        _integer("recorded_ms"),
        _primary(name, "datacenter", "id"),
        _of_window(name),
    )
    _index_by_window(name)


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        _text("datacenter"),
        _text("key"),
        _integer("window_index", nullable=True),
        _integer("time_ms"),
        _text("kind"),
        _text("level"),
        _text("content"),
        _integer("recorded_ms"),
        _primary("events", "id"),
        sa.UniqueConstraint("datacenter", "key", name="uq_events"),
        _of_window("events"),
        sqlite_autoincrement=True,
    )
    _index_by_window("events")


def _create_source_offsets() -> None:
    op.create_table(
        "source_offsets",
        _text("datacenter"),
        _text("topic"),
        _integer("partition"),
        _integer("resume_offset"),
        _integer("next_offset"),
        _integer("watermark_ms"),
        _primary("source_offsets", "datacenter", "topic", "partition"),
    )
