"""One set on disk: its ledger, its arrays, read and written, gathered in batches."""
