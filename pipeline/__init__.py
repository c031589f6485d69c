"""The shared kernel: recipes, catalogue, store, query, errors, events."""
