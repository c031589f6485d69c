"""Features out of a store: selections, mapped shards, batches."""
