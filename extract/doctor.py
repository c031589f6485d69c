"""Which decoders work here, and OpenVINO: each does something tiny, so that a broken library shows itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np


def describe_decoders() -> list[tuple[str, bool, str, str]]:
    """Try every decoder on a file made on the spot.

    Returns
    -------
    list of (name, works, what was found, what to do)
    """
    import av

    from extract.synthetic import encode_video

    findings = []
    with tempfile.TemporaryDirectory(prefix="scale-doctor-") as folder:
        path = Path(folder) / "probe.mp4"
        encode_video(path, (np.full((64, 64, 3), 40 * i, np.uint8) for i in range(4)))
        with av.open(str(path)) as container:
            num_frames = sum(1 for _ in container.decode(video=0))
        codecs = ", ".join(c for c in ("h264", "hevc", "vp9", "av1", "mpeg4") if c in av.codecs_available)
        ffmpeg = ".".join(str(part) for part in av.library_versions["libavcodec"])
        findings.append(
            (
                "pyav",
                num_frames == 4,
                f"{av.__version__}, libavcodec {ffmpeg}; {codecs}",
                "pip install --force-reinstall av",
            )
        )
        findings.append(_describe_torchcodec(path))
    return findings


def _describe_torchcodec(path: Path) -> tuple[str, bool, str, str]:
    fix = "optional: pip install 'scale-pipeline[torchcodec]' and FFmpeg's shared libraries (make system)"
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder

        works = len(VideoDecoder(str(path))) == 4
    except (ImportError, RuntimeError, OSError) as error:
        return ("torchcodec", False, str(error).split("\n")[0][:100], fix)
    return ("torchcodec", works, torchcodec.__version__, fix)


def describe_openvino() -> tuple[bool, str, str]:
    """Convert a tiny network.

    Returns
    -------
    (works, what was found, what to do)
    """
    from extract.backbones.openvino_network import INSTALL, converted, import_openvino, is_installed

    fix = f"optional: {INSTALL}; on a CPU extraction is then about 1.4 times as fast (180 MB)"
    if not is_installed():
        return False, "not installed", fix
    import torch

    try:
        found = import_openvino().__version__.split("-")[0]
        clips = torch.linspace(0, 1, 96).reshape(1, 3, 2, 4, 4)
        network = torch.nn.Conv3d(3, 2, 2).eval()
        is_equal = torch.allclose(converted(network, clips)(clips), network(clips), atol=1e-5)
    except Exception as error:  # whatever a library raises that does not fit this machine
        return False, (str(error).strip() or type(error).__name__).splitlines()[0][:100], fix
    return is_equal, f"{found}: networks run by it on a CPU, about 1.4 times as fast", fix
