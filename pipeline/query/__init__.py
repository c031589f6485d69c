"""Read-only SQL over catalogue, ledger and geometry."""
