"""Find similar videos, compare runs, and audit stored features against the pixels."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
