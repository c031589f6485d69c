"""What a training sees: checked arrays, rows of the store, derived geometry, sets of crops, batches."""
