"""Corrects systematic errors of MediaPipe's lid landmarks: closures reach 1 in shut eyes, equally on both sides.

In: fitted closures. Out: corrected closures. Real clips (35 people) show three systematic errors of the landmarks:
in shut eyes a third of the distance between the lids remains, one eye is constantly about 0.1 more closed than the
other, and in a blink one side lags behind.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SHUT_CLOSURE = 0.65  # measured closure of shut eyes, from 0 for the person's open eyes to 1 (median 0.68)
_OPEN_QUANTILE = 0.3  # quantile of the closure that counts as the person's open eye; blinks lie above it
_WINK_RANGE = (0.35, 0.65)  # difference between the sides: noise below the first value, a wink above the second


def settle_lids(closure: Tensor, reliable: Tensor) -> Tensor:
    """Corrects fitted closures.

    Args:
        closure: `[T, 2]` left and right, about 0 open to 1 shut.
        reliable: `[T]` bool, frames from which the person's open eyes are estimated.

    Returns:
        `[T, 2]` in [0, 1].
    """
    usual = closure[reliable] if bool(reliable.any()) else closure
    base = usual.quantile(_OPEN_QUANTILE, dim=0)
    closure = closure - base + base.mean()
    base = base.mean().clamp(0, 0.8)
    shut = base + (closure - base) / _SHUT_CLOSURE
    closure = torch.where(closure > base, shut, closure).clamp(0, 1)
    most = closure.max(1, keepdim=True).values
    apart = most - closure
    low, high = _WINK_RANGE
    return most - apart * (0.3 + 0.7 * ((apart - low) / (high - low)).clamp(0, 1))


__all__ = ["settle_lids"]
