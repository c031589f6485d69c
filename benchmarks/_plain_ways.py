"""How people write it by hand: decode a whole video, cut its crops, run the eager network on one video at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Cut = Callable[[np.ndarray, np.ndarray, int], Any]
"""(frames, times of frames in s, number of the video) -> normalised crops."""


@dataclass(frozen=True)
class PlainCrops:
    """The crops that extraction makes of some videos, for those who decode in ways of their own; goes to workers."""

    videos: list[dict[str, Any]]
    policy: Any
    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def geometry(self, number: int) -> np.ndarray:
        """Return the boxes and times of a video's crops."""
        from extract.crops.draw import draw_crops, facts_of

        video = self.videos[number]
        return draw_crops(self.policy, video["video_id"], facts_of(video)).geometry

    def cut(self, frames: np.ndarray, times_s: np.ndarray, number: int) -> Any:
        """Return the normalised crops of a video of which every frame was decoded."""
        import torch

        from extract.decoding.frame_picking import pick_frames
        from extract.pixels.preprocess import cut_crop

        geometry = self.geometry(number)
        picks = pick_frames(geometry, self.policy, times_s, self.videos[number]["duration_s"])
        pixels = torch.from_numpy(frames)
        clips = [cut_crop(pixels, pick, box, self.size_px) for pick, box in zip(picks, geometry, strict=True)]
        return self.batch(clips)

    def batch(self, clips: Sequence[Any]) -> Any:
        """Return crops as the network takes them."""
        import torch

        from extract.pixels.preprocess import normalise

        return normalise(torch.stack(list(clips)), self.mean, self.std).contiguous()


def plain_job(
    folder: Path, store: Any, num_videos: int, spec: Any, device: str = "cpu"
) -> tuple[PlainCrops, Callable[[Any], Any]]:
    """Return the crops of the first videos, and the eager float32 network as it is built, from and to the host."""
    import torch

    from extract.auditing import _target
    from extract.backbones.load import _describe, network_of
    from pipeline.settings import Settings

    settings = Settings(data=folder)
    ((name, backbone),) = spec.backbones.items()
    ds = store.dataset("bench")
    target = _target(spec, "train16", name, settings, ds)
    info, path = _describe(backbone, settings)
    videos = ds.videos.to_pylist()[:num_videos]
    crops = PlainCrops(videos, target.policy, target.size_px, info.mean, info.std)
    network = network_of(backbone, info, path).eval().to(device)
    run = lambda batch: network(batch.to(device)).cpu()  # noqa: E731
    if device != "cpu":  # what a device does once is no crop's time
        with torch.inference_mode():
            run(torch.zeros(1, 3, target.policy.num_frames, target.size_px, target.size_px))
    return crops, run


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

    yield from DataLoader(_Decoded(paths, cut), batch_size=None, num_workers=2, multiprocessing_context="spawn")


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


def rates(folder: Path, store: Any, num_videos: int, spec: Any, device: str = "cpu") -> dict[str, float]:
    """Return crops a second of every way whose package is there, decoding, cutting and the eager network included."""
    import torch

    crops, network = plain_job(folder, store, num_videos, spec, device)
    paths = [folder / video["video_id"] for video in crops.videos]
    found = {}
    for label, (package, way) in WAYS.items():
        if find_spec(package) is None:
            continue
        num_crops, started = 0, time.perf_counter()
        with torch.inference_mode():
            for batch in way(paths, crops.cut):
                num_crops += len(network(batch))
        found[label] = num_crops / (time.perf_counter() - started)
    return found
