"""What only PostgreSQL has: the lock of migrations and appends, roles and their rights.

Roles (they belong to the server, not to one database; without a password until an administrator gives one):
    verilora_writer    SELECT, INSERT on every table: a provider's run
    verilora_reader    SELECT; read-only transactions, statements of at most 30 s: API, pages, verification
    verilora_auditor   SELECT; INSERT into verdicts and into log_entries for verdicts: `verilora verify --record`
Whoever migrates owns the tables. Where that user may not create roles, those that exist get their rights, a warning says so,
and `verilora ledger roles` prints the SQL for an administrator. A revision that makes a table calls grant() after it.
"""

import logging

import sqlalchemy as sa
from alembic import op

LOCK = 0x766572696C6F7261  # "verilora" in ASCII: pg_advisory_xact_lock's key, in each database its own lock

_SETTINGS: dict[str, dict[str, str]] = {
    "verilora_writer": {},
    "verilora_reader": {"default_transaction_read_only": "on", "statement_timeout": "30s", "idle_in_transaction_session_timeout": "60s"},
    "verilora_auditor": {"statement_timeout": "60s", "idle_in_transaction_session_timeout": "60s"},
}
ROLES = tuple(_SETTINGS)
_AUDITOR_APPENDS = ("verdicts", "log_entries")
_log = logging.getLogger(__name__)


def role_statements() -> list[str]:
    """SQL that makes the roles if they are absent: for somebody who may create roles."""
    statements = []
    for role, settings in _SETTINGS.items():
        # two ledgers of one server may be migrated at once
        statements.append(
            f"DO $$ BEGIN CREATE ROLE {role} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        )
        statements += [f"ALTER ROLE {role} SET {name} = '{value}'" for name, value in settings.items()]
    return statements


def grant_statements(tables: list[str], roles: list[str]) -> list[str]:
    """SQL that gives these roles their rights on these tables: for the tables' owner."""
    statements = []
    for role in roles:
        appends = [table for table in tables if table != "alembic_version"]
        if role != "verilora_writer":
            appends = [table for table in tables if table in _AUDITOR_APPENDS and role == "verilora_auditor"]
        statements.append(f"GRANT SELECT ON {', '.join(tables)} TO {role}")
        statements += [f"GRANT INSERT ON {', '.join(appends)} TO {role}"] if appends else []
    return statements


def grant(tables: list[str]) -> None:
    """Make the roles where this user may, and give them their rights on these tables."""
    connection = op.get_bind()
    may = connection.scalar(sa.text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"))
    existing = set(connection.scalars(sa.text("SELECT rolname FROM pg_roles WHERE rolname LIKE 'verilora_%'")))
    if may and not existing.issuperset(ROLES):
        for statement in role_statements():
            op.execute(statement)
        existing = set(ROLES)
    for statement in grant_statements(tables, [role for role in ROLES if role in existing]):
        op.execute(statement)
    if not existing.issuperset(ROLES):
        _log.warning(
            "this database user may not create roles, so %s are missing; the ledger works for its owner. An administrator makes "
            "them with the SQL of `verilora ledger roles`", ", ".join(role for role in ROLES if role not in existing),
        )


def revoke(tables: list[str]) -> None:
    """The opposite of grant for tables that stay; roles stay, other databases use them."""
    connection = op.get_bind()
    existing = set(connection.scalars(sa.text("SELECT rolname FROM pg_roles WHERE rolname LIKE 'verilora_%'")))
    for role in ROLES:
        if role in existing:
            op.execute(f"REVOKE ALL ON {', '.join(tables)} FROM {role}")


def schema() -> str:
    """The schema that tables are made in, quoted."""
    return str(op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())")))
