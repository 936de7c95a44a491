"""Generated motion: head motion, blinks, gaze, brows, breathing, which speech hardly determines.

In: a seed, strengths, and how loud the speech is. Out: tensors over frames at any times. Not in the paper (METHOD 6),
which takes head pose and action units from a driving clip, as driving_motion.py does here.

`MotionGenerator` takes 25 loudness values per second and gives the motion at any time up to the last value. It depends
on the seed and on the loudness up to that time (and the next 40 ms) only, not on frame rate or chunks, so that streams
and recordings are bit-identical. `generate_upper_face` does it in one call. Rates, amplitudes and spectra are those of
people who talk to a camera: docs/motion.md has the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..constants import EXPRESSION_NAMES, GRMN_ACTION_UNITS, MOTION_FPS
from .motion_curves import LONGEST
from .motion_planner import MotionPlanner
from .motion_strengths import MotionStrengths
from .speech_listener import STEP

_DEGREE = math.pi / 180
# Share of a head turn that the neck joint makes; trackers give the whole body 0.15 of it.
_NECK = 0.85
# How far the eyes counter-rotate when the head turns, to keep looking at the viewer (vestibulo-ocular reflex).
_KEEP_PITCH, _KEEP_YAW = 0.6, 0.75
LID_BY_GAZE = 0.8  # eyelid closure per radian of looking down
_AU01 = 2.8  # of AU01 where browInnerUp is 1: the embedded network learned from tracks that showed half of a raise
_BROW = {"browInnerUp": 0.7, "browOuterUp": 1.0, "eyeWide": 0.25}


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


class MotionGenerator:
    """Head, eyelids, gaze and brows of one recording, generated while it arrives.

    Args:
        seed: an integer, 0 or more; the same seed and loudness give bit-identical motion.
        strengths: of the parts, or one number for all parts except blinks (`MotionStrengths.of`).
        period: seconds, 1 or more, after which the motion repeats exactly; None never. Such motion is that of silence,
            and `at` takes any times; `hear` is not to be called.

    Example:

    ```python
    >>> generator = MotionGenerator(seed=0)
    >>> generator.hear(np.zeros(26))  # a second of silence, to the value at 1 s
    >>> generator.at(np.arange(30) / 30).eyelids.shape
    torch.Size([30, 2])
    ```
    """

    def __init__(self, seed: int = 0, strengths: float | MotionStrengths = 1.0, period: float | None = None):
        self.strengths = MotionStrengths.of(strengths)
        self._planner = MotionPlanner(seed, self.strengths.blinks)
        self._period, self._laps = period, 0
        self._sway = [_Noise(seed, salt, 0.05, 0.4, period=period) for salt in range(11, 17)]
        # Beats with the syllables; slower beats are larger.
        self._beats = [_Noise(seed, salt, 0.6, 4.5, 12, period) for salt in range(17, 20)]
        self._brow_drift = _Noise(seed, 20, 0.1, 0.6, period=period)
        self._breath = float(np.random.default_rng([seed, 7]).uniform(0, 2 * math.pi))
        # Breaths and their slow change a second.
        self._breaths = [1 / 3.9, 1 / 23]
        if period is not None:
            self._breaths = [max(1, round(period / 3.9)) / period, round(period / 23) / period]
            self.hear(np.zeros(math.ceil(period / STEP)))
            self._laps = math.ceil(LONGEST / period)  # the lap that is read: the pulses of earlier laps reach it
            self._planner.close(period, self._laps)

    @property
    def heard_until(self) -> float:
        """Seconds up to which `at` can be called; below 0 at the start."""
        if self._period is not None:
            return math.inf
        return (self._planner.steps - 1) * STEP

    def hear(self, loudness: np.ndarray) -> None:
        """Takes the next values of the loudness, 25 per second.

        Args:
            loudness: `[n]` in [0, 1] (`loudness_from_samples`); the first value ever is at 0 s.
        """
        values = np.asarray(loudness, np.float64)
        if values.ndim != 1 or not np.isfinite(values).all():
            what = "NaN or infinity" if values.ndim == 1 else f"shape {values.shape}"
            raise ValueError(f"loudness: expected finite numbers [n] from 0 to 1, got {what}.")
        for value in np.clip(values, 0, 1).tolist():
            self._planner.hear(value)

    def forget(self, before: float) -> None:
        """Drops state that is only needed for times before `before` seconds, so that memory of a stream is bounded."""
        self._planner.forget(before)

    def at(self, times: np.ndarray) -> UpperFace:
        """The motion at `times [T]`: increasing seconds from the start of the recording, up to `heard_until`."""
        times = np.ascontiguousarray(times, np.float64)
        if not len(times):
            return self._to_face(*(np.zeros(0) for _ in range(9)))
        # Written so that NaN is refused, too.
        if not (times[0] >= 0 and times[-1] <= self.heard_until + 1e-6 and (np.diff(times) >= 0).all()):
            raise ValueError(
                f"times: expected rising seconds from 0 to {self.heard_until:.2f}, the last loudness value, "
                f"got {times[0]:.2f} to {times[-1]:.2f}; give `hear` the loudness up to there first."
            )
        if self._period is None:
            return self._at(times, times, self._drive(times))
        # The curves take rising times.
        times, back = np.unique(np.mod(times, self._period), return_inverse=True)
        face = self._at(times, times + self._laps * self._period, np.zeros(len(times)))
        return UpperFace(**{name: value[torch.from_numpy(back)] for name, value in vars(face).items()})

    def _at(self, times: np.ndarray, planned: np.ndarray, drive: np.ndarray) -> UpperFace:
        """The motion; `planned` are the times of the planned curves."""
        plan, much = self._planner, self.strengths
        posture, gaze = plan.posture.at(planned), plan.gaze.at(planned)
        drive = 0.12 + drive
        sway, beats = [w.at(times) for w in self._sway], [w.at(times) for w in self._beats]
        scales = zip(posture, sway, beats, (0.55, 0.6, 0.35), (0.95, 0.78, 0.48))
        turn = [(p + a * s + b * drive * w) * much.head * _DEGREE for p, s, w, a, b in scales]
        turn[0] = turn[0] + plan.nods.at(planned) * much.head * _DEGREE
        pitch, yaw, roll = turn
        keeps = min(much.gaze, 1.0)
        eye_pitch = gaze[0] * much.gaze * _DEGREE - _KEEP_PITCH * keeps * pitch
        eye_yaw = gaze[1] * much.gaze * _DEGREE - _KEEP_YAW * keeps * yaw
        brow = np.maximum(plan.brows.at(planned) + 0.036 * self._brow_drift.at(times), 0) * much.brows
        often, change = self._breaths
        wave = 2 * math.pi * often * times + self._breath + 0.8 * np.sin(2 * math.pi * change * times)
        breath = np.sin(wave) * much.breathing
        # Metres; a tilted head shifts a little to the other side.
        x = 0.057 * roll + 0.005 * sway[3] * much.head
        y = 0.0035 * sway[4] * much.head + 0.0008 * breath
        z = 0.002 * sway[5] * much.head + 0.0006 * breath
        closure = np.minimum(plan.blinks.at(planned), 1.0)
        return self._to_face(pitch, yaw, roll, eye_pitch, eye_yaw, closure, brow, np.stack([x, y, z], -1), times)

    def _drive(self, times: np.ndarray) -> np.ndarray:
        position = times * MOTION_FPS
        low = np.minimum((position + 1e-6).astype(int), self._planner.steps - 1)
        first, forgotten = low[0], self._planner.forgotten
        known = np.array(self._planner.drive[first - forgotten : low[-1] - forgotten + 2])
        here, after = known[low - first], known[np.minimum(low - first + 1, len(known) - 1)]
        return here + np.maximum(position - low, 0) * (after - here)

    def _to_face(self, pitch, yaw, roll, eye_pitch, eye_yaw, closure, brow, shift, times) -> UpperFace:
        zeros = np.zeros(len(times))
        head = np.stack([pitch, yaw, roll], -1)
        eye = np.stack([eye_pitch, eye_yaw, zeros], -1)
        # Eyelids follow the eyes down, and a little up; a blink closes the rest.
        follow = np.clip(LID_BY_GAZE * eye_pitch, -0.03, 0.3)
        lids = np.clip(follow + closure * (1 - follow), 0, 1)
        expression = np.zeros((len(times), len(EXPRESSION_NAMES)))
        for name, gain in _BROW.items():
            for side in "LR":
                expression[:, EXPRESSION_NAMES.index(f"{name}_{side}")] = brow * gain
        # As features.action_units reads them: AU45 goes from 0 to 5 between closures of 0.15 and 0.9.
        units = {"AU01": _AU01 * _BROW["browInnerUp"] * brow, "AU45": 5 * np.clip((closure - 0.15) / 0.75, 0, 1)}
        return UpperFace(
            eyelids=_f32(np.stack([lids, lids], -1)),
            eyes_pose=_f32(np.concatenate([eye, eye], -1)),
            neck_pose=_f32(_NECK * head),
            rotation=_f32((1 - _NECK) * head),
            translation=_f32(shift.reshape(-1, 3)),
            expression=_f32(expression),
            action_units=_f32(np.stack([units.get(u, zeros) for u in GRMN_ACTION_UNITS], -1)),
        )


def generate_upper_face(
    times: np.ndarray, loudness: np.ndarray, seed: int, strength: float | MotionStrengths = 1.0
) -> UpperFace:
    """Head, eyelids, gaze and brows for frames at `times`.

    Args:
        times: `[T]` seconds from the start of the recording, rising.
        loudness: `[T]` in [0, 1], how strongly the person speaks at each frame; silence before the first.
        seed: the same seed and times give bit-identical motion.
        strength: `MotionStrengths`, or a number in [0, 2] for all parts except blinks.

    Returns:
        `UpperFace` with float32 tensors of T frames. At two frame rates the loudness is sampled differently; for
        exactly equal motion use one `MotionGenerator` for both.
    """
    times, loudness = np.asarray(times, np.float64), np.asarray(loudness, np.float64)
    if times.ndim != 1 or loudness.shape != times.shape:
        raise ValueError(
            f"loudness: expected one number for each of the {times.shape} times, got shape {loudness.shape}."
        )
    generator = MotionGenerator(seed, strength)
    if len(times):
        steps = np.arange(math.ceil(times[-1] * MOTION_FPS - 1e-6) + 1) * STEP
        # Rounded, so that frames at 25 a second give what they were given.
        generator.hear(np.interp((steps * 1e9).round(), (times * 1e9).round(), loudness, left=0.0))
    return generator.at(times)


class _Noise:
    """Band-limited noise of unit variance as a sum of seeded sines: a pure function of time, without drift.

    With a `period` each frequency is the nearest that repeats after it.
    """

    def __init__(
        self, seed: int, salt: int, low_hz: float, high_hz: float, waves: int = 7, period: float | None = None
    ):
        rng = np.random.default_rng([seed, salt])
        # One sine in each part of the band, because two close frequencies would beat slowly.
        part = (np.arange(waves) + rng.uniform(0.1, 0.9, waves)) / waves
        self._hz = np.exp(math.log(low_hz) + part * math.log(high_hz / low_hz))
        self._phase = rng.uniform(0, 2 * math.pi, waves)
        self._size = 1 / np.sqrt(self._hz)  # slow motion is larger
        self._size *= math.sqrt(2) / np.linalg.norm(self._size)
        if period is not None:  # whole waves; the slowest ones stand still
            self._hz = np.round(self._hz * period) / period

    def at(self, times: np.ndarray) -> np.ndarray:
        # Summed in one order, unlike a matrix product, so that rounding does not depend on the length of `times`.
        total = np.zeros(len(times))
        for hz, phase, size in zip(self._hz, self._phase, self._size):
            total += size * np.sin(2 * math.pi * hz * times + phase)
        return total


def _f32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


__all__ = ["LID_BY_GAZE", "MotionGenerator", "UpperFace", "generate_upper_face"]
