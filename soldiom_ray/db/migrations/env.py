"""Alembic's entry: migrate over the connection that `engine` opened."""

from alembic import context

from soldiom_ray.db.tables import Table

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run migrations with `soldiom up`, or through soldiom_ray.db.engine.migrate")
context.configure(connection=connection, target_metadata=Table.metadata, compare_server_default=True)
with context.begin_transaction():
    context.run_migrations()
