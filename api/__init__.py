"""Read-only service for auditors: JSON under /api/v1 and server-rendered pages over a ledger and its object store."""
