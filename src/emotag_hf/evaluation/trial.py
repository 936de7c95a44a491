"""Tests a person's model (METHOD 7): motion, video and scores of each mode.

In: an `EmoTaGModel` that was trained on a `SplitClip`, and the frames to test on. Out: mp4 files of these frames, over
the background of the training frames, and `Scores` of these files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio.audio_io import AudioClip
from ..constants import ACTION_UNITS, MOTION_FPS
from ..models.modeling_emotag import EmoTaGModel
from ..models.processing_emotag import EmoTaGProcessor
from ..outputs import FlameMotion
from ..pipelines.talking_head import LazyFrames
from ..preprocessing.data.clip import ProcessedClip
from ..preprocessing.tracking.head_track import HeadTrack
from ..preprocessing.tracking.photometric import RefineOptions
from ..rights.provenance import make_provenance
from ..utils.import_utils import is_available
from ..video.video_reader import read_video
from ..video.video_writer import VideoWriter
from .driving import (
    audio_only_motion,
    calibrated_action_units,
    driven_motion,
    oracle_motion,
    sound_of,
    speech_features,
)
from .metrics import Scores, score_frames
from .split import SplitClip, follow, plate_for

logger = logging.getLogger(__name__)

# x264's crf. From 1 to 12 PSNR stays within 0.02 dB; the loss of an mp4 (0.3 dB at 31 dB, 0.6 at 37) is due to the
# halved chroma planes, which the published videos have, too.
_CRF = 4
Progress = Callable[[Any], Any]


@dataclass
class Trial:
    """Tests one person's model on one clip.

    Args:
        model: the person, trained on `training`.
        processor: makes the input features of the motion network.
        clip: the clip that is tested on.
        test: their numbers.
        training: the clip that the model was trained on, this or another.
        true_background: pastes the true background outside the clip's matte: a diagnostic.
        refine: options of the oracle's tracking.
    """

    model: EmoTaGModel
    processor: EmoTaGProcessor
    clip: ProcessedClip
    test: tuple[int, ...]
    training: SplitClip
    true_background: bool = False
    refine: RefineOptions | None = None
    _tracked: FlameMotion | None = field(default=None, repr=False)

    @cached_property
    def track(self) -> HeadTrack:
        """The track of the tested clip by landmarks, with the person's identity."""
        return follow(self.clip, self.model.shape.detach().cpu(), self.model.head)

    @cached_property
    def background(self) -> torch.Tensor:
        """`[H, W, 3]` in [0, 1]: the background of the training frames."""
        picture = plate_for(self.training.background[0], self.training.crop, self.clip.crop)
        return torch.from_numpy(np.ascontiguousarray(picture)).float() / 255

    @cached_property
    def sound(self) -> AudioClip | None:
        """The sound of the test frames, in sync with the lips if its delay is known from the training frames; None
        without sound."""
        if self.clip.audio is None:
            return None
        offset = self.training.audio_offset if self.training.whole is self.clip else None
        late = offset.frames if offset is not None and offset.reliable else 0.0
        return sound_of(self.clip.audio, self.test, late)

    def motion(self, mode: str, progress: Progress = iter) -> FlameMotion:
        """The motion of the test frames in `mode`; see `driving`."""
        if mode == "oracle":
            return self._oracle(progress)
        from ..preprocessing.features.action_units import grmn_action_units

        speech, samples = speech_features(self.processor, self.sound)
        if mode == "audio-only":
            return audio_only_motion(self.model, self.test, speech, samples)
        return driven_motion(
            self.model, self._oracle(progress), self.test, grmn_action_units(self.action_units), speech
        )

    def _oracle(self, progress: Progress) -> FlameMotion:
        """Tracked once; the driven mode uses its pose."""
        if self._tracked is None:
            self._tracked = oracle_motion(
                self.model, self.track, self.clip.frame, self.test, self.background, self.refine, progress
            )
        return self._tracked

    @cached_property
    def action_units(self) -> np.ndarray:
        """`[n, 14]` of the test frames, 0 to 5."""
        from ..preprocessing.features.action_units import SOURCE_OPENFACE

        if self.clip.feature_sources.get("action_units") == SOURCE_OPENFACE:
            return self.clip.features["action_units"].numpy()[list(self.test)]
        return calibrated_action_units(self.training.track, self.track, self.test, self.model.head)

    def write(self, motion: FlameMotion, path: Path, mode: str, progress: Progress = iter) -> None:
        """Renders the test frames and writes them to `path`, with their sound."""
        about = make_provenance(model=self.model.config.avatar_name, mode=mode)
        with self._writer(path, about) as writer:
            for frame in progress(self._pictures(motion)):
                writer.write(frame)

    def write_truth(self, path: Path) -> None:
        """Writes the true test frames for comparison."""
        with self._writer(path, {}) as writer:
            for frame in self.truth():
                writer.write(frame)

    def truth(self) -> Iterator[np.ndarray]:
        """The true test frames, `[H, W, 3]` uint8."""
        return (self.clip.frame(index) for index in self.test)

    def score(self, path: Path, action_units: bool = False) -> Scores:
        """Scores the frames of a written video against the real ones.

        Args:
            path: a video of `write`.
            action_units: also tracks the rendered face and compares its action units (AUE).
        """
        landmarks = is_available("mediapipe")
        if not landmarks:
            logger.warning("mediapipe is not installed: scored without mouth, eyes and lips; `emotag setup tracking`.")
        scores = score_frames(read_video(path).frames(), self.truth(), landmarks=landmarks)
        return scores.with_action_units(self._seen_units(path), self.action_units) if action_units else scores

    def _seen_units(self, path: Path) -> np.ndarray:
        """Action units `[n, 14]` of the face in a rendered video, by the same tracker; NaN without a face."""
        from ..preprocessing.tracking.fit import fit_head
        from ..preprocessing.tracking.landmarks import NoFaceError, track_landmarks

        camera, shape = self.clip.camera, self.model.shape.detach().cpu()
        try:
            found = track_landmarks(read_video(path).frames(), camera.width, camera.height, fps=MOTION_FPS)
        except NoFaceError:
            logger.warning("No face is found in %s, so that it has no action units.", path.name)
            return np.full((len(self.test), len(ACTION_UNITS)), np.nan)
        track = fit_head(found, camera, self.model.head, shape=shape)
        units = calibrated_action_units(self.training.track, track, range(len(track)), self.model.head)
        units[~track.valid.numpy()] = np.nan
        return units

    def _writer(self, path: Path, about: dict[str, Any]) -> VideoWriter:
        gapless = self.test[-1] - self.test[0] + 1 == len(self.test)  # else sound and video would be out of sync
        crop = self.clip.crop
        sound = self.sound if gapless else None
        return VideoWriter(path, crop.width, crop.height, MOTION_FPS, audio=sound, metadata=about, crf=_CRF)

    def _pictures(self, motion: FlameMotion) -> Iterator[np.ndarray]:
        frames = LazyFrames(self.model, motion, self.clip.camera, self.background, "np")
        for index, picture in zip(self.test, frames.iter_uint8(), strict=True):
            if self.true_background:
                person = self.clip.matte(index)[..., None].astype(np.float32) / 255
                mixed = person * picture + (1 - person) * self.clip.frame(index)
                picture = np.rint(mixed).astype(np.uint8)
            yield picture


__all__ = ["Trial"]
