"""Alembic migrations of the ledger, run when it is opened; see `zoo_bridge.ledger.schema`."""
