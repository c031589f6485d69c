"""How people write it by hand: decode a whole video, cut its crops, run the eager network on one video at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Cut = Callable[[np.ndarray, np.ndarray, int], Any]
"""(frames, times of frames in s, number of the video) -> normalised crops."""


def with_cv2(paths: Sequence[Path], cut: Cut) -> Iterator[Any]:
    """OpenCV, in the calling thread."""
    import cv2

    for number, path in enumerate(paths):
        capture = cv2.VideoCapture(str(path))
        frames = []
        while (found := capture.read())[0]:
            frames.append(cv2.cvtColor(found[1], cv2.COLOR_BGR2RGB))
        times = np.arange(len(frames)) / capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        yield cut(np.stack(frames), times, number)


def with_pyav_loader(paths: Sequence[Path], cut: Cut) -> Iterator[Any]:
    """PyAV in the two workers of a DataLoader."""
    from torch.utils.data import DataLoader

    yield from DataLoader(_Decoded(paths, cut), batch_size=None, num_workers=2, multiprocessing_context="fork")


class _Decoded:
    def __init__(self, paths: Sequence[Path], cut: Cut) -> None:
        self._paths, self._cut = paths, cut

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Any:
        import av

        with av.open(str(self._paths[number])) as container:
            stream = container.streams.video[0]
            found = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        times = np.array([at for at, _ in found])
        return self._cut(np.stack([frame for _, frame in found]), times - times[0], number)


def with_decord(paths: Sequence[Path], cut: Cut) -> Iterator[Any]:
    """Decord, whole videos."""
    import decord

    for number, path in enumerate(paths):
        reader = decord.VideoReader(str(path))
        frames = reader.get_batch(range(len(reader))).asnumpy()
        yield cut(frames, np.arange(len(reader)) / reader.get_avg_fps(), number)


WAYS = {
    "cv2, whole video": ("cv2", with_cv2),
    "PyAV in DataLoader(2)": ("av", with_pyav_loader),
    "decord, whole video": ("decord", with_decord),
}


def rates(folder: Path, store: Any, num_videos: int, spec: Any) -> dict[str, float]:
    """Return crops a second of every way whose package is there, decoding, cutting and the eager network included."""
    import torch

    from extract.auditing import _target
    from extract.backbones.load import _describe, network_of
    from extract.crops.draw import draw_crops, facts_of
    from extract.decoding.frame_picking import pick_frames
    from extract.pixels.preprocess import cut_crop, normalise
    from pipeline.settings import Settings

    settings = Settings(data=folder)
    ((name, backbone),) = spec.backbones.items()
    ds = store.dataset("bench")
    target = _target(spec, "train16", name, settings, ds)
    info, path = _describe(backbone, settings)
    network = network_of(backbone, info, path).eval()
    videos = ds.videos.to_pylist()[:num_videos]

    def cut(frames: np.ndarray, times_s: np.ndarray, number: int) -> torch.Tensor:
        video = videos[number]
        drawn = draw_crops(target.policy, video["video_id"], facts_of(video))
        picks = pick_frames(drawn.geometry, target.policy, times_s, video["duration_s"])
        pixels = torch.from_numpy(frames)
        clips = [cut_crop(pixels, pick, box, target.size_px) for pick, box in zip(picks, drawn.geometry, strict=True)]
        return normalise(torch.stack(clips), info.mean, info.std).contiguous()

    found = {}
    for label, (package, way) in WAYS.items():
        if find_spec(package) is None:
            continue
        num_crops, started = 0, time.perf_counter()
        with torch.inference_mode():
            for batch in way([folder / video["video_id"] for video in videos], cut):
                num_crops += len(network(batch))
        found[label] = num_crops / (time.perf_counter() - started)
    return found
