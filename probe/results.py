"""The frozen model of a probe report: every number with what it was measured on, and how.

`ProbeReport` is what `run_probe` returns, what is kept as JSON in the store
under ``reports/<name>/``, and what the HTML page is rendered from. It holds
data only: no arrays that need numpy, no pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.products.report import REPORT_FILE as REPORT_FILE
from pipeline.reports import StageReport
from probe.found import NOTHING_SAID, Found, section_of

PREDICTIONS_FILE = "predictions.parquet"
"""One line per (result, test row): result, row, video_id, group, labels, predicted, correct."""

CurveName = Literal["k", "crops", "epoch", "labels", "penalty"]


class Frozen(BaseModel):
    """Frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Curve(Frozen):
    """A figure against one quantity, e.g. top-1 against k."""

    name: CurveName
    """k: neighbours. crops: crops a video that were averaged. epoch: of training. labels: train videos per class.
    penalty: L2, of a solved linear probe."""
    figure: str
    """What is plotted: top1, heldout_top1, train_loss."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    """Lower ends of the 95 % intervals; empty where there are none."""
    high: tuple[float, ...] = ()


class ClassResult(Frozen):
    """One class of one result."""

    label: str
    num_train: int
    num_test: int
    accuracy: float | None
    """None where the class has no test row."""


STORED = (
    "id", "probe", "dataset", "split", "crops", "feature_set", "readout", "embedding", "num_crops", "num_channels",
    "protocol", "centring", "k", "k_used", "temperature", "top1", "interval", "top5", "mean_class",
    "mean_average_precision", "recall", "recall_interval", "used", "excluded", "top1_excluded_wrong", "num_train",
    "num_classes", "num_test_unseen", "is_multilabel", "fraction", "n_per_class", "selected", "chosen_on",
    "heldout_top1", "seed", "recipe", "fingerprint", "embedding_fingerprint", "snapshot", "is_headline", "confusion",
    "per_class", "curves", "notes",
)  # fmt: skip
"""Names of a stored result, in their order."""


class ProbeResult(Frozen):
    """One number, and everything one needs to trust or repeat it."""

    id: str
    """Unique in the report, and the same in the next run of the same recipe:
    ``knn/grid5x3/x3d_xs/mean/k=20/T=0.07/strict``."""
    probe: str
    """Kind of the probe."""
    dataset: str
    split: str
    crops: str
    feature_set: str
    readout: str
    """mean: pooled crops. crops: each crop classified, logits averaged. cls: the embedding. joined: [mean; embedding].
    attention: pooled by the attentive probe. Another name: the readout of an embedding set that is not cls."""
    embedding: str | None = None
    """Embedding set that was read, where one was."""
    num_crops: int
    """Most crops a video had."""
    num_channels: int = 0
    """Channels of what was classified."""
    protocol: str
    """kNN: strict (train mean subtracted from both sides), scale (each side's own mean, k=20, T=.07, as SCALE's code),
    none (nothing subtracted), per_split. Trained probes: selected (epoch chosen on held-out train groups), last.
    A linear probe that is solved has no last epoch: selected alone.
    Retrieval: mean or random_crop gallery, `-no_siblings` where siblings are left out."""
    found: SerializeAsAny[Found] = Found()
    """What the method says beside; see :mod:`probe.found`. Stored and taken flat: ``k``, ``recall`` ..."""

    top1: float
    """Share of the used test rows whose best-scored class is (one of) theirs. Retrieval: R@1."""
    interval: tuple[float, float]
    """95 % bootstrap over test groups."""
    top5: float | None = None
    mean_class: float | None = None
    """Mean over classes of the accuracy within the class."""
    mean_average_precision: float | None = None
    """Over classes (multi-label) or over queries (retrieval)."""
    used: int
    """Test rows measured."""
    excluded: int
    """Test rows left out; `ProbeReport.coverage` says why."""
    top1_excluded_wrong: float
    """The same with every excluded test row counted as wrong."""
    num_train: int
    """Train rows used."""
    num_classes: int
    num_test_unseen: int = 0
    """Test rows whose class no train row has; they stay in and count as wrong."""
    is_multilabel: bool = False

    seed: int = 0
    recipe: str = ""
    fingerprint: str = ""
    """Of the feature set."""
    embedding_fingerprint: str | None = None
    snapshot: str = ""
    """State of the store that was read."""

    is_headline: bool = False
    """One per (probe, crops, feature set, readout): the one that carries confusion matrix, classes and curves."""
    confusion: tuple[tuple[int, ...], ...] | None = None
    """[true][predicted], order of `ProbeReport.classes`. Headline of single-label sets with at most 100 classes."""
    per_class: tuple[ClassResult, ...] = ()
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    figures: dict[str, float] = Field(default_factory=dict)
    """What else a method found, by name."""

    @model_validator(mode="before")
    @classmethod
    def _of_flat(cls, content: Any) -> Any:
        """Take results as they are stored, with what methods say among the fields."""
        if not isinstance(content, Mapping) or "found" in content:
            return content
        said = {name: value for name, value in content.items() if name in NOTHING_SAID}
        rest = {name: value for name, value in content.items() if name not in NOTHING_SAID}
        return rest | {"found": section_of(str(content.get("probe")), said)}

    @model_serializer(mode="wrap")
    def _as_stored(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write results as they were before each method had a section, and before methods could add figures."""
        content: dict[str, Any] = dump(self)
        said = {name: content["found"].get(name, nothing) for name, nothing in NOTHING_SAID.items()}
        content = {name: said.get(name, content.get(name)) for name in STORED if name in said or name in content} | {
            "figures": content.get("figures")
        }
        return {name: value for name, value in content.items() if name != "figures" or value}

    def said(self, name: str) -> Any:
        """Return what the method says under a name (``k``, ``fraction`` ...); what is stored where it says nothing."""
        return getattr(self.found, name, NOTHING_SAID[name])

    def line(self) -> dict[str, Any]:
        """Return the object that the JSON line of ``scale run --json`` holds for this number."""
        chosen = ("probe", "readout", "k", "temperature", "top1", "interval", "used", "excluded")
        more = (
            "k_used",
            "split",
            "protocol",
            "centring",
            "crops",
            "feature_set",
            "embedding",
            "mean_average_precision",
            "fraction",
            "n_per_class",
            "seed",
        )
        data = self.model_dump(mode="json")
        selection = self.protocol if self.protocol in ("selected", "last") else None
        figures = {"figures": dict(self.figures)} if self.figures else {}
        return {key: data[key] for key in (*chosen, *more)} | {"selection": selection} | figures


