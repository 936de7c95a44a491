"""Estimates the offset between sound and video of a clip. Clips are out of sync by up to five frames, and loudness
alone cannot measure it.

In: a track of the face and its sound. Out: `AVOffset`: frames at 25 fps, with a probability that it is right. The
motion network (METHOD 3) predicts the mouth's motion from the sound; it is compared with the tracked mouth at every lag
within 0.4 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ...audio.audio_features import num_video_frames
from ...constants import MOTION_FPS, SAMPLE_RATE

if TYPE_CHECKING:
    from ...models.modeling_emotag import EmoTaGModel
    from ...models.modeling_head import ParametricHead
    from ..tracking.head_track import HeadTrack

MAX_LAG = 10  # frames; 0.4 s, more than wireless microphones and inaccurate editing cause
MIN_SECONDS = 3.0  # with less, an offset is never called reliable
# Confidence from which the offset may be used. Of 228 parts of real clips above it, all agreed with their whole clip to
# 1.5 frames; with the sound of another clip, 2 to 3 in a hundred are above it.
RELIABLE = 0.9

# Distances between MediaPipe's points, in units of that between the outer corners of the eyes, with weights: how well
# each separates its own sound from another clip's, on 27 clips of 20 persons.
_EYES = (33, 263)
_DISTANCES = {
    "opening": ((13, 14), 0.25),  # inner lips
    "width": ((78, 308), 0.30),  # inner corners of the mouth
    "jaw": ((1, 152), 0.25),  # tip of the nose to the chin
    "upper lip": ((0, 2), 0.20),  # its edge to the base of the nose
}
_SMOOTHING = 11  # frames: slower motion of the mouth does not depend on the sound
# The score is a weighted correlation. With the right sound it is 0.30 +- 0.08 at the right lag for any length; at a
# wrong lag it is 0 +- 0.8 / sqrt(frames). 1 instead of 0.8 is used, because 21 lags are compared.
_EXPECTED, _EXPECTED_SPREAD, _NOISE = 0.30, 0.08, 1.0
_PRIOR_SPREAD = 4.0  # frames, spread of the prior: small offsets are more likely
_PRIOR_FOREIGN = 0.05  # prior probability of dubbing, music, or an offset beyond the range
_MAX_FRAMES = 3000  # two minutes suffice
_CHUNK = 500  # frames posed at once


@dataclass(frozen=True)
class AVOffset:
    """The offset between sound and picture.

    Args:
        frames: at 25 fps. **Positive: the sound comes later than the picture**, so cut this much off the beginning of
            the sound to correct it.
        confidence: in [0, 1], the probability that `frames` is right to a frame and a half.
        reliable: whether it should be used: confidence of at least 0.9 on at least 3 s of face and sound.
        correlation: of predicted and tracked mouth at this lag, in [-1, 1].
    """

    frames: float
    confidence: float
    reliable: bool
    correlation: float

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self.frames / MOTION_FPS


def estimate_av_offset(
    track: HeadTrack, head: ParametricHead, samples: np.ndarray, model: EmoTaGModel | None = None
) -> AVOffset:
    """Estimates the delay of the sound from the first two minutes.

    Args:
        track: the tracked face, at 25 fps; its `landmarks` and `valid` are used.
        head: turns the model's motion into lip landmarks.
        samples: `[n]` mono float at 16 kHz that begins with the track's first frame.
        model: its motion network predicts the mouth; it must read log-mel features. None is the embedded one.

    Returns:
        `AVOffset`. Without speech or face, or with unrelated sound, the confidence is low.

    Raises:
        ValueError: a track at another rate, sound that is not an array `[n]`, a model with a speech encoder.
    """
    if track.motion.fps != MOTION_FPS:
        raise ValueError(f"track: expected {MOTION_FPS} frames per second, got {track.motion.fps}; track it again.")
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"samples: expected mono sound [n] at {SAMPLE_RATE} Hz, got shape {list(samples.shape)}.")
    count = min(len(track), _MAX_FRAMES)
    if len(samples) == 0 or count == 0:
        return AVOffset(0.0, 0.0, False, 0.0)
    points = track.landmarks[:count].numpy().astype(np.float64)
    seen = measure_mouth(points)
    seen[~track.valid[:count].numpy()] = np.nan
    heard = predict_mouth(samples[: (count + MAX_LAG) * SAMPLE_RATE // MOTION_FPS], head, track.shape, model)
    return compare_mouths(seen, heard)


def measure_mouth(points: np.ndarray) -> np.ndarray:
    """`[T, 468 or more, 3]` MediaPipe points -> `[T, 4]` distances in eye distances; NaN where the points are."""
    eyes = np.linalg.norm(points[:, _EYES[0]] - points[:, _EYES[1]], axis=1)
    pairs = [pair for pair, _ in _DISTANCES.values()]
    return np.stack([np.linalg.norm(points[:, a] - points[:, b], axis=1) / eyes for a, b in pairs], 1)


def predict_mouth(samples: np.ndarray, head: ParametricHead, shape, model: EmoTaGModel | None = None) -> np.ndarray:
    """Predicted mouth of a head with identity `shape` `[S]` for `samples` `[n]`: `[T, 4]` as `measure_mouth`."""
    import torch

    from ...models.processing_emotag import EmoTaGFeatureExtractor
    from ...motion.motion_stream import evaluating

    network = (_embedded_model() if model is None else model).motion
    if network.config.frontend == "transformers":
        raise ValueError(f"model: expected one that reads log-mel features, got {network.config.frontend!r}.")
    like = next(network.parameters())
    features = EmoTaGFeatureExtractor()(samples, SAMPLE_RATE)["input_features"].to(like)
    with torch.inference_mode(), evaluating(network):
        out = network(features)
    expression, jaw = out.expression[0].float().cpu(), out.jaw_pose[0].float().cpu()
    mouths = []
    with torch.inference_mode():
        for i in range(0, len(jaw), _CHUNK):
            part = slice(i, i + _CHUNK)
            vertices = head(shape=shape[None], expression=expression[part], jaw_pose=jaw[part]).vertices
            mouths.append(measure_mouth(head.landmarks(vertices).double().numpy()))
    return np.concatenate(mouths)[: num_video_frames(len(samples))]


def compare_mouths(seen: np.ndarray, heard: np.ndarray) -> AVOffset:
    """The lag at which the predicted mouth `[U, 4]` fits the tracked one `[T, 4]` best, both at 25 fps; NaN is
    unknown."""
    scores, usable = _scores(_without_slow(seen), _without_slow(heard))
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    # Likelihood ratio of each score: the right lag against unrelated sound. Scores above the expected one are not
    # penalised, because it is only roughly known.
    noise = _NOISE**2 / max(usable, 1)
    wide = noise + _EXPECTED_SPREAD**2
    missing = np.minimum(scores - _EXPECTED, 0)
    ratio = 0.5 * (scores**2 / noise - missing**2 / wide + np.log(noise / wide))
    prior = np.exp(-0.5 * (lags / _PRIOR_SPREAD) ** 2)
    weight = np.log(prior / prior.sum() * (1 - _PRIOR_FOREIGN)) + ratio
    every = np.append(weight, np.log(_PRIOR_FOREIGN))
    probability = np.exp(every - every.max())
    probability /= probability.sum()

    best = int(weight.argmax())
    confidence = float(probability[max(0, best - 1) : min(best + 2, len(lags))].sum())
    frames = float(lags[best]) + _summit(scores, best)
    reliable = confidence >= RELIABLE and usable >= MIN_SECONDS * MOTION_FPS
    return AVOffset(frames, confidence, reliable, float(scores[best]))


def _without_slow(values: np.ndarray) -> np.ndarray:
    """`[T, C]` less its running mean over the frames that are there; NaN stays."""
    there = np.isfinite(values).all(1)
    kernel = np.hanning(_SMOOTHING + 2)[1:-1]
    spread = lambda x: np.convolve(x, kernel)[_SMOOTHING // 2 : _SMOOTHING // 2 + len(x)]  # noqa: E731
    weight = np.maximum(spread(there.astype(float)), 1e-9)
    mean = np.stack([spread(np.where(there, column, 0)) / weight for column in values.T], 1)
    return values - mean


def _scores(seen: np.ndarray, heard: np.ndarray) -> tuple[np.ndarray, int]:
    """Weighted correlation at each lag `[2 * MAX_LAG + 1]`, and the number of frames with face and sound."""
    weights = np.array([weight for _, weight in _DISTANCES.values()])
    there = np.isfinite(seen).all(1)
    scores = np.zeros(2 * MAX_LAG + 1)
    for i, lag in enumerate(range(-MAX_LAG, MAX_LAG + 1)):
        # Frame t of the video belongs to frame t + lag of the sound.
        frames = np.arange(max(0, -lag), min(len(seen), len(heard) - lag))
        frames = frames[there[frames]] if len(frames) else frames
        if len(frames) < 2:
            continue
        a, b = seen[frames], heard[frames + lag]
        a, b = a - a.mean(0), b - b.mean(0)
        scores[i] = weights @ ((a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0) + 1e-12))
    return scores, int(there[: len(heard)].sum())


def _summit(scores: np.ndarray, best: int) -> float:
    """Sub-frame position of the peak by a parabola: within [-0.5, 0.5]."""
    if not 0 < best < len(scores) - 1:
        return 0.0
    left, middle, right = scores[best - 1 : best + 2]
    curve = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / curve, -0.5, 0.5)) if curve < 0 else 0.0


@lru_cache(maxsize=1)
def _embedded_model() -> EmoTaGModel:
    from ...models.modeling_emotag import EmoTaGModel
    from ...utils.asset_paths import default_model_path

    return EmoTaGModel.from_pretrained(default_model_path())


__all__ = ["AVOffset", "compare_mouths", "estimate_av_offset", "measure_mouth", "predict_mouth"]
