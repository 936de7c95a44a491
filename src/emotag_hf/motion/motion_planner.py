"""When the head turns, nods, blinks and looks elsewhere: decisions taken from the loudness, step by step (METHOD 6).

In: how loud the speech is, 25 values a second, as they come. Out: curves over time, one a part (head_turns.py,
blinks_gaze_brows.py), of which motion_generator.py makes motion.

Nothing looks ahead, and every part draws from a seeded generator of its own: what has been decided never changes with
what comes later, and switching one part off leaves the others as they were.
"""

from __future__ import annotations

import numpy as np

from .blinks_gaze_brows import Blinks, BrowRaises, Gaze
from .head_turns import HeadTurns, Nods
from .speech_listener import STEP, SpeechListener

_PARTS = ("posture", "nods", "gaze", "brows", "blinks")


class MotionPlanner:
    """The decisions of all parts; `hear` takes the loudness of one step after another.

    Args:
        seed: an integer, 0 or more.
        blink_rate: a factor on how often; 0 for never.

    Attributes:
        posture, nods, gaze, brows, blinks: the curves so far.
        drive: of every step heard but the `forgotten` first ones; steps: how many were heard.
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
        """Drops what is needed only for times before `before`; what comes does not change by it."""
        for part in (self.posture, self.gaze, self.nods, self.brows, self.blinks):
            part.forget(before)
        old = min(max(int(before / STEP) - 1 - self.forgotten, 0), max(len(self.drive) - 1, 0))
        del self.drive[:old]
        self.forgotten += old

    def hear(self, loudness: float) -> None:
        """Decides what begins at this step."""
        heard, t = self._listener, self.steps * STEP
        heard.hear(loudness)
        turned = self.posture.plan(t, heard)
        looked = self.gaze.plan(t, heard)
        self.nods.plan(t, heard)
        self.brows.plan(t, heard)
        self.blinks.plan(t, heard, turned, looked)
        self.drive.append(heard.drive)


__all__ = ["MotionPlanner"]
