"""From a video to a processed clip, in one call: `prepare("me.mp4")`.

In: a video of one person who speaks. Out: a folder with the video cropped to the face, the head fitted to every frame,
and the outputs of the paper's teachers (METHOD 3 to 5). `data.stages` has the steps, docs/processed_clip.md the folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...audio.audio_io import AudioClip, load_audio
from ...constants import MOTION_FPS
from ...models.modeling_head import ParametricHead
from ...video.video_reader import read_video
from ..tracking.setup import sha256
from .clip import ProcessedClip
from .sound_file import beginning
from .stages import PrepareOptions, check_max_seconds, make_clip
from .teachers import FeatureOptions
from .writer import ClipWriter, check_output

logger = logging.getLogger(__name__)


def prepare(
    source: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    audio: str | os.PathLike | None = None,
    size: int = 512,
    crop: str = "face",
    face: int | None = None,
    max_seconds: float = 300.0,
    face_landmarker: str | os.PathLike | None = None,
    head: ParametricHead | str | os.PathLike | None = None,
    features: FeatureOptions | None = None,
    license: str | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> ProcessedClip:
    """Prepares a video for training, adaptation or evaluation.

    It may be interrupted: finished stages are kept in `<output>.partial` and are not repeated. An existing clip of the
    same video and the same options is returned unchanged.

    Args:
        source: the video: any format, size, rotation and frame rate. The clip has 25 frames per second.
        output: the clip's folder; by default next to the video, named as the video with `_clip`.
        audio: a separate recording that starts with the video; by default the video's own sound.
        size: pixels of the clip's shorter side, even.
        crop: `"face"` crops a square with head and some shoulder, or keeps a video that is framed like that; `"whole"`
            keeps the whole frame.
        face: if the video shows several people, which of them, counted from the left (1, 2, ...); None takes the
            largest face, with a warning.
        max_seconds: the rest is left out, with a warning.
        face_landmarker: MediaPipe's face_landmarker.task, for blendshapes; by default that of EMOTAG_FACE_LANDMARKER or
            of `emotag setup tracking`, if there is one.
        head: the head to fit, or its asset file; None is the open head.
        features: the teachers; see [`FeatureOptions`].
        license: what the clip may be used for, stored in clip.json.
        overwrite: replace a different processed clip at `output`. Anything else there is never touched.
        progress: True and False show and hide bars; None shows them on a terminal.

    Returns:
        The clip. `clip.warnings` lists problems.

    Raises:
        FileNotFoundError, PermissionError: the video or a teacher's file cannot be read.
        ValueError: (`VideoReadError`, `AudioError`, `ClipError`) not a video, a single photo, less than a second with a
            face, an invalid option, or `output` is something else or not writable.
        ImportError: MediaPipe is not installed; the message has the command that installs it.
    """
    options = PrepareOptions(
        size=size,
        crop=crop,
        face=face,
        face_landmarker=None if face_landmarker is None else os.fspath(face_landmarker),
        features=features or FeatureOptions(),
        license=license,
    )
    path = Path(source)
    video = VideoSource(path, audio, max_seconds)
    output = path.with_name(f"{path.stem}_clip") if output is None else output
    check_output(output, overwrite)
    if not isinstance(head, ParametricHead):
        head = ParametricHead.from_asset(head)
    return make_clip(video, options, output, head, overwrite=overwrite, progress=progress)  # type: ignore[arg-type]


class VideoSource:
    """A video file as a [`Source`](stages.py): its frames at 25 fps up to `max_seconds`, and its sound or a separate
    one."""

    def __init__(self, path: Path, audio: str | os.PathLike | None = None, max_seconds: float = 300.0):
        check_max_seconds(max_seconds)
        self.path, self.name, self.max_seconds = path, path.name, float(max_seconds)
        self._video = read_video(path)
        self.width, self.height = self._video.width, self._video.height
        # A frame more or less is rounding, not a longer video.
        self.cut = self._video.duration > self.max_seconds + 1.5 / MOTION_FPS
        self._limit = round(self.max_seconds * MOTION_FPS) + (not self.cut)
        self.num_frames = max(1, round(min(self._video.duration, self.max_seconds) * MOTION_FPS))
        self._audio_path = None if audio is None else Path(audio)
        # Checked before the work.
        self._audio = None if audio is None else beginning(load_audio(audio), self.max_seconds + 1.0)

    @property
    def warnings(self) -> list[str]:
        if not self.cut:
            return self._video.warnings
        known = self._video.duration > self.max_seconds  # else the header's duration is too short
        whole = f" of {self._video.duration:.0f} s" if known else ""
        return [*self._video.warnings, f"only the first {self.max_seconds:g} s{whole} are used"]

    def about(self) -> dict[str, Any]:
        video = self._video
        audio = self._audio_path
        return {
            "name": self.name,
            "sha256": sha256(self.path),
            "fps": video.fps,
            "is_variable": video.is_variable,
            "rotation": video.rotation,
            "seconds": video.duration,
            "span": self.max_seconds if self.cut else None,
            "audio": None if audio is None else {"name": audio.name, "sha256": sha256(audio)},
        }

    def frames(self) -> Iterator[np.ndarray]:
        # One frame more than is used: it tells whether the header's duration was too short.
        frames: Any = self._video.frames(MOTION_FPS, (self._limit + 1) / MOTION_FPS)
        for count, frame in enumerate(frames):
            if count == self._limit:
                self.cut = True
                break
            yield frame
        frames.close()

    def mattes(self) -> None:
        return None

    def sound(self) -> AudioClip | None:
        return self._audio or self._video.sound(self.max_seconds + 1.0)

    def save_extra(self, writer: ClipWriter) -> None:
        return None


__all__ = ["FeatureOptions", "prepare"]
