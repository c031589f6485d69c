"""Write the golden store again: `python tests/golden/regenerate.py`.

Only for a new schema version, as `store_v<version>` beside the older ones, which must stay readable for ever.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))


def main() -> None:
    from pipeline.storage.schema import SCHEMA_VERSION
    from tests.support.stores import fill, fill_embeddings, make_store, video_table

    folder = FOLDER / f"store_v{SCHEMA_VERSION}"
    shutil.rmtree(folder, ignore_errors=True)
    store = make_store(
        folder, num_videos=5, num_crops=2, dim=3, shard_rows=4, statuses={1: "unreadable"},
        labels=["run", "walk", "run", "walk", "run"], splits=["train", "test", "train", "train", "test"],
    )  # fmt: skip
    store.dataset("toy").append_videos(video_table(2, first=5, labels=["sit", "sit"], splits=["train", "test"]))
    fill(store, dim=3)
    fill_embeddings(store, "scale", np.arange(14, dtype=np.float32).reshape(7, 2))
    store.dataset("toy").save_artifact("models", "scale", {"weights.bin": b"golden"}, {"schema": SCHEMA_VERSION})


if __name__ == "__main__":
    main()
