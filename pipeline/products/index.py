"""Search indexes as products: over which vectors of which features or embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.errors import NotFoundError
from pipeline.fingerprint import fingerprint
from pipeline.products.embeddings import embeddings_read
from pipeline.products.features import feature_sets_read, features_ref
from pipeline.products.product import Kind, Product, Ref, Stored
from pipeline.readouts.fitting import part_dims
from pipeline.recipe import IndexSpec, ReadoutSpec, Recipe
from pipeline.recipe.readout_words import OF_EMBEDDINGS

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset

INDEX_VERSION = 1
COMPRESSED_INDEX_VERSION = 2
"""Of IVF-PQ: its effort is chosen by the recall after candidates were put in order."""
FLAT_LIMIT_BYTES = 2 << 30
"""Up to here the exact scan is kept: half a million 1,024-channel videos, under half a second a query on two cores."""
HNSW_LIMIT_BYTES = 16 << 30
"""Up to here the graph keeps whole vectors in memory; beyond it they are compressed."""

IndexKind = Literal["flat", "hnsw", "ivfpq"]


@dataclass(frozen=True)
class Vectors:
    """One vector a video: pooled crops, an embedding, both side by side, or the parts of a readout without training."""

    readout: str
    crops: str | None = None
    feature_set: str | None = None
    embedding: str | None = None
    spec: Mapping[str, Any] | None = None
    """What a readout that needs no training is made of, as its recipe section."""

    @cached_property
    def untrained(self) -> ReadoutSpec | None:
        """The readout that needs no training, where it is one."""
        return None if self.spec is None else ReadoutSpec.model_validate(self.spec)

    @property
    def feature_sets(self) -> tuple[tuple[str, str], ...]:
        """Every (crops, feature set) that is read."""
        if self.untrained is not None:
            return self.untrained.feature_sets
        return ((str(self.crops), str(self.feature_set)),) if self.readout != "cls" else ()

    def content(self, ds: Dataset) -> dict[str, Any]:
        """Return what changes the vectors: the readout and the fingerprints of the sets that it reads."""
        ids = {pair: ds.feature_info(*pair).fingerprint_id for pair in self.feature_sets}
        if self.untrained is not None:
            return {"readout": self.spec, "features": {"/".join(pair): one for pair, one in ids.items()}}
        content: dict[str, Any] = {"readout": self.readout}
        for (crops, feature_set), one in ids.items():
            content |= {"crops": crops, "feature_set": feature_set, "features": one}
        if self.embedding is not None:
            content |= {"embedding": self.embedding, "embeddings": ds.embedding_info(self.embedding).fingerprint_id}
        return content

    def snapshot(self, ds: Dataset) -> str:
        """Return the state of what it reads."""
        states = [ds.snapshot(crops=crops, feature_set=feature_set) for crops, feature_set in self.feature_sets]
        if self.embedding is not None:
            states.append(ds.snapshot(embedding=self.embedding))
        return states[0] if len(states) == 1 and self.untrained is None else fingerprint(states)

    def reads(self, ds: Dataset) -> str:
        """Return the state of what it reads without labels: vectors have none."""
        if self.untrained is not None and self.untrained.project != "none":
            return ""  # what it is projected to may depend on the labels of the training rows
        pairs = self.feature_sets
        states = [ds.snapshot(crops=crops, feature_set=name, with_labels=False) for crops, name in pairs]
        if self.embedding is not None:
            states.append(ds.snapshot(embedding=self.embedding, with_labels=False))
        return fingerprint(states)

    def part_dims(self, ds: Dataset) -> tuple[int, ...]:
        """Return the channels of each part: one number, two where mean and embedding are joined, or one a part."""
        dims = {pair: ds.feature_info(*pair).dim for pair in self.feature_sets}
        if self.untrained is not None:
            return part_dims(self.untrained, dims)
        return (*dims.values(), *(() if self.embedding is None else (ds.embedding_info(self.embedding).dim,)))


@dataclass(frozen=True)
class Index(Product):
    """A FAISS index."""

    spec: IndexSpec
    feature_set: str
    embedding: str | None
    """The embedding set it reads; None where it reads none, or the recipe writes none that would do."""
    untrained: ReadoutSpec | None = None
    """What its readout is made of, where that needs no training."""

    kind: ClassVar[Kind] = "index"

    @property
    def vectors(self) -> Vectors:
        """What is indexed."""
        readout = self.spec.readout
        if self.untrained is not None:
            return Vectors(readout, spec=self.untrained.model_dump(mode="json"))
        crops, feature_set = (None, None) if readout == "cls" else (self.spec.crops, self.feature_set)
        return Vectors(readout, crops, feature_set, self.embedding)

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """The embedding set and the features that it reads."""
        features = tuple(features_ref(*pair) for pair in self.vectors.feature_sets)
        if self.spec.readout not in OF_EMBEDDINGS:
            return features
        absent = f"with readout cls of {self.spec.crops}/{self.feature_set}"
        return (Ref("embeddings", self.embedding or absent), *features)

    def index_kind(self, ds: Dataset) -> IndexKind:
        """Return the kind that is built: as asked for, or by the bytes of the vectors."""
        if self.spec.kind != "auto":
            return self.spec.kind
        return choose_kind(ds.num_rows, sum(self.vectors.part_dims(ds)))

    def content(self, ds: Dataset) -> Mapping[str, Any]:
        """Return kind and vectors."""
        kind = self.index_kind(ds)
        version = COMPRESSED_INDEX_VERSION if kind == "ivfpq" else INDEX_VERSION
        return {"version": version, "kind": kind, "source": self.vectors.content(ds)}

    def snapshot(self, ds: Dataset) -> str:
        """Return the state of what it reads."""
        return self.vectors.snapshot(ds)

    def reads(self, ds: Dataset) -> str:
        """Return the state of the vectors, whatever they are called."""
        return self.vectors.reads(ds)

    def stored(self, ds: Dataset) -> Stored | None:
        """Return the index of this name."""
        try:
            artifact = ds.artifact("indexes", self.name)
        except NotFoundError:
            return None
        if not artifact.is_whole():  # its files are gone or cut: as good as none
            return None
        meta = artifact.meta
        known = meta.get("content")
        if known is None:  # of before: what its vectors were named, not what those were made of
            named = {k: v for k, v in (meta.get("source") or {}).items() if k != "dataset" and v is not None}
            known = {"kind": meta.get("kind"), "source": self.content(ds)["source"] | named}
        reads = str(meta.get("reads", ""))
        return Stored(str(meta.get("fingerprint", "")), str(meta.get("snapshot", "")), known, reads)

    def made_of(self, key: str) -> Ref | None:
        """Return the features or embeddings, where a key speaks of their making."""
        if key == "source.embeddings":
            return self.inputs[0]
        if key == "source.features":
            return self.inputs[-1]
        return next((ref for ref in self.inputs if key == f"source.features.{ref.name}"), None)

    def field(self, key: str) -> str:
        """``indexes[0].kind``."""
        return f"{self.section}.{key.removeprefix('source.')}"

    def rows(self) -> list[dict[str, object]]:
        """One row."""
        reads = " + ".join(str(ref) for ref in reversed(self.inputs))
        return [{"index": self.name, "vectors": f"{self.spec.readout} of {reads}", "kind": self.spec.kind}]


def choose_kind(num_vectors: int, dim: int) -> IndexKind:
    """Pick an index by the bytes of the uncompressed vectors: flat, then HNSW, then IVF-PQ.

    Parameters
    ----------
    num_vectors, dim : int

    Returns
    -------
    str
        Flat is exact, and cheaper than building anything else for the few thousand
        searches that an index of this project sees.
    """
    num_bytes = num_vectors * dim * 4
    if num_bytes <= FLAT_LIMIT_BYTES:
        return "flat"
    return "hnsw" if num_bytes <= HNSW_LIMIT_BYTES else "ivfpq"


def index_specs(recipe: Recipe) -> tuple[IndexSpec, ...]:
    """Return the recipe's indexes, or one over the pooled crops of its last feature set when it names none."""
    if recipe.indexes:
        return recipe.indexes
    crops = recipe.probes[0].crops if recipe.probes else recipe.targets()[-1].crops
    return (IndexSpec(crops=crops),)


