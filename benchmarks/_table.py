"""One way for every benchmark to print and keep its numbers."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> str:
    """Return processor, cores, memory and Python of this machine, in one line."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        cores = sum(line.startswith("processor") for line in lines)
        total_kib = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
        return f"{model}, {cores} cores, {total_kib / 2**20:.0f} GiB, Python {platform.python_version()}"
    except (OSError, StopIteration, IndexError, ValueError):
        return f"{model}, Python {platform.python_version()}"


def commit() -> str:
    """Return the short commit, with a plus sign where the tree has changes."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=RESULTS.parent, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_results(
    name: str,
    title: str,
    rows: Sequence[dict[str, object]],
    *,
    packages: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """Print a table and write it to ``benchmarks/results/<name>.md``.

    Parameters
    ----------
    name : str
        File name without its ending.
    title : str
    rows : sequence of dict
        Lines of the table, all with the same keys.
    packages : sequence of str
        Distributions whose versions belong to the numbers.
    notes : sequence of str
        What a reader has to know: sizes, what is compared with what.
    """
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} absent")
    heads = list(rows[0]) if rows else []
    lines = [
        f"# {title}",
        "",
        f"- {machine()}",
        f"- commit {commit()}, {datetime.now(UTC).date().isoformat()}"
        + (f", {', '.join(versions)}" if versions else ""),
        *(f"- {note}" for note in notes),
        "",
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
        *("| " + " | ".join(str(row[head]) for head in heads) + " |" for row in rows),
        "",
    ]
    text = "\n".join(lines)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    return text
