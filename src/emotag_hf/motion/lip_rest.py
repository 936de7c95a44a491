"""How far the lips rest shut because nobody speaks (not in the paper).

In: whether each frame of the motion network hears speech. Out: a weight for each of them, 0 in speech to 1. The quiet
between words is left alone, so that speech stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_WAIT = 25  # frames without speech after which the lips begin to close: a second
_CLOSING, _OPENING = 10, 2  # frames of closing, and of letting go


class LipRest:
    """The weights of frames at 25 a second, one after another; the same for any chunks.

    Before the first speech the weight is 1. Speech lets go of the lips (the viseme head hears it as early as mouths
    open), and after a second without any they close again.
    """

    def __init__(self) -> None:
        self._open = 0.0  # how far let go
        self._quiet: int | None = None  # frames since the last speech
        self._begun = False

    def weights(self, speech: Iterable[bool]) -> torch.Tensor:
        """The weights of the next frames, `[n, 1]`."""
        return torch.tensor([self._next(heard) for heard in speech], dtype=torch.float32)[:, None]

    def _next(self, speech: bool) -> float:
        if speech:
            self._quiet = 0
        elif self._quiet is not None:
            self._quiet += 1
        still = self._quiet is None or self._quiet > _WAIT
        if self._begun:
            self._open = min(max(self._open + (-1 / _CLOSING if still else 1 / _OPENING), 0.0), 1.0)
        else:
            self._begun, self._open = True, 0.0 if still else 1.0
        return 1 - self._open * self._open * (3 - 2 * self._open)


__all__ = ["LipRest"]
