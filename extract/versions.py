"""Names and versions of the tools that make features: for fingerprints and ledgers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from pipeline.settings import Settings


def decoder_identity(settings: Settings) -> dict[str, str]:
    """Return name, version and device of the decoder that a run here would use: part of every fingerprint."""
    from extract.decode import PYAV_VERSION

    return {"name": "pyav", "version": PYAV_VERSION, "device": "cpu"}


def tool_versions() -> dict[str, str]:
    """Return versions of what took part, for the ledger."""
    found = {}
    for name in ("scale-pipeline", "torch", "av", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
