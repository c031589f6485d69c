"""The search index: built, kept, asked."""
