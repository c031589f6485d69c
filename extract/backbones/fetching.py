"""Fetching a weights file: into the cache, resumed where it broke off, believed when it is whole.

Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`). `SCALE_WEIGHTS_MIRROR` takes the place of an address's
scheme and host.
"""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from extract.backbones.published import Published
from extract.backbones.weights_lock import Locked, lock, read_lock, weights_folder
from pipeline.errors import NotFoundError, StorageError, WeightsError
from pipeline.fingerprint import hash_file

BLOCK_BYTES = 1 << 20
MAX_TRIES = 5
TIMEOUT_S = 60.0
"""Without a byte for so long a connection counts as broken."""
MAX_BYTES = 16 << 30

OnBytes = Callable[[int, int], None]
"""Bytes that are there, and in all (0 where the server does not say)."""


def mirrored(address: str) -> str:
    """Return an address at the mirror that the environment names, if it names one."""
    mirror = os.environ.get("SCALE_WEIGHTS_MIRROR")
    parts = urlsplit(address)
    return f"{mirror.rstrip('/')}{parts.path}" if mirror else address


def fetch(one: Published, *, on_bytes: OnBytes = lambda done, total: None, timeout_s: float = TIMEOUT_S) -> Locked:
    """Fetch a file, check that its tensors can be read without running code, and lock its hash.

    Returns
    -------
    Locked
        With the sha256. Where the lock file has the name already, the bytes must be those.

    Raises
    ------
    NotFoundError
        If the server has no such file.
    StorageError
        If it does not answer, or breaks off again and again; what came stays, and is gone on with.
    WeightsError
        If the bytes are others than those that are locked, or no weights.
    """
    known = read_lock().get(one.name)
    target = weights_folder() / one.file
    if not (known is not None and target.is_file() and hash_file(target) == known.sha256):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        _download(mirrored(one.address), partial, on_bytes, timeout_s)
        _check(partial, one, known)
        os.replace(partial, target)
    entry = Locked(one.file, hash_file(target), target.stat().st_size, one.address)
    lock(one.name, entry)
    return entry


def _check(partial: Path, one: Published, known: Locked | None) -> None:
    """Refuse other bytes than the locked ones, and what holds no tensors; either is removed."""
    from extract.backbones.weights import read_state_dict

    found = hash_file(partial)
    if known is not None and found != known.sha256:
        partial.unlink()
        raise WeightsError(
            f"weights {one.name}: expected sha256 {known.sha256} as locked, found {found} at {one.address}; if the "
            "publisher changed the file and you trust it, remove the name from the lock file"
        )
    named = partial.with_name("checking-" + partial.name.removesuffix(".partial"))
    os.replace(partial, named)  # the reader goes by the ending
    try:
        read_state_dict(named)
    except WeightsError as err:
        named.unlink()
        raise WeightsError(f"weights {one.name} from {one.address}: {err}") from err
    os.replace(named, partial)


def _download(address: str, partial: Path, on_bytes: OnBytes, timeout_s: float) -> None:
    problem = ""
    for attempt in range(MAX_TRIES):
        have = partial.stat().st_size if partial.is_file() else 0
        try:
            if _continue(address, partial, have, on_bytes, timeout_s):
                return
            problem = "it broke off"
        except HTTPError as err:
            if err.code == 416:  # we have all of it, or more than there is
                partial.unlink(missing_ok=True)
                problem = "what was there was no beginning of it"
                continue
            if err.code in (404, 410, 403, 401):
                raise NotFoundError(f"expected weights at {address}, found HTTP {err.code}; was it moved?") from err
            problem = f"HTTP {err.code}"
        except (URLError, http.client.HTTPException, OSError) as err:
            problem = str(getattr(err, "reason", err)) or type(err).__name__
        time.sleep(min(0.1 * 2**attempt, 5.0))
    raise StorageError(
        f"expected {address} whole within {MAX_TRIES} tries, found: {problem}; what came is kept, run the same again. "
        "Behind a proxy set HTTPS_PROXY, for a mirror SCALE_WEIGHTS_MIRROR; or bring the file: `scale weights add FILE`"
    )


def _continue(address: str, partial: Path, have: int, on_bytes: OnBytes, timeout_s: float) -> bool:
    """Fetch from byte `have` on; return whether the file is whole."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise WeightsError(f"expected an address that starts with https://, found {address}")
    headers = {"User-Agent": "scale-pipeline", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urlopen(Request(address, headers=headers), timeout=timeout_s) as answer:  # noqa: S310 - the scheme is checked
        if have and answer.status != 206:  # a server that cannot go on begins again
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else 0
        if total > MAX_BYTES:
            raise WeightsError(f"expected at most {MAX_BYTES} bytes of weights at {address}, found {total}")
        with partial.open("r+b" if have else "wb") as file:
            file.seek(have)
            while block := answer.read1(BLOCK_BYTES):  # what came, however slowly: a stall loses none of it
                file.write(block)
                have += len(block)
                on_bytes(have, total)
                if have > MAX_BYTES:
                    raise WeightsError(f"expected at most {MAX_BYTES} bytes of weights at {address}, found more")
            file.flush()
            os.fsync(file.fileno())
    return not total or have == total


def add(name: str, file: Path) -> Locked:
    """Lock a file that is there already under a name; it stays where it is.

    Raises
    ------
    NotFoundError, WeightsError
        If it is not there, or holds no tensors.
    """
    from extract.backbones.weights import read_state_dict

    if not file.is_file():
        raise NotFoundError(f"expected a weights file at {file}, found none")
    read_state_dict(file)
    entry = Locked(str(file.resolve()), hash_file(file), file.stat().st_size, "")
    lock(name, entry)
    return entry
