"""Names and versions of the tools that make features: for fingerprints and ledgers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.errors import MissingDependencyError
from pipeline.settings import Settings


def decoder_identity(settings: Settings) -> dict[str, str]:
    """Return name, version and device of the decoder that a run here would use: part of every fingerprint."""
    from extract.decoding.decode import PYAV_VERSION

    if settings.decoder == "pyav":
        return {"name": "pyav", "version": PYAV_VERSION, "device": "cpu"}
    try:
        found = version("torchcodec")
    except PackageNotFoundError as err:
        raise MissingDependencyError(
            f"expected torchcodec for the decoder {settings.decoder}, found it not installed; "
            "pip install 'scale-pipeline[torchcodec]', or leave SCALE_DECODER at pyav"
        ) from err
    return {"name": "torchcodec", "version": found, "device": decoder_options(settings)["device"]}


def decoder_options(settings: Settings) -> dict[str, Any]:
    """Return what :func:`extract.decoding.opening.open_reader` is given for the decoder that the settings name."""
    name, _, device = settings.decoder.partition("-")
    return {"decoder": name, "device": device or "cpu"}
