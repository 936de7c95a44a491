"""Loudness of speech over time, which controls generated motion; causal, for recordings and streams.

In: samples. Out: levels in [0, 1], 100 or 25 per second, bit-identical for any chunk sizes.
"""

from __future__ import annotations

import numpy as np

from ..constants import MOTION_FPS


class LevelStream:
    """Loudness of speech, 100 values per second in [0, 1]: energy relative to its running peak, causal.

    Args:
        sampling_rate: Hz.
    """

    def __init__(self, sampling_rate: int):
        self._hop = sampling_rate // 100
        self._waiting = np.zeros(0, np.float32)
        self._peak = 0.05
        self._last = np.zeros(4)  # for smoothing the level over 50 ms

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Takes the next `[n]` samples in [-1, 1]; returns the values that are complete now."""
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
        # Summed one after the other, so that rounding does not depend on the chunks.
        return (level[4:] + level[3:-1] + level[2:-2] + level[1:-3] + level[:-4]) / 5


class LoudnessStream:
    """The loudness for `MotionGenerator.hear`, 25 values per second, of a stream of sound; bit-identical to
    `loudness_from_samples` at k / 25 seconds.

    Args:
        sampling_rate: Hz.
    """

    def __init__(self, sampling_rate: int):
        self._levels = LevelStream(sampling_rate)
        self._known = np.zeros(0)
        self._first = self._given = 0  # the index of the first known level; values given
        self._held = 0.0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Takes the next `[n]` samples in [-1, 1]; returns the values that are complete now."""
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
        """Ends the sound: repeats the last level, up to `count` values in all."""
        missing = max(0, count - self._given)
        self._given += missing
        return np.full(missing, self._held)


def loudness_from_samples(samples: np.ndarray, sampling_rate: int, times: np.ndarray) -> np.ndarray:
    """Loudness of speech at each frame, `[T]` in [0, 1]: energy relative to its running peak, causal.

    Args:
        samples: `[n]` mono in [-1, 1]. times: `[T]` seconds.
    """
    levels = LevelStream(sampling_rate).push(samples)
    levels = levels if len(levels) else np.zeros(1)
    return levels[np.clip((np.asarray(times) * 100).astype(int), 0, len(levels) - 1)]


__all__ = ["LevelStream", "LoudnessStream", "loudness_from_samples"]