class Coverage(Frozen):
    """Which videos of the split a readout could use, and why not the others."""

    crops: str
    feature_set: str
    readout: str
    used_train: int
    used_test: int
    excluded_train: dict[str, int] = Field(default_factory=dict)
    """Reason -> rows: unreadable, non_finite, too_short, missing, pending, no label, no embedding, near-duplicate."""
    excluded_test: dict[str, int] = Field(default_factory=dict)
    not_in_split: int = 0
    """Rows that the split puts on no side (or on val)."""
    examples: tuple[tuple[str, str], ...] = ()
    """(video_id, reason) of the first excluded rows."""


class LeakPair(Frozen):
    """A test video and the train video it resembles most."""

    test_row: int
    test_video: str
    train_row: int
    train_video: str
    similarity: float
    same_group: bool
    same_file: bool
    """The files have the same sha256."""
    same_label: bool


class LeakCheck(Frozen):
    """Near-duplicates between train and test, looked for before any number was computed."""

    crops: str
    feature_set: str
    split: str
    threshold: float
    """Cosine of mean-pooled, train-centred features from which a pair counts as near-duplicate."""
    num_test: int
    num_near: int
    """Test rows with a train row at or above the threshold."""
    num_same_file: int
    """Test rows whose file also stands in train."""
    num_shared_groups: int
    """Groups with rows on both sides."""
    max_similarity: float
    pairs: tuple[LeakPair, ...] = ()
    """The most similar pairs, best first (at most 20, also below the threshold)."""
    action: str = "reported"
    """reported, or excluded: the near-duplicate test rows were left out."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return self.num_near == 0 and self.num_same_file == 0 and self.num_shared_groups == 0


class PairedComparison(Frozen):
    """Two results on the same test rows."""

    a: str
    b: str
    """Result ids."""
    num_rows: int
    num_groups: int
    difference: float
    """Accuracy of b minus accuracy of a."""
    interval: tuple[float, float]
    """95 % paired bootstrap over groups."""
    p_value: float
    """Two-sided sign-flip permutation test over groups."""
    only_a: int
    """Rows that a alone has right."""
    only_b: int


class Video(Frozen):
    """What a report shows of a video."""

    row: int
    video_id: str
    uri: str
    label: str


class Neighbour(Frozen):
    """A train video near a test video."""

    video: Video
    similarity: float
    same_label: bool


class NeighbourStrip(Frozen):
    """A sampled test video, what kNN said, and its nearest train videos (best first)."""

    crops: str
    feature_set: str
    readout: str
    query: Video
    predicted: str
    correct: bool
    neighbours: tuple[Neighbour, ...]


class MapPoint(Frozen):
    """One video on the map."""

    row: int
    video_id: str
    label: str
    side: Literal["train", "test"]
    x: float
    y: float


class EmbeddingMap(Frozen):
    """The first two principal components of the train-centred, normalised vectors."""

    crops: str
    feature_set: str
    readout: str
    explained: tuple[float, float]
    """Share of the variance along each axis."""
    points: tuple[MapPoint, ...]
    """At most 2,000, drawn with the probe's seed."""


class Training(Frozen):
    """How the training of a model went whose embeddings were measured."""

    model: str
    objective: str
    num_steps: int
    steps: tuple[float, ...]
    """Of a long training at most a few hundred, evenly apart."""
    loss: tuple[float, ...]
    chance: float | None = None
    """The loss where nothing is told apart; None: the objective has no such level."""
    doubts: tuple[str, ...] = ()


class ProbeReport(StageReport):
    """Everything the probes of one recipe found."""

    dataset: str = ""
    created: str = ""
    """UTC, ISO 8601."""
    classes: tuple[str, ...] = ()
    """All labels of the rows used, sorted."""
    results: tuple[ProbeResult, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    leaks: tuple[LeakCheck, ...] = ()
    comparisons: tuple[PairedComparison, ...] = ()
    maps: tuple[EmbeddingMap, ...] = ()
    strips: tuple[NeighbourStrip, ...] = ()
    chosen_on_test: tuple[str, ...] = ()
    """A line for anything that was chosen on test rows; nothing by default."""
    warnings: tuple[str, ...] = ()
    """An untrained backbone, a transductively trained model, leaks."""
    doubts: tuple[str, ...] = ()
    """Those of the warnings that say which results should not be believed or used."""
    trainings: tuple[Training, ...] = ()
    inputs: str = ""
    """sha256 of everything the numbers depend on: probes section, fingerprints, snapshots, code version."""
    recipe_content: dict[str, Any] = Field(default_factory=dict)
    """The recipe in full."""
    versions: dict[str, str] = Field(default_factory=dict)

    def lines(self) -> list[dict[str, Any]]:
        """Return one JSON-ready object per result, for the last line of ``scale run --json``."""
        return [result.line() for result in self.results]
