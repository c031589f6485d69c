"""A grid over fields of a recipe: many runs on one store, everything shared, one table."""
