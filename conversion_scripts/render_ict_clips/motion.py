"""How the faces move: smooth, seeded curves of head pose, expression and gaze, known exactly.

Out: `Performance`, the truth that a tracker is judged by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FPS = 25
YAW, PITCH, ROLL = np.radians([35.0, 15.0, 12.0])
PIVOT = np.array([0.0, -0.100, -0.060])  # metres: where the head turns on the neck
_PER_DIRECTION = 12  # frames in which a direction goes up and back
LOOK = np.radians(30.0)  # gaze at which an eyeLook shape is at 1


@dataclass
class Performance:
    """T frames of truth.

    Args:
        rotation: `[T, 3, 3]` and translation `[T, 3]` metres take the head into the world.
        weights: ICT's expression name -> `[T]` coefficients; all others are 0.
        gaze: `[T, 2]` radians both eyes look to the person's left (+x) and up, beyond the head's own direction.
    """

    rotation: np.ndarray
    translation: np.ndarray
    weights: dict[str, np.ndarray]
    gaze: np.ndarray

    def __len__(self) -> int:
        return len(self.rotation)

    def coefficients(self, names: tuple[str, ...]) -> np.ndarray:
        """`[T, len(names)]` in the order of `names`."""
        out = np.zeros((len(self), len(names)), np.float32)
        for name, curve in self.weights.items():
            out[:, names.index(name)] = curve
        return out


def euler(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Ry(yaw) Rx(pitch) Rz(roll) `[T, 3, 3]`: +yaw to the person's left, +pitch down, +roll to their right shoulder."""

    def turn(angle: np.ndarray, axis: int) -> np.ndarray:
        c, s = np.cos(angle), np.sin(angle)
        out = np.zeros((len(angle), 3, 3))
        out[:, axis, axis] = 1
        i, j = (axis + 1) % 3, (axis + 2) % 3
        out[:, i, i], out[:, j, j], out[:, i, j], out[:, j, i] = c, c, -s, s
        return out

    return turn(yaw, 1) @ turn(pitch, 0) @ turn(roll, 2)


def perform(frames: int, seed: int) -> Performance:
    """A few seconds of a person who turns, nods, speaks, smiles, blinks, frowns and looks around."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames) / FPS
    length = frames / FPS
    yaw, pitch, roll = (peak * _wander(t, rng, period) for peak, period in ((YAW, 4.2), (PITCH, 2.9), (ROLL, 3.6)))
    rotation = euler(yaw, pitch, roll)
    sway = np.stack([0.012 * _wander(t, rng, 3.1), 0.006 * _wander(t, rng, 2.3), 0.02 * _wander(t, rng, 4.0)], 1)
    translation = PIVOT + sway - rotation @ PIVOT
    gaze = np.stack([np.radians(22) * _wander(t, rng, 1.9), np.radians(10) * _wander(t, rng, 1.4)], 1)
    return Performance(rotation, translation, _expressions(t, length, gaze, rng), gaze)


def directions(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """ICT's expressions that move skin, both sides of one together: `mouthSmile` -> its left and right."""
    groups: dict[str, tuple[str, ...]] = {}
    for name in names:
        base = name.removesuffix("_L").removesuffix("_R")
        if not base.startswith(("Pupil", "eyeLook", "mouthClose")):
            groups[base] = (*groups.get(base, ()), name)
    return groups


def one_by_one(names: tuple[str, ...], yaw: float, pitch: float, seed: int) -> Performance:
    """Every direction goes up to 1 and back while all others rest, with the head held at `yaw` and `pitch` radians."""
    rng = np.random.default_rng(seed)
    groups = directions(names)
    frames = _PER_DIRECTION * (len(groups) + 1)
    t = np.arange(frames) / FPS
    sway = [np.radians(2.0) * _wander(t, rng, period) for period in (4.2, 2.9, 3.6)]
    rotation = euler(yaw + sway[0], pitch + sway[1], sway[2])
    rise = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_PER_DIRECTION) / _PER_DIRECTION)
    weights = {}
    for k, group in enumerate(groups.values(), 1):
        curve = np.zeros(frames)
        curve[k * _PER_DIRECTION : (k + 1) * _PER_DIRECTION] = rise
        weights |= dict.fromkeys(group, curve)
    return Performance(rotation, PIVOT - rotation @ PIVOT, weights, np.zeros((frames, 2)))


