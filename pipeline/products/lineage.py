"""What a thing in a store is made of, down to the videos: read from what each product wrote down about itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import InvalidInputError, NotFoundError
from pipeline.fingerprint import fingerprint
from pipeline.products.backbone import is_backbone
from pipeline.products.product import Ref
from pipeline.products.report import REPORT_FILE
from pipeline.store.artifacts import Artifact, model_with_weights
from pipeline.store.catalogue import Catalogue
from pipeline.store.kept_embeddings import older_embeddings

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset

KINDS = {
    "reports": "report", "indexes": "index", "models": "model", "embeddings": "embeddings", "features": "features",
    "maps": "map",
}  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """One thing, what is known of it, and what it is made of."""

    what: str
    """``report demo@2``, ``features train16/slow_r50``."""
    facts: Mapping[str, Any]
    inputs: tuple[Origin, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {"what": self.what, **self.facts, "made_of": [one.as_json() for one in self.inputs]}

    def lines(self, depth: int = 0) -> list[str]:
        """Return it for people: one line a thing, indented by what it is part of."""
        known = ((key.replace("_", " "), value) for key, value in self.facts.items() if value not in ("", None))
        facts = ", ".join(f"{key} {value}" for key, value in known)
        own = f"{'  ' * depth}{self.what}" + (f": {facts}" if facts else "")
        return [own, *(line for one in self.inputs for line in one.lines(depth + 1))]


def lineage(ds: Dataset, thing: str) -> Origin:
    """Walk from a thing to the videos it is made of.

    Parameters
    ----------
    ds : Dataset
    thing : str
        ``reports/NAME`` or ``reports/NAME#3`` (the third of its numbers, or its id), ``embeddings/NAME``,
        ``indexes/NAME``, ``models/NAME``, ``features/CROPS/FEATURE_SET``; of what has versions also ``NAME@2``.

    Raises
    ------
    InvalidInputError
        If it is none of these.
    NotFoundError
        If there is no such thing; names those there are.
    """
    folder, _, name = thing.partition("/")
    if folder not in KINDS or not name:
        raise InvalidInputError(
            f"expected {', '.join(f'{kind}/NAME' for kind in KINDS)}, found {thing!r}; `scale info STORE` lists them"
        )
    name, _, number = name.partition("#")
    if number and folder != "reports":
        raise InvalidInputError(f"expected #NUMBER behind a report, found {thing!r}")
    walk = _Walk(ds)
    if folder == "reports":
        return walk.report(name, number)
    if folder == "features":
        crops, _, feature_set = name.partition("/")
        return walk.features(crops, feature_set, "")
    steps = {"indexes": walk.index, "models": walk.model, "embeddings": walk.embeddings, "maps": walk.flat_map}
    return steps[folder](name)


class _Walk:
    """The steps from each kind of thing to what it is made of."""

    def __init__(self, ds: Dataset) -> None:
        self.ds = ds

    def report(self, name: str, number: str) -> Origin:
        artifact = self.ds.artifact("reports", name)
        content = json.loads(artifact.read(REPORT_FILE))
        results = content["results"]
        facts = {"recipe": content["recipe"], "made": content.get("created", ""), **_state(content["snapshot"])}
        what = str(Ref("report", f"{artifact.name}@{artifact.version}"))
        if number:
            results = [_number(results, number, name)]
            chosen = results[0]
            facts = {"top1": chosen["top1"], "id": chosen["id"], **facts, **_state(chosen["snapshot"])}
            what += f", number {number}"
        read = dict.fromkeys((r["crops"], r["feature_set"], r["fingerprint"]) for r in results)
        inputs = [self.features(crops, feature_set, made) for crops, feature_set, made in read]
        used = dict.fromkeys((r["embedding"], r["embedding_fingerprint"]) for r in results if r.get("embedding"))
        return Origin(what, facts, (*(self.embeddings(name, made) for name, made in used), *inputs))

    def flat_map(self, name: str) -> Origin:
        artifact = self.ds.artifact("maps", name)
        meta = artifact.meta
        kind, _, source = str(meta["source"]).rpartition(" ")
        facts = {"method": meta["method"], "points": meta["num_points"], **_state(meta["snapshot"])}
        crops, _, feature_set = source.partition("/")
        read = self.embeddings(source, "") if kind == "embedding" else self.features(crops, feature_set, "")
        return Origin(f"map {artifact.name}@{artifact.version}", facts, (read,))

    def index(self, name: str) -> Origin:
        artifact = self.ds.artifact("indexes", name)
        meta = artifact.meta
        source = meta["source"]
        content = (meta.get("content") or {}).get("source", {})
        facts = {"index_kind": meta["kind"], "recipe": meta["recipe"], **_state(meta["snapshot"])}
        inputs = []
        if source.get("embedding"):
            inputs.append(self.embeddings(source["embedding"], str(content.get("embeddings", ""))))
        if source.get("feature_set"):
            inputs.append(self.features(source["crops"], source["feature_set"], str(content.get("features", ""))))
        parts = (source.get("spec") or {}).get("of", ())
        for crops, feature_set in dict.fromkeys((part["crops"], part["backbone"]) for part in parts):
            made = (content.get("features") or {}).get(f"{crops}/{feature_set}", "")
            inputs.append(self.features(crops, feature_set, made))
        return Origin(str(Ref("index", f"{artifact.name}@{artifact.version}")), facts, tuple(inputs))

    def embeddings(self, name: str, made: str = "") -> Origin:
        """`made`: fingerprint of the set that was read; it is looked for among all versions of the name."""
        older = older_embeddings(self.ds, name)
        name = next((one for one in older if self.ds.embedding_info(one).fingerprint_id == made), name)
        what = str(Ref("embeddings", name))
        try:
            info = self.ds.embedding_info(name)
        except NotFoundError:
            if not made:
                raise
            return Origin(what, {"fingerprint": made, "note": "no longer in the store"})
        if made and info.fingerprint_id != made:
            return Origin(what, {"fingerprint": made, "note": f"made again since, now {info.fingerprint_id[:12]}"})
        content = info.fingerprint
        facts = {"readout": content.get("readout"), "fingerprint": info.fingerprint_id}
        streams = content.get("streams") or ([content] if "feature_set" in content else [])
        inputs = [self.features(one["crops"], one["feature_set"], one["features"]) for one in streams]
        if isinstance(model := content.get("model"), Mapping) and "weights_sha256" in model:
            inputs.insert(0, self.model(str(model["name"]), str(model["weights_sha256"])))
        return Origin(what, facts, tuple(inputs))

    def model(self, name: str, weights: str = "") -> Origin:
        """`weights`: sha256 of those that were used; their version is looked for among all of the name."""
        artifact = (
            model_with_weights(self.ds.backend, self.ds.name, name, weights)
            if weights
            else self.ds.artifact("models", name)
        )
        if artifact is not None and is_backbone(artifact):
            return self.backbone(artifact)
        if artifact is None:
            note = "this version was pruned or never numbered"
            return Origin(str(Ref("model", name)), {"weights_sha256": weights, "note": note})
        meta = artifact.meta
        config, content = meta.get("config", {}), meta.get("fingerprint_content", {})
        labels = config.get("features") or [f"{config.get('crops')}/{config.get('backbone')}"]
        made = content.get("features", "")
        ids = made if isinstance(made, list) else [made] * len(labels)
        facts = {"weights_sha256": meta.get("weights_sha256"), "objective": meta.get("objective"),
                 "trained_on": f"{meta.get('num_videos')} videos ({meta.get('rows')}, split {meta.get('split')})",
                 **_state(meta.get("snapshot", ""))}  # fmt: skip
        pairs = (label.partition("/") for label in labels)
        inputs = (
            self.features(crops, feature_set, one) for (crops, _, feature_set), one in zip(pairs, ids, strict=True)
        )
        return Origin(str(Ref("model", f"{artifact.name}@{artifact.version}")), facts, tuple(inputs))

    def backbone(self, artifact: Artifact) -> Origin:
        meta = artifact.meta
        trained_on = f"{meta.get('num_videos')} videos ({meta.get('rows')}, split {meta.get('split')})"
        facts = {"weights_sha256": meta.get("weights_sha256"), "network": meta.get("network"),
                 "objective": meta.get("objective"), "trained_on": trained_on,
                 **_state(meta.get("snapshot", ""))}  # fmt: skip
        return Origin(str(Ref("backbone", f"{artifact.name}@{artifact.version}")), facts, (self.videos(),))

    def _network_of(self, backbone: Mapping[str, Any]) -> Origin | None:
        """Return the pretrained network of the store that made features, where it is one."""
        weights = backbone.get("weights")
        if backbone.get("kind") != "pretrained" or not isinstance(weights, Mapping):
            return None
        for name in self.ds.artifacts("models"):
            found = model_with_weights(self.ds.backend, self.ds.name, name, str(weights.get("sha256")))
            if found is not None:
                return self.backbone(found)
        return None

    def features(self, crops: str, feature_set: str, made: str) -> Origin:
        what = str(Ref("features", f"{crops}/{feature_set}"))
        try:
            info = self.ds.feature_info(crops, feature_set)
        except NotFoundError:
            if not made:
                raise
            return Origin(what, {"fingerprint": made, "note": "no longer in the store"})
        if made and info.fingerprint_id != made:
            return Origin(what, {"fingerprint": made, "note": f"made again since, now {info.fingerprint_id[:12]}"})
        backbone, decoder = info.fingerprint.get("backbone"), info.fingerprint.get("decoder")
        facts: dict[str, Any] = {"fingerprint": info.fingerprint_id}
        if isinstance(backbone, Mapping):
            facts |= {f"backbone_{key}": value for key, value in backbone.items() if isinstance(value, str | int)}
            if isinstance(weights := backbone.get("weights"), Mapping):
                facts["weights"] = weights.get("sha256") or f"random, seed {weights.get('random')}"
        if isinstance(decoder, Mapping):
            facts["decoder"] = " ".join(str(value) for value in decoder.values())
        facts["shards"] = f"{info.num_shards_done} of {info.num_shards}"
        network = self._network_of(backbone) if isinstance(backbone, Mapping) else None
        return Origin(what, facts, (self.videos(),) if network is None else (network, self.videos()))

    def videos(self) -> Origin:
        digest = fingerprint(Catalogue(self.ds.backend, self.ds.name).digests())
        facts = {"count": self.ds.num_rows, "catalogue": digest, **_state(self.ds.snapshot())}
        return Origin(str(Ref("videos", self.ds.name)), facts)


def _state(snapshot: str) -> dict[str, str]:
    return {"snapshot": snapshot}


def _number(results: list[dict[str, Any]], wanted: str, report: str) -> dict[str, Any]:
    """Return the result that a text names: its place, counted from 1, or its id."""
    found = [r for i, r in enumerate(results, start=1) if wanted in (str(i), r["id"])]
    if not found:
        raise NotFoundError(f"expected a number 1..{len(results)} of report {report}, or its id, found {wanted!r}")
    return found[0]
