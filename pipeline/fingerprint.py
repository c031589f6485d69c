"""Fingerprints: what changes the numbers, as one hash, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import FingerprintMismatchError

HASH_BLOCK_BYTES = 1 << 20


def canonical_json(value: Any) -> str:
    """Return the one JSON text for a JSON-like value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """Return the sha256 (hex) of the canonical JSON of `value`.

    Parameters
    ----------
    value : JSON-like
        Only what changes the numbers belongs in it.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hash_file(path: str | Path) -> str:
    """Return the sha256 (hex) of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys: ``{"a": {"b": 1}} -> {"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat.update(flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def differing_fields(stored: Mapping[str, Any], offered: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted fields in which two fingerprint contents differ, with both values."""
    a, b = flatten(stored), flatten(offered)
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def check_same(
    stored: Mapping[str, Any], offered: Mapping[str, Any], *, what: str, accept: Iterable[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Gate: refuse to mix results made in different ways.

    Parameters
    ----------
    stored, offered : mapping
        Fingerprint contents (not hashes), so that the difference can be named.
    what : str
        What is guarded, for the message: ``"feature set grid5x3/x3d_xs"``.
    accept : iterable of str
        Dotted field names that may differ (a prefix such as ``decoder`` covers its fields).

    Returns
    -------
    dict
        The accepted differences, to be recorded in the ledger.

    Raises
    ------
    FingerprintMismatchError
        If any other field differs; names each with both values.
    """
    accepted = tuple(accept)
    differing = differing_fields(stored, offered)
    refused = {
        key: pair for key, pair in differing.items() if not any(key == a or key.startswith(f"{a}.") for a in accepted)
    }
    if refused:
        lines = "; ".join(f"{key}: stored {old!r}, offered {new!r}" for key, (old, new) in refused.items())
        raise FingerprintMismatchError(
            f"{what} was made another way. Differs in {lines}. "
            "Use another name for the new features, or list a field under `accept` if the difference is harmless.",
            fields=list(refused),
        )
    return differing
