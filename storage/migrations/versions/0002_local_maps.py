"""Local maps: what an image looks like at each place, for ROIs much smaller than a region."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "local_map",
        sa.Column("generation_id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("instance_id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("columns", sa.Integer(), nullable=False),
        sa.Column("channels", sa.Integer(), nullable=False),
        sa.Column("x1", sa.Double(), nullable=False),
        sa.Column("y1", sa.Double(), nullable=False),
        sa.Column("x2", sa.Double(), nullable=False),
        sa.Column("y2", sa.Double(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["generation_id"], ["generation.id"], name="local_map_generation_id_fkey"),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name="local_map_instance_id_fkey"),
        sa.PrimaryKeyConstraint("generation_id", "instance_id", name="local_map_pkey"),
    )
    op.create_index("local_map_instance_id", "local_map", ["instance_id"], unique=False)


def downgrade() -> None:
    op.drop_table("local_map")
