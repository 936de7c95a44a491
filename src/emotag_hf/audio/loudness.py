"""How loud speech is over time, which generated motion follows: whole recordings and streams alike, causally.

In: samples. Out: levels in [0, 1], 100 or 25 a second, the same to the bit in any chunks.
"""

from __future__ import annotations

import numpy as np

from ..constants import MOTION_FPS


class LevelStream:
    """How strongly a person speaks, 100 values a second in [0, 1]: energy against its running peak, causally.

    Args:
        sampling_rate: Hz.
    """

    def __init__(self, sampling_rate: int):
        self._hop = sampling_rate // 100
        self._waiting = np.zeros(0, np.float32)
        self._peak = 0.05
        self._last = np.zeros(4)  # the level is smoothed over 50 ms

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The next `[n]` samples in [-1, 1]; gives the values that are now known."""
        samples = np.concatenate([self._waiting, np.asarray(samples)])
        count = len(samples) // self._hop
        self._waiting = samples[count * self._hop :].copy()
        blocks = samples[: count * self._hop].reshape(count, self._hop)
        level = np.empty(count)
        for i, energy in enumerate(np.sqrt(np.mean(blocks**2, -1)).tolist()):
            self._peak = max(energy, self._peak * 0.9985, 1e-4)
            level[i] = min(1.0, energy / self._peak)
        level = np.concatenate([self._last, level])
        self._last = level[count:]
        # One sum after the other: the same bits in any chunks.
        return (level[4:] + level[3:-1] + level[2:-2] + level[1:-3] + level[:-4]) / 5


class LoudnessStream:
    """The loudness that `MotionGenerator.hear` takes, 25 values a second, out of sound as it comes; that of
    `loudness_from_samples` at k / 25 seconds, bit by bit.

    Args:
        sampling_rate: Hz.
    """

    def __init__(self, sampling_rate: int):
        self._levels = LevelStream(sampling_rate)
        self._known = np.zeros(0)
        self._first = self._given = 0  # the index of the first known level; values given
        self._held = 0.0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The next `[n]` samples in [-1, 1]; gives the values that are now known."""
        self._known = np.concatenate([self._known, self._levels.push(samples)])
        out = []
        while (index := int(self._given / MOTION_FPS * 100) - self._first) < len(self._known):
            out.append(self._known[index])
            self._given += 1
        if len(self._known):
            self._held = self._known[-1]
        done = max(0, min(index, len(self._known)))
        self._known, self._first = self._known[done:], self._first + done
        return np.array(out)

    def flush(self, count: int) -> np.ndarray:
        """Ends the sound: the last level again and again, up to `count` values in all."""
        missing = max(0, count - self._given)
        self._given += missing
        return np.full(missing, self._held)


def loudness_from_samples(samples: np.ndarray, sampling_rate: int, times: np.ndarray) -> np.ndarray:
    """How strongly the person speaks at each frame, `[T]` in [0, 1]: energy against its running peak, causally.

    Args:
        samples: `[n]` mono in [-1, 1]. times: `[T]` seconds.
    """
    levels = LevelStream(sampling_rate).push(samples)
    levels = levels if len(levels) else np.zeros(1)
    return levels[np.clip((np.asarray(times) * 100).astype(int), 0, len(levels) - 1)]


__all__ = ["LevelStream", "LoudnessStream", "loudness_from_samples"]
