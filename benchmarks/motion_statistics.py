"""Statistics of head, eyelid, gaze and brow motion, for tracked and generated motion.

In: `Sequence`s at 25 fps. Out: one dictionary of numbers for a set of sequences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from emotag_hf.constants import EXPRESSION_NAMES
from emotag_hf.utils.rotations import rotation_matrix

FPS = 25.0
BANDS = ((0.2, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0))  # Hz
PAUSE = 0.06  # loudness below which it is a pause
SACCADE = 2.5  # degrees; smaller steps cannot be separated from the tracker's jitter
_RAISED = [EXPRESSION_NAMES.index(f"{name}_{side}") for name in ("browInnerUp", "browOuterUp") for side in "LR"]


@dataclass
class Sequence:
    """T frames: `angles [T, 3]` pitch (+ down), yaw, roll of the head in degrees; `gaze [T, 2]` pitch and yaw of the
    eyes in the head in degrees; `lids`, `brow`, `loudness` `[T]`; `shift [T, 3]` mm."""

    angles: np.ndarray
    gaze: np.ndarray
    lids: np.ndarray
    brow: np.ndarray
    shift: np.ndarray
    loudness: np.ndarray

    @classmethod
    def of(cls, motion, loudness: np.ndarray) -> Sequence:
        """Of a `FlameMotion`, or of what `generate_upper_face` gives."""
        turn = (rotation_matrix(motion.rotation.double()) @ rotation_matrix(motion.neck_pose.double())).numpy()
        pitch = -np.arcsin(np.clip(turn[:, 1, 2], -1, 1))
        yaw, roll = np.arctan2(turn[:, 0, 2], turn[:, 2, 2]), np.arctan2(turn[:, 1, 0], turn[:, 1, 1])
        eyes = torch.rad2deg(motion.eyes_pose).double().numpy()
        return cls(
            np.degrees(np.stack([pitch, yaw, roll], -1)),
            (eyes[:, :2] + eyes[:, 3:5]) / 2,
            motion.eyelids.double().numpy().mean(-1),
            motion.expression[:, _RAISED].double().numpy().mean(-1),
            motion.translation.double().numpy() * 1000,
            np.asarray(loudness, np.float64),
        )

    def __len__(self) -> int:
        return len(self.angles)


def blinks(lids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First frames of the blinks, and for how many frames the eye is more than half closed."""
    rest = np.quantile(lids, 0.3)
    return _runs(lids - rest > 0.5 * (1 - rest), join=1)


