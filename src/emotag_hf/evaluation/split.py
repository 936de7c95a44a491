"""Splits a clip into training and test frames without leakage: no picture or landmark of a test frame can reach a
weight (METHOD 7).

In: a `ProcessedClip` and frame numbers. Out: `SplitClip`, the clip as training may see it: track, background and
teachers' features are computed again from the training frames alone, and other frames cannot be read; and `follow`,
which tracks the test frames with the identity of the training frames.

Only the crop of the video and the sound still depend on the whole clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..audio.audio_io import AudioClip
from ..constants import MOTION_DIMS, SAMPLE_RATE
from ..models.modeling_head import ParametricHead
from ..outputs import FlameMotion
from ..preprocessing.data.clip import FRAME_FEATURES, ProcessedClip
from ..preprocessing.features.av_offset import AVOffset
from ..preprocessing.tracking.head_track import FaceLandmarks, HeadTrack
from ..video.cropping import FrameCrop

BLOCK = 15  # frames per block, with alternating training and test blocks
_LEAST = 2  # minimum of training and of test frames; flicker and a fit need as many


@dataclass(frozen=True)
class FrameSplit:
    """Increasing frame numbers: `train` in the clip that is trained on, `test` in the one that is tested on."""

    train: tuple[int, ...]
    test: tuple[int, ...]


def split_frames(
    num_frames: int,
    *,
    fraction: float = 0.5,
    test_frames: Iterable[int] | None = None,
    blocks: bool = False,
    train_count: int | None = None,
) -> FrameSplit:
    """Chooses the training and test frames.

    Args:
        num_frames: of the clip that is tested on.
        fraction: share of the frames for training, the first ones. All later frames are test frames.
        test_frames: frame numbers to test on instead of all later ones.
        blocks: alternating blocks of 15 frames for training and test. A diagnostic, not a result, because neighbours of
            the test frames are trained on. `fraction` is ignored.
        train_count: with a training clip of its own, its number of frames; then any frame here may be a test frame.

    Raises:
        ValueError: fewer than two training or test frames, invalid or unsorted frame numbers, test frames that are not
            later than the training frames.
    """
    frames = range(num_frames)
    if blocks and (test_frames is not None or train_count is not None):
        raise ValueError("blocks: expected neither test_frames nor train_clip with it, got one; leave that out.")
    if train_count is not None:
        train, rest = range(train_count), frames
    elif blocks:
        train, rest = ([i for i in frames if (i // BLOCK) % 2 == odd] for odd in (0, 1))
    else:
        if not 0 < fraction < 1:
            raise ValueError(f"train_fraction: expected a number between 0 and 1, got {fraction}.")
        cut = round(num_frames * fraction)
        train, rest = frames[:cut], frames[cut:]
    test = list(rest) if test_frames is None else [int(i) for i in test_frames]
    if test != sorted(set(test)) or (test and not 0 <= test[0] <= test[-1] < num_frames):
        raise ValueError(
            f"test_frames: expected different frames from 0 to {num_frames - 1} in rising order, got {test[:9]}."
        )
    if test and test_frames is not None and train_count is None and test[0] <= train[-1]:
        raise ValueError(
            f"test_frames: expected frames later than the training frames, which end with {train[-1]}, got {test[0]}; "
            "choose later ones, or a smaller train_fraction."
        )
    for name, some in (("train_fraction", train), ("test_frames", test)):
        if len(some) < _LEAST:
            raise ValueError(f"{name}: expected at least {_LEAST} frames to train on and to test on, got {len(some)}.")
    return FrameSplit(tuple(train), tuple(test))


def split_track(clip: ProcessedClip, train_frames: Sequence[int], head: ParametricHead | None = None) -> HeadTrack:
    """Fits the head again to the landmarks of the training frames alone.

    The clip's own track has one identity for all frames and smooths motion over neighbours, so it depends on the test
    frames.

    Returns:
        `HeadTrack` of all the clip's frames; other than training frames are not valid, have the motion of the nearest
        training frame, and no landmarks.

    Raises:
        ValueError: the track belongs to another head, or no training frame shows a face.
    """
    from ..preprocessing.tracking.fit import fit_head

    head = _own_head(clip, head)
    landmarks = _landmarks(clip, train_frames)
    if not landmarks.found.any():
        raise ValueError(f"train_frames: expected a face in at least one of {len(train_frames)} frames, there is none.")
    return fit_head(landmarks, clip.camera, head)


def follow(clip: ProcessedClip, shape: torch.Tensor, head: ParametricHead | None = None) -> HeadTrack:
    """Tracks every frame of the clip with a given identity `shape` `[S]`; used for the test frames.

    Raises:
        ValueError: the track belongs to another head, or no frame shows a face.
    """
    from ..preprocessing.tracking.fit import fit_head

    return fit_head(_landmarks(clip, range(len(clip))), clip.camera, _own_head(clip, head), shape=shape)


class SplitClip:
    """A `ProcessedClip` as training may see it: with the same attributes, of the training frames alone.

    Args:
        clip: the whole clip.
        train_frames: the frames that may be read. Any other frame raises ValueError.
        head: the head that the clip was tracked with; None is the open head.

    Attributes:
        track: see [`split_track`]. valid: `track.valid`, False in all other frames.
        background: the background computed from the training frames.
        features: the teachers' outputs for the training frames; other rows are zero. Action units are computed from the
            fitted head and the identity is the default descriptor, whatever the clip has; outputs of a CSV or a
            classifier are kept.
    """

    def __init__(self, clip: ProcessedClip, train_frames: Sequence[int], head: ParametricHead | None = None):
        self.whole, self.train_frames, self.head = clip, tuple(train_frames), _own_head(clip, head)
        self._allowed = frozenset(self.train_frames)
        self.path, self.info, self.num_frames, self.fps = clip.path, clip.info, clip.num_frames, clip.fps
        self.crop, self.camera = clip.crop, clip.camera

    def __repr__(self) -> str:
        return f"SplitClip({self.whole!r}, {len(self.train_frames)} frames to train on)"

    def __len__(self) -> int:
        return self.num_frames

    def frame(self, index: int) -> np.ndarray:
        """Training frame `index`: `[H, W, 3]` uint8 RGB."""
        return self.whole.frame(self._seen(index))

    def frames(self, indices: Iterable[int]) -> np.ndarray:
        """Several training frames: `[n, H, W, 3]` uint8 RGB."""
        return self.whole.frames([self._seen(index) for index in indices])

    def matte(self, index: int) -> np.ndarray:
        """The matte of training frame `index`: `[H, W]` uint8."""
        return self.whole.matte(self._seen(index))

    def depth(self, index: int) -> np.ndarray | None:
        """As `ProcessedClip.depth`, of a training frame."""
        return self.whole.depth(self._seen(index))

    def normals(self, index: int) -> np.ndarray | None:
        """As `ProcessedClip.normals`, of a training frame."""
        return self.whole.normals(self._seen(index))

    @cached_property
    def track(self) -> HeadTrack:
        return split_track(self.whole, self.train_frames, self.head)

    @property
    def valid(self) -> torch.Tensor:
        return self.track.valid

    @cached_property
    def background(self) -> tuple[np.ndarray, np.ndarray]:
        from ..preprocessing.tracking.masks import BackgroundPlate

        plate = BackgroundPlate()
        for index in self.train_frames:
            plate.add(self.frame(index), self.matte(index))
        return plate.picture()

    @cached_property
    def features(self) -> dict[str, torch.Tensor]:
        return self._features[0]

    @property
    def feature_sources(self) -> dict[str, str]:
        """Which teacher made each feature."""
        return self._features[1]

    @property
    def audio(self) -> AudioClip | None:
        """The whole clip's sound, because in METHOD 7 the test frames' sound is given."""
        return self.whole.audio

    @cached_property
    def audio_offset(self) -> AVOffset | None:
        """The delay of the sound, estimated from the training frames. None without sound."""
        if self.audio is None:
            return None
        from ..preprocessing.features.av_offset import estimate_av_offset

        return estimate_av_offset(self.track, self.head, self.audio.mono(SAMPLE_RATE))

    @property
    def warnings(self) -> list[str]:
        return self.whole.warnings

    @cached_property
    def _features(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        from ..preprocessing.features import action_units as units_teacher
        from ..preprocessing.features import emotion as emotion_teacher
        from ..preprocessing.features import identity as identity_teacher

        features, sources = dict(self.whole.features), dict(self.whole.feature_sources)
        train = list(self.train_frames)
        hidden = [i for i in range(len(self)) if i not in self._allowed]
        if sources.get("action_units") != units_teacher.SOURCE_OPENFACE:
            features["action_units"] = torch.from_numpy(units_teacher.action_units_from_track(self.track, self.head))
            sources["action_units"] = units_teacher.SOURCE_HEAD
        if sources.get("emotion") in (None, emotion_teacher.SOURCE_RULE):  # the rule smooths over neighbouring frames
            units = features["action_units"][train].numpy()
            emotion = torch.zeros_like(features["emotion"])
            emotion[train] = torch.from_numpy(emotion_teacher.emotion_from_action_units(units, self.fps))
            features["emotion"] = emotion
            features["emotion_score"] = torch.from_numpy(emotion_teacher.emotion_score(emotion.numpy()))
        for name in (*FRAME_FEATURES, "blendshapes"):
            if name in features and hidden:
                features[name] = features[name].clone()
                features[name][hidden] = 0
        score = features["emotion_score"].numpy()
        vector, source = identity_teacher.identity_embedding(self.track, _Frames(self), self.head, score)
        features["identity"], sources["identity"] = torch.from_numpy(vector), source
        return features, sources

    def _seen(self, index: int) -> int:
        frame = range(self.num_frames)[index]
        if frame not in self._allowed:
            raise ValueError(f"index: expected a frame that is trained on, got {frame}, which is kept for the test.")
        return frame


class _Frames(Sequence):
    """A split clip's frames, with the interface that the teachers use."""

    def __init__(self, clip: SplitClip):
        self._clip = clip

    def __len__(self) -> int:
        return len(self._clip)

    def __getitem__(self, index):
        return self._clip.frame(index)


