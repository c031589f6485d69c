"""What a store is made of: datasets, catalogue, sets, ledger, writers."""
