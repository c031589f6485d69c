"""Bytes and where they lie: folders and object stores behind one interface, seals, locks, claims, layout of shards."""
