"""How strong generated motion is: head, gaze, blinks, brows, breathing (docs/motion.md).

In: numbers of a caller. Out: checked strengths, 0 to 2 each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MotionStrengths:
    """Strength of each generated part: 0 is off, 1 is typical of people, at most 2.

    Args:
        head: turns, nods and sway of the head.
        gaze: saccades and looking away. 0 keeps the eyes straight in the head; else they stay with the viewer while the
            head turns.
        blinks: frequency, relative to some 27 a minute in speech; the eyelids always close fully.
        brows: raises of the brows.
        breathing: rise and fall of head and body.
    """

    head: float = 1.0
    gaze: float = 1.0
    blinks: float = 1.0
    brows: float = 1.0
    breathing: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _check_strength(field.name, getattr(self, field.name)))

    @classmethod
    def of(cls, value: float | MotionStrengths) -> MotionStrengths:
        """A number scales all parts except blinks; a `MotionStrengths` is returned unchanged."""
        if isinstance(value, cls):
            return value
        value = _check_strength("head_motion", value, " or MotionStrengths")
        return cls(head=value, gaze=value, brows=value, breathing=value)


def _check_strength(name: str, value: Any, also: str = "") -> float:
    number = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 2:  # NaN is not, either
        raise ValueError(f"{name}: expected a number in [0, 2]{also}, got {value!r}; 0 is off, 1 is how people are.")
    return float(value)


def check_articulation(value: float) -> float:
    """`value` as a float in [0.5, 1.5], or a ValueError."""
    number = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
    if not number or not 0.5 <= value <= 1.5:
        raise ValueError(f"articulation: expected a number in [0.5, 1.5], got {value!r}; 1 is what was learned.")
    return float(value)


def check_unit_interval(name: str, value: float) -> float:
    """`value` as a float in [0, 1], or a ValueError naming `name`."""
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise ValueError(f"{name}: expected a number in [0, 1], got {value!r}.")
    if not 0 <= value <= 1 or math.isnan(value):
        raise ValueError(f"{name}: expected a number in [0, 1], got {value}.")
    return float(value)


__all__ = ["MotionStrengths", "check_articulation", "check_unit_interval"]
