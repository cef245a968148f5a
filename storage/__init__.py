"""Where proofs, records and secrets are kept: object store, audit ledger, private store (called by tasks/ and flows/)."""
