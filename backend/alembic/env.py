"""Alembic: run the one chain on the database of `HOC_DATABASE_URL` or of the calling program."""

from __future__ import annotations

import os

import sqlalchemy as sa

from alembic import context
from app.db.catalogue import is_described, metadata
from app.db.engine import make_migration_engine

config = context.config
# Only comparing needs the models. Given them, alembic puts their naming convention in front of the names that
# a migration writes out: ck_runs_ck_runs_status.
compares = config.cmd_opts is not None and config.cmd_opts.cmd[0].__name__ in ("revision", "check")
target = metadata if compares else sa.MetaData()
url = config.attributes.get("url") or os.environ.get("HOC_DATABASE_URL", "sqlite:///var/hoc.db")

if context.is_offline_mode():
    context.configure(url=url, target_metadata=target, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = make_migration_engine(url)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=target,
            transaction_per_migration=False,
            include_object=is_described,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()
