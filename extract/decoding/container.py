"""Opening one video file safely: what is not a plain file is never opened, and every failure is a `VideoError`.

A file's *name* never decides what is read (`file:` in front of it, no other
protocol allowed), so a playlist named `.mp4` cannot reach other files' hosts.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.errors import VideoError
from pipeline.status import VideoStatus

MAX_FRAME_PIXELS = 1 << 26
"""Largest frame that is decoded (8192 x 8192). A small file can claim any size; its frames would take all memory."""

av.logging.set_level(None)  # FFmpeg's own log would go to stderr from many processes; errors carry its last line anyway

_NOT_READ = frozenset(
    {
        # these open other files or addresses that the file names
        "concat", "dash", "hls", "applehttp", "image2pipe", "imf", "lavfi", "mlv", "rtp", "rtsp", "sap", "sdp",
        "vobsub", "webm_dash_manifest",
        # these make a film of any text or bytes whose name ends in .txt, .nfo, .bin
        "adf", "bin", "idf", "tty", "xbin",
    }
)  # fmt: skip
_FORMATS_READ = ",".join(
    sorted({name for names in av.formats_available for name in names.split(",")} - _NOT_READ - {"data"})
)
"""Demuxers that FFmpeg may choose from. Playlists are recognised anywhere in a file's head, so looking for their first
words ourselves is not enough."""

_messages_before = 0
"""Errors that FFmpeg had logged when the last file was opened: PyAV tells of an older one, about another file, too."""

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_readable(path: Path) -> os.stat_result:
    """Return the stat of a file or folder that may be opened.

    Parameters
    ----------
    path : Path
        Symbolic links are followed.

    Raises
    ------
    VideoError
        With status `missing` when nothing is there, `unreadable` when it is
        a pipe, socket or device (opening one could wait for ever), is empty,
        or may not be read.
    """
    try:
        if path.name.endswith("*") and not path.exists():
            path = path.parent  # images of a folder, by the stem of their names
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        link = f" (a link to {os.readlink(path)})" if path.is_symlink() else ""
        raise VideoError(f"missing: no such file{link}", VideoStatus.MISSING) from None
    except OSError as error:
        reason = "too many symbolic links" if error.errno == errno.ELOOP else (error.strerror or str(error)).lower()
        raise VideoError(f"cannot be opened: {reason}") from None
    except ValueError:
        raise VideoError("missing: the name holds a null character", VideoStatus.MISSING) from None
    for is_kind, name in _KINDS:
        if is_kind(found.st_mode):
            raise VideoError(f"expected a video file, found {name}")
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:
        raise VideoError("expected a video file, found an empty one (0 bytes)")
    if not os.access(path, os.R_OK):
        raise VideoError("cannot be opened: permission denied")
    return found


def describe_error(error: BaseException) -> str:
    """Say in one line what FFmpeg or the system complained about."""
    if isinstance(error, MemoryError):
        return "not enough memory for its frames"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, av.error.FFmpegError) and error.errno == errno.EPERM:
        text = "broken data"  # decoders say -1 where they mean only that; rights were checked when the file was opened
    log = getattr(error, "log", None)
    if log and len(log) == 3 and av.logging.get_last_error()[0] > _messages_before:
        text = f"{text} ([{log[1]}] {str(log[2]).strip()})"
    return " ".join(str(text).split())[:400]


DECODE_ERRORS: tuple[type[BaseException], ...] = (
    av.error.FFmpegError,
    OSError,
    ValueError,  # UnicodeDecodeError in metadata, odd pixel formats
    MemoryError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    LookupError,
    ArithmeticError,  # time bases of 0/0
)
"""What PyAV may raise on a bad file. Anything else is a defect of ours."""


def open_container(path: Path) -> InputContainer:
    """Open a media file.

    Raises
    ------
    VideoError
        If FFmpeg cannot make sense of it.
    """
    global _messages_before
    _refuse_playlists(path)
    _messages_before = av.logging.get_last_error()[0]
    try:
        return av.open(
            "file:" + os.path.abspath(path),
            mode="r",
            metadata_errors="replace",
            options={
                "format_whitelist": _FORMATS_READ,
                "protocol_whitelist": "file",
                "pattern_type": "none",
                "max_pixels": str(MAX_FRAME_PIXELS),
            },
        )
    except DECODE_ERRORS as error:
        if getattr(error, "errno", None) == errno.EINVAL:
            raise VideoError("expected a video, found a playlist, a text, or something else that is not read") from None
        raise VideoError(f"not a video that FFmpeg can open: {describe_error(error)}") from None


def _refuse_playlists(path: Path) -> None:
    """Refuse what would make FFmpeg open other files or the members of an archive, whatever its name."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise VideoError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for place, mark, kind in _ARCHIVES:
        if head[place : place + len(mark)] == mark:
            raise VideoError(
                f'expected a video, found {kind}; name it by its ending (videos: "**/*.tar") and its members are rows'
            )
    if start[:1] in (b"{", b"[") and _is_json(start):
        raise VideoError("expected a video, found a JSON text")
    if start.startswith((b"#EXTM3U", b"ffconcat")) or b"<MPD" in start or b"<SmoothStreamingMedia" in start:
        raise VideoError("expected a video, found a playlist (it would make the decoder open other files)")


