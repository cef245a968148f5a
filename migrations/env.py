"""Alembic's entry point: runs the revisions on the connection that storage.ledger hands over, or on sqlalchemy.url.

All revisions of one call run in one transaction, so an interrupted upgrade leaves the old schema. On PostgreSQL it takes the
ledger's lock first: of several processes that start at once one migrates, the others find it done; nobody appends meanwhile.
"""

import sqlalchemy as sa
from alembic import context

from migrations.postgres import LOCK


def _migrate(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        transactional_ddl=True,
        transaction_per_migration=False,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    _migrate(handed_over)
else:
    engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url", ""), poolclass=sa.NullPool)
    with engine.connect() as own:
        _migrate(own)
