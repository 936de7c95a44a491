"""Where lips are shut: p, b and m, whatever the emotion (not in the paper, which has no such coupling).

In: motion of GRMN, its Base, the logits of the viseme head. Out: the motion with the lips together where they must be.
"""

from __future__ import annotations

import torch

from ..constants import EXPRESSION_NAMES

# Classes of the training-only viseme head.
VISEMES = (
    "sil", "pp", "ff", "th", "dd", "ll", "ss", "sh", "kk", "rr", "uu", "oo", "oh", "aa", "eh", "ee", "schwa",
)  # fmt: skip
# Directions that part the lips (and mouthClose, which belongs to the jaw), and those by which speech presses them shut.
_LIP_OPENING = (
    "mouthFunnel", "mouthLowerDown_L", "mouthLowerDown_R", "mouthUpperUp_L", "mouthUpperUp_R", "mouthClose",
)  # fmt: skip
_LIP_PRESS = ("mouthPress_L", "mouthPress_R")
_PRESS = (0.2, 0.45)  # coefficients between which the lips come together,
_RELEASE = (0.1, 0.3)  # and between which an emotion lets go of them: before that, or a p would not close in surprise
_HEARD = (0.14, 0.31)  # the same for the probability of p, b, m that the viseme head hears,
_GUESSED = (0.1, 0.25)  # and before
_FIRM = 0.4  # coefficient of lips that are pressed together for certain
_PRESSING = [EXPRESSION_NAMES.index(name) for name in _LIP_PRESS]
_PARTING = [*(EXPRESSION_NAMES.index(name) for name in _LIP_OPENING), len(EXPRESSION_NAMES)]  # and the jaw's opening


def close_lips(motion: torch.Tensor, base: torch.Tensor, viseme_logits: torch.Tensor) -> torch.Tensor:
    """Takes everything that parts the lips out of `motion` where p, b or m is spoken, and presses them together.

    Said by the viseme head or by the Base that presses lips together. Difference from the paper: a regression that is
    unsure of a p leaves the lips ajar, and an emotion that drops the jaw would leave them open. What is not the Base's
    lets go of the lips sooner.

    Args:
        motion, base: `[..., 53 or more]`, expression and jaw first; the whole motion, and the Base's part of it.
        viseme_logits: `[..., 17]` in the order of `VISEMES`.
    """
    press = base[..., _PRESSING].mean(-1, keepdim=True)
    heard = viseme_logits.softmax(-1)[..., VISEMES.index("pp"), None]
    apart = (1 - _ramp(press, *_PRESS)) * (1 - _ramp(heard, *_HEARD))
    free = (1 - _ramp(press, *_RELEASE)) * (1 - _ramp(heard, *_GUESSED))
    motion = torch.where(parting(motion.shape[-1]).to(motion.device), base * apart + (motion - base) * free, motion)
    # Landmarks do not show how firmly lips meet, so that people do not teach it.
    firm = torch.zeros_like(motion)
    firm[..., _PRESSING] = _FIRM * _ramp(heard, *_HEARD)
    return torch.where(firm > 0, torch.maximum(motion, firm), motion)


def parting(dim: int) -> torch.Tensor:
    """`[dim]` bool: what of a motion, expression and jaw first, parts the lips."""
    mask = torch.zeros(dim, dtype=torch.bool)
    mask[_PARTING] = True
    return mask


def _ramp(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """0 below `low`, 1 above `high`, straight between."""
    return ((values - low) / (high - low)).clamp(0, 1)


__all__ = ["VISEMES", "close_lips", "parting"]
