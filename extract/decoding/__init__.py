"""Videos to frames: what is in a file, which frames, and decoders behind a process boundary."""
