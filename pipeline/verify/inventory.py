"""What must be in a dataset: every set and artifact that a group, a copy, a ledger or a file tells of, from all sides.

None of these alone is believed to be complete: a group may have been deleted, a ledger left behind, a copy forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from pipeline.errors import CorruptDataError
from pipeline.sets.arrays import group_json, group_key, parse_group, parse_json
from pipeline.sets.set_files import SetSpec, embedding_set_of, feature_set_of
from pipeline.storage import schema
from pipeline.storage.layout import check_shard_rows
from pipeline.storage.locks import exclusive
from pipeline.storage.spare import spared_keys
from pipeline.store.dropping import has_shards
from pipeline.verify.described import check_described
from pipeline.verify.findings import Findings, read_or_say


class Inventory:
    """The sets of a dataset, their groups checked on the way.

    Attributes
    ----------
    crop_sets : tuple of str
        All that anything tells of.
    artifacts : tuple of (kind, name)
    """

    def __init__(self, findings: Findings, dataset: str, *, copied: bool) -> None:
        self._findings = findings
        self._backend = findings.backend
        self._dataset = dataset
        self._copied = copied
        self._spared = [key.removeprefix(f"{dataset}/") for key in spared_keys(self._backend, dataset)]
        self.crop_sets = tuple(self._names(f"{dataset}/crops", r"crops/([^/]+)/"))
        self.artifacts = tuple(
            (kind, name)
            for kind in schema.ARTIFACT_KINDS
            for name in self._names(f"{dataset}/{kind}", rf"{kind}/([^/]+)/")
        )

    def _names(self, folder: str, pattern: str, *more: str) -> list[str]:
        """Return the names in some folders, and those of which a copy tells."""
        found = {name for place in (folder, *more) for name in self._backend.folders(place)}
        found |= {match[1] for key in self._spared if (match := re.match(pattern, key))}
        return sorted(name for name in found if not name.startswith("_"))

    def check_dataset(self) -> int | None:
        """Check the dataset's own group; return its rows a shard, None where nothing can be said any more."""

        def parse(data: bytes) -> int:
            return check_shard_rows(parse_group(data, self._dataset, "dataset", where="")["shard_rows"])

        data = check_described(self._findings, group_key(self._dataset), parse, lock=None, copied=self._copied)
        return None if data is None else parse(data)

    def specs(self, shard_rows: int) -> Iterator[SetSpec]:
        """Check every group; yield the sets that can be checked further."""
        for crops in self.crop_sets:
            folder = schema.crop_set_key(self._dataset, crops)
            names = self._names(
                f"{folder}/features", rf"crops/{re.escape(crops)}/features/([^/]+)/", f"{folder}/ledger"
            )
            self._check_group(folder, "crop_set", lock=folder, matters=bool(names))
            if names or self._backend.exists(group_key(folder)):
                self._check_plain(f"{self._dataset}/crops")
                self._check_plain(f"{folder}/features")
            for name in names:
                yield from self._feature_set(crops, name, shard_rows)
        embeddings = self._names(f"{self._dataset}/embeddings", r"embeddings/([^/]+)/")
        for name in embeddings:
            self._check_plain(f"{self._dataset}/embeddings")
            yield from self._embedding_set(name, shard_rows)

    def _feature_set(self, crops: str, name: str, shard_rows: int) -> Iterator[SetSpec]:
        group = schema.feature_set_key(self._dataset, crops, name)
        attributes = self._check_group(
            group, "feature_set", lock=schema.crop_set_key(self._dataset, crops),
            matters=has_shards(self._backend, group),
            more=lambda found: self._fits(feature_set_of(found, self._dataset, crops, name), shard_rows),
        )  # fmt: skip
        if attributes is not None:
            yield feature_set_of(attributes, self._dataset, crops, name)

    def _embedding_set(self, name: str, shard_rows: int) -> Iterator[SetSpec]:
        group = schema.embedding_set_key(self._dataset, name)
        ledger = schema.embedding_ledger_key(self._dataset, name)
        attributes = self._check_group(
            group, "embedding_set", lock=ledger, matters=has_shards(self._backend, group),
            more=lambda found: self._fits(embedding_set_of(found, self._dataset, name), shard_rows),
        )  # fmt: skip
        if attributes is not None:
            yield embedding_set_of(attributes, self._dataset, name)

    @staticmethod
    def _fits(spec: SetSpec, shard_rows: int) -> None:
        if spec.shard_rows != shard_rows:
            raise CorruptDataError(f"{spec.label}: expected {shard_rows} rows a shard, found {spec.shard_rows}")

    def _check_group(
        self, folder: str, kind: str, *, lock: str, matters: bool, more: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any] | None:
        """Check a group and its copy; return its attributes, None where there are none to go by.

        Parameters
        ----------
        matters : bool
            Whether something is lost without it. A set whose creation was killed has no group yet, and no entries.
        more : callable, optional
            Raises where the attributes contradict themselves or the dataset.
        """
        key = group_key(folder)
        spared = key.removeprefix(f"{self._dataset}/") in self._spared
        if not (matters or spared or self._backend.exists(key)):
            return None

        def parse(data: bytes) -> dict[str, Any]:
            attributes = parse_group(data, folder, kind, where="")
            if more is not None:
                more(attributes)
            return attributes

        data = check_described(self._findings, key, parse, lock=lock, copied=self._copied)
        return None if data is None else parse(data)

    def _check_plain(self, folder: str) -> None:
        """Check a group that only those need who walk the tree with plain zarr."""
        key = group_key(folder)
        data, why = read_or_say(self._backend, key)
        if data is not None:
            why = "expected a plain group, found something else"
            with suppress(CorruptDataError):
                if parse_json(data, what=key) == parse_json(group_json({}), what=key):
                    return
        if key in {problem.where for problem in self._findings.problems}:
            return  # of several sets in it, one has said so
        fixed = ""
        if self._findings.repair:
            with exclusive(self._backend, folder):
                fixed = f"written again{self._findings.put(key, group_json({}))}"
        self._findings.add("damaged metadata", key, why, fixed)
