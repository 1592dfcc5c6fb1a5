"""Stored SRs that are questions, their kept answers, and result objects that are owed to peers."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "question",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("sop_instance_uid", TEXT, nullable=False),
        sa.Column("source_ae", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=True),
        sa.Column("answered_at", sa.Double(), nullable=True),
        sa.Column("answer", sa.JSON(), nullable=True),
        sa.Column("report_uid", TEXT, nullable=True),
        sa.Column("panel_uid", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("id", name="question_pkey"),
        sa.UniqueConstraint("sop_instance_uid", name="question_sop_instance_uid_key"),
    )
    op.create_index("question_not_before", "question", ["not_before"], unique=False)
    op.create_index("question_report_uid", "question", ["report_uid"], unique=False)
    op.create_table(
        "delivery",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("question_id", ROW_ID, nullable=False),
        sa.Column("sop_instance_uid", TEXT, nullable=False),
        sa.Column("ae_title", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("owed_at", sa.Double(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["question_id"], ["question.id"], name="delivery_question_id_fkey"),
        sa.PrimaryKeyConstraint("id", name="delivery_pkey"),
        sa.UniqueConstraint("sop_instance_uid", "ae_title", name="delivery_sop_instance_uid_ae_title_key"),
    )
    op.create_index("delivery_question_id", "delivery", ["question_id"], unique=False)
    op.create_index("delivery_not_before", "delivery", ["not_before"], unique=False)


def downgrade() -> None:
    op.drop_table("delivery")
    op.drop_table("question")
