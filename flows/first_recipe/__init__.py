"""`scale init`: a first recipe for a folder, written from a look at it."""
