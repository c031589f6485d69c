"""Archives that unfold: a zip of a few megabytes may claim to hold gigabytes, and readers believe it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from pipeline.errors import WeightsError

MAX_INFLATION = 4
"""torch stores records as they are; who packs them again may, but tensors do not shrink by much."""
SPARE_BYTES = 64 << 20


def check_inflation(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise :class:`WeightsError` if the records of an archive are much larger than its file."""
    held, claimed = path.stat().st_size, sum(record.file_size for record in archive.infolist())
    if claimed > MAX_INFLATION * held + SPARE_BYTES:
        raise WeightsError(
            f"{path}: expected records of about the file's {held:,} bytes, found some that unfold to {claimed:,}; "
            "get the file again from whoever made it, saved by torch"
        )
