"""Who imports whom, read from the source: every import statement counts, wherever it stands and whatever guards it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

Graph = Mapping[str, set[str]]


def import_graph(root: Path, packages: Iterable[str]) -> dict[str, set[str]]:
    """Return module -> modules of the same packages that it names in an import."""
    files = {_name(path, root): path for package in packages for path in (root / package).rglob("*.py")}
    return {module: set(_imports(module, path, files)) - {module} for module, path in files.items()}


def folders(graph: Graph) -> dict[str, set[str]]:
    """Return the same between sub-folders: what lies at a package's top level counts as the module it is."""
    merged: dict[str, set[str]] = {}
    for module, found in graph.items():
        folder = folder_of(module)
        merged.setdefault(folder, set()).update(folder_of(other) for other in found)
    return {folder: found - {folder} for folder, found in merged.items()}


def folder_of(module: str) -> str:
    """``probe.maths.knn -> probe.maths``; ``probe.stage`` is itself."""
    return ".".join(module.split(".")[:2])


def cycle(graph: Graph) -> list[str]:
    """Return one circle as its modules in order, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as err:
        return list(err.args[1])
    return []


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(module: str, path: Path, files: Mapping[str, Path]) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if (found := _module_of(name, files)) is not None:
                yield found


def _module_of(name: str, files: Mapping[str, Path]) -> str | None:
    """Return the module that a dotted name lies in: ``pipeline.errors.NotFoundError -> pipeline.errors``."""
    while name not in files:
        if "." not in name:
            return None
        name = name.rpartition(".")[0]
    return name
