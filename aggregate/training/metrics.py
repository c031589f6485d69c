"""Where a training's figures go: JSON lines, and TensorBoard where it is wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.errors import MissingDependencyError

Record = Mapping[str, float | int | None]


class MetricsSink(Protocol):
    """Anything that takes records."""

    def restart(self, history: Sequence[Record]) -> None:
        """Forget what came after these records; a resumed run goes on from them."""

    def write(self, record: Record) -> None:
        """Take one record; `step` is among its keys."""

    def close(self) -> None:
        """Flush."""


class JsonLines:
    """One JSON object a line; a resumed run leaves the file an uninterrupted one would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def restart(self, history: Sequence[Record]) -> None:
        """Rewrite the file with these records alone."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(r) + "\n" for r in history), encoding="utf-8")

    def write(self, record: Record) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Nothing is held open."""


class TensorBoard:
    """Scalars for TensorBoard.

    Raises
    ------
    MissingDependencyError
        If tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as err:
            raise MissingDependencyError(
                "expected the package tensorboard for TensorBoard metrics, found none; "
                "pip install 'scale-pipeline[tensorboard]'"
            ) from err
        self._open = lambda step: SummaryWriter(str(folder), purge_step=step)
        self._writer = None

    def restart(self, history: Sequence[Record]) -> None:
        """Hide what an interrupted run wrote after the last of these records."""
        self._writer = self._open(int(history[-1]["step"] or 0) + 1 if history else None)

    def write(self, record: Record) -> None:
        """Add each figure under its name."""
        if self._writer is None:
            self.restart(())
        assert self._writer is not None
        for name, value in record.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, int(record["step"] or 0))

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
