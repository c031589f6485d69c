"""The stage `embed`: a trained model's video embeddings, written back shard by shard, only what is missing or stale."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from safetensors.torch import load, save

from aggregate.data.rows import choose_rows, frame_sizes
from aggregate.embeddings.embed import embed, embedding_dim
from aggregate.embeddings.untrained import embed_rows, fitted_readout
from aggregate.embeddings.whitening import Whitening, fit_whitening
from aggregate.network.saving import load_model
from pipeline.compute.devices import pick_device
from pipeline.errors import AlreadyExistsError, CorruptDataError, NotFoundError
from pipeline.events import Note, OnEvent, Progress, ShardFinished, StageFinished, StageStarted, ignore
from pipeline.products import Embeddings, ProductPlan, Standing, follow, model_products, standing, standings
from pipeline.products.embeddings import SOURCE, made_from
from pipeline.readouts.collapse import doubts_about_vectors
from pipeline.readouts.fitting import FittedReadout
from pipeline.recipe.readout_words import ModelReadout
from pipeline.reports import SkippedVideo, StageReport
from pipeline.sets.ledger_entry import RowStatus
from pipeline.settings import Settings
from pipeline.status import VideoStatus
from pipeline.storage.schema import PENDING
from pipeline.store.artifacts import split_version
from pipeline.store.kept_embeddings import keep_embeddings
from pipeline.store.pinned_sets import VERSION

if TYPE_CHECKING:
    from pipeline import Dataset, EmbeddingWriter, FeatureStore, ShardTask

WHITENING_FILE = "whitening.safetensors"


def run_embed(plan: ProductPlan, store: FeatureStore, settings: Settings, on_event: OnEvent = ignore) -> StageReport:
    """Write the embeddings of a plan.

    Uses the model that stands in the store. Shards are claimed, so that several runs share the work.

    Parameters
    ----------
    plan : ProductPlan
        What the store holds now decides; a plan made earlier is made again.
    store : FeatureStore
        Open for writing.
    settings : Settings
        `device`.
    on_event : callable

    Returns
    -------
    StageReport
        `did` counts shards_done and shards_skipped (complete already, claimed by another worker, or without features).

    Raises
    ------
    NotFoundError
        If the model or the features do not exist.
    """
    started = time.monotonic()
    if not plan.standings:
        return StageReport(stage="embed", recipe=plan.recipe.name, did={"shards_done": 0, "shards_skipped": 0})
    dataset = store.dataset(plan.recipe.dataset.name)
    targets = [standing(one.product, store, dataset=dataset) for one in plan.standings]
    for target in targets:
        if target.content is None:
            raise NotFoundError(f"embedding set {target.product.name}: {target.why}; run the stages before it first")
    plan = replace(plan, standings=tuple(targets))
    for model in follow(standings(model_products(plan.recipe), store)):
        if not model.is_done and any(model.product.ref in target.product.inputs for target in targets):
            text = (
                f"model {model.product.name} in the store is not what the recipe would train now ({model.why}); "
                "embedding with it all the same"
            )
            on_event(Note("embed", text, "warning"))
    total = sum(len(t.todo) for t in targets)
    on_event(StageStarted("embed", total, "shards", plan.summary()))
    done = skipped = num_bytes = 0
    failed: list[SkippedVideo] = []
    doubtful: dict[str, str] = {}
    for target in targets:
        skipped += target.num_done
        if not target.todo and not target.replaces:
            continue
        worker = _Worker(dataset, target, settings, on_event)
        for shard_bytes in worker.run():
            if shard_bytes is None:
                skipped += 1
            else:
                done, num_bytes = done + 1, num_bytes + shard_bytes
            on_event(Progress("embed", min(done + worker.num_skipped, total), total))
        failed += worker.failed
        for text in worker.doubts():
            doubtful[target.product.name] = text
            on_event(Note("embed", f"{target.product.name}: {text}", "warning"))
    seconds = time.monotonic() - started
    on_event(StageFinished("embed", f"{done} shards written, {skipped} skipped", seconds))
    return StageReport(
        stage="embed",
        recipe=plan.recipe.name,
        did={"shards_done": done, "shards_skipped": skipped},
        seconds=seconds,
        num_bytes=num_bytes,
        skipped=tuple(failed),
        fingerprint=plan.fingerprint,
        snapshot=store.dataset(plan.recipe.dataset.name).snapshot(),
        details={"embeddings": [t.product.name for t in targets], "doubts": doubtful, **_rows_policy(targets)},
    )


def _rows_policy(targets: Sequence[Standing]) -> dict[str, str]:
    policies = {one.model.rows for t in targets if (one := cast(Embeddings, t.product)).model is not None}
    return {"rows": "all" if "all" in policies else "train"} if policies else {}


class _Worker:
    """Embeds the shards of one set."""

    def __init__(self, dataset: Dataset, planned: Standing, settings: Settings, on_event: OnEvent) -> None:
        self.dataset, self.planned, self.on_event = dataset, planned, on_event
        self.target = cast(Embeddings, planned.product)
        self.device = pick_device(settings.device)
        self.untrained: FittedReadout | None = None
        if self.target.model is None:
            self.untrained = fitted_readout(dataset, self.target, planned.fingerprint)
        else:
            self.spec = self.target.model
            stream = self.spec.stream_of(self.target.feature_set)
            self.model = load_model(dataset, self.spec.name, stream).to(self.device)
        self.failed: list[SkippedVideo] = []
        self.num_skipped = 0
        self.sums: tuple[int, np.ndarray, np.ndarray] = (0, np.zeros(()), np.zeros(()))
        self.source = self.target.source_states(dataset)
        self.whitening = self._whitening() if self.target.readout == "whitened" else None
        self.writer = self._open_writer()

    def run(self) -> Iterator[int | None]:
        """Yield the bytes of each shard that was written, None for one that was left to others."""
        for shard in self.planned.todo:
            ledger = self.dataset.ledger(None, self.target.name)
            if made_from(ledger, shard) == self.source[shard]:  # another run was faster
                self.num_skipped += 1
                yield None
                continue
            tasks = self.writer.todo(shards=[shard], retry=list(VideoStatus))
            written = [self._one(task) for task in tasks]
            self.num_skipped += not written or written[0] is None
            yield written[0] if written else None

    def doubts(self) -> tuple[str, ...]:
        """Say whether the vectors written here are all the same."""
        return doubts_about_vectors(*self.sums)

    def _one(self, task: ShardTask) -> int | None:
        claim = self.writer.claim(task)
        if claim is None:
            return None
        with claim:
            begin = time.monotonic()
            values, valid = self._embed(task.rows)
            finite = np.isfinite(values).all(axis=1)
            kept = values[valid & finite].astype(np.float64)
            count, total, squares = self.sums
            self.sums = (count + len(kept), total + kept.sum(0), squares + np.square(kept).sum(0))
            rows = []
            for at, (row, status, error) in enumerate(self._sources_of(task.rows)):
                if valid[at] and not finite[at]:
                    status, error = VideoStatus.NON_FINITE.value, "the embedding is NaN or infinity"
                rows.append(RowStatus(row, status, error))
                if status not in (VideoStatus.OK, PENDING) and not (valid[at] and finite[at]):
                    name = self.dataset.lines_of([row])["video_id"][0].as_py()
                    self.failed.append(SkippedVideo(row=row, video_id=name, status=status, error=error))
            try:
                self.writer.write(
                    task,
                    np.where(finite[:, None], values, 0.0).astype(np.float32),
                    valid & finite,
                    rows,
                    device=str(self.device),
                    seconds=time.monotonic() - begin,
                    versions={"torch": torch.__version__, SOURCE: self.source[task.shard]},
                )
            except AlreadyExistsError:
                return None
        counts = {s: sum(r.status == s for r in rows) for s in {r.status for r in rows}}
        seconds = time.monotonic() - begin
        self.on_event(ShardFinished("embed", task.shard, self.target.name, len(rows), counts, seconds))
        return int(values.nbytes)

    def _sources_of(self, rows: np.ndarray) -> Iterator[tuple[int, str, str]]:
        """Yield row, status and error of the features of some rows; this handle may not see the last of them yet."""
        seen = rows[rows < self.dataset.num_rows]
        said = self.dataset.status_of(self.target.crops, self.target.feature_set, seen)
        yield from zip(*(said[name].to_pylist() for name in ("row", "status", "error")), strict=True)
        yield from ((row, PENDING, "") for row in rows[len(seen) :].tolist())

    def _embed(self, rows: np.ndarray, readout: ModelReadout | None = None) -> tuple[np.ndarray, np.ndarray]:
        if self.untrained is not None:
            return embed_rows(self.dataset, self.untrained, rows)
        readout = readout or cast(ModelReadout, self.target.spec.readout)
        selection = self.dataset.select(rows=rows)
        block = selection.features(self.target.crops, self.target.feature_set)
        values, valid = embed(
            self.model,
            np.array(block.values),
            np.array(block.geometry),
            np.array(block.valid),
            frame_size_px=frame_sizes(selection.videos),
            readout=readout,
            sets=self.target.spec.sets,
            whitening=self.whitening if readout == "whitened" else None,
        )
        return values.numpy(), valid.numpy()

    def _open_writer(self) -> EmbeddingWriter:
        target, content = self.target, self.planned.content
        assert content is not None
        number: dict[str, object] = {}
        if self.planned.replaces and self._stands_otherwise():
            number = {VERSION: self._keep_older() + 1}
            self.dataset.drop_embeddings(target.name)
        if self.untrained is not None:
            attrs: dict[str, object] = {"readout": target.readout, "rows": "train", "model": None, **number}
            return self.dataset.embedding_writer(target.name, fingerprint=content, dim=self.untrained.dim, attrs=attrs)
        dim = (
            self.whitening.output_dim
            if self.whitening is not None
            else embedding_dim(self.model, self.model.input_dim, cast(ModelReadout, target.spec.readout))
        )
        attrs = {"readout": target.readout, "rows": self.spec.rows, "model": self.spec.name, **number}
        return self.dataset.embedding_writer(target.name, fingerprint=content, dim=dim, attrs=attrs)

    def _stands_otherwise(self) -> bool:
        """Whether what stands under the name now is still another one: not what a run beside this one began."""
        try:
            return self.dataset.refresh().embedding_info(self.target.name).fingerprint_id != self.planned.fingerprint
        except NotFoundError:
            return False

    def _keep_older(self) -> int:
        """Keep what stands under the name, if it can be read; return its number."""
        number = self.dataset.refresh().embedding_info(self.target.name).version
        try:
            kept = keep_embeddings(self.dataset, self.target.name)
        except CorruptDataError as err:
            text = f"the older embeddings {self.target.name} are not kept, they are damaged: {err}"
            self.on_event(Note("embed", text, "warning"))
            return number
        if kept is not None:
            self.on_event(Note("embed", f"the older embeddings {self.target.name} stay as {kept}"))
            return int(split_version(kept)[1])
        return number

    def _whitening(self) -> Whitening:
        """Fit on the rows the model was trained on, once; kept beside the model, so that later shards get the same."""
        name = f"{self.target.name}.whitening"
        wanted = self.planned.fingerprint
        try:
            artifact = self.dataset.artifact("models", name)
            if artifact.meta.get("embedding_fingerprint") == wanted:
                tensors = load(artifact.read(WHITENING_FILE))
                return Whitening(tensors["mean"], tensors["matrix"])
        except NotFoundError:
            pass  # the first time
        rows = choose_rows(self.dataset, self.spec.model_copy(update={"crops": self.target.crops})).rows
        fitted = fit_whitening(self._blocks(rows))
        data = save({"mean": fitted.mean, "matrix": fitted.matrix.contiguous()})
        self.dataset.save_artifact("models", name, {WHITENING_FILE: data}, {"embedding_fingerprint": wanted})
        return fitted

    def _blocks(self, rows: np.ndarray) -> Iterator[torch.Tensor]:
        for begin in range(0, len(rows), self.dataset.shard_rows):
            values, valid = self._embed(rows[begin : begin + self.dataset.shard_rows], "joined_normalised")
            yield torch.from_numpy(values[valid])
