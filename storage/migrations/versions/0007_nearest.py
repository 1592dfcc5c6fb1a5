"""How far the tables of pgvector's indexes have followed the regions; the extension, where the server has it.

The tables themselves belong to generations and come and go with them: `storage.vectors.pgvector`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
AVAILABLE = sa.text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
OLDEST = {"name": "oldest_program", "value": 1}


def upgrade() -> None:
    op.create_table(
        "nearest",
        sa.Column("generation_id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("projection", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("watermark", ROW_ID, nullable=False),
        sa.PrimaryKeyConstraint("generation_id", "projection", name="nearest_pkey"),
    )
    op.bulk_insert(sa.table("counter", sa.column("name"), sa.column("value")), [OLDEST])
    if op.get_bind().dialect.name == "postgresql":
        _extension()


def _extension() -> None:
    """In a schema of its own: its type has the name of a table here.

    Who may not create it has a database without it: the administrator does it, or it is not used.
    """
    connection = op.get_bind()
    if connection.execute(AVAILABLE).first() is None:
        return
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS pgvector"))
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS vector SCHEMA pgvector"))
    except sa.exc.ProgrammingError:  # insufficient_privilege
        return


def downgrade() -> None:
    op.execute("DELETE FROM counter WHERE name = 'oldest_program'")
    op.drop_table("nearest")
