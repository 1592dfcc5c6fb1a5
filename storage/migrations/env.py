"""Alembic's entry: run the migrations on the connection that `run.upgrade` hands over."""

from alembic import context

from storage.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
