"""Who is measured, on what, and who is left out and why."""
