"""Everything that audio does not carry, generated: head motion, blinks, gaze, brows, breathing; and emotion curves.

In: a seed, frame times and how loud the speech is at each frame. Out: tensors over those frames. This is where we go
beyond the paper (METHOD 6), which takes head pose and action units from a driving clip.

Every generator is a function of absolute time and the seed alone: a longer recording starts with the same frames, and
a stream that asks frame by frame gets the numbers of the whole. Amplitudes and rates are those of people talking to a
camera: 12 to 20 blinks a minute of 0.1 to 0.4 s, head turns of a few degrees below 1 Hz, saccades of 1 to 4 degrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .constants import EMOTIONS, EXPRESSION_NAMES, GRMN_ACTION_UNITS

_DEGREE = math.pi / 180


@dataclass
class UpperFace:
    """Generated motion over T frames; shapes as in `FlameMotion`, and the six action units that GRMN reads."""

    eyelids: torch.Tensor
    eyes_pose: torch.Tensor
    neck_pose: torch.Tensor
    rotation: torch.Tensor
    translation: torch.Tensor
    expression: torch.Tensor
    action_units: torch.Tensor


def generate_upper_face(times: np.ndarray, loudness: np.ndarray, seed: int, strength: float = 1.0) -> UpperFace:
    """Head, lids, gaze and brows for frames at `times`.

    Args:
        times: `[T]` seconds from the start of the recording, rising.
        loudness: `[T]` in [0, 1], how strongly the person speaks at each frame.
        seed: the same seed and times give the same motion to the bit.
        strength: scales head, gaze and brow motion; blinks stay. 0 is a still head.

    Returns:
        `UpperFace` with float32 tensors of T frames.
    """
    times = np.asarray(times, np.float64)
    stress = _emphasis(times, loudness)
    head = _head_angles(times, seed) + np.stack([stress * 1.6, 0 * stress, 0 * stress], -1)
    head *= strength * _DEGREE
    gaze = _gaze(times, seed) * strength * _DEGREE
    closure = _blinks(times, seed)
    brow = np.clip(0.16 * stress + 0.05 * _smooth_noise(times, seed, 41, 0.15, 0.6), -0.1, 0.35) * strength
    breath = np.sin(2 * math.pi * times / 3.8 + _phase(seed, 7))
    expression = np.zeros((len(times), len(EXPRESSION_NAMES)))
    for name, gain in (("browInnerUp", 1.0), ("browOuterUp", 0.6), ("eyeWide", 0.25)):
        for side in "LR":
            expression[:, EXPRESSION_NAMES.index(f"{name}_{side}")] = np.maximum(brow, 0) * gain
    # The eyes keep looking at the viewer while the head turns (the vestibulo-ocular reflex), lids follow the gaze.
    eyes = np.stack([gaze[:, 0] - 0.8 * head[:, 0], gaze[:, 1] - 0.8 * head[:, 1], 0 * times], -1)
    lids = np.clip(closure + np.clip(eyes[:, :1].T[0], -0.05, 0.3) * 0.9, 0, 1)
    translation = np.stack([0.02 * head[:, 1], 0.0007 * breath - 0.01 * head[:, 0], 0 * times], -1)
    units = {"AU01": 5 * np.maximum(brow, 0), "AU45": 5 * closure}
    zeros = np.zeros(len(times))
    f32 = lambda x: torch.from_numpy(np.ascontiguousarray(x, np.float32))  # noqa: E731
    return UpperFace(
        eyelids=f32(np.stack([lids, lids], -1)),
        eyes_pose=f32(np.concatenate([eyes, eyes], -1)),
        neck_pose=f32(0.6 * head),
        rotation=f32(0.4 * head),
        translation=f32(translation),
        expression=f32(expression),
        action_units=f32(np.stack([units.get(u, zeros) for u in GRMN_ACTION_UNITS], -1)),
    )


def emotion_curve(emotion: str | None, intensity: float, num_frames: int, fps: float, attack_s: float = 0.4):
    """z_e and g over time for one emotion that sets in smoothly (METHOD 6).

    Returns:
        `(emotion_probs [T, 7], gate [T, 1])`, or `(None, None)` for `emotion=None`, where the network decides.
    """
    if emotion is None:
        return None, None
    probs = torch.zeros(num_frames, len(EMOTIONS))
    probs[:, EMOTIONS.index(check_emotion(emotion))] = 1
    t = torch.arange(num_frames, dtype=torch.float32) / (fps * attack_s)
    rise = t.clamp(0, 1)
    return probs, (intensity * rise * rise * (3 - 2 * rise))[:, None]


def check_emotion(emotion: str) -> str:
    """The name as it is in `EMOTIONS`, or a ValueError that lists them."""
    if not isinstance(emotion, str) or emotion.lower() not in EMOTIONS:
        raise ValueError(f"emotion: expected one of {', '.join(EMOTIONS)}, or None; got {emotion!r}.")
    return emotion.lower()


def _phase(seed: int, salt: int) -> float:
    return float(np.random.default_rng([seed, salt]).uniform(0, 2 * math.pi))


def _smooth_noise(times: np.ndarray, seed: int, salt: int, low_hz: float, high_hz: float, waves: int = 7):
    """Band-limited noise of unit variance as a sum of seeded sines: a pure function of time."""
    rng = np.random.default_rng([seed, salt])
    hz = np.exp(rng.uniform(math.log(low_hz), math.log(high_hz), waves))
    phase = rng.uniform(0, 2 * math.pi, waves)
    # Heads move more the slower they move: amplitude falls with the square root of the frequency.
    amplitude = 1 / np.sqrt(hz)
    amplitude *= math.sqrt(2) / np.linalg.norm(amplitude)
    return np.sin(2 * math.pi * times[:, None] * hz + phase) @ amplitude


def _head_angles(times: np.ndarray, seed: int) -> np.ndarray:
    """Pitch (+ nods down), yaw and roll in degrees, `[T, 3]`."""
    ranges = ((11, 1.3), (12, 2.6), (13, 1.1))
    angles = [scale * _smooth_noise(times, seed, salt, 0.06, 0.7) for salt, scale in ranges]
    return np.stack(angles, -1)


def _emphasis(times: np.ndarray, loudness: np.ndarray) -> np.ndarray:
    """How far the loudness stands above its own recent past, smoothed causally; `[T]`, about 0..1."""
    loudness = np.clip(np.asarray(loudness, np.float64), 0, 1)
    step = np.diff(times, prepend=times[0] - 0.04) if len(times) else times
    fast = slow = out = 0.0
    stress = np.zeros(len(times))
    for i, (x, dt) in enumerate(zip(loudness, step)):
        fast += (x - fast) * (1 - math.exp(-dt / 0.12))
        slow += (x - slow) * (1 - math.exp(-dt / 1.2))
        out += (max(fast - slow, 0.0) * 3 - out) * (1 - math.exp(-dt / 0.10))
        stress[i] = min(out, 1.2)
    return stress


def _events(until: float, seed: int, salt: int, draw) -> list[tuple]:
    """Times drawn one after another from a seeded generator, each `(time, *extras)`, up to `until`."""
    rng = np.random.default_rng([seed, salt])
    t, events = 0.0, []
    while True:
        wait, *extras = draw(rng)
        t += wait
        if t > until:
            return events
        events.append((t, *extras))


def _blinks(times: np.ndarray, seed: int) -> np.ndarray:
    """Lid closure `[T]` in [0, 1]: log-normal intervals with a median of 3.3 s, a fast fall and a slower rise."""
    closure = np.zeros(len(times))
    if not len(times):
        return closure
    draw = lambda rng: (max(0.7, 3.3 * math.exp(0.55 * rng.normal())), rng.uniform(0.85, 1.2))  # noqa: E731
    for start, pace in _events(times[-1] + 0.5, seed, 21, draw):
        t = (times - start) / pace
        fall, rise = np.clip(t / 0.085, 0, 1), np.clip((t - 0.125) / 0.19, 0, 1)
        closure = np.maximum(closure, _ease(fall) * (1 - _ease(rise)))
    return closure


def _gaze(times: np.ndarray, seed: int) -> np.ndarray:
    """Pitch and yaw of the gaze in degrees `[T, 2]`: fixations with quick saccades, mostly at the viewer."""
    gaze = np.zeros((len(times), 2))
    if not len(times):
        return gaze

    def draw(rng):
        away = rng.uniform() < 0.22
        target = rng.normal(size=2) * (np.array([1.6, 3.4]) if away else np.array([0.5, 0.8]))
        return rng.uniform(0.6, 2.6), target

    held = np.zeros(2)
    for start, target in _events(times[-1], seed, 31, draw):
        step = _ease(np.clip((times - start) / 0.045, 0, 1))[:, None]
        gaze = gaze + step * (target - held)
        held = target
    return gaze


def _ease(x: np.ndarray) -> np.ndarray:
    return x * x * (3 - 2 * x)


def loudness_from_samples(samples: np.ndarray, sampling_rate: int, times: np.ndarray) -> np.ndarray:
    """How strongly the person speaks at each frame, `[T]` in [0, 1]: energy against its running peak, causally.

    Args:
        samples: `[n]` mono in [-1, 1]. times: `[T]` seconds.
    """
    hop = sampling_rate // 100
    num = max(1, len(samples) // hop)
    energy = np.sqrt(np.mean(samples[: num * hop].reshape(num, -1) ** 2, -1)) if len(samples) >= hop else np.zeros(1)
    peak, level = 0.05, np.zeros(num)
    for i, e in enumerate(energy):
        peak = max(e, peak * 0.9985, 1e-4)
        level[i] = min(1.0, e / peak)
    smooth = np.convolve(level, np.ones(5) / 5)[:num]
    return smooth[np.clip((np.asarray(times) * 100).astype(int), 0, num - 1)]


def check_unit_interval(name: str, value: float) -> float:
    """`value` as a float in [0, 1], or a ValueError naming `name`."""
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise ValueError(f"{name}: expected a number in [0, 1], got {value!r}.")
    if not 0 <= value <= 1 or math.isnan(value):
        raise ValueError(f"{name}: expected a number in [0, 1], got {value}.")
    return float(value)


def resample_frames(values: torch.Tensor, source_fps: float, times: Sequence[float]) -> torch.Tensor:
    """Linear interpolation of `values [T, D]` at `source_fps` to frames at `times` seconds, held at the end."""
    position = torch.as_tensor(np.asarray(times), dtype=torch.float64) * source_fps
    position = position.mul(1e6).round().div(1e6).clamp(0, values.shape[0] - 1)  # 3 * 0.04 * 25 is frame 3
    low = position.floor().long()
    high = (low + 1).clamp(max=values.shape[0] - 1)
    weight = (position - low).to(values.dtype)[:, None]
    return torch.lerp(values[low], values[high], weight)
