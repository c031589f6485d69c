"""A tiny job that every flow test can afford: a few H.264 files, a tiny exported network, a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.browser import browser as browser
from tests.support.extraction import make_videos, tiny_program

if TYPE_CHECKING:
    from tests.flows.serve_world import ServedJob
    from tests.support.prefect_world import World

CROPS = {
    "train4": {"policy": "random", "num_crops": 4, "num_frames": 4, "stride": 2, "size_px": 16,
               "short_side_px": [18, 30]},
    "grid": {"policy": "grid", "temporal": 2, "spatial": 1, "num_frames": 4, "stride": 2, "size_px": 16,
             "short_side_px": 20, "cover_tail": True},
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """Where a test's recipe, videos and store are."""

    recipe: Path
    data: Path
    store: Path

    def add_videos(self, prefix: str, lengths: list[int]) -> None:
        """Add videos to both classes."""
        make_videos(self.data / "a", lengths, prefix=prefix)
        make_videos(self.data / "b", [n + 3 for n in lengths], prefix=prefix, height=48)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return tiny_program(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, program: tuple[Path, str]) -> ServedJob:
    """A finished job that `scale serve` shows; tests that change something do so in a store of their own."""
    from tests.flows.serve_world import finished_job

    return finished_job(tmp_path_factory.mktemp("served"), program)


@pytest.fixture
def job(tmp_path: Path, program: tuple[Path, str]) -> Job:
    """Twelve videos of two classes, in shards of two, with training, embedding, a probe and an index."""
    return make_job(tmp_path, program)


def make_job(folder: Path, program: tuple[Path, str]) -> Job:
    """Write a job's recipe and videos into a folder; its store is not made yet."""
    path, sha256 = program
    recipe = {
        "name": "tiny",
        "dataset": {"name": "set", "videos": "**/*.mp4", "labels": {"from": "folder"}, "shard_rows": 2,
                    "splits": {"from": "random", "test_fraction": 0.4, "seed": 1}},
        "crops": CROPS,
        "backbones": {"tiny": {"kind": "exported", "weights": {"path": str(path), "sha256": sha256},
                               "num_frames": 4, "size_px": 16, "dtype": "float32"}},
        "train": {"crops": "train4", "backbone": "tiny", "set_size": 2, "batch_size": 4, "epochs": 2,
                  "model": {"dim": 32, "num_heads": 2, "head_hidden_dim": 32, "target_hidden_dim": 32,
                            "projection_dim": 8}},
        "embed": [{"crops": "grid"}],
        "probes": [{"kind": "knn", "crops": "grid", "k": [1, 3]}],
        "indexes": [{"name": "default", "crops": "grid"}],
    }  # fmt: skip
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(recipe))
    made = Job(file, folder / "videos", folder / "store")
    made.add_videos("v", [20, 24, 28, 30, 22, 26])
    return made


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Postgres and a Prefect server as docker-compose.yml has them; workers are started by each test."""
    from tests.support.prefect_world import running_world

    with running_world(tmp_path_factory.mktemp("services")) as made:
        yield made


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """A real Prefect API with a database of its own, without the services that look for work now and then.

    It ends with the module: an idle server costs processor time, too.
    """
    from prefect.testing.utilities import prefect_test_harness

    quiet = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "TRIGGERS", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP",
             "REPOSSESSOR")  # fmt: skip
    with pytest.MonkeyPatch.context() as environment:
        for name in quiet:
            environment.setenv(f"PREFECT_SERVER_SERVICES_{name}_ENABLED", "false")
        with prefect_test_harness(server_startup_timeout=90):
            yield
