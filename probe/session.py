"""One run over all probes of a recipe: leaks first, then every number, then what is compared and shown."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.compute.devices import pick_device
from pipeline.events import Note, OnEvent, Progress
from pipeline.fingerprint import fingerprint
from pipeline.products import Measurement, Report, embedding_products
from pipeline.recipe import Recipe
from pipeline.recipe.backbones import RandomWeights
from pipeline.recipe.kinds import load_modules
from pipeline.recipe.probes import ProbeSpec
from probe.data.features import SplitTable
from probe.data.leaks import check_leaks
from probe.data.readouts import Reader, ReadoutData
from probe.data.trainings import read_trainings
from probe.methods.comparisons import compare_results
from probe.methods.doubts import doubts
from probe.methods.measure import Findings, Setting, Vocabulary
from probe.methods.overview import embedding_map
from probe.methods.registry import Probing, Texts, measure_probe
from probe.results import Coverage, EmbeddingMap, LeakCheck, PairedComparison, Training

if TYPE_CHECKING:
    from pipeline import Dataset
    from pipeline.settings import Settings

load_modules("probe.methods")


@dataclass(frozen=True)
class Measured:
    """Fields of the report, and the outcome of every test row."""

    fields: dict[str, Any]
    findings: Findings
    splits: dict[str, SplitTable]


class Session:
    """Reads once, measures all probes, collects what the report holds."""

    def __init__(
        self, recipe: Recipe, ds: Dataset, settings: Settings, on_event: OnEvent, texts: Texts | None = None
    ) -> None:
        self.texts = texts
        self.recipe, self.ds, self.settings, self.on_event = recipe, ds, settings, on_event
        self.reader = Reader(ds)
        self.findings = Findings()
        self.device = str(pick_device(settings.device))
        self.vocabularies: dict[str, Vocabulary] = {}
        self.splits: dict[str, SplitTable] = {}
        self.coverage: dict[tuple[str, str, str, str], Coverage] = {}
        self.leaks: dict[tuple[Any, ...], tuple[LeakCheck, dict[int, str]]] = {}
        self.maps: dict[tuple[str, str, str, str], EmbeddingMap] = {}
        self.snapshots: dict[tuple[str, str | None], str] = {}
        self.collapsed: dict[str, tuple[str, ...]] = {}

    def measure(self, measured: Measurement) -> None:
        """Measure one probe on one feature set."""
        spec, feature_set = measured.spec, measured.feature_set
        if spec.kind == "zero_shot" and self.recipe.text_tower(feature_set) is None:
            return  # the recipe has others that have one
        split = self.splits.setdefault(spec.measured_split, self.reader.split(spec.measured_split))
        vocabulary = self.vocabularies.setdefault(spec.measured_split, Vocabulary.of(split))
        drop = self._check_leaks(spec, feature_set, split)
        for data in self.reader.readouts(measured, spec.reads, drop):
            key = (spec.measured_split, data.crops, data.feature_set, _name(data))
            self.coverage.setdefault(key, data.used.coverage)
            setting = Setting(split, vocabulary, data.used, self._common(spec, data))
            others = {name: self.reader.features(spec.measured_split, spec.crops, name) for name in spec.also_reads}
            measure_probe(spec, Probing(data, setting, self.findings, self.device, key, others, self.texts))
            if data.embedding is not None and data.readout not in ("joined", "crops") and len(data.parts) == 1:
                self.collapsed[data.embedding] = data.doubts()
            if key not in self.maps and data.readout not in ("crops", "attention"):
                self.maps[key] = embedding_map(data, split, seed=spec.seed)

    def _check_leaks(self, spec: ProbeSpec, feature_set: str, split: SplitTable) -> dict[int, str]:
        key = (spec.measured_split, spec.crops, feature_set, spec.leak_threshold, spec.exclude_leaks)
        if key not in self.leaks:
            table = self.reader.features(spec.measured_split, spec.crops, feature_set)
            self.leaks[key] = check_leaks(split, table, threshold=spec.leak_threshold, exclude=spec.exclude_leaks)
        return self.leaks[key][1]

    def _common(self, spec: ProbeSpec, data: ReadoutData) -> dict[str, Any]:
        also_reads = (*data.also_reads, *((spec.crops, name) for name in spec.also_reads))
        snapshot_key = (f"{data.crops}/{data.feature_set}{also_reads or ''}", data.embedding)
        if snapshot_key not in self.snapshots:
            snapshot = self.ds.snapshot(crops=data.crops, feature_set=data.feature_set)
            if also_reads:
                also = [self.ds.snapshot(crops=crops, feature_set=name) for crops, name in also_reads]
                snapshot = fingerprint([snapshot, *also])
            if data.embedding is not None:
                snapshot = fingerprint([snapshot, self.ds.snapshot(embedding=data.embedding)])
            self.snapshots[snapshot_key] = snapshot
        info = self.ds.feature_info(data.crops, data.feature_set)
        return {
            "dataset": self.ds.name,
            "split": spec.measured_split,
            "crops": data.crops,
            "feature_set": data.feature_set,
            "readout": data.readout,
            "notes": data.notes,
            "embedding": data.embedding,
            "num_crops": data.num_crops or info.num_crops,
            "num_channels": data.num_channels,
            "recipe": self.recipe.name,
            "fingerprint": info.fingerprint_id,
            "embedding_fingerprint": self.ds.embedding_info(data.embedding).fingerprint_id if data.embedding else None,
            "snapshot": self.snapshots[snapshot_key],
        }

    def comparisons(self) -> tuple[PairedComparison, ...]:
        """Compare the headline results of each split."""
        found: list[PairedComparison] = []
        for name, split in self.splits.items():
            results = [result for result in self.findings.results if result.split == name]
            found += compare_results(results, self.findings.hits, split.groups)
        return tuple(found)

    def warnings(self) -> tuple[str, ...]:
        """Say what a reader must know before the numbers."""
        lines = []
        for name, backbone in self.recipe.backbones.items():
            weights = getattr(backbone, "weights", None)
            if backbone.learns and isinstance(weights, RandomWeights):
                lines.append(f"backbone {name} is untrained (random weights, seed {weights.random})")
        for name, train in self.recipe.trainings.items():
            own = {e.name for e in embedding_products(self.recipe) if e.model is train}
            splits = {r.split.removesuffix("/val") for r in self.findings.results if r.embedding in own}
            if not splits:
                continue
            if train.rows == "all":
                lines.append(f"model {name} was trained on all videos, test videos included (transductive)")
            elif other := sorted(splits - {train.split}):
                lines.append(
                    f"model {name} was trained on the train videos of split {train.split!r}; "
                    f"test videos of split {', '.join(other)} may be among them"
                )
        for check, _ in self.leaks.values():
            if not check.is_clean:
                where = f"{check.crops}/{check.feature_set}, split {check.split}"
                lines.append(
                    f"{where}: of {check.num_test} test videos, {check.num_near} have a near-duplicate in train "
                    f"(cosine of {check.threshold:g} or more), {check.num_same_file} the same file; "
                    f"{check.num_shared_groups} groups stand on both sides ({check.action})"
                )
        return tuple(dict.fromkeys([*lines, *self.doubts, *self.reader.missing]))

    @cached_property
    def trainings(self) -> tuple[Training, ...]:
        """How the models behind the results were trained."""
        return read_trainings(self.ds, dict.fromkeys(r.embedding for r in self.findings.results if r.embedding))

    @cached_property
    def doubts(self) -> tuple[str, ...]:
        """Which results should not be believed or used: nothing learned, collapsed, below chance or base."""
        lines = [f"model {one.model}: {text}" for one in self.trainings for text in one.doubts]
        lines += [f"{name}: {text}" for name, found in self.collapsed.items() for text in found]
        return tuple(dict.fromkeys([*lines, *doubts(self.findings.results, self.comparisons())]))


def _name(data: ReadoutData) -> str:
    return data.readout if data.embedding is None else f"{data.readout}:{data.embedding}"


def measure_all(
    report: Report, ds: Dataset, settings: Settings, on_event: OnEvent, texts: Texts | None = None
) -> Measured:
    """Measure every probe of a report on every feature set it names.

    Raises
    ------
    NotFoundError, NoDataError
        If features, a split or usable rows are not there.
    """
    session = Session(report.recipe, ds, settings, on_event, texts)
    for done, measured in enumerate(report.measurements, start=1):
        session.measure(measured)
        on_event(Progress("probe", done, len(report.measurements)))
    warnings = session.warnings()
    for line in warnings:
        on_event(Note("probe", line, "warning"))
    fields = {
        "classes": tuple(sorted({c for v in session.vocabularies.values() for c in v.classes})),
        "results": tuple(session.findings.results),
        "coverage": tuple(session.coverage.values()),
        "leaks": tuple(check for check, _ in session.leaks.values()),
        "comparisons": session.comparisons(),
        "maps": tuple(session.maps.values()),
        "strips": tuple(strip for strips in session.findings.strips.values() for strip in strips),
        "warnings": warnings,
        "doubts": session.doubts,
        "trainings": session.trainings,
    }
    return Measured(fields, session.findings, session.splits)


def predictions_file(measured: Measured) -> bytes:
    """Return the outcome of every test row of every result, as Parquet."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("result", "row", "video_id", "group", "labels", "predicted", "correct")
    }
    for result in measured.findings.results:
        split = measured.splits[result.split]
        predictions = measured.findings.predictions.get(result.id, {})
        for position, hit in measured.findings.hits.get(result.id, {}).items():
            columns["result"].append(result.id)
            columns["row"].append(int(split.rows[position]))
            columns["video_id"].append(split.video_ids[position])
            columns["group"].append(split.groups[position])
            columns["labels"].append(list(split.labels[position]))
            columns["predicted"].append(predictions.get(position))
            columns["correct"].append(hit)
    schema = pa.schema(
        [
            ("result", pa.dictionary(pa.int32(), pa.string())),
            ("row", pa.int64()),
            ("video_id", pa.string()),
            ("group", pa.string()),
            ("labels", pa.list_(pa.string())),
            ("predicted", pa.string()),
            ("correct", pa.bool_()),
        ]
    )
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer)
    return buffer.getvalue()
