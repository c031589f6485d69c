"""The demo's videos are the same on one machine, however many threads and cores the process that draws them has."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import av

DRAW = """
import os, sys
from pathlib import Path
if sys.argv[2] == "one core":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from extract.arrangements import ARRANGEMENTS, draw_arrangement
from extract.synthetic import encode_video
for seed, one in enumerate(ARRANGEMENTS[:2]):
    encode_video(Path(sys.argv[1], f"{seed}.mp4"), draw_arrangement(one, seed=seed, duration_s=2.0), fps=15)
"""


def drawn(folder: Path, cores: str, **environment: str) -> dict[str, bytes]:
    """Draw two videos in a process of its own; return the files by name."""
    command = [sys.executable, "-c", DRAW, str(folder), cores]
    subprocess.run(command, env={**os.environ, **environment}, check=True)
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.mp4"))}


def digest_of_frames(path: Path, threads: int) -> str:
    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = threads
        for frame in container.decode(video=0):
            digest.update(frame.to_ndarray(format="rgb24").tobytes())
    return digest.hexdigest()


def test_threads_and_cores_change_neither_bytes_nor_frames(tmp_path: Path) -> None:
    one = drawn(tmp_path / "one", "one core", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    many = drawn(tmp_path / "many", "all cores", OMP_NUM_THREADS="8", OPENBLAS_NUM_THREADS="8")
    assert len(one) == 2
    assert one == many
    for path in (tmp_path / "one").rglob("*.mp4"):
        twin = tmp_path / "many" / path.relative_to(tmp_path / "one")
        assert digest_of_frames(path, 1) == digest_of_frames(twin, 4)
