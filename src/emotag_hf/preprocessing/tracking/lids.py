"""What MediaPipe's lids really mean: closures that reach 1 when the eyes are shut, alike on both sides.

In: fitted closures. Out: closures to animate with. Three faults of the landmarks are known from real clips (35 people):
the lids of a shut eye stay about a third of the way open, one eye of everybody sits a tenth more closed than the other,
and in a blink one side lags behind.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SHUT = 0.65  # of the way from a person's open eyes to 1: where the landmarks stop when the lids meet (median 0.68)
_OPEN_QUANTILE = 0.3  # a blink or a look down takes less of a clip than this
_WINK = (0.35, 0.65)  # below, a difference between the sides is noise; above, it is a wink


def settle_lids(closure: Tensor, reliable: Tensor) -> Tensor:
    """Corrects fitted closures.

    Args:
        closure: `[T, 2]` left and right, about 0 open to 1 shut.
        reliable: `[T]` bool, frames that say how open the eyes usually are.

    Returns:
        `[T, 2]` in [0, 1].
    """
    usual = closure[reliable] if bool(reliable.any()) else closure
    base = usual.quantile(_OPEN_QUANTILE, dim=0)
    closure = closure - base + base.mean()
    base = base.mean().clamp(0, 0.8)
    shut = base + (closure - base) / _SHUT
    closure = torch.where(closure > base, shut, closure).clamp(0, 1)
    most = closure.max(1, keepdim=True).values
    apart = most - closure
    low, high = _WINK
    return most - apart * (0.3 + 0.7 * ((apart - low) / (high - low)).clamp(0, 1))


__all__ = ["settle_lids"]
