"""Generated head turns and nods (METHOD 6).

In: the state of speech at each step. Out: curves of pitch, yaw and roll in degrees. The parameters were tuned until
benchmarks/bench_generated_motion.py measured the statistics of real clips; see docs/motion.md.
"""

from __future__ import annotations

import math

import numpy as np

from .motion_curves import Moves, Pulses
from .speech_listener import STEP, SpeechListener


class HeadTurns(Moves):
    """Degrees of pitch (+ down), yaw and roll. The head is held for a while and then turned, more often in speech and
    at the beginning and end of phrases."""

    def __init__(self, rng: np.random.Generator):
        super().__init__(3)
        self._rng = rng
        self._calm_until = 0.0

    def plan(self, t: float, heard: SpeechListener) -> float:
        """Plans the step at `t` seconds; returns the size of a turn that begins now, in degrees."""
        rng = self._rng
        draw, size = rng.random(), 0.35 + 0.65 * heard.activity
        chance = (0.2 + 0.78 * heard.activity) * STEP
        if heard.onset or heard.end:
            chance = 0.5
        if draw > chance or t < self._calm_until:
            return 0.0
        lift = -0.7 if heard.onset else 0.7 if heard.end else 0.0  # up at the beginning of a phrase, down at its end
        spread = rng.standard_t(5, size=3) * (2.9, 2.5, 1.7)  # heavy-tailed: some large turns
        target = np.clip(0.3 * self.now + size * (spread + (lift, 0.0, 0.0)), (-6, -9, -7), (7, 9, 7))
        angle = float(np.linalg.norm(target - self.now))
        duration = (0.22 + 0.027 * angle) * rng.uniform(0.8, 1.5) / (0.6 + 0.4 * heard.activity)
        self.add(t, duration, target)
        self._calm_until = self.ends + rng.uniform(0.05, 0.4)
        return angle


class Nods(Pulses):
    """Degrees of pitch: nods and lifts of the chin at stressed syllables."""

    def __init__(self, rng: np.random.Generator):
        super().__init__()
        self._rng = rng

    def plan(self, t: float, heard: SpeechListener) -> None:
        """Plans the step at `t` seconds."""
        rng = self._rng
        draw = rng.random()
        if heard.stressed and draw < 0.5 and t > self.ends - 0.2:
            down = 1 if rng.random() < 0.5 else -1
            size = down * 1.5 * math.exp(0.4 * rng.normal())
            self.add(t, rng.uniform(0.15, 0.22), rng.uniform(0, 0.06), rng.uniform(0.28, 0.42), size)


__all__ = ["HeadTurns", "Nods"]