def _expressions(t: np.ndarray, length: float, gaze: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    smile = np.clip(0.85 * _bumps(t, length, rng, count=3, width=0.40), 0, 0.9)
    lean = 0.20 * _wander(t, rng, 3.3)  # one corner more than the other
    unsmiling = np.clip(1 - 1.5 * smile, 0, 1)  # lips do not round while they are drawn wide
    out = {
        "mouthSmile_L": np.clip(smile * (1 + lean), 0, 1),
        "mouthSmile_R": np.clip(smile * (1 - lean), 0, 1),
        "cheekRaiser_L": 0.5 * smile,
        "cheekRaiser_R": 0.5 * smile,
        "jawOpen": _speech(t, length, rng),
        "mouthPucker": 0.6 * _bumps(t, length, rng, count=3, width=0.16) * unsmiling,
        "mouthFunnel": 0.6 * _bumps(t, length, rng, count=3, width=0.16) * unsmiling,
        "browInnerUp_L": (brow := 0.9 * _bumps(t, length, rng, count=3, width=0.30)),
        "browInnerUp_R": brow,
        "browOuterUp_L": 0.7 * brow,
        "browOuterUp_R": 0.7 * brow,
        "browDown_L": (frown := 0.7 * _bumps(t, length, rng, count=2, width=0.30) * (1 - brow)),
        "browDown_R": frown,
    }
    blink = _blinks(t, length, rng)
    looks = {"Out_L": gaze[:, 0], "In_L": -gaze[:, 0], "In_R": gaze[:, 0], "Out_R": -gaze[:, 0]}
    looks |= {f"{way}_{side}": s * gaze[:, 1] for side in "LR" for way, s in (("Up", 1), ("Down", -1))}
    for side in "LR":
        out[f"eyeBlink_{side}"] = blink
    for name, angle in looks.items():
        out[f"eyeLook{name}"] = np.clip(angle / LOOK, 0, 1) * (1 - blink)
    return out


def _wander(t: np.ndarray, rng: np.random.Generator, period: float) -> np.ndarray:
    """A smooth curve that reaches -1 and 1: two sines about `period` seconds long."""
    a, b = rng.uniform(0, 2 * np.pi, 2)
    curve = np.sin(2 * np.pi * t / period + a) + 0.35 * np.sin(2 * np.pi * t / (0.61 * period) + b)
    return 2 * (curve - curve.min()) / (curve.max() - curve.min()) - 1


def _bumps(t: np.ndarray, length: float, rng: np.random.Generator, count: int, width: float) -> np.ndarray:
    """`count` soft bumps up to 1, one somewhere in each part of the clip; `width` is their standard deviation in s."""
    centres = (np.arange(count) + rng.uniform(0.25, 0.75, count)) * length / count
    heights = np.r_[1.0, rng.uniform(0.5, 1.0, count - 1)]
    return (rng.permutation(heights) * np.exp(-0.5 * ((t[:, None] - centres) / width) ** 2)).max(1)


def _speech(t: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """A jaw that speaks, about four syllables a second, rests now and then, and opens wide once: 0..0.8."""
    syllables = np.zeros_like(t)
    at = 0.2
    while at < length:
        syllables = np.maximum(syllables, rng.uniform(0.12, 0.42) * np.exp(-0.5 * ((t - at) / 0.065) ** 2))
        at += rng.uniform(0.18, 0.32) + (0.35 if rng.random() < 0.2 else 0)
    wide = 0.8 * np.exp(-0.5 * ((t - rng.uniform(0.3, 0.7) * length) / 0.16) ** 2)
    return np.maximum(syllables, wide)


def _blinks(t: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Blinks: eyelids close in 80 ms, stay closed for 80 ms and open in 120 ms, about every second."""
    out = np.zeros_like(t)
    at = rng.uniform(0.3, 0.7)
    while at < length:
        fall, rise = np.clip((t - at) / 0.08, 0, 1), np.clip((t - at - 0.16) / 0.12, 0, 1)
        out = np.maximum(out, fall * fall * (3 - 2 * fall) - rise * rise * (3 - 2 * rise))
        at += rng.uniform(0.8, 1.5)
    return out
