"""A connection in, its database at this program's revision out; everything in the caller's transaction."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from storage.errors import DatabaseError

LOCK = 0x44494E4F4445  # any number that is ours: PostgreSQL's advisory locks are named by numbers


def configuration() -> Config:
    """Alembic's settings, without a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def newest() -> str:
    """The newest revision in the folder."""
    head = ScriptDirectory.from_config(configuration()).get_current_head()
    assert head is not None, "the folder of migrations is part of the program"
    return head


def upgrade(connection: Connection) -> None:
    """Apply the missing migrations. DatabaseError when the database is of a newer program."""
    if connection.dialect.name == "postgresql":  # two programs starting at once: the second waits, finds it done
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    config = configuration()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise DatabaseError(f"the database's schema is not one this program knows: {error}") from None
