"""Detects speech, beginnings and ends of phrases, and stressed syllables from the loudness (METHOD 6).

In: loudness, 25 values per second. Out: the state of `SpeechListener` after each value.
"""

from __future__ import annotations

import math

from ..constants import MOTION_FPS

STEP = 1 / MOTION_FPS  # seconds
PAUSE = 0.06  # loudness below which it is a pause


class SpeechListener:
    """Detects speech, phrases and stress from the loudness, step by step.

    Attributes:
        activity: 0 in silence to 1 in speech; rises within 0.15 s, falls within a second or two.
        drive: strength of head beats, 0 in silence to about 1: half activity, half loudness.
        speaking: whether this step is loud; onset, end, stressed: whether a phrase begins or ends, or a syllable is
            stressed, at this step.
    """

    def __init__(self):
        self.activity = self.drive = 0.0
        self.speaking = self.onset = self.end = self.stressed = False
        self._fast = self._slow = 0.0
        self._quiet, self._talk, self._since_stress = 1.0, 0.0, 1.0

    def hear(self, loudness: float) -> None:
        """Processes one step of 40 ms."""
        speaking = loudness > PAUSE
        self.onset = speaking and self._quiet >= 0.24
        self._quiet = 0.0 if speaking else self._quiet + STEP
        # A phrase ends after a sixth of a second of silence.
        self.end = self._talk > 0.4 and 0.14 <= self._quiet < 0.14 + STEP
        self._talk = 0.0 if self.onset or self.end else self._talk + STEP * speaking
        self.speaking = speaking
        self.activity += (speaking - self.activity) * _rate(0.15 if speaking else 1.2)
        self.drive += (0.45 * self.activity + 1.3 * self._fast - self.drive) * _rate(0.16)
        self._fast += (loudness - self._fast) * _rate(0.06)
        self._slow += (loudness - self._slow) * _rate(1.0)
        self._since_stress += STEP
        self.stressed = self._fast - self._slow > 0.14 and self._since_stress > 0.36
        if self.stressed:
            self._since_stress = 0.0


def _rate(seconds: float) -> float:
    """Coefficient of a first-order filter for one step."""
    return 1 - math.exp(-STEP / seconds)


__all__ = ["PAUSE", "STEP", "SpeechListener"]
