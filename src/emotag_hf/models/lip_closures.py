"""Lip closures: lips close for p, b and m under any emotion, and where no sound comes (not in the paper).

In: GRMN's motion, its Base part, the logits of the viseme head. Out: the motion with lips closed, or
shut.
"""

from __future__ import annotations

import torch

from ..constants import EXPRESSION_NAMES

# Classes of the training-only viseme head.
VISEMES = (
    "sil", "pp", "ff", "th", "dd", "ll", "ss", "sh", "kk", "rr", "uu", "oo", "oh", "aa", "eh", "ee", "schwa",
)  # fmt: skip
# Directions that open the lips (and mouthClose, which belongs to the jaw), and those by which speech presses them
# together.
_LIP_OPENING = (
    "mouthFunnel", "mouthLowerDown_L", "mouthLowerDown_R", "mouthUpperUp_L", "mouthUpperUp_R", "mouthClose",
)  # fmt: skip
_LIP_PRESS = ("mouthPress_L", "mouthPress_R")
# Range of the probability of p, b, m over which the Base's part of an opening goes, and the emotional part; the latter
# is lower, so that p closes in surprise as well. As often as real lips are shut on p, b and m (docs/pretraining.md).
_HEARD, _GUESSED = (0.15, 0.3), (0.1, 0.2)
_FIRM = 0.4  # coefficient of lips that are pressed together
_SPOKEN = ("mouth", "jaw", "tongue")  # directions that speech moves
_PRESSING = [EXPRESSION_NAMES.index(name) for name in _LIP_PRESS]
_PARTING = [*(EXPRESSION_NAMES.index(name) for name in _LIP_OPENING), len(EXPRESSION_NAMES)]  # and the jaw


def close_lips(motion: torch.Tensor, base: torch.Tensor, viseme_logits: torch.Tensor) -> torch.Tensor:
    """Removes from `motion` what opens the lips where p, b or m is spoken, and presses them together.

    Where that is, the viseme head decides. Difference from the paper: an uncertain regression leaves the lips slightly
    open, and an emotion that drops the jaw would leave them open. The Residual's part is removed at lower thresholds
    than the Base's.

    Args:
        motion, base: `[..., 53 or more]`, expression and jaw first: the whole motion, and its Base part.
        viseme_logits: `[..., 17]` in the order of `VISEMES`.
    """
    heard = viseme_logits.softmax(-1)[..., VISEMES.index("pp"), None]
    apart = 1 - _ramp(heard, *_HEARD)
    free = 1 - _ramp(heard, *_GUESSED)
    motion = torch.where(parting(motion.shape[-1]).to(motion.device), base * apart + (motion - base) * free, motion)
    # Landmarks do not show how firmly lips are pressed, so that it cannot be learned from tracks.
    firm = torch.zeros_like(motion)
    firm[..., _PRESSING] = _FIRM * _ramp(heard, *_HEARD)
    return torch.where(firm > 0, torch.maximum(motion, firm), motion)


def rest_lips(motion: torch.Tensor, base: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`motion` with the lips shut as far as `weight` says.

    The head's lips touch where no direction moves them. So the mouth of the Base is taken away, and of the rest (an
    emotion, action units) what parts the lips; a smile stays a smile.

    Args:
        motion, base: `[..., 53 or more]`, expression and jaw first: the whole motion, and its Base part.
        weight: `[..., 1]`: 0 changes nothing, 1 shuts the lips.
    """
    mouth, parted = (mask(motion.shape[-1]).to(motion.device) for mask in (spoken, parting))
    return motion - weight.to(motion) * (base * mouth + (motion - base) * parted)


def spoken(dim: int) -> torch.Tensor:
    """`[dim]` bool: which coefficients of a motion (expression and jaw first) speech moves."""
    mask = torch.ones(dim, dtype=torch.bool)
    mask[: len(EXPRESSION_NAMES)] = torch.tensor([name.startswith(_SPOKEN) for name in EXPRESSION_NAMES])
    return mask


def parting(dim: int) -> torch.Tensor:
    """`[dim]` bool: which coefficients of a motion (expression and jaw first) open the lips."""
    mask = torch.zeros(dim, dtype=torch.bool)
    mask[_PARTING] = True
    return mask


def _ramp(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """0 below `low`, 1 above `high`, linear between."""
    return ((values - low) / (high - low)).clamp(0, 1)


__all__ = ["VISEMES", "close_lips", "parting", "rest_lips", "spoken"]
