"""Curves of planned movements: a value that moves and stays (`Moves`), or rises and falls back (`Pulses`).

In: start, target and duration of each movement. Out: values at any times, which later movements do not change.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

LONGEST = 4.0  # seconds; no pulse lasts longer


def ease(x: np.ndarray) -> np.ndarray:
    """Minimum-jerk step from 0 at x <= 0 to 1 at x >= 1 (Flash and Hogan 1985)."""
    x = np.minimum(np.maximum(x, 0.0), 1.0)
    return x * x * x * (10 + x * (6 * x - 15))


class Moves:
    """A value of `size` numbers that moves from rest to rest; moves do not overlap."""

    def __init__(self, size: int):
        self.size, self.starts, self.rows = size, [], []
        self.now = np.zeros(size)
        self.ends = 0.0

    def add(self, start: float, duration: float, target: np.ndarray) -> None:
        """Adds a move to `target [size]`, from `start` on, within `duration` seconds."""
        self.starts.append(start)
        self.rows.append(np.concatenate([[start, duration], self.now, target]))
        self.now, self.ends = target, start + duration

    def at(self, times: np.ndarray) -> list[np.ndarray]:
        """The value at increasing `times [T]`: `size` arrays `[T]`."""
        first = max(bisect_right(self.starts, times[0]) - 1, 0)
        last = bisect_right(self.starts, times[-1])
        if last == 0:
            return [np.zeros(len(times)) for _ in range(self.size)]
        table = np.array(self.rows[first:last])
        row = table[np.maximum(np.searchsorted(table[:, 0], times, "right") - 1, 0)]
        done = ease((times - row[:, 0]) / row[:, 1])
        return [row[:, 2 + i] + done * (row[:, 2 + self.size + i] - row[:, 2 + i]) for i in range(self.size)]

    def close(self, period: float, laps: int) -> None:
        """Makes the moves within the first `period` seconds repeat until the end of lap `laps`: the first one begins
        where the last one ends."""
        first = self.starts[0] if self.starts else 0.0
        rows = [row for row in self.rows if row[0] + row[1] <= period + first]
        if rows:
            rows[0] = np.concatenate([rows[0][:2], rows[-1][2 + self.size :], rows[0][2 + self.size :]])
        self.rows = [np.concatenate([[row[0] + lap * period], row[1:]]) for lap in range(laps + 1) for row in rows]
        self.starts = [float(row[0]) for row in self.rows]

    def forget(self, before: float) -> None:
        """Drops the moves that no longer matter from `before` on."""
        old = bisect_right(self.starts, before) - 1
        if old > 0:
            del self.starts[:old], self.rows[:old]


class Pulses:
    """A value that rises from 0, holds and falls back; overlapping pulses add up."""

    def __init__(self):
        self.starts, self.rows = [], []
        self.ends = 0.0

    def add(self, start: float, rise: float, hold: float, fall: float, size: float) -> None:
        """Adds a pulse: up to `size` within `rise` seconds from `start`, constant for `hold`, back within `fall`."""
        self.starts.append(start)
        self.rows.append((start, rise, hold, fall, size))
        self.ends = start + rise + hold + fall

    def at(self, times: np.ndarray) -> np.ndarray:
        """The value at increasing `times [T]`: `[T]`."""
        total = np.zeros(len(times))
        first = bisect_right(self.starts, times[0] - LONGEST)
        for start, rise, hold, fall, size in self.rows[first : bisect_right(self.starts, times[-1])]:
            lo, hi = np.searchsorted(times, (start, start + rise + hold + fall))
            t = times[lo:hi] - start
            total[lo:hi] += size * (ease(t / rise) - ease((t - rise - hold) / fall))
        return total

    def close(self, period: float, laps: int) -> None:
        """Makes the pulses that begin within the first `period` seconds repeat until the end of lap `laps`."""
        rows = [row for row in self.rows if row[0] < period]
        self.rows = [(row[0] + lap * period, *row[1:]) for lap in range(laps + 1) for row in rows]
        self.starts = [row[0] for row in self.rows]

    def forget(self, before: float) -> None:
        """Drops the pulses that are over at `before`."""
        old = bisect_right(self.starts, before - LONGEST)
        del self.starts[:old], self.rows[:old]


__all__ = ["LONGEST", "Moves", "Pulses", "ease"]