def index_products(recipe: Recipe) -> tuple[Index, ...]:
    """Return every index of a recipe; one for each feature set and embedding set that its section reads.

    `cls` and `joined` read embedding sets whose readout is cls, no other.
    """
    return tuple(one for i, spec in enumerate(index_specs(recipe)) for one in _of_section(recipe, i, spec))


def _of_section(recipe: Recipe, i: int, spec: IndexSpec) -> Iterator[Index]:
    feature_sets = feature_sets_read(recipe, spec.crops, spec.feature_set)
    untrained = {f: recipe.readout(spec.readout, spec.crops, f) for f in feature_sets}
    if spec.readout in recipe.readouts:  # it names its feature sets by itself
        feature_sets = tuple(f for f in feature_sets if untrained[f] is not None)
    for feature_set in feature_sets:
        name = spec.name if len(feature_sets) == 1 else f"{spec.name}-{feature_set}"
        if spec.readout not in OF_EMBEDDINGS:
            yield Index(recipe.dataset.name, name, f"indexes[{i}]", spec, feature_set, None, untrained[feature_set])
            continue
        read = [e.name for e in embeddings_read(recipe, spec.crops, feature_set, spec.models) if e.readout == "cls"]
        if not recipe.embed:  # written by another recipe: under the models' names
            read = list(recipe.trainings if spec.models is None else spec.models)
        for embedding in read or (None,):
            own = name if len(read) < 2 else f"{name}-{embedding}"
            yield Index(recipe.dataset.name, own, f"indexes[{i}]", spec, feature_set, embedding)
