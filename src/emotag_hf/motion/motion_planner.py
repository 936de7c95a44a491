"""Plans head turns, nods, blinks and gaze from the loudness, step by step (METHOD 6).

In: loudness, 25 values per second. Out: curves over time, one per part (head_turns.py, blinks_gaze_brows.py), which
motion_generator.py turns into motion.

Causal, with a seeded random generator per part: later loudness does not change earlier motion, and switching one part
off does not change the others.
"""

from __future__ import annotations

import numpy as np

from .blinks_gaze_brows import Blinks, BrowRaises, Gaze
from .head_turns import HeadTurns, Nods
from .speech_listener import STEP, SpeechListener

_PARTS = ("posture", "nods", "gaze", "brows", "blinks")


class MotionPlanner:
    """Plans all parts; `hear` takes the loudness of one step after another.

    Args:
        seed: an integer, 0 or more.
        blink_rate: factor on the frequency of blinks; 0 for none.

    Attributes:
        posture, nods, gaze, brows, blinks: the curves so far.
        drive: of every step except the `forgotten` first ones; steps: number of steps so far.
    """

    def __init__(self, seed: int, blink_rate: float = 1.0):
        rng = {name: np.random.default_rng([seed, salt]) for salt, name in enumerate(_PARTS, 101)}
        self.posture, self.nods = HeadTurns(rng["posture"]), Nods(rng["nods"])
        self.gaze, self.brows = Gaze(rng["gaze"]), BrowRaises(rng["brows"])
        self.blinks = Blinks(rng["blinks"], blink_rate)
        self.drive: list[float] = []
        self.forgotten = 0
        self._listener = SpeechListener()

    @property
    def steps(self) -> int:
        return self.forgotten + len(self.drive)

    def forget(self, before: float) -> None:
        """Drops state that is only needed for times before `before`."""
        for part in (self.posture, self.gaze, self.nods, self.brows, self.blinks):
            part.forget(before)
        old = min(max(int(before / STEP) - 1 - self.forgotten, 0), max(len(self.drive) - 1, 0))
        del self.drive[:old]
        self.forgotten += old

    def close(self, period: float, laps: int) -> None:
        """Makes what was planned within the first `period` seconds repeat, until the end of lap `laps`."""
        for part in (self.posture, self.gaze, self.nods, self.brows, self.blinks):
            part.close(period, laps)

    def hear(self, loudness: float) -> None:
        """Plans what begins at this step."""
        heard, t = self._listener, self.steps * STEP
        heard.hear(loudness)
        turned = self.posture.plan(t, heard)
        looked = self.gaze.plan(t, heard)
        self.nods.plan(t, heard)
        self.brows.plan(t, heard)
        self.blinks.plan(t, heard, turned, looked)
        self.drive.append(heard.drive)


__all__ = ["MotionPlanner"]
