"""`scale serve`: a page to look at stores, and a read-only service to ask them."""
