"""How far the lips rest shut because no sound comes (not in the paper).

In: the feature rows that the motion network hears. Out: a weight for each of its frames, 0 in speech to 1. Exact
silence is rows of zeros (`LogMelStream`); the quiet between words is not, so that speech stays as it is.
"""

from __future__ import annotations

import numpy as np
import torch

_WAIT = 25  # frames of silence after which the lips begin to close: a second
_CLOSING, _OPENING = 10, 3  # frames of closing, and of letting go
MAX_AHEAD = 4  # frames before a sound at which the lips are let go, where the network hears so far ahead


class LipRest:
    """The weight of each frame of the network, 25 a second; the same for any chunks.

    Before the first sound it is 1. A sound lets go of the lips so early that the mouth can open before the sound, as
    it does in speech; after a second of silence they close again.

    Args:
        rows_per_frame: feature rows per frame; None for a front end that hears the recording at once, where silence is
            a recording of zeros and the weight is constant.
        ahead: frames of sound after a frame that its weight depends on, at most `MAX_AHEAD`.
    """

    def __init__(self, rows_per_frame: int | None, ahead: int):
        self._rows, self._ahead = rows_per_frame, min(ahead, MAX_AHEAD)
        self._waiting: list[bool] = []  # of rows that do not fill a frame yet: is there sound?
        self._frames = 0  # heard
        self._open, self._quiet = 0.0, None  # how far let go; frames since the last sound
        self._weights: list[float] = []
        self._first = 0  # the frame of the first weight

    def hear(self, features: torch.Tensor) -> None:
        """The next feature rows `[k, C]`."""
        self._waiting += features.ne(0).any(-1).tolist()
        while self._rows is not None and len(self._waiting) >= self._rows:
            self._hear(any(self._waiting[: self._rows]))
            del self._waiting[: self._rows]

    def end(self, num_frames: int) -> None:
        """Ends the sound; `at` then knows at least `num_frames` frames."""
        if self._rows is not None:
            self._hear(any(self._waiting))
            while self._first + len(self._weights) < num_frames:
                self._hear(False)

    def at(self, first: int, count: int) -> torch.Tensor:
        """The weights of frames from `first` on, `[count, 1]`."""
        if self._rows is None:
            return torch.full((count, 1), 0.0 if any(self._waiting) else 1.0)
        known = self._weights[first - self._first : first - self._first + count]
        return torch.tensor(known, dtype=torch.float32)[:, None]

    def forget(self, before: int) -> None:
        """Drops the weights of frames before `before`."""
        old = max(0, min(before - self._first, len(self._weights)))
        del self._weights[:old]
        self._first += old

    def _hear(self, sound: bool) -> None:
        self._frames += 1
        if sound:
            self._quiet = 0
        elif self._quiet is not None:
            self._quiet += 1
        still = self._quiet is None or self._quiet > self._ahead + _WAIT
        if self._frames <= self._ahead + 1:  # what the first frame hears
            self._open = 0.0 if still else 1.0
        else:
            self._open = float(np.clip(self._open + (-1 / _CLOSING if still else 1 / _OPENING), 0, 1))
        if self._frames > self._ahead:
            x = round(self._open, 6)
            self._weights.append(1 - x * x * (3 - 2 * x))


__all__ = ["MAX_AHEAD", "LipRest"]
