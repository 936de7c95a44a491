"""When the head turns, nods, blinks and looks elsewhere: decisions taken from the loudness, step by step (METHOD 6).

In: how loud the speech is, 25 values a second, as they come. Out: `Moves` (a value goes to another and stays) and
`Pulses` (a value rises and comes back), which are functions of time; motion_generator.py makes motion of them.

Nothing looks ahead, and every part draws from a seeded generator of its own: what has been decided never changes with
what comes later, and switching one part off leaves the others as they were. The numbers are those that make
benchmarks/bench_generated_motion.py find what it finds in real clips; see docs/motion.md.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np

from .constants import MOTION_FPS

STEP = 1 / MOTION_FPS
PAUSE = 0.06  # loudness below which nobody speaks
_LONGEST = 4.0  # seconds; no pulse lasts longer


def ease(x: np.ndarray) -> np.ndarray:
    """From 0 at x <= 0 to 1 at x >= 1, at rest at both ends in speed and acceleration: how people reach (Flash and
    Hogan 1985, minimum jerk)."""
    x = np.minimum(np.maximum(x, 0.0), 1.0)
    return x * x * x * (10 + x * (6 * x - 15))


class Moves:
    """A value of `size` numbers that goes from rest to rest; a move begins after the one before has ended."""

    def __init__(self, size: int):
        self.size, self.starts, self.rows = size, [], []
        self.now = np.zeros(size)
        self.ends = 0.0

    def add(self, start: float, duration: float, target: np.ndarray) -> None:
        """Goes to `target [size]` from `start` on, within `duration` seconds."""
        self.starts.append(start)
        self.rows.append(np.concatenate([[start, duration], self.now, target]))
        self.now, self.ends = target, start + duration

    def at(self, times: np.ndarray) -> list[np.ndarray]:
        """The value at `times [T]`, rising: `size` arrays `[T]`."""
        first = max(bisect_right(self.starts, times[0]) - 1, 0)
        last = bisect_right(self.starts, times[-1])
        if last == 0:
            return [np.zeros(len(times)) for _ in range(self.size)]
        table = np.array(self.rows[first:last])
        row = table[np.maximum(np.searchsorted(table[:, 0], times, "right") - 1, 0)]
        done = ease((times - row[:, 0]) / row[:, 1])
        return [row[:, 2 + i] + done * (row[:, 2 + self.size + i] - row[:, 2 + i]) for i in range(self.size)]

    def forget(self, before: float) -> None:
        """Drops the moves that no longer matter from `before` on."""
        old = bisect_right(self.starts, before) - 1
        if old > 0:
            del self.starts[:old], self.rows[:old]


class Pulses:
    """A value that rises from 0, stays a while and falls back, again and again; pulses that overlap add up."""

    def __init__(self):
        self.starts, self.rows = [], []
        self.ends = 0.0

    def add(self, start: float, rise: float, hold: float, fall: float, size: float) -> None:
        """Up to `size` within `rise` seconds from `start`, there for `hold`, back within `fall`."""
        self.starts.append(start)
        self.rows.append((start, rise, hold, fall, size))
        self.ends = start + rise + hold + fall

    def at(self, times: np.ndarray) -> np.ndarray:
        """The value at `times [T]`, rising: `[T]`."""
        total = np.zeros(len(times))
        first = bisect_right(self.starts, times[0] - _LONGEST)
        for start, rise, hold, fall, size in self.rows[first : bisect_right(self.starts, times[-1])]:
            lo, hi = np.searchsorted(times, (start, start + rise + hold + fall))
            t = times[lo:hi] - start
            total[lo:hi] += size * (ease(t / rise) - ease((t - rise - hold) / fall))
        return total

    def forget(self, before: float) -> None:
        """Drops the pulses that are over at `before`."""
        old = bisect_right(self.starts, before - _LONGEST)
        del self.starts[:old], self.rows[:old]


class SpeechListener:
    """What the loudness says, step by step: whether someone speaks, where phrases begin and end, what is stressed.

    Attributes:
        activity: 0 in silence to 1 in speech; rises within 0.15 s, falls within a second or two.
        drive: how strongly the head beats along, 0 in silence to about 1: half the activity, half the loudness.
        speaking: whether this step is loud; onset, end, stressed: whether a phrase began or ended, a syllable stood
            out, at this very step.
    """

    def __init__(self):
        self.activity = self.drive = 0.0
        self.speaking = self.onset = self.end = self.stressed = False
        self._fast = self._slow = 0.0
        self._quiet, self._talk, self._since_stress = 1.0, 0.0, 1.0

    def hear(self, loudness: float) -> None:
        """One step of 40 ms."""
        speaking = loudness > PAUSE
        self.onset = speaking and self._quiet >= 0.24
        self._quiet = 0.0 if speaking else self._quiet + STEP
        # A phrase ends at the sixth of a second of quiet that follows it.
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


class MotionPlanner:
    """The decisions of all parts; `hear` takes the loudness of one step after another.

    Args:
        seed: an integer, 0 or more.
        blink_rate: a factor on how often; 0 for never.

    Attributes:
        posture: degrees of pitch (+ down), yaw and roll. gaze: degrees of pitch and yaw against the viewer.
        nods: degrees of pitch. blinks: closure. brows: raise.
        drive: of every step heard but the `forgotten` first ones; steps: how many were heard.
    """

    def __init__(self, seed: int, blink_rate: float = 1.0):
        self.posture, self.gaze = Moves(3), Moves(2)
        self.nods, self.brows, self.blinks = Pulses(), Pulses(), Pulses()
        self.drive: list[float] = []
        self.forgotten = 0
        self._listener = SpeechListener()
        self._blink_rate = blink_rate
        self._rng = {name: np.random.default_rng([seed, salt]) for salt, name in enumerate(_PARTS, 101)}
        self._next_gaze = 0.3 + self._rng["gaze"].exponential(0.5)
        self._calm_until = self._blink_again = 0.0

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
        turned = self._plan_posture(t, heard, self._rng["posture"])
        looked = self._plan_gaze(t, heard, self._rng["gaze"])
        self._plan_nods(t, heard, self._rng["nods"])
        self._plan_brows(t, heard, self._rng["brows"])
        self._plan_blinks(t, heard, turned, looked, self._rng["blinks"])
        self.drive.append(heard.drive)

    def _plan_posture(self, t, heard, rng) -> float:
        """A head is held for a while and then turned; more often while it speaks, and where phrases begin and end.
        Returns the size of a turn that begins now, in degrees."""
        draw, size = rng.random(), 0.35 + 0.65 * heard.activity
        chance = (0.2 + 0.78 * heard.activity) * STEP
        if heard.onset or heard.end:
            chance = 0.5
        if draw > chance or t < self._calm_until:
            return 0.0
        lift = -0.7 if heard.onset else 0.7 if heard.end else 0.0  # up to begin with, down when all is said
        spread = rng.standard_t(5, size=3) * (2.9, 2.5, 1.7)  # now and then a big one
        target = np.clip(0.3 * self.posture.now + size * (spread + (lift, 0.0, 0.0)), (-6, -9, -7), (7, 9, 7))
        angle = float(np.linalg.norm(target - self.posture.now))
        duration = (0.22 + 0.027 * angle) * rng.uniform(0.8, 1.5) / (0.6 + 0.4 * heard.activity)
        self.posture.add(t, duration, target)
        self._calm_until = self.posture.ends + rng.uniform(0.05, 0.4)
        return angle

    def _plan_gaze(self, t, heard, rng) -> float:
        """Mostly at the viewer, with small saccades; away now and then, more so while thinking what to say."""
        if t < self._next_gaze:
            return 0.0
        away = rng.random() < 0.1 + 0.14 * heard.activity
        target = np.clip(rng.normal(size=2) * ((2.4, 4.8) if away else (1.1, 1.8)), (-6, -9), (6, 9))
        angle = float(np.hypot(*(target - self.gaze.now)))
        self.gaze.add(t, 0.03 + 0.0025 * angle, target)  # the main sequence of saccades: about 30 ms + 2.5 ms a degree
        calm = 1.6 - 0.6 * heard.activity
        self._next_gaze = t + max(0.16, 0.38 * calm * math.exp(0.65 * rng.normal()))
        return angle

    def _plan_nods(self, t, heard, rng) -> None:
        draw = rng.random()
        if heard.stressed and draw < 0.5 and t > self.nods.ends - 0.2:
            down = 1 if rng.random() < 0.5 else -1  # a lift of the chin stresses as well as a nod
            size = down * 1.5 * math.exp(0.4 * rng.normal())
            self.nods.add(t, rng.uniform(0.15, 0.22), rng.uniform(0, 0.06), rng.uniform(0.28, 0.42), size)

    def _plan_brows(self, t, heard, rng) -> None:
        draw = rng.random()
        chance = 0.3 if heard.stressed else 0.35 if heard.onset else 0.02 * STEP
        if draw < chance and t > self.brows.ends + 0.3:
            size = min(0.15 * math.exp(0.5 * rng.normal()), 0.45)
            self.brows.add(t, rng.uniform(0.16, 0.28), rng.uniform(0.1, 0.8), rng.uniform(0.3, 0.5), size)

    def _plan_blinks(self, t, heard, turned, looked, rng) -> None:
        """More often in pauses and at the ends of phrases, and with turns of the head and the gaze."""
        draw, late = rng.random(), rng.random() * STEP
        since = t - self.blinks.ends
        if since < 0.1 or not self._blink_rate:
            return
        again = self._blink_again and self._blink_again <= t
        chance = (0.21 if heard.speaking else 0.16 + 0.18 * heard.activity) * STEP * min(since / 1.0, 1.5)
        if heard.end:
            chance += 0.2
        if looked > 5 or turned > 3:
            chance += 0.25
        if again or draw < chance * self._blink_rate:
            pace = float(np.clip(math.exp(0.18 * rng.normal()), 0.75, 1.5))
            # Down in two frames, open again to a quarter as soon, and the rest of the way slowly.
            self.blinks.add(t + late, 0.055 * pace, 0.042, 0.1 * pace, 0.75)
            self.blinks.add(t + late, 0.055 * pace, 0.042, 0.3 * pace, 0.25)
            twice = not again and rng.random() < 0.16
            self._blink_again = self.blinks.ends + rng.uniform(0.1, 0.3) if twice else 0.0


_PARTS = ("posture", "nods", "gaze", "brows", "blinks")


def _rate(seconds: float) -> float:
    """How much of the way a first-order filter goes in one step."""
    return 1 - math.exp(-STEP / seconds)


__all__ = ["MotionPlanner", "Moves", "PAUSE", "Pulses", "STEP", "SpeechListener", "ease"]