_ARCHIVES = (
    (257, b"ustar", "a tar archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!\x1a\x07", "a rar archive"),
)
"""Place, mark and name of what FFmpeg takes for a film of its first members, or for none."""


def _is_json(start: bytes) -> bool:
    return all(sign.isprintable() or sign.isspace() for sign in start.decode("utf-8", "ignore"))


def is_animated_webp(path: Path) -> bool:
    """Whether a file says of itself that it is a WebP picture that moves."""
    try:
        with open(path, "rb") as file:
            head = file.read(21)
    except OSError:
        return False
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & 2)


def choose_stream(container: InputContainer) -> VideoStream:
    """Return the first video stream that is not a picture beside the video and has a decoder.

    Raises
    ------
    VideoError
        If there is none, saying what there is instead.
    """
    others: set[str] = {stream.type for stream in container.streams if stream.type != "video"}
    for stream in container.streams.video:
        beside = type(stream.disposition)
        if stream.disposition & (beside.attached_pic | beside.timed_thumbnails):
            others.add("a cover picture")
        elif stream.codec_context is None:
            others.add("video of an unknown codec")
        else:
            return stream
    if not others:
        raise VideoError("no stream of any kind")
    raise VideoError(f"no video stream: only {' and '.join(sorted(others))}")


def prepare_decoder(stream: VideoStream, *, threads: int) -> None:
    """Set up the decoder of a stream before its first frame: threads, and the largest frame it may make.

    Raises
    ------
    VideoError
        If its frames are larger than `MAX_FRAME_PIXELS`.
    """
    context: Any = stream.codec_context
    if (context.width or 0) * (context.height or 0) > MAX_FRAME_PIXELS:
        raise VideoError(
            f"frames of {context.width}x{context.height} px are larger than the {MAX_FRAME_PIXELS} pixels allowed"
        )
    context.thread_count = threads
    context.thread_type = "NONE" if threads == 1 else "AUTO"
    context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}


_ENCRYPTED_TAGS = frozenset({"encv", "drmi"})
"""What a track of MP4 calls its samples while they are encrypted."""


def why_encrypted(container: InputContainer, stream: VideoStream) -> str | None:
    """Say what in the headers tells that a stream is encrypted as a whole; None where nothing does.

    Parameters
    ----------
    container : InputContainer
    stream : VideoStream
        The chosen one.
    """
    if any(key.lower() == "enc_key_id" for key in stream.metadata):
        return "its track names a key"
    if str(stream.codec_context.codec_tag) in _ENCRYPTED_TAGS:
        return "its track says so"
    if any(key.lower() in {"encryption", "asf_protection_type"} for key in container.metadata):
        return "its header says so"
    return None


def is_encrypted(packet: Any) -> bool:
    """Whether a packet says of itself that it is encrypted."""
    return bool(packet.has_sidedata("encryption_info"))
