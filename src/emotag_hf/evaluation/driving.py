"""The motion of the test frames in each evaluation mode (METHOD 7).

In: a person's `EmoTaGModel`, the test frames' track and pixels (oracle), their pose, action units and sound (driven),
or their sound alone (audio-only). Out: `FlameMotion` of the test frames, in the clip's camera.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..audio.audio_io import AudioClip
from ..audio.loudness import loudness_from_samples
from ..constants import MOTION_FPS, SAMPLE_RATE
from ..models.modeling_emotag import EmoTaGModel
from ..models.modeling_head import ParametricHead
from ..models.processing_emotag import EmoTaGProcessor
from ..motion.motion_stream import evaluating
from ..outputs import FlameMotion
from ..preprocessing.tracking.head_track import HeadTrack
from ..preprocessing.tracking.photometric import RefineOptions, refine_photometric
from .split import joined_tracks


def oracle_motion(
    model: EmoTaGModel,
    track: HeadTrack,
    frame: Callable[[int], np.ndarray],
    test: Sequence[int],
    background: torch.Tensor,
    options: RefineOptions | None = None,
    progress: Callable[[Any], Any] = iter,
) -> FlameMotion:
    """Pose and expression tracked on the test frames' pixels: evaluates head, Gaussians and tracker without the motion
    network.

    Args:
        model: the person.
        track: of all frames of the clip, with the person's identity.
        frame: returns frame i, `[H, W, 3]` uint8.
        test: the frames.
        background: `[H, W, 3]` in [0, 1], the person's background.
        options, progress: of `refine_photometric`.
    """
    refined = refine_photometric(track, model, frame, list(test), background, options, progress)
    return refined.track.motion[list(test)]


@torch.no_grad()
def driven_motion(
    model: EmoTaGModel, pose: FlameMotion, test: Sequence[int], action_units: np.ndarray, speech: torch.Tensor
) -> FlameMotion:
    """Head, neck, eyes and eyelids tracked in the test frames; expression, jaw and mouth from GRMN, from sound and
    action units, as in the paper's inference.

    Args:
        model: the person.
        pose: n frames, of `oracle_motion`.
        test: the frames.
        action_units: `[n, 6]` of the test frames, 0..5 (`GRMN_ACTION_UNITS`).
        speech: `[1, L, F]` of `speech_features` from the first test frame to the last.
    """
    rows = [i - test[0] for i in test]
    units = np.zeros((rows[-1] + 1, action_units.shape[1]), np.float32)
    units[rows] = action_units
    like = next(model.motion.parameters())
    with evaluating(model):  # dropout would make other frames each time
        out = model(speech.to(like), action_units=torch.from_numpy(units)[None].to(like))
    chosen = {name: getattr(out, name)[0].float().cpu()[rows] for name in ("expression", "jaw_pose", "mouth_code")}
    return replace(pose, **chosen)


def audio_only_motion(
    model: EmoTaGModel, test: Sequence[int], speech: torch.Tensor, samples: np.ndarray
) -> FlameMotion:
    """From the sound of the test frames alone, as with any recording, with the neutral pose of the training frames.

    Args:
        model: the person.
        test: the frames.
        speech: `[1, L, F]` of `speech_features`; samples: the same sound, `[n]` at 16 kHz.
    """
    count = test[-1] - test[0] + 1
    loudness = loudness_from_samples(samples, SAMPLE_RATE, model.native_times(count, MOTION_FPS))
    like = next(model.motion.parameters())
    predicted = model.predict_motion(speech.to(like), num_frames=count, fps=MOTION_FPS, loudness=loudness)
    return predicted.motion[[i - test[0] for i in test]]


def calibrated_action_units(
    training: HeadTrack, track: HeadTrack, test: Sequence[int], head: ParametricHead
) -> np.ndarray:
    """Action units of the test frames, calibrated to the person's neutral face in the training frames.

    Args:
        training: the training frames' track, valid in them alone.
        track, test: the tested clip's track, and the numbers of its test frames.

    Returns:
        `[n, 14]` intensities 0 to 5, in the order of `ACTION_UNITS`.
    """
    from ..preprocessing.features.action_units import action_units_from_track

    return action_units_from_track(joined_tracks(training, track, test), head)[len(training) :]


def sound_of(audio: AudioClip, test: Sequence[int], late: float = 0.0) -> AudioClip:
    """A clip's sound from the first test frame to the end of the last.

    Args:
        audio: the clip's.
        test: the frames.
        late: frames by which the sound is late; missing sound is silence.
    """
    rate = audio.sampling_rate
    first, last = (round((i + late) * rate / MOTION_FPS) for i in (test[0], test[-1] + 1))
    samples = np.zeros((last - first, audio.samples.shape[1]), np.float32)
    there = slice(max(first, 0), max(min(last, len(audio.samples)), 0))
    samples[there.start - first :][: max(there.stop - there.start, 0)] = audio.samples[there]
    return AudioClip(samples, rate)


def speech_features(processor: EmoTaGProcessor, sound: AudioClip) -> tuple[torch.Tensor, np.ndarray]:
    """GRMN's input features of a sound, `[1, L, F]`, and its samples `[n]` at 16 kHz."""
    samples = sound.mono(SAMPLE_RATE)
    return processor(audio=samples, sampling_rate=SAMPLE_RATE)["input_features"], samples


__all__ = [
    "audio_only_motion",
    "calibrated_action_units",
    "driven_motion",
    "oracle_motion",
    "sound_of",
    "speech_features",
]