def saccades(seq: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Frames at which the eyes step by more than `SACCADE` degrees, blinks apart, and by how much."""
    free = ~_near_blink(seq)
    gaze = _median3(seq.gaze)
    step = np.zeros(len(seq))
    for i in range(3, len(seq) - 3):
        if free[i - 3 : i + 3].all():
            step[i] = np.hypot(*(gaze[i : i + 3].mean(0) - gaze[i - 3 : i].mean(0)))
    peak = (step > SACCADE) & (step >= np.roll(step, 1)) & (step > np.roll(step, -1))
    return np.flatnonzero(peak), step[peak]


def gaze_jitter(sequences: list[Sequence]) -> np.ndarray:
    """Degrees of pitch and yaw by which the tracker's gaze trembles from frame to frame, if that is white noise."""
    bends = [np.diff(s.gaze, 2, axis=0)[~_near_blink(s)[1:-1]] for s in sequences]
    return np.median([np.median(np.abs(b), 0) for b in bends if len(b)], 0) / 0.6745 / np.sqrt(6)


def with_jitter(seq: Sequence, jitter: np.ndarray, seed: int) -> Sequence:
    """As the tracker would see it: generated gaze with the tracker's tremble on top."""
    return replace(seq, gaze=seq.gaze + np.random.default_rng(seed).normal(size=seq.gaze.shape) * jitter)


def head_speed(seq: Sequence) -> np.ndarray:
    """Degrees a second, `[T]`, over 80 ms."""
    smooth = np.stack([np.convolve(np.pad(a, 1, "edge"), np.ones(3) / 3, "valid") for a in seq.angles.T], -1)
    return np.linalg.norm(np.gradient(smooth, axis=0), axis=-1) * FPS


def band_rms(values: np.ndarray, low: float, high: float) -> float:
    """RMS of a signal between two frequencies; Hann window, mean removed."""
    window = np.hanning(len(values))
    power = np.abs(np.fft.rfft((values - values.mean()) * window)) ** 2 * 2 / (window**2).sum() / len(values)
    hz = np.fft.rfftfreq(len(values), 1 / FPS)
    return float(np.sqrt(power[(hz >= low) & (hz < high)].sum()))


def measure(sequences: list[Sequence]) -> dict[str, float]:
    """Rates are pooled over all sequences; everything else is the median over sequences."""
    minutes = sum(map(len, sequences)) / FPS / 60
    found = [blinks(s.lids) for s in sequences]
    waits = np.concatenate([np.diff(start) / FPS for start, _ in found])
    lengths = np.concatenate([length / FPS for _, length in found])
    out = {
        "blinks a minute": len(lengths) / minutes,
        "blink: half shut, s (median)": float(np.median(lengths)),
        "between blinks, s: 10 %": float(np.quantile(waits, 0.1)),
        "between blinks, s: median": float(np.median(waits)),
        "between blinks, s: 90 %": float(np.quantile(waits, 0.9)),
        "blinks in pauses / frames in pauses": _blinks_in_pauses(sequences, found),
        "head speed at blinks / mean": _median(_speed_at(s, start) for s, (start, _) in zip(sequences, found)),
    }
    for axis, name in enumerate(("pitch", "yaw", "roll")):
        out[f"{name}, degrees (std)"] = _median(s.angles[:, axis].std() for s in sequences)
        for low, high in BANDS:
            out[f"{name} {low:g}-{high:g} Hz, degrees"] = _median(
                band_rms(s.angles[:, axis], low, high) for s in sequences
            )
    speeds = [head_speed(s) for s in sequences]
    out["head speed, degrees/s: median"] = _median(np.median(v) for v in speeds)
    out["head speed, degrees/s: 99 %"] = _median(np.quantile(v, 0.99) for v in speeds)
    quiet = np.concatenate([_smooth(s.loudness) < PAUSE for s in sequences])
    pooled = np.concatenate([v / max(v.mean(), 1e-9) for v in speeds])
    out["head speed in speech / in pauses"] = float(pooled[~quiet].mean() / pooled[quiet].mean())
    out["head speed and loudness, r"] = _median(_r(_smooth(v), _smooth(s.loudness)) for v, s in zip(speeds, sequences))
    out["nod on stress, degrees"] = float(np.mean(np.concatenate([_nods(s) for s in sequences])))
    out["shift x, mm (std)"] = _median(s.shift[:, 0].std() for s in sequences)
    out["shift y, mm (std)"] = _median(s.shift[:, 1].std() for s in sequences)
    out["brow (std)"] = _median(s.brow.std() for s in sequences)
    raises = [_runs(s.brow - np.quantile(s.brow, 0.2) > 0.12, join=3)[0] for s in sequences]
    out["brow raises a minute"] = sum(map(len, raises)) / minutes
    out["brow on stress - elsewhere"] = float(np.mean(np.concatenate([_brow_on_stress(s) for s in sequences])))
    return out | _gaze(sequences, minutes)


def _gaze(sequences: list[Sequence], minutes: float) -> dict[str, float]:
    free = [~_near_blink(s) for s in sequences]
    steps = [saccades(s) for s in sequences]
    sizes = np.concatenate([size for _, size in steps])
    holds = np.concatenate([np.diff(at) / FPS for at, _ in steps])
    seen = sum(f.sum() for f in free) / FPS
    return {
        "gaze pitch, degrees (std)": _median(s.gaze[f, 0].std() for s, f in zip(sequences, free)),
        "gaze yaw, degrees (std)": _median(s.gaze[f, 1].std() for s, f in zip(sequences, free)),
        f"saccades over {SACCADE} degrees a second": len(sizes) / seen,
        "saccade, degrees (median)": float(np.median(sizes)),
        "between saccades, s (median)": float(np.median(holds)),
        "eye yaw by head yaw (slope)": _median(
            _slope(s.angles[f, 1], s.gaze[f, 1]) for s, f in zip(sequences, free) if s.angles[:, 1].std() > 1
        ),
        "eye pitch by head pitch (slope)": _median(
            _slope(s.angles[f, 0], s.gaze[f, 0]) for s, f in zip(sequences, free) if s.angles[:, 0].std() > 1
        ),
        "lid closure by 10 degrees of gaze down": _median(
            10 * _slope(s.gaze[f, 0], s.lids[f]) for s, f in zip(sequences, free)
        ),
    }


def _runs(mask: np.ndarray, join: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of runs of True; gaps of up to `join` frames do not end one. Runs cut by an end are left
    out."""
    edge = np.diff(np.concatenate([[False], mask, [False]]).astype(int))
    starts, ends = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    keep = np.ones(len(starts), bool)
    for i in range(1, len(starts)):
        if starts[i] - ends[i - 1] <= join:
            keep[i] = False
    firsts = np.flatnonzero(keep)
    lasts = np.append(firsts[1:] - 1, len(starts) - 1) if len(firsts) else firsts
    starts, ends = starts[firsts], ends[lasts]
    whole = (starts > 0) & (ends < len(mask))
    return starts[whole], (ends - starts)[whole]


def _near_blink(seq: Sequence) -> np.ndarray:
    shut = seq.lids - np.quantile(seq.lids, 0.3) > 0.2
    return np.convolve(shut, np.ones(7), "same") > 0


def _blinks_in_pauses(sequences, found) -> float:
    """How much more often a blink starts in a pause than chance has it."""
    quiet = [_smooth(s.loudness) < PAUSE for s in sequences]
    at = np.concatenate([q[start] for q, (start, _) in zip(quiet, found)])
    return float(at.mean() / np.concatenate(quiet).mean())


def _speed_at(seq: Sequence, starts: np.ndarray) -> float:
    speed = head_speed(seq)
    near = [speed[max(0, i - 3) : i + 6].mean() for i in starts]
    return float(np.mean(near) / max(speed.mean(), 1e-9)) if near else np.nan


def _stress_peaks(seq: Sequence) -> np.ndarray:
    """Frames where the loudness has a peak well above its surroundings."""
    loud = _smooth(seq.loudness)
    top = np.array([loud[max(0, i - 8) : i + 9].max() for i in range(len(loud))])
    return np.flatnonzero((loud == top) & (loud > 0.35))


def _nods(seq: Sequence) -> np.ndarray:
    """Pitch 0 to 160 ms after each stressed syllable against 320 to 160 ms before it: + is down."""
    pitch = seq.angles[:, 0]
    return np.array([pitch[i : i + 5].mean() - pitch[i - 8 : i - 3].mean() for i in _stress_peaks(seq) if i >= 8])


def _brow_on_stress(seq: Sequence) -> np.ndarray:
    return np.array([seq.brow[max(0, i - 2) : i + 6].mean() - seq.brow.mean() for i in _stress_peaks(seq)])


def _median3(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((1, 1), (0, 0)), "edge")
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), 0)


def _smooth(x: np.ndarray, frames: int = 7) -> np.ndarray:
    return np.convolve(np.pad(x, frames // 2, "edge"), np.ones(frames) / frames, "valid")


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / max((x * x).sum(), 1e-9))


def _r(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else np.nan


def _median(values) -> float:
    return float(np.nanmedian(list(values)))
