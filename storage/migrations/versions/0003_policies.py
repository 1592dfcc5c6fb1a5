"""When a study is complete, what it takes on disk, what contradicts it; how far removals are forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LAST = """
    UPDATE study SET last_received_at = coalesce(
        (SELECT max(instance.received_at) FROM instance JOIN series ON instance.series_row_id = series.id
          WHERE series.study_row_id = study.id), 0)"""
COUNTERS = ("pruned", "expired")


def upgrade() -> None:
    op.add_column("study", sa.Column("last_received_at", sa.Double(), nullable=False, server_default=sa.text("0")))
    op.add_column("study", sa.Column("completed_at", sa.Double(), nullable=True))
    op.execute(LAST)
    op.execute("UPDATE study SET completed_at = last_received_at")  # they were long ago: nobody waits for the news
    op.create_index("study_completed_at", "study", ["completed_at"], unique=False)
    op.create_index("instance_series_row_id_size", "instance", ["series_row_id", "size"], unique=False)
    op.drop_index("instance_series_row_id", "instance")
    _conflicts()
    counter = sa.table("counter", sa.column("name"), sa.column("value"))
    op.bulk_insert(counter, [{"name": name, "value": 0} for name in COUNTERS])


def _conflicts() -> None:
    op.create_table(
        "conflict",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("study_instance_uid", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("patient_id", TEXT, nullable=False),
        sa.Column("issuer", TEXT, nullable=False),
        sa.Column("sop_instance_uid", TEXT, nullable=False),
        sa.Column("source_ae", TEXT, nullable=True),
        sa.Column("outcome", TEXT, nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="conflict_pkey"),
        sa.UniqueConstraint(
            "study_instance_uid",
            "kind",
            "patient_id",
            "issuer",
            name="conflict_study_instance_uid_kind_patient_id_issuer_key",
        ),
    )


def downgrade() -> None:
    op.execute("DELETE FROM counter WHERE name IN ('pruned', 'expired')")
    op.drop_table("conflict")
    op.create_index("instance_series_row_id", "instance", ["series_row_id"], unique=False)
    op.drop_index("instance_series_row_id_size", "instance")
    op.drop_index("study_completed_at", "study")
    op.drop_column("study", "completed_at")
    op.drop_column("study", "last_received_at")
