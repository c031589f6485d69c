"""Which videos there are: finding files, reading their tables, facts about each, rows of the catalogue."""
