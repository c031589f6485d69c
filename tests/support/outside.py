"""An installed package that adds kinds: a folder with a module and what pip would have written beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import invalidate_caches
from pathlib import Path
from textwrap import dedent


@contextmanager
def installed(folder: Path, name: str, code: str, entries: Mapping[str, Mapping[str, str]]) -> Iterator[Path]:
    """Put a distribution of one module on the path.

    Parameters
    ----------
    folder : Path
    name : str
        Of the distribution and its module.
    code : str
        The module.
    entries : mapping
        Entry-point group -> kind -> name of the object in the module.
    """
    (folder / f"{name}.py").write_text(dedent(code))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, kinds in entries.items()
        for line in (f"[{group}]", *(f"{kind} = {name}:{thing}" for kind, thing in kinds.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    sys.path.insert(0, str(folder))
    invalidate_caches()
    try:
        yield folder / f"{name}.py"
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)
        invalidate_caches()
