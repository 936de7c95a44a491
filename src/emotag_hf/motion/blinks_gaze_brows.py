"""Generated blinks, gaze and brow raises (METHOD 6).

In: the state of speech at each step, and the head's motion. Out: curves of eyelid closure, of gaze in degrees, of brow
raises. The parameters were tuned until benchmarks/bench_generated_motion.py measured the statistics of real clips; see
docs/motion.md.
"""

from __future__ import annotations

import math

import numpy as np

from .motion_curves import Moves, Pulses
from .speech_listener import STEP, SpeechListener

_STARE = 8.0  # seconds; in silence the eyes are not open for longer


class Blinks(Pulses):
    """Eyelid closure: blinks, more often in pauses, at the ends of phrases, and with turns of head and gaze.

    Args:
        rate: factor on the frequency; 0 for none.
    """

    def __init__(self, rng: np.random.Generator, rate: float = 1.0):
        super().__init__()
        self._rng, self._rate = rng, rate
        self._again = 0.0

    def plan(self, t: float, heard: SpeechListener, turned: float, looked: float) -> None:
        """Plans the step at `t` seconds, in which the head turns by `turned` and the gaze by `looked` degrees."""
        rng = self._rng
        draw, late = rng.random(), rng.random() * STEP
        since = t - self.ends
        if since < 0.1 or not self._rate:
            return
        again = self._again and self._again <= t
        chance = (0.21 if heard.speaking else 0.16 + 0.18 * heard.activity) * STEP * min(since / 1.0, 1.5)
        if heard.end:
            chance += 0.2
        if looked > 5 or turned > 3:
            chance += 0.25
        stare = 0.0 if heard.speaking else max(0.0, since * self._rate - _STARE / 2)
        chance += 0.5 * stare * STEP
        if again or stare > _STARE / 2 or draw < chance * self._rate:
            pace = float(np.clip(math.exp(0.18 * rng.normal()), 0.75, 1.5))
            # Down in two frames, open again to a quarter as soon, and the rest of the way slowly.
            self.add(t + late, 0.055 * pace, 0.042, 0.1 * pace, 0.75)
            self.add(t + late, 0.055 * pace, 0.042, 0.3 * pace, 0.25)
            twice = not again and rng.random() < 0.16
            self._again = self.ends + rng.uniform(0.1, 0.3) if twice else 0.0


class Gaze(Moves):
    """Gaze relative to the viewer, in degrees of pitch and yaw: mostly at them, with small saccades; away now and then,
    more often in pauses."""

    def __init__(self, rng: np.random.Generator):
        super().__init__(2)
        self._rng = rng
        self._next = 0.3 + rng.exponential(0.5)

    def plan(self, t: float, heard: SpeechListener) -> float:
        """Plans the step at `t` seconds; returns the size of a saccade that begins now, in degrees."""
        if t < self._next:
            return 0.0
        rng = self._rng
        away = rng.random() < 0.1 + 0.14 * heard.activity
        target = np.clip(rng.normal(size=2) * ((2.4, 4.8) if away else (1.1, 1.8)), (-6, -9), (6, 9))
        angle = float(np.hypot(*(target - self.now)))
        self.add(t, 0.03 + 0.0025 * angle, target)  # the main sequence of saccades: about 30 ms + 2.5 ms a degree
        calm = 1.6 - 0.6 * heard.activity
        self._next = t + max(0.16, 0.38 * calm * math.exp(0.65 * rng.normal()))
        return angle


class BrowRaises(Pulses):
    """Brow raises at stressed syllables and at the beginning of phrases."""

    def __init__(self, rng: np.random.Generator):
        super().__init__()
        self._rng = rng

    def plan(self, t: float, heard: SpeechListener) -> None:
        """Plans the step at `t` seconds."""
        rng = self._rng
        draw = rng.random()
        chance = 0.3 if heard.stressed else 0.35 if heard.onset else 0.02 * STEP
        if draw < chance and t > self.ends + 0.3:
            size = min(0.27 * math.exp(0.5 * rng.normal()), 0.8)
            self.add(t, rng.uniform(0.16, 0.28), rng.uniform(0.1, 0.8), rng.uniform(0.3, 0.5), size)


__all__ = ["Blinks", "BrowRaises", "Gaze"]
