"""Damage, kills and failing writes on a real S3 API: as on a disk, nothing wrong is served and all comes back."""

from __future__ import annotations

import multiprocessing
import os
import random
from contextlib import suppress

import pytest

from pipeline import FeatureStore
from pipeline.errors import PipelineError
from pipeline.storage.backend_object import ObjectBackend
from pipeline.verify.verify_store import verify_store
from tests.support import damage as world
from tests.support.damage import Pristine, damage, kind_of, read_everything, work
from tests.support.faults import FaultPlan, FaultyBackend
from tests.support.s3 import BUCKET, S3Server
from tests.support.soak import Tally, soak

ROUNDS = int(os.environ.get("SCALE_SOAK_S3_ROUNDS", "300"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of few objects: every request is a journey."""
    monkeypatch.setattr(world, "FEATURES", {"a": ("f",)})
    monkeypatch.setattr(world, "DATASETS", {"toy": 4})
    monkeypatch.setattr(world, "ARTIFACTS", {("models", "m"): {"weights.bin": b"w" * 40}})


def die_at_work(url: str, at: int, action: str) -> None:
    """Run beside whatever was damaged, with one write that fails or whose answer is lost, until killed."""
    world.FEATURES, world.DATASETS = {"a": ("f",)}, {"toy": 4}
    world.ARTIFACTS = {("models", "m"): {"weights.bin": b"w" * 40}}
    backend = FaultyBackend(ObjectBackend(url), FaultPlan(at=at, action=action))
    with suppress(PipelineError):
        if at % 2:
            verify_store(FeatureStore.open(backend, "a"), repair=True)
        work(FeatureStore.open(backend, "a"), world.DATASETS)


def one_round(pristine: Pristine, seed: int, tally: Tally) -> None:
    rng = random.Random(seed)
    url = f"s3://{BUCKET}/round-{seed}"
    backend = ObjectBackend(url)
    pristine.put(backend)
    way, key = damage(backend, pristine, rng)
    what = f"seed {seed}: {way} {key}"
    counts = tally.counts[kind_of(key)]
    counts["rounds"] += 1
    seen = read_everything(backend)
    counts["wrong"] += bool(seen.faults)
    assert not seen.faults, (what, seen.faults)
    counts["served" if not seen.refusals else "refused"] += 1
    problems = verify_store(FeatureStore.open(backend)).problems
    counts["named" if problems else "harmless"] += 1
    assert problems or seen.is_whole, (what, seen)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipeline.test_damage_s3"])
    action = rng.choice(["fail", "late"])
    child = context.Process(target=die_at_work, args=(url, rng.randrange(30), action), daemon=True)
    child.start()
    child.join(rng.random() * 4)
    counts["killed"] += child.is_alive()
    child.kill()
    child.join()
    seen = read_everything(backend)
    assert not seen.faults, (what, "after a kill", seen.faults)
    for _ in range(2):  # a repair may meet what the killed one left between two writes
        report = verify_store(FeatureStore.open(backend, "a"), repair=True)
    assert report.is_clean, (what, [p for p in report.problems if not p.repaired])
    work(FeatureStore.open(backend, "a"), world.DATASETS)
    seen = read_everything(backend)
    assert seen.is_whole, (what, "after repair and run", seen)
    left = verify_store(FeatureStore.open(backend)).problems
    assert not left, (what, "after repair and run", left)
    for name, _ in backend.list():
        backend.delete(name)


def make_pristine(name: str) -> Pristine:
    return Pristine.make(ObjectBackend(f"s3://{BUCKET}/pristine-{name}"), ({"toy": 2}, {"toy": 4}))


@pytest.mark.slow
@pytest.mark.usefixtures("s3", "small")
def test_a_few_damages_and_kills_on_s3() -> None:
    pristine, tally = make_pristine("few"), Tally()
    for seed in range(4):
        one_round(pristine, seed, tally)
    assert tally.num_rounds == 4


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("small")
def test_hundreds_of_damages_and_kills_on_s3(s3: S3Server) -> None:
    pristine = make_pristine("many")
    tally = soak("damages-s3", ROUNDS, lambda n, tally: one_round(pristine, 1_000 + n, tally))
    assert tally.total()["killed"] > 0
    assert not tally.total()["wrong"]
