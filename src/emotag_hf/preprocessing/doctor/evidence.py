"""The measurements of a clip on which the doctor's checks are based.

In: a video with its sound, or a processed clip. Out: `Evidence`: landmarks, the fitted head, the audio offset, a
downsampled copy of every frame; and from a second pass `Looks` (quality of the faces' pictures) and thumbnails.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image

from ...audio.audio_io import AudioClip
from ...constants import MOTION_FPS
from ...video.cropping import FrameCrop
from ..features.av_offset import AVOffset
from ..tracking.amplitude import Amplitude
from ..tracking.head_track import FaceLandmarks, HeadTrack

Shown = tuple[int, bool]  # frame number; whether the thumbnail shows the whole frame (else the head)

_TINY_SIZE = (16, 9)  # width and height of a downsampled frame
_FACE_SIZE = 128  # px: faces are downsampled to this height before they are measured
_ROUNDING_VARIANCE = 2.0  # variance of the Laplacian that comes from rounding to 8 bits
_THUMBNAIL, _JPEG_QUALITY = 160, 80
# MediaPipe's points in the lower face: cheeks, beside and under the nose, lips, chin.
_LOWER_FACE = (205, 425, 50, 280, 216, 436, 164, 0, 17, 84, 314, 18, 200, 199, 202, 422, 212, 432)
_UPPER_FACE = (10, 151, 9, 108, 337, 6, 197, 195, 5)  # forehead and nose: reference for the lighting of the lower face
_USUAL_TURN = 12.0  # degrees of yaw and pitch from the median
_UNUSUAL_DIFFERENCE = 30.0  # of 255: patches that differ by more from their median colour count as covered


@dataclass
class Looks:
    """Picture quality of K of the frames with a face.

    Args:
        index: `[K]` frame numbers.
        sharpness: `[K]` standard deviation of the Laplacian over that of the brightness, of the face at 128 px.
        brightest, median: `[K]` in 0..255: 99th and 50th percentile of the face's brightness.
        burnt: `[K]` overexposed share of the face (250 or more).
        facing: `[K]` bool, whether the pose is near the clip's median; in other poses lighting and colours differ.
        covered: `[K]` share of the lower face's patches with an unusual colour; 0 unless facing.
    """

    index: np.ndarray
    sharpness: np.ndarray
    brightest: np.ndarray
    median: np.ndarray
    burnt: np.ndarray
    facing: np.ndarray
    covered: np.ndarray


@dataclass
class Evidence:
    """Measurements of the T frames at 25 fps that were examined.

    Args:
        name: of the file.
        width, height: of the source in pixels; fps: of the source (25 for a processed clip, see `is_prepared`).
        is_variable: whether the source has a variable frame rate.
        duration: seconds of the whole source.
        landmarks: in pixels of the frames; pixel_scale: source pixels per such pixel.
        frames: reads the frames again, `[H, W, 3]` uint8.
        scenes: `[T, 9, 16, 3]` uint8, every frame downsampled.
        is_prepared: whether this is a processed clip, which does not store the source's frame rate and number of faces.
        is_still: whether all frames show the same picture.
        file_warnings: warnings of the video reader.
        audio: the sound of these frames, or None; audio_problem: why there is none.
        audio_duration: seconds of the whole sound, None if it was not read to its end.
        track, action_units: the fitted head and `[T, 14]`; None without a face.
        offset: of the sound; None without a face or sound.
        amplitudes: amplitude of the fitted head's movements relative to the landmarks; None without a face.
        angles: `[T, 3]`, see `head_angles`; mouth: `[T, 2]`, see `mouth_of`.
    """

    name: str
    width: int
    height: int
    fps: float
    is_variable: bool
    duration: float
    landmarks: FaceLandmarks
    frames: Callable[[], Iterator[np.ndarray]]
    scenes: np.ndarray
    pixel_scale: float = 1.0
    is_prepared: bool = False
    is_still: bool = False
    file_warnings: list[str] = field(default_factory=list)
    audio: AudioClip | None = None
    audio_problem: str = ""
    audio_duration: float | None = None
    track: HeadTrack | None = None
    action_units: np.ndarray | None = None
    offset: AVOffset | None = None
    amplitudes: dict[str, tuple[Amplitude, ...]] | None = None

    @cached_property
    def angles(self) -> np.ndarray:
        return np.full((len(self.landmarks), 3), np.nan) if self.track is None else head_angles(self.track)

    @cached_property
    def mouth(self) -> np.ndarray:
        return mouth_of(self.landmarks.points)

    @property
    def seconds(self) -> float:
        """Seconds that were examined."""
        return len(self.landmarks) / MOTION_FPS


def head_angles(track: HeadTrack) -> np.ndarray:
    """`[T, 3]` yaw (to the person's left), pitch (down) and roll of the head in degrees; NaN where the fit failed."""
    from ...utils.rotations import rotation_matrix

    turn = (rotation_matrix(track.motion.rotation) @ rotation_matrix(track.motion.neck_pose)).double().numpy()
    yaw = np.arctan2(turn[:, 0, 2], turn[:, 2, 2])
    pitch = np.arctan2(-turn[:, 1, 2], np.hypot(turn[:, 0, 2], turn[:, 2, 2]))
    roll = np.arctan2(turn[:, 1, 0], turn[:, 1, 1])
    angles = np.degrees(np.stack([yaw, pitch, roll], 1))
    angles[~track.valid.numpy()] = np.nan
    return angles


def usual_pose(angles: np.ndarray) -> np.ndarray:
    """`[T]` bool: whether yaw and pitch of `[T, 3]` are near their medians; all True if no pose is known."""
    if not np.isfinite(angles).any():
        return np.ones(len(angles), bool)
    away = np.abs(angles[:, :2] - np.nanmedian(angles[:, :2], axis=0))
    return (np.nan_to_num(away, nan=np.inf) <= _USUAL_TURN).all(1)


def mouth_of(points: np.ndarray) -> np.ndarray:
    """Landmarks `[T, 478, 3]` -> `[T, 2]`: opening of the inner lips and width between their corners, in distances
    between the outer eye corners; NaN without a face."""
    points = points.astype(np.float64)
    eyes = np.linalg.norm(points[:, 33] - points[:, 263], axis=1)
    opening = np.linalg.norm(points[:, 13] - points[:, 14], axis=1)
    width = np.linalg.norm(points[:, 78] - points[:, 308], axis=1)
    return np.stack([opening, width], 1) / eyes[:, None]


def into_window(landmarks: FaceLandmarks, window: FrameCrop) -> FaceLandmarks:
    """The landmarks in pixels of the crop."""
    return FaceLandmarks(
        points=window.to_crop(landmarks.points),
        found=landmarks.found,
        num_faces=landmarks.num_faces,
        width=window.width,
        height=window.height,
        fps=landmarks.fps,
        blendshapes=landmarks.blendshapes,
        blendshape_names=landmarks.blendshape_names,
    )


def tiny(frame: np.ndarray) -> np.ndarray:
    """A frame downsampled to 9 x 16 pixels, for detecting cuts."""
    return np.asarray(Image.fromarray(frame).resize(_TINY_SIZE, Image.Resampling.BOX))


def look(evidence: Evidence, every: int, wanted: set[Shown]) -> tuple[Looks | None, dict[Shown, bytes]]:
    """Reads the frames again and measures the picture quality of faces.

    Args:
        every: step between measured frames with a face.
        wanted: thumbnails to make in addition to those of the measured heads.

    Returns:
        `Looks` (None without a face), and the thumbnails as JPEGs.
    """
    landmarks, rows, pictures = evidence.landmarks, [], {}
    sampled = set(np.flatnonzero(landmarks.found)[::every].tolist())
    wanted = wanted | {(i, False) for i in sampled}
    last = max((i for i, _ in wanted), default=-1)
    for i, frame in enumerate(evidence.frames()):
        if i > last or i >= len(landmarks):
            break
        for whole in (False, True):
            if (i, whole) in wanted:
                seen = landmarks.found[i] and not whole
                pictures[i, whole] = thumbnail(frame, landmarks.points[i] if seen else None)
        if i in sampled:
            rows.append((i, *look_at_face(frame, landmarks.points[i])))
    if not rows:
        return None, pictures
    index, sharpness, brightest, median, burnt, patches = (np.array(column) for column in zip(*rows, strict=True))
    facing = usual_pose(evidence.angles)[index]
    covered = np.zeros(len(index))
    covered[facing] = unusual_patches(patches[facing])
    return Looks(index, sharpness, brightest, median, burnt, facing, covered), pictures


def look_at_face(frame: np.ndarray, points: np.ndarray) -> tuple[float, float, float, float, np.ndarray]:
    """Sharpness, brightest, median, overexposed share, and patch colours `[P + 1, 3]` (see `Looks`) of one face."""
    outline = points[(10, 152, 234, 454), :2].astype(np.float64)
    height = max(float(np.linalg.norm(outline[0] - outline[1])), 2.0)
    centre = outline.mean(0)
    scale = min(1.0, _FACE_SIZE / height)  # never upsampled, which would add blur
    half = np.array([0.4, 0.5]) * height
    box = np.concatenate([np.maximum(centre - half, 0), np.minimum(centre + half, (frame.shape[1], frame.shape[0]))])
    size = np.maximum(np.round((box[2:] - box[:2]) * scale).astype(int), 0)
    if size.min() < 8:  # almost entirely outside the picture
        return 0.0, 0.0, 0.0, 0.0, np.full((len(_LOWER_FACE) + 1, 3), np.nan)
    x0, y0, x1, y1 = np.floor(box[:2]).astype(int).tolist() + np.ceil(box[2:]).astype(int).tolist()
    part = Image.fromarray(frame[y0:y1, x0:x1])
    face = part.resize(tuple(size.tolist()), Image.Resampling.BICUBIC, box=tuple(box - (x0, y0, x0, y0)))
    grey = np.asarray(face.convert("L"), dtype=np.float32)
    middle = grey[1:-1, 1:-1]
    edges = 4 * middle - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    sharpness = math.sqrt(max(float(edges.var()) - _ROUNDING_VARIANCE, 0.0)) / max(float(grey.std()), 1.0)
    brightest, median = np.percentile(grey, (99, 50))
    colours = np.asarray(face, dtype=np.float32)
    at = np.round((points[list(_LOWER_FACE + _UPPER_FACE), :2] - box[:2]) * scale).astype(int)
    patches = np.stack([_patch(colours, x, y) for x, y in at])
    upper = _nanmedian(patches[len(_LOWER_FACE) :])
    patches = np.concatenate([patches[: len(_LOWER_FACE)], upper[None]])
    return sharpness, float(brightest), float(median), float((grey >= 250).mean()), patches


def unusual_patches(patches: np.ndarray) -> np.ndarray:
    """Patches' colours `[K, P + 1, 3]` (last: the upper face, for the lighting) -> share of unusual ones `[K]`."""
    light = patches[:, -1:].mean(2, keepdims=True)
    even = patches[:, :-1] * (_nanmedian(light) / np.maximum(light, 1.0))
    away = np.abs(even - _nanmedian(even)).max(2)
    counted = np.isfinite(away)
    return (np.where(counted, away, 0) > _UNUSUAL_DIFFERENCE).sum(1) / np.maximum(counted.sum(1), 1)


def thumbnail(frame: np.ndarray, points: np.ndarray | None) -> bytes:
    """A JPEG thumbnail of at most 160 pixels: of the head, or of the whole picture if `points` is None."""
    image = Image.fromarray(frame)
    if points is not None:
        outline = points[(10, 152), :2].astype(np.float64)
        half = max(float(np.linalg.norm(outline[0] - outline[1])) * 0.85, 8.0)
        x, y = outline.mean(0)
        left, top = max(0, math.floor(x - half)), max(0, math.floor(y - half))
        right, bottom = min(image.width, math.ceil(x + half)), min(image.height, math.ceil(y + half))
        if right > left and bottom > top:
            image = image.crop((left, top, right, bottom))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()


def _patch(picture: np.ndarray, x: int, y: int) -> np.ndarray:
    """Mean colour of 5 x 5 pixels; NaN outside."""
    if not (2 <= x < picture.shape[1] - 2 and 2 <= y < picture.shape[0] - 2):
        return np.full(3, np.nan, np.float32)
    return picture[y - 2 : y + 3, x - 2 : x + 3].mean((0, 1))


def _nanmedian(values: np.ndarray) -> np.ndarray:
    """Median over the first axis, ignoring NaN; NaN where all are NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, for columns of NaN
        return np.nanmedian(values, axis=0)
