"""Every kind of file damaged in every way: nothing wrong is served, nothing is left out silently, all comes back.

A sample runs with the fast and the slow tests; `make soak` runs the whole and prints the table.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline import FeatureStore
from pipeline.errors import PipelineError
from pipeline.storage.backend import StorageBackend
from pipeline.storage.backend_local import LocalBackend
from pipeline.verify.verify_store import verify_store
from tests.support.damage import NoSync, Pristine, damage, kind_of, read_everything, work
from tests.support.soak import Tally, soak

ROUNDS = int(os.environ.get("SCALE_SOAK_ROUNDS", "1200"))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    return Pristine.make(LocalBackend(tmp_path_factory.mktemp("pristine") / "s", NoSync()), long_lived=True)


def fresh(folder: Path, pristine: Pristine) -> Iterator[StorageBackend]:
    """The whole store in a new folder, again and again."""
    number = 0
    while True:
        backend = LocalBackend(folder / str(number), NoSync())
        pristine.put(backend)
        yield backend
        for key, _ in backend.list():
            (backend.root / key).unlink()
        number += 1


def one_round(backend: StorageBackend, pristine: Pristine, seed: int, tally: Tally) -> None:
    """Damage, read, verify, perhaps run, repair, run, read: all of it must hold."""
    rng = random.Random(seed)
    way, key = damage(backend, pristine, rng)
    what = f"seed {seed}: {way} {key}"
    counts = tally.counts[kind_of(key)]
    counts["rounds"] += 1
    seen = read_everything(backend, with_sql=seed % 4 == 0, long_lived=True)
    counts["wrong"] += bool(seen.faults)
    assert not seen.faults, (what, seen.faults)
    counts["served" if not seen.refusals else "refused"] += 1
    problems = verify_store(FeatureStore.open(backend)).problems
    counts["named" if problems else "harmless"] += 1
    if not problems:  # harmless by proof: everything reads as it was written, and a run changes nothing of that
        assert seen.is_whole, (what, seen)
    if rng.random() < 0.3:  # people run before they verify
        with suppress(PipelineError):
            work(FeatureStore.open(backend, "a"))
        seen = read_everything(backend, long_lived=True)
        assert not seen.faults, (what, "after a run", seen.faults)
    store = FeatureStore.open(backend, "a")
    report = verify_store(store, repair=True)
    assert report.is_clean, (what, [p for p in report.problems if not p.repaired])
    seen = read_everything(backend, long_lived=True)
    assert not seen.faults, (what, "after the repair", seen.faults)
    work(FeatureStore.open(backend, "a"))
    seen = read_everything(backend, long_lived=True)
    assert seen.is_whole, (what, "after repair and run", seen)
    left = verify_store(FeatureStore.open(backend)).problems
    assert not left, (what, "after repair and run", left)


def rounds(folder: Path, pristine: Pristine, first: int, count: int) -> Tally:
    tally = Tally()
    stores = fresh(folder, pristine)
    for seed in range(first, first + count):
        one_round(next(stores), pristine, seed, tally)
    return tally


def test_a_few_damages(tmp_path: Path, pristine: Pristine) -> None:
    assert sum(c["rounds"] for c in rounds(tmp_path, pristine, 0, 6).counts.values()) == 6


@pytest.mark.slow
def test_a_hundred_damages(tmp_path: Path, pristine: Pristine) -> None:
    assert len(rounds(tmp_path, pristine, 1_000, 100).counts) > 8


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_thousand_damages(tmp_path: Path, pristine: Pristine) -> None:
    stores = fresh(tmp_path, pristine)
    tally = soak("damages", ROUNDS, lambda n, tally: one_round(next(stores), pristine, 10_000 + n, tally))
    assert not tally.total()["wrong"]
