"""Checking the previews: every file whole, in its place, of the catalogue's videos, one a shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import CorruptDataError, NotFoundError, WrongVideoError
from pipeline.sets.ledger_names import entry_key, loose_generations
from pipeline.storage.schema import previews_key
from pipeline.store.previews import Previews

if TYPE_CHECKING:
    from pipeline.sets.binding import Binding
    from pipeline.verify.findings import Findings


def check_previews(findings: Findings, dataset: str, shard_rows: int, binding: Binding) -> None:
    """Name previews that are damaged, another video's, or were left behind by a newer file.

    Parameters
    ----------
    binding : Binding
        Whose row it is.
    """
    folder = previews_key(dataset)
    previews = Previews(findings.backend, dataset, shard_rows, binding)
    for shard, found in loose_generations(findings.backend, folder).items():
        for generation in found:
            key = entry_key(folder, shard, generation)
            try:
                previews.file(shard, generation)
            except NotFoundError:
                continue  # a newer one took its place meanwhile
            except (CorruptDataError, WrongVideoError) as error:
                kind = "other videos" if isinstance(error, WrongVideoError) else "damaged previews"
                findings.add(kind, key, str(error), findings.drop(key) if findings.repair else "")
                continue
            if generation != found[-1]:
                what = f"superseded by generation {found[-1]}"
                findings.add("orphan", key, what, findings.drop(key) if findings.repair else "")
