"""Checking the packs of a ledger: each file and its copy against their seals, and one put back from the other."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import CorruptDataError, NotFoundError, UnsafeNameError
from pipeline.sets.ledger_names import Packs, pack_numbers
from pipeline.sets.ledger_pack import check_pack, named_pack
from pipeline.storage.backend import StorageBackend
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import pack_copy_key, pack_key
from pipeline.storage.sealed import check_seal
from pipeline.storage.spare import keep, set_aside
from pipeline.verify.findings import Problem


def check_packs(backend: StorageBackend, ledger: str, *, repair: bool) -> Iterator[Problem]:
    """Yield what is wrong with the packs of a ledger.

    Raises
    ------
    CorruptDataError
        If the entries of a pack can be read from neither file: what its shards hold is not known, so nobody may call
        them orphans.
    """
    for number in pack_numbers(backend, ledger):
        if not check_pack(backend, ledger, number):
            continue
        with exclusive(backend, ledger):  # a compaction may have been between the file and its copy
            problems = check_pack(backend, ledger, number)
            keys = {pack_key(ledger, number), pack_copy_key(ledger, number)}
            if set(problems) == keys and number not in pack_numbers(backend, ledger):
                continue  # merged into another meanwhile
            good = keys - set(problems)
            strays = {} if good else {key: said for key in sorted(keys) if (said := _says(backend, key)) is not None}
            for key, said in strays.items():  # whole files of another name, and nothing that is this number's is left
                fixed = f"set aside as {set_aside(backend, key)}" if repair else ""
                yield Problem(kind="damaged ledger", where=key, what=f"{said}, put under another name", repaired=fixed)
            for key, what in problems.items():
                if key in strays or (strays and not backend.exists(key)):
                    continue
                fixed = ""
                if good and repair:
                    kept = keep(backend, key)
                    backend.put(key, backend.read(next(iter(good))))
                    fixed = "restored from its copy" + (f"; what stood there is now {kept}" if kept else "")
                hint = "" if good else "; there is no good copy, restore it from a backup"
                yield Problem(kind="damaged ledger", where=key, what=what + hint, repaired=fixed)
    Packs(backend, ledger)


def _says(backend: StorageBackend, key: str) -> str | None:
    """Return what a whole file says that it is; None where there is none."""
    try:
        data = backend.read(key)
        check_seal(data, what=key)
    except (NotFoundError, CorruptDataError, UnsafeNameError):
        return None
    return named_pack(data)
