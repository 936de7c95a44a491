"""`examine`: measures a clip and runs the doctor's checks on it.

In: a video (and its sound), or a processed clip. Out: `DoctorReport`. Most of the time is for detecting
landmarks and fitting the head. Frames are streamed, so memory does not grow with the length of the video.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...audio.audio_io import AudioClip, AudioError, load_audio
from ...constants import MOTION_FPS, SAMPLE_RATE
from ...models.modeling_head import ParametricHead
from ...video.video_reader import VideoClip, read_video
from ..data.framing import choose_crop
from ..features.action_units import action_units_from_track
from ..features.av_offset import estimate_av_offset
from ..tracking.amplitude import amplitudes
from ..tracking.fit import fit_head
from ..tracking.head_track import NUM_POINTS, FaceLandmarks, HeadTrack
from ..tracking.landmarks import NoFaceError, StillCheck, track_landmarks
from .evidence import Evidence, into_window, look, tiny
from .motion_checks import MOTION_CHECKS
from .picture_checks import FACE_CHECKS, LOOK_CHECKS, ONE_SHOT_CHECKS, PICTURE_CHECKS, STILL_CHECKS, find_cuts
from .report import GROUPS, DoctorReport
from .sound_checks import SOUND_CHECKS, check_sound, is_audible

if TYPE_CHECKING:
    from ..data.clip import ProcessedClip

logger = logging.getLogger(__name__)

_CROP_SIZE = 512  # pixels of the crop in which the head is fitted, as in `prepare`
_MIN_FRAMES = 25  # least number of frames with a face for the checks of movement
_LOOKS = 200  # most faces whose picture quality is measured, spread over the clip


def examine(
    path: str | os.PathLike | ProcessedClip,
    *,
    audio: Any = None,
    face: int | None = None,
    max_seconds: float = 60.0,
) -> DoctorReport:
    """Checks whether a clip is good enough to make an avatar, and says what to record again if not.

    Args:
        path: a video, a processed clip or its folder.
        audio: the sound if it is not in the video: anything that `load_audio` reads.
        face: which face, as in `track_landmarks`; None selects the largest.
        max_seconds: longer videos are examined only up to here.

    Returns:
        `DoctorReport`. Without a face it is red; that is not an error.

    Raises:
        FileNotFoundError, PermissionError, VideoReadError: the video cannot be read, as in `read_video`.
        ClipError: the folder is not a processed clip.
        AudioError: `audio` was given and cannot be used.
        ImportError: MediaPipe is not installed; the message has the line that installs it.
        ValueError: max_seconds is not positive.
    """
    if not max_seconds > 0:
        raise ValueError(f"max_seconds: expected a positive number, got {max_seconds}.")
    if isinstance(path, str | os.PathLike) and not Path(path).is_dir():
        evidence = _from_video(path, audio, face, max_seconds)
    else:
        evidence = _from_processed(path, audio, max_seconds)
    return judge(evidence)


def judge(evidence: Evidence) -> DoctorReport:
    """Runs all checks that apply to the evidence."""
    e, there = evidence, bool(evidence.landmarks.found.any())
    moves = e.track is not None and e.landmarks.found.sum() >= _MIN_FRAMES
    checks = [check(e) for check in (STILL_CHECKS if e.is_still else PICTURE_CHECKS)]
    checks += [check(e) for check in FACE_CHECKS] if there else []
    checks += [check(e) for check in MOTION_CHECKS] if moves else []
    checks.append(check_sound(e))
    checks += [check(e) for check in SOUND_CHECKS] if is_audible(e.audio) else []
    wanted = {(frame, check.whole) for check in checks if check is not None for frame in check.frames}
    looks, pictures = look(e, max(1, -(-int(e.landmarks.found.sum()) // _LOOKS)), wanted)
    checks += [check(looks) for check in LOOK_CHECKS] if looks is not None else []
    checks += [check(looks) for check in ONE_SHOT_CHECKS] if looks is not None and not len(find_cuts(e)) else []
    report = [check for group in GROUPS for check in checks if check is not None and check.group == group]
    named = {(frame, check.whole) for check in report for frame in check.frames}
    return DoctorReport(
        name=e.name,
        checks=report,
        seconds=e.seconds,
        offset=None if e.offset is None else _offset(e),
        series=_series(e),
        pictures={shown: pictures[shown] for shown in sorted(named & pictures.keys())},
    )


def _from_video(path: str | os.PathLike, audio: Any, face: int | None, max_seconds: float) -> Evidence:
    clip = read_video(path)
    sound = {} if audio is None and not clip.has_audio else _sound(clip, audio, max_seconds)
    frames = partial(clip.frames, MOTION_FPS, max_seconds)
    scenes: list[np.ndarray] = []
    still = StillCheck()

    def watched() -> Iterator[np.ndarray]:
        for frame in frames():
            scenes.append(tiny(frame))
            still.add(frame)
            yield frame

    try:
        landmarks = track_landmarks(watched(), clip.width, clip.height, fps=MOTION_FPS, face=face)
    except NoFaceError:
        landmarks = _no_landmarks(len(scenes), clip)
    except ValueError:
        if not scenes or not still.is_still:
            raise
        landmarks = _no_landmarks(len(scenes), clip)
    evidence = Evidence(
        name=Path(path).name,
        width=clip.width,
        height=clip.height,
        fps=clip.fps,
        is_variable=clip.is_variable,
        duration=clip.duration,
        landmarks=landmarks,
        frames=frames,
        scenes=_stacked(scenes),
        is_still=still.is_still,
        file_warnings=list(clip.warnings),
        **sound,
    )
    if landmarks.found.any():
        window, _ = choose_crop(landmarks, _CROP_SIZE)
        _use_track(evidence, fit_head(into_window(landmarks, window)))
    return evidence


def _no_landmarks(count: int, clip: VideoClip) -> FaceLandmarks:
    nowhere = np.full((count, NUM_POINTS, 3), np.nan, np.float32)
    return FaceLandmarks(nowhere, np.zeros(count, bool), np.zeros(count, np.int32), clip.width, clip.height)


def _from_processed(path: str | os.PathLike | ProcessedClip, audio: Any, max_seconds: float) -> Evidence:
    from ..data.clip import ProcessedClip

    clip = path if isinstance(path, ProcessedClip) else ProcessedClip.open(path)
    count = min(len(clip), int(np.ceil(max_seconds * MOTION_FPS)))
    track = _first_frames(clip.track, count)
    points = track.landmarks.numpy()
    found = np.isfinite(points).all((1, 2))

    def frames() -> Iterator[np.ndarray]:
        return (clip.frame(i) for i in range(count))

    sound = clip.audio if audio is None else load_audio(audio)
    evidence = Evidence(
        name=clip.path.name,
        width=clip.crop.source_width,
        height=clip.crop.source_height,
        fps=float(MOTION_FPS),
        is_variable=False,
        duration=len(clip) / MOTION_FPS,
        landmarks=FaceLandmarks(points, found, found.astype(np.int32), clip.crop.width, clip.crop.height),
        frames=frames,
        scenes=_stacked([tiny(frame) for frame in frames()]),
        pixel_scale=1 / clip.crop.scale[1],
        is_prepared=True,
        file_warnings=list(clip.warnings),
        audio=sound,
        audio_duration=None if sound is None else sound.duration,
    )
    if found.any():
        _use_track(evidence, track)
    return evidence


def _sound(clip: VideoClip, audio: Any, max_seconds: float) -> dict[str, Any]:
    """`Evidence`'s arguments for the sound, cut to the examined frames."""
    if audio is not None:
        sound = load_audio(audio)
        samples = sound.samples[: int((max_seconds + 1) * sound.sampling_rate)]
        return {"audio": AudioClip(samples, sound.sampling_rate), "audio_duration": sound.duration}
    is_long = clip.duration > max_seconds
    try:
        sound = clip.sound(max_seconds + 1) if is_long else clip.sound()
    except AudioError as error:
        logger.warning("%s", error)
        return {"audio_problem": "The sound track of the video cannot be read."}
    if sound is None or not len(sound.samples):
        return {"audio_problem": "The sound track of the video is empty."}
    return {"audio": sound, "audio_duration": None if is_long else sound.duration}


