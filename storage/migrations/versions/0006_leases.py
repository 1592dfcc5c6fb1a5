"""Questions, deliveries and commitments are leased: several nodes on one database do each once."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TABLES = ("question", "delivery", "commitment")


def upgrade() -> None:
    """Older programs leave the column alone: to them a row that is held is one that is not due yet."""
    for table in TABLES:
        op.add_column(table, sa.Column("lease_owner", TEXT, nullable=True))


def downgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "lease_owner")
