"""Videos that are no files of this machine: at addresses, in shards; brought at hand through a bounded cache."""
