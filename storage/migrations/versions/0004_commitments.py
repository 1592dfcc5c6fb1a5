"""Reports of storage commitment that are owed to peers."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "commitment",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("transaction_uid", TEXT, nullable=False),
        sa.Column("ae_title", TEXT, nullable=False),
        sa.Column("entries", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("requested_at", sa.Double(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="commitment_pkey"),
    )
    op.create_index("commitment_not_before", "commitment", ["not_before"], unique=False)


def downgrade() -> None:
    op.drop_table("commitment")
