"""Pure functions: exact search, votes, figures, intervals."""
