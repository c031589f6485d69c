"""Where the command `scale` begins: an interrupt while it is still being loaded ends it without a traceback."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Load the command line and run it."""
    try:
        from flows.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted before anything was begun.\n")
        sys.stderr.flush()
        os._exit(130)  # half-loaded libraries have nothing to put in order, and may not survive the attempt
    run()
