"""Made-up probe reports for tests of the pages: plausible figures, hostile names on request."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from probe.results import (
    ClassResult,
    Coverage,
    Curve,
    EmbeddingMap,
    LeakCheck,
    LeakPair,
    MapPoint,
    Neighbour,
    NeighbourStrip,
    PairedComparison,
    ProbeReport,
    ProbeResult,
    Training,
    Video,
)

CLASSES = (
    "brush hair",
    "catch",
    "clap",
    "climb stairs",
    "golf",
    "jump",
    "kick ball",
    "pick",
    "pour",
    "pullup",
    "push",
    "run",
)
HOSTILE = '<script>window.hacked=1</script><img src=x onerror="window.hacked=2">"\'&amp;'


def frame_bytes(row: int, index: int, *, size: tuple[int, int] = (160, 120)) -> bytes:
    """A small JPEG that differs for each row and time."""
    rng = np.random.default_rng(row)
    top, bottom = rng.integers(40, 200, 3), rng.integers(40, 200, 3)
    ramp = np.linspace(0, 1, size[1])[:, None, None]
    pixels = (top * (1 - ramp) + bottom * ramp + np.zeros((size[1], size[0], 3))).astype(np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    x = 20 + 40 * index
    draw.ellipse((x, 40, x + 36, 76), fill=tuple(int(v) for v in rng.integers(120, 255, 3)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def frames_of(row: int) -> list[bytes]:
    """Three frames a video; row 7 is gone."""
    return [] if row == 7 else [frame_bytes(row, i) for i in range(3)]


def make_report(
    *, classes: tuple[str, ...] = CLASSES, hostile: bool = False, num_test: int = 72, seed: int = 0
) -> ProbeReport:
    """A full report: two probes, three readouts, curves, confusion, map, strips, coverage, leaks, comparisons."""
    rng = np.random.default_rng(seed)
    bad = HOSTILE if hostile else ""
    classes = tuple(sorted(c + bad for c in classes))
    results = [
        _result(probe, readout, top1, classes, rng, bad, num_test)
        for probe, readout, top1 in (
            ("knn", "mean", 0.68),
            ("knn", "cls", 0.61),
            ("knn", "joined", 0.69),
            ("linear", "mean", 0.65),
            ("linear", "cls", 0.58),
            ("linear", "joined", 0.66),
        )
    ]
    extra = [
        r.model_copy(
            update={
                "id": f"{r.id}/k={k}/{p}",
                "found": r.found.model_copy(update={"k": k}),
                "protocol": p,
                "is_headline": False,
                "confusion": None,
                "curves": (),
            }
        )
        for r in results[:3]
        for k in (1, 5, 10)
        for p in ("strict", "scale")
    ]
    return ProbeReport(
        stage="probe",
        recipe="jhmdb12-mobilenet" + bad,
        dataset="jhmdb12" + bad,
        did={"probes_run": 2},
        seconds=12.3,
        fingerprint="ab" * 32,
        snapshot="cd" * 32,
        created="2026-11-21T01:20:00Z",
        classes=classes,
        results=tuple(results + extra),
        coverage=(
            Coverage(
                crops="grid5x3",
                feature_set="mobilenet_v2",
                readout="mean",
                used_train=144,
                used_test=num_test - 2,
                excluded_train={},
                excluded_test={"unreadable" + bad: 2},
                not_in_split=4,
                examples=(("golf/broken.avi" + bad, "unreadable" + bad),),
            ),
            Coverage(crops="grid5x3", feature_set="mobilenet_v2", readout="cls", used_train=144, used_test=num_test),
        ),
        leaks=(
            LeakCheck(
                crops="grid5x3",
                feature_set="mobilenet_v2",
                split="1",
                threshold=0.98,
                num_test=num_test,
                num_near=0,
                num_same_file=0,
                num_shared_groups=0,
                max_similarity=0.913,
                pairs=(
                    LeakPair(
                        test_row=3,
                        test_video="run/a.avi" + bad,
                        train_row=9,
                        train_video="run/b.avi" + bad,
                        similarity=0.913,
                        same_group=False,
                        same_file=False,
                        same_label=True,
                    ),
                ),
            ),
        ),
        comparisons=(
            PairedComparison(
                a=results[0].id,
                b=results[1].id,
                num_rows=num_test,
                num_groups=31,
                difference=-0.07,
                interval=(-0.15, 0.02),
                p_value=0.11,
                only_a=9,
                only_b=4,
            ),
            PairedComparison(
                a=results[3].id,
                b=results[5].id,
                num_rows=num_test,
                num_groups=31,
                difference=0.01,
                interval=(-0.05, 0.07),
                p_value=0.74,
                only_a=2,
                only_b=3,
            ),
        ),
        maps=tuple(_map(readout, classes, rng, bad) for readout in ("mean", "cls")),
        strips=tuple(_strip(i, classes, rng, bad) for i in range(6)),
        warnings=(
            "The backbone is untrained: weights drawn with seed 0. These numbers say nothing about the method." + bad,
            "model scale: training ended at chance" + bad,
        ),
        doubts=("model scale: training ended at chance" + bad,),
        trainings=(
            Training(
                model="scale" + bad,
                objective="scale",
                num_steps=240,
                steps=tuple(range(1, 241)),
                loss=tuple(4.5 + 2 * math.exp(-i / 40) for i in range(240)),
                chance=4.51,
            ),
            Training(model="gone", objective="vicc", num_steps=9, steps=(), loss=()),
        ),
        recipe_content={"name": "jhmdb12-mobilenet" + bad, "probes": [{"kind": "knn", "k": [1, 5, 10, 20]}]},
        versions={"machine": "Linux x86_64, 2 threads", "python": "3.11.2", "torch": "2.13.0", "faiss": "1.15.1" + bad},
    )


def _result(probe, readout, top1, classes, rng, bad, num_test) -> ProbeResult:
    n = len(classes)
    counts = np.zeros((n, n), int)
    for i in range(n):
        for _ in range(max(1, num_test // n)):
            counts[i, i if rng.random() < top1 else rng.integers(n)] += 1
    low, high = top1 - 0.1, top1 + 0.1
    name, xs = ("k", (1.0, 5.0, 10.0, 20.0)) if probe == "knn" else ("epoch", tuple(float(i) for i in range(1, 31)))
    ys = tuple(float(np.clip(top1 + 0.04 * np.sin(x), 0, 1)) for x in xs)
    main = Curve(
        name=name, figure="top1", x=xs, y=ys, low=tuple(y - 0.08 for y in ys), high=tuple(y + 0.08 for y in ys)
    )
    crops = tuple(float(i) for i in (1, 2, 4, 8, 15))
    by_crops = Curve(name="crops", figure="top1", x=crops, y=tuple(top1 - 0.15 / x for x in crops))
    return ProbeResult(
        id=f"{probe}/grid5x3/mobilenet_v2/{readout}",
        probe=probe,
        dataset="jhmdb12",
        split="1",
        crops="grid5x3",
        feature_set="mobilenet_v2",
        readout=readout,
        embedding=None if readout == "mean" else "scale",
        num_crops=15,
        protocol="strict" if probe == "knn" else "selected",
        k=20 if probe == "knn" else None,
        temperature=0.07 if probe == "knn" else None,
        top1=top1,
        interval=(low, high),
        top5=min(1, top1 + 0.2),
        mean_class=top1 - 0.01,
        used=num_test - 2,
        excluded=2,
        top1_excluded_wrong=top1 - 0.02,
        num_train=144,
        num_classes=n,
        selected={} if probe == "knn" else {"learning_rate": 0.003, "weight_decay": 0.0001, "epoch": 41},
        chosen_on="nothing was chosen" if probe == "knn" else "held-out train groups" + bad,
        fingerprint="ef" * 32,
        snapshot="cd" * 32,
        is_headline=True,
        confusion=tuple(tuple(int(v) for v in row) for row in counts),
        per_class=tuple(ClassResult(label=c, num_train=12, num_test=6, accuracy=0.5) for c in classes),
        curves=(main, by_crops),
    )


def _map(readout, classes, rng, bad) -> EmbeddingMap:
    centres = rng.normal(size=(len(classes), 2)) * 3
    points = [
        MapPoint(
            row=i,
            video_id=f"{classes[c]}/{i}.avi{bad}",
            label=classes[c],
            side="test" if i % 3 == 0 else "train",
            x=float(centres[c, 0] + rng.normal()),
            y=float(centres[c, 1] + rng.normal()),
        )
        for i, c in enumerate(np.arange(216) % len(classes))
    ]
    return EmbeddingMap(
        crops="grid5x3", feature_set="mobilenet_v2", readout=readout, explained=(0.21, 0.13), points=tuple(points)
    )


def _strip(i, classes, rng, bad) -> NeighbourStrip:
    label = classes[i % len(classes)]
    near = []
    for j in range(5):
        same = bool(rng.random() < 0.6)
        near.append(
            Neighbour(
                video=Video(
                    row=5 * i + j + 1,
                    video_id=f"{label}/Some_quite_long_name_of_a_source_film_{i}_{j}.avi{bad}",
                    uri="",
                    label=label if same else classes[(i + 3) % len(classes)],
                ),
                similarity=0.9 - 0.07 * j,
                same_label=same,
            )
        )
    correct = i % 3 != 0
    return NeighbourStrip(
        crops="grid5x3",
        feature_set="mobilenet_v2",
        readout="mean",
        query=Video(row=100 + i, video_id=f"{label}/query_{i}.avi{bad}", uri="", label=label),
        predicted=label if correct else classes[(i + 3) % len(classes)],
        correct=correct,
        neighbours=tuple(near),
    )