def joined_tracks(first: HeadTrack, second: HeadTrack, rows: Sequence[int]) -> HeadTrack:
    """The frames of `first`, followed by some of `second` as not valid, so that calibration to the person uses `first`
    only. The camera is that of `first`."""
    parts = [first.motion, second.motion[list(rows)]]
    motion = FlameMotion(**{n: torch.cat([getattr(p, n) for p in parts]) for n in MOTION_DIMS}, fps=first.motion.fps)
    numbers = ("confidence", "error", "held_out_error", "landmarks")
    rest: dict[str, Any] = {n: torch.cat([getattr(first, n), getattr(second, n)[list(rows)]]) for n in numbers}
    valid = torch.cat([first.valid, torch.zeros(len(rows), dtype=torch.bool)])
    return replace(first, motion=motion, valid=valid, **rest)


def plate_for(picture: np.ndarray, made_in: FrameCrop, wanted: FrameCrop) -> np.ndarray:
    """The background `[H, W, 3]` of one clip in another clip's crop, if both show the same place.

    Videos of different size are assumed to show the same view.
    """
    if made_in == wanted:
        return picture
    ratio = np.array([made_in.source_width / wanted.source_width, made_in.source_height / wanted.source_height])
    corners = np.array([[wanted.x, wanted.y], [wanted.x + wanted.window_width, wanted.y + wanted.window_height]])
    (x0, y0), (x1, y1) = made_in.to_crop(corners * ratio).astype(float)
    height, width = picture.shape[:2]
    window = FrameCrop(x0, y0, x1 - x0, y1 - y0, wanted.width, wanted.height, width, height)
    if min(x1, width) - max(x0, 0) < 1 or min(y1, height) - max(y0, 0) < 1:  # the two windows have nothing in common
        return np.asarray(Image.fromarray(picture).resize((wanted.width, wanted.height)))
    return window.apply(picture)


def _landmarks(clip: ProcessedClip, frames: Iterable[int]) -> FaceLandmarks:
    """The landmarks of some of a clip's frames; other frames have no face."""
    points = clip.track.landmarks.numpy()
    found = np.zeros(len(points), bool)
    found[list(frames)] = True
    found &= np.isfinite(points).all((1, 2))
    points = np.where(found[:, None, None], points, np.float32(np.nan))
    width, height = clip.camera.width, clip.camera.height
    return FaceLandmarks(points, found, found.astype(np.int32), width, height, clip.fps)


def _own_head(clip: ProcessedClip, head: ParametricHead | None) -> ParametricHead:
    head = head or ParametricHead.from_asset()
    if clip.track.head_sha256 != head.sha256:
        raise ValueError("clip: its track belongs to another head than the one given; prepare the video again.")
    return head


__all__ = ["BLOCK", "FrameSplit", "SplitClip", "follow", "joined_tracks", "plate_for", "split_frames", "split_track"]
