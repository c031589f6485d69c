"""Real videos whose structure is known: clips of single actions one after the other; their order is the class.

    python -m benchmarks.compose_videos list --clips DATA/jhmdb12 --clips DATA/ucf101_2class --out orders.csv
    python -m benchmarks.compose_videos make orders.csv --data DATA --out COMPOSED
    scale run benchmarks/recipes/composed_orders.yaml --data COMPOSED --weights DATA/weights --store STORE

A list has one line a video: ``video,label,split,group,clips``, the clips separated by ``;`` and relative to --data. Any
list of that form will do. `list` draws one whose classes are the orders of the same actions: what is seen is the same
in all of them, only when it is seen differs. Sources (groups) of one side's clips are never on the other.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from extract.decoding.opening import open_reader
from extract.synthetic import encode_video
from pipeline.errors import InvalidInputError

FPS, WIDTH_PX, HEIGHT_PX = 10, 224, 168
COLUMNS = ("video", "label", "split", "group", "clips")


def known_clips(folder: Path) -> list[tuple[str, str, str]]:
    """Return (path below the folder's parent, action, group) of every clip: by ``clips.csv``, else by its name."""
    listed = folder / "clips.csv"
    if listed.is_file():
        with listed.open(newline="") as file:
            rows = [(row["path"], row["label"], row["group"]) for row in csv.DictReader(file)]
    else:
        files = sorted(path.relative_to(folder) for path in folder.glob("*/*.avi"))
        # v_Punch_g01_c02: the part before the clip's number names its source.
        rows = [(str(path), path.parts[0], path.stem.rpartition("_")[0]) for path in files]
    return [(f"{folder.name}/{path}", label, f"{folder.name}:{group}") for path, label, group in rows]


def draw_list(
    clips: list[tuple[str, str, str]], actions: list[str], *, train: int, test: int, test_share: float, seed: int
) -> list[dict[str, str]]:
    """Draw videos of every order of the actions.

    Parameters
    ----------
    clips : list of (path, action, group)
    actions : list of str
    train, test : int
        Videos a class on each side.
    test_share : float
        Share of each action's groups whose clips are for test videos.
    seed : int

    Raises
    ------
    InvalidInputError
        If an action has fewer than two groups.
    """
    rng = np.random.default_rng(seed)
    groups = sorted({group for _, label, group in clips if label in actions})
    test_groups: set[str] = set()
    for action in actions:
        own = sorted({group for _, label, group in clips if label == action})
        if len(own) < 2:
            raise InvalidInputError(f"expected clips of {action} from two sources or more, found {len(own)}")
        open_ones = [g for g in own if g not in test_groups]
        wanted = round(test_share * len(own)) - (len(own) - len(open_ones))
        test_groups |= set(rng.permutation(open_ones)[: max(wanted, 0)].tolist())
    assert test_groups < set(groups)
    rows = []
    for side, number in (("train", train), ("test", test)):
        of_action = {
            a: [path for path, label, group in clips if label == a and (group in test_groups) == (side == "test")]
            for a in actions
        }
        for order in itertools.permutations(actions):
            label = "-".join(order)
            for i in range(number):
                chosen = [of_action[action][rng.integers(len(of_action[action]))] for action in order]
                name = f"{label}/{side}_{i:03d}.mp4"
                # Videos of one side share clips, and so one group a first clip: what resamples groups sees it.
                rows.append(
                    {"video": name, "label": label, "split": side, "group": chosen[0], "clips": ";".join(chosen)}
                )
    return rows


def frames_of(clips: list[Path], seconds_each: float) -> Iterator[np.ndarray]:
    """Yield the frames of a composed video, each clip played to and fro until its time is over."""
    per_clip = round(seconds_each * FPS)
    for clip in clips:
        with open_reader(clip) as reader:
            step = max(1, round((reader.info.fps or 25) / FPS))
            own = np.arange(0, reader.num_frames, step)
            cycle = np.concatenate([own, own[-2:0:-1]]) if len(own) > 2 else own
            wanted = np.resize(cycle, per_clip)
            unique, back = np.unique(wanted, return_inverse=True)
            pixels = np.asarray(reader.read(unique).frames)
            small = pixels[:, _picked(pixels.shape[1], HEIGHT_PX)][:, :, _picked(pixels.shape[2], WIDTH_PX)]
        yield from (np.ascontiguousarray(small[i]) for i in back)


def _picked(length: int, wanted: int) -> np.ndarray:
    return np.minimum(((np.arange(wanted) + 0.5) * length / wanted).astype(int), length - 1)


def make(listed: Path, data: Path, out: Path, seconds_each: float) -> int:
    """Make the videos of a list that are not there yet, and ``videos.csv`` for the recipe; return how many."""
    with listed.open(newline="") as file:
        rows = list(csv.DictReader(file))
    made = 0
    for row in rows:
        if missing := [column for column in COLUMNS if not row.get(column)]:
            raise InvalidInputError(
                f"expected the columns {', '.join(COLUMNS)} in {listed}, found none for {missing[0]}"
            )
        target = out / row["video"]
        if not target.is_file():
            clips = [data / clip for clip in row["clips"].split(";")]
            part = target.with_name(f"{target.stem}.part{target.suffix}")  # a file that was cut is made again
            encode_video(part, frames_of(clips, seconds_each), fps=FPS)
            part.replace(target)
            made += 1
    out.mkdir(parents=True, exist_ok=True)
    with (out / "videos.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "group", "split1"))
        writer.writerows((row["video"], row["label"], row["group"], row["split"]) for row in rows)
    return made


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    listing = verbs.add_parser("list")
    listing.add_argument("--clips", type=Path, action="append", required=True)
    listing.add_argument("--actions", default="golf,pullup,Punch")
    listing.add_argument("--train", type=int, default=16)
    listing.add_argument("--test", type=int, default=10)
    listing.add_argument("--seed", type=int, default=0)
    listing.add_argument("--out", type=Path, required=True)
    making = verbs.add_parser("make")
    making.add_argument("list", type=Path)
    making.add_argument("--data", type=Path, required=True)
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--seconds", type=float, default=6.0, help="of each clip")
    args = parser.parse_args()
    if args.verb == "list":
        clips = [one for folder in args.clips for one in known_clips(folder)]
        rows = draw_list(
            clips, args.actions.split(","), train=args.train, test=args.test, test_share=0.35, seed=args.seed
        )
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        print(f"{len(rows)} videos of {len({row['label'] for row in rows})} classes in {args.out}")
    else:
        print(f"{make(args.list, args.data, args.out, args.seconds)} videos made in {args.out}")


if __name__ == "__main__":
    main()
