"""The stage `extract`: plan, engine, shards being computed, whole shards on Dask."""