def _use_track(evidence: Evidence, track: HeadTrack) -> None:
    """Adds the track and what is computed from it to the evidence."""
    head = ParametricHead.from_asset()
    evidence.track = track
    evidence.action_units = action_units_from_track(track, head)
    evidence.amplitudes = amplitudes(track, head)
    if is_audible(evidence.audio):
        evidence.offset = estimate_av_offset(track, head, evidence.audio.mono(SAMPLE_RATE))


def _first_frames(track: HeadTrack, count: int) -> HeadTrack:
    names = ("motion", "valid", "confidence", "error", "held_out_error", "landmarks")
    return replace(track, **{name: getattr(track, name)[:count] for name in names})


def _stacked(scenes: list[np.ndarray]) -> np.ndarray:
    return np.stack(scenes) if scenes else np.zeros((0, 9, 16, 3), np.uint8)


def _offset(e: Evidence) -> dict[str, Any]:
    o = e.offset
    numbers = {"frames": o.frames, "seconds": o.seconds, "confidence": o.confidence}
    return {name: round(value, 4) for name, value in numbers.items()} | {"reliable": o.reliable}


def _series(e: Evidence) -> dict[str, np.ndarray]:
    if e.track is None:
        return {}
    series = {"head turn": e.angles[:, 0], "nod": e.angles[:, 1], "mouth opening": e.mouth[:, 0]}
    return series | {"tracking error": e.track.held_out_error.numpy().astype(np.float64)}


__all__ = ["examine", "judge"]
