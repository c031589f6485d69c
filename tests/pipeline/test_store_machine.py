"""The store against a dict: whatever it is asked to do, dies of, loses or gets back, in any order."""

from __future__ import annotations

import random
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline import FeatureStore, RowStatus
from pipeline.errors import CorruptDataError, NotFoundError, PipelineError, SnapshotChangedError
from pipeline.recipe import RandomPolicy
from pipeline.storage.backend import StorageBackend
from pipeline.store.artifacts import artifact_versions
from pipeline.store.compact import compact_store
from pipeline.store.facts import FACT_COLUMNS
from pipeline.verify.verify_store import verify_store
from tests.support.faults import FaultPlan, FaultyLocalBackend
from tests.support.stores import make_geometry, make_values, video_table

V, D, SHARD_ROWS = 2, 3, 4


class StoreMachine(RuleBasedStateMachine):
    """`model` holds what every committed row must read as: row -> (status, values, valid)."""

    @initialize()
    def create(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        store = FeatureStore.create(self.folder / "s")
        ds = store.create_dataset("toy", shard_rows=SHARD_ROWS)
        ds.define_crop_set("c", RandomPolicy(policy="random", num_crops=V))
        ds.writer("c", "f", {"b": 1}, D)
        self.model: dict[int, tuple[str, np.ndarray, np.ndarray]] = {}
        self.num_rows = 0
        self.pinned: list[tuple[object, int, dict[int, tuple[str, np.ndarray, np.ndarray]]]] = []
        self.tries = 0
        self.committed: dict[int, list[tuple[str, np.ndarray, np.ndarray]]] = {}
        self.versions: dict[Path, list[bytes]] = {}
        self.labels: dict[int, str] = {}
        self.frames: dict[int, int] = {}
        self.saved: dict[int, set[bytes]] = {}
        self.newest = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def open(self, plan: FaultPlan | None = None) -> FeatureStore:
        place = self.folder / "s"
        return FeatureStore.open(place if plan is None else FaultyLocalBackend(place, plan), mode="a")

    @rule(n=st.integers(1, 5))
    def append(self, n: int) -> None:
        appended = self.open().dataset("toy").append_videos(video_table(self.num_rows + n))
        assert (appended.num_new, appended.num_known) == (n, self.num_rows)
        self.num_rows += n

    def work(self, store: FeatureStore, retry: tuple[str, ...], failing: set[int]) -> None:
        writer = store.dataset("toy").writer("c", "f", {"b": 1}, D)
        for task in writer.todo(retry=retry):
            self.tries += 1
            rows = task.rows
            values = make_values(rows, V, D, salt=self.tries)
            status = ["partial" if r in failing else "ok" for r in rows.tolist()]
            valid = np.ones((len(rows), V), bool)
            valid[[r in failing for r in rows.tolist()], 1:] = False
            made = {
                r: (s, np.where(ok[:, None], v, 0).astype(np.float16), ok)
                for r, s, v, ok in zip(rows.tolist(), status, values, valid, strict=True)
            }
            before = dict(self.model)
            self.maybe = made
            for row, state in made.items():
                self.committed.setdefault(row, []).append(state)
            lines = [RowStatus(r, s) for r, s in zip(rows.tolist(), status, strict=True)]
            writer.write(task, values, valid, make_geometry(rows, V), lines)
            self.model = {**before, **made}
            self.maybe = {}

    @rule(failing=st.sets(st.integers(0, 20), max_size=3), retry=st.sampled_from([(), ("partial",)]))
    def extract(self, failing: set[int], retry: tuple[str, ...]) -> None:
        self.maybe = {}
        self.work(self.open(), retry, failing)
        assert set(self.model) == set(range(self.num_rows))

    @rule(
        failing=st.sets(st.integers(0, 20), max_size=2),
        at=st.integers(0, 60),
        action=st.sampled_from(["fail", "tear", "late"]),
        retry=st.sampled_from([(), ("partial",)]),
    )
    def extract_and_die(self, failing: set[int], at: int, action: str, retry: tuple[str, ...]) -> None:
        self.maybe = {}
        with suppress(PipelineError):
            self.work(self.open(FaultPlan(at=at, action=action, forever=True)), retry, failing)
        if self.maybe:  # did the commit happen before the disk died? The ledger says, nobody else
            ds = self.open().dataset("toy")
            status = ds.status("c", "f").to_pylist()
            block = ds.select().features("c", "f")
            took = [
                status[r]["status"] == made[0]
                and np.array_equal(block.values[r], made[1])
                and np.array_equal(block.valid[r], made[2])
                for r, made in self.maybe.items()
            ]
            assert all(took) or not any(took), "half a shard was committed"
            if all(took):
                self.model.update(self.maybe)

    @precondition(lambda self: self.num_rows)
    @rule(row=st.integers(0, 20))
    def replace_a_file(self, row: int) -> None:
        """Its facts are others; nothing that was made from the file before counts any more, ever."""
        row %= self.num_rows
        ds = self.open().dataset("toy")
        self.frames[row] = self.frames.get(row, 0) + 1
        facts = ds.by_row.select(FACT_COLUMNS).slice(row, 1).to_pylist()[0]
        ds.change_facts({row: facts | {"num_frames": self.frames[row], "sha256": f"{self.frames[row]:064d}"}})
        self.model.pop(row, None)
        self.committed[row] = []

    @precondition(lambda self: self.num_rows)
    @rule(row=st.integers(0, 20), label=st.sampled_from("xyz"))
    def label(self, row: int, label: str) -> None:
        self.open().dataset("toy").change_labels({row % self.num_rows: {"label": label}})
        self.labels[row % self.num_rows] = label

    @rule(content=st.binary(max_size=3))
    def save(self, content: bytes) -> None:
        """A model that is made anew: the name is the newest, the others keep their numbers."""
        saved = self.open().dataset("toy").save_artifact("models", "m", {"w.bin": content}, {})
        self.saved.setdefault(saved.version, set()).add(content)
        self.newest = saved.version
        assert saved.read("w.bin") == content

    @rule()
    def pin(self) -> None:
        self.pinned = [
            *self.pinned[-2:],
            (FeatureStore.open(self.folder / "s").dataset("toy"), self.num_rows, dict(self.model)),
        ]

    @rule()
    def compact(self) -> None:
        compact_store(self.open(), min_loose=1)

    @rule(at=st.integers(0, 30), action=st.sampled_from(["fail", "tear", "late"]))
    def compact_and_die(self, at: int, action: str) -> None:
        with suppress(PipelineError):
            compact_store(self.open(FaultPlan(at=at, action=action, forever=True)), min_loose=1)

    @rule()
    def verify(self) -> None:
        verify_store(self.open(), repair=True)
        assert verify_store(self.open()).problems == ()

    @precondition(lambda self: self.model)
    @rule(seed=st.integers(0, 10_000))
    def damage_and_repair(self, seed: int) -> None:
        rng = random.Random(seed)
        shards = sorted((self.folder / "s").rglob("values/c.*"))
        if not shards:
            return
        path = rng.choice(shards)
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        assert verify_store(self.open(), repair=True).is_clean
        status = self.open().dataset("toy").status("c", "f")["status"].to_pylist()
        self.model = {r: made for r, made in self.model.items() if status[r] != "pending"}
        self.pinned = []

    @precondition(lambda self: self.model)
    @rule(seed=st.integers(0, 10_000), way=st.sampled_from(["delete", "swap", "restore"]))
    def lose_a_file(self, seed: int, way: str) -> None:
        """Whatever becomes of one file: answers are states that were committed once, or errors; repair mends it."""
        rng = random.Random(seed)
        files = sorted(p for p in (self.folder / "s").rglob("*") if p.is_file() and "_claims" not in p.parts)
        path = rng.choice(files)
        if way == "delete":
            path.unlink()
        elif way == "swap":
            other = rng.choice([p for p in files if p.suffix == path.suffix])
            one, two = path.read_bytes(), other.read_bytes()
            path.write_bytes(two)
            other.write_bytes(one)
        else:
            path.write_bytes(rng.choice(self.versions.get(path, [path.read_bytes()])))
        with suppress(PipelineError):
            self.take_what_was_committed()
        assert verify_store(self.open(), repair=True).is_clean
        self.take_what_was_committed()
        self.pinned = []

    def take_what_was_committed(self) -> None:
        """Hold every answer to the states of its row; what is pending by now, or an older state, is the model's too."""
        ds = FeatureStore.open(self.folder / "s").dataset("toy")
        assert ds.videos["video_id"].to_pylist() == [f"videos/{i:06d}.mp4" for i in range(self.num_rows)]
        block, status = ds.select().features("c", "f"), ds.status("c", "f")["status"].to_pylist()
        found = {}
        for row, text in enumerate(status):
            if text == "pending":
                assert not block.valid[row].any()
                continue
            same = [
                state
                for state in self.committed[row]
                if state[0] == text
                and np.array_equal(state[1], block.values[row])
                and np.array_equal(state[2], block.valid[row])
            ]
            assert same, f"row {row} is {text} with values that were never committed"
            found[row] = same[-1]
        self.model = found
        there = self.versions_there(ds.backend)
        assert self.newest == 0 or max(there, default=0) <= self.newest
        self.newest = max(there, default=0)

    def versions_there(self, backend: StorageBackend) -> set[int]:
        """Return the versions of the model that are there, each held to what was saved under its number."""
        try:
            there = artifact_versions(backend, "toy", "models", "m")
        except NotFoundError:
            return set()
        for one in there:
            with suppress(CorruptDataError, NotFoundError):
                assert one.read("w.bin") in self.saved[one.version]
        return {one.version for one in there}

    def compare(self, ds: object, num_rows: int, model: dict[int, tuple[str, np.ndarray, np.ndarray]]) -> None:
        block = ds.select().features("c", "f")  # type: ignore[attr-defined]
        status = ds.status("c", "f")["status"].to_pylist()  # type: ignore[attr-defined]
        assert len(block) == num_rows
        for r in range(num_rows):
            kind, values, valid = model.get(r, ("pending", np.zeros((V, D), np.float16), np.zeros(V, bool)))
            assert status[r] == kind, r
            np.testing.assert_array_equal(block.values[r], values)
            np.testing.assert_array_equal(block.valid[r], valid)

    @invariant()
    def the_present_is_the_model(self) -> None:
        if hasattr(self, "folder"):
            for path in (self.folder / "s").rglob("*"):
                if path.is_file() and path.read_bytes() not in self.versions.setdefault(path, []):
                    self.versions[path].append(path.read_bytes())
            ds = FeatureStore.open(self.folder / "s").dataset("toy")
            self.compare(ds, self.num_rows, self.model)
            lines = ds.videos.select(["row", "label", "num_frames"]).to_pylist()
            assert {line["row"]: line["num_frames"] for line in lines if line["row"] in self.frames} == self.frames
            assert {line["row"]: line["label"] for line in lines if line["row"] in self.labels} == self.labels
            assert max(self.versions_there(ds.backend), default=0) == self.newest

    @invariant()
    def pinned_readers_keep_their_snapshot(self) -> None:
        for ds, num_rows, model in getattr(self, "pinned", []):
            with suppress(SnapshotChangedError):
                self.compare(ds, num_rows, model)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
