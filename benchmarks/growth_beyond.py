"""What a store of 100 million videos would ask of an S3 API, verb by verb, and what would lie in its folders.

python -m benchmarks.growth_beyond [--videos 100000000]

No time is guessed. Every count of a verb is a constant (footers, the last commit, a row group, entries not packed yet)
and something for every so many videos: a pack of ledger entries for 2^20, a file of the row index for 2^22, a page of a
listing for 1,000 names, a catalogue commit for 8,192. So the two largest stores that were measured give the slope, and
the folders follow from the sizes that the code itself names.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict

from benchmarks._table import RESULTS, write_results
from benchmarks.growth import COMMIT_ROWS, NAMES_A_PAGE, SHARD_ROWS
from pipeline.sets.ledger_pack import PackSize
from pipeline.store.id_index import MAX_INDEX_ROWS, ROWS_PER_GROUP

KINDS = ("GET", "HEAD", "LIST", "PUT", "DELETE")


def measured() -> dict[str, dict[int, dict[str, float]]]:
    """Return, of every verb whose requests were counted, what each size of store took."""
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for line in (RESULTS / "growth.jsonl").read_text().splitlines():
        row = json.loads(line)
        if not row["requests"]:
            continue
        counts = dict.fromkeys(KINDS, 0.0)
        for part in row["requests"].split(", "):
            number, kind = part.split()
            counts[kind] = float(number)
        size = int(row["videos"].replace(",", ""))
        found[row["verb"]][size] = counts | {"MB fetched": float(row["MB fetched"])}
    return found


def beyond(sizes: dict[int, dict[str, float]], num_videos: int) -> dict[str, float]:
    """Go on along the line through the two largest sizes; what did not grow stays."""
    (less, few), (more, many) = sorted(sizes.items())[-2:]
    return {
        name: value + max(0.0, (value - few[name]) / (more - less)) * (num_videos - more)
        for name, value in many.items()
    }


def verbs(num_videos: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for verb, sizes in measured().items():
        if len(sizes) < 2:
            continue
        rows += [_row(verb, size, "measured", counts) for size, counts in sorted(sizes.items())[-2:]]
        rows.append(_row(verb, num_videos, "on the line", beyond(sizes, num_videos)))
    return rows


def _row(verb: str, size: int, how: str, counts: dict[str, float]) -> dict[str, object]:
    numbers = {kind: f"{counts[kind]:,.0f}" for kind in KINDS}
    return {"verb": verb, "videos": f"{size:,}", "": how, **numbers, "MB fetched": f"{counts['MB fetched']:,.1f}"}


def folders(num_videos: int) -> list[dict[str, object]]:
    """Return how many names each folder holds, and how many pages a listing of it takes."""
    commits, shards = -(-num_videos // COMMIT_ROWS), -(-num_videos // SHARD_ROWS)
    packs, indexes = -(-num_videos // PackSize().max_rows), -(-num_videos // MAX_INDEX_ROWS)
    names = [
        ("catalog/", commits, "one commit for 8,192 videos; as many copies; 100 videos a night add 365 a year"),
        ("catalog/packs/", indexes + 1, f"row index, {16 * num_videos / 1e9:,.1f} GB, and commit index"),
        ("crops/<set>/ledger/<features>/", 255, "entries that are not packed yet, at most"),
        ("crops/<set>/ledger/<features>/packs/", packs, "as many copies"),
        ("crops/<set>/features/<features>/values/", shards, "listed by verify alone"),
        ("one row group of the row index", ROWS_PER_GROUP, "what a lookup by id decodes of each index file"),
    ]
    return [
        {"what": what, "names or rows": f"{count:,}", "LIST pages": f"{-(-count // NAMES_A_PAGE):,}", "note": note}
        for what, count, note in names
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=100_000_000)
    options = parser.parse_args()
    notes = ["`measured`: benchmarks/results/growth.md; `on the line`: through the two sizes above it, see the script"]
    write_results(
        "growth_beyond",
        f"A store of {options.videos:,} videos: requests of each verb",
        verbs(options.videos),
        notes=notes,
    )
    write_results(
        "growth_beyond_folders", f"A store of {options.videos:,} videos: its folders", folders(options.videos)
    )


if __name__ == "__main__":
    main()
