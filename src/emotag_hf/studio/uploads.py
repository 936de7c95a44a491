"""Checks uploads before they are decoded: size on disk, then the header.

In: the path of an upload. Out: sound, or an opened video; or an error of one sentence for the visitor.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..audio.audio_io import AudioClip, decode, load_audio
from ..video.video_reader import VideoClip, read_video
from .settings import Settings

_EDITOR = re.compile(r" \(`[^)]*\)")  # advice for a command line, such as (`--force`, force=True, goes on.)


class UploadError(ValueError):
    """The upload is refused; the message is for the visitor."""


def check_recording(path: str | os.PathLike | None, settings: Settings) -> AudioClip:
    """Reads a recording, of which at most `max_recording_s` are decoded.

    Raises:
        UploadError: nothing was given, or it is too large or too long.
        AudioError, OSError: it is not a recording, or silent, or not readable.
    """
    path = _present(path, "Record or upload something to say first.", settings)
    with path.open("rb") as file:
        clip = decode(file, path.name, settings.max_recording_s + 1)
    if clip.duration > settings.max_recording_s + 0.5:
        raise UploadError(
            f"This recording is longer than {settings.max_recording_s:.0f} s, the most that this page takes; "
            "cut it, or install the package, which has no limit."
        )
    return load_audio(clip)


def check_video(path: str | os.PathLike | None, settings: Settings) -> VideoClip:
    """Opens a video.

    Raises:
        UploadError: nothing was given, or it is too large or too long.
        VideoReadError, OSError: it is not a video, or a single photo, or not readable.
    """
    path = _present(path, "Record or upload a video first.", settings)
    clip = read_video(path)
    if clip.width * clip.height > settings.max_pixels:
        raise UploadError(
            f"This video has {clip.width} x {clip.height} pixels, more than this page takes; 1280 x 720 is enough."
        )
    if clip.duration > settings.max_video_s + 0.5:
        raise UploadError(
            f"This video has {clip.duration:.0f} s, this page takes at most {settings.max_video_s:.0f} s; "
            "5 to 10 s are enough."
        )
    return clip


def in_words(error: BaseException, *paths: str | os.PathLike | None) -> str:
    """An error as one sentence for the visitor, with file names instead of paths of this machine."""
    text = " ".join(str(error).split()) or type(error).__name__
    for path in filter(None, paths):
        text = text.replace(os.fspath(path), os.path.basename(path))
    text = _EDITOR.sub("", text)
    return re.sub(r"(?<![\w.:/])/(?:[\w.@+-]+/)+", "", text)


def _present(path: str | os.PathLike | None, missing: str, settings: Settings) -> Path:
    if not path:
        raise UploadError(missing)
    path = Path(path)
    size = path.stat().st_size
    if size > settings.max_upload_bytes:
        raise UploadError(
            f"This file has {size / 2**20:,.0f} MB, this page takes at most {settings.max_upload_mb} MB; cut it."
        )
    return path


__all__ = ["UploadError", "check_recording", "check_video", "in_words"]
