"""Every byte against its checksum, and repair."""
