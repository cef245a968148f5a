"""Alembic migrations of the audit ledger; storage.ledger.open_ledger upgrades to the newest revision."""
