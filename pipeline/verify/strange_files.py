"""What should not be there: temporary files of dead writers, and links that lead out of the store.

Files of names that are not ours are nobody's business: nothing ever reads them.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.verify.findings import Findings


def check_strange_files(findings: Findings, dataset: str, is_live: Callable[[str], bool]) -> None:
    """Name what dead writers left in a dataset.

    Parameters
    ----------
    is_live : callable
        Whether a living worker may be writing a key.
    """
    backend = findings.backend
    for key, size in backend.leftovers(dataset):
        if not is_live(key):
            _partial(findings, key, size)


def check_root_files(findings: Findings) -> None:
    """Name the temporary files beside the root's metadata, and links that lead out of the store."""
    for key in findings.backend.links():
        if findings.repair:
            findings.backend.remove_link(key)
        what = "a symbolic link that leads out of the store; nothing behind it is read or changed"
        findings.add("link", key, what, "removed; what it led to stays" if findings.repair else "")
    for key, size in findings.backend.leftovers(recursive=False):
        _partial(findings, key, size)


def _partial(findings: Findings, key: str, size: int) -> None:
    if findings.repair:
        findings.backend.delete(key)
    what = f"{size} bytes that a killed writer left"
    findings.add("partial file", key, what, "deleted" if findings.repair else "")
