"""The rendered people: colours and shape of each, from a seed and chosen colours; not the likeness of real persons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from noise import linear


@dataclass(frozen=True)
class Person:
    """Looks of one person; colours are linear RGB.

    Args:
        seed: of the identity coefficients. spread: their standard deviation.
        skin, flush, lip, hair, iris, shirt, wall: colours.
        hair_height: metres of hair on the crown. fringe: metres the hairline lies below where the forehead ends.
        stubble: 0..1.
        brow: thickness, 1 is average.
    """

    seed: int
    skin: np.ndarray
    flush: np.ndarray
    lip: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    shirt: np.ndarray
    wall: np.ndarray
    hair_height: float = 0.014
    fringe: float = 0.0
    stubble: float = 0.0
    brow: float = 1.0
    spread: float = 0.75

    def coefficients(self, count: int) -> np.ndarray:
        """Identity coefficients `[count]` in standard deviations."""
        return np.random.default_rng(self.seed).normal(0, self.spread, count).astype(np.float32)


PEOPLE = (
    Person(
        11, linear(219, 168, 140), linear(203, 116, 102), linear(178, 92, 88), linear(58, 40, 30), linear(92, 112, 124),
        linear(70, 84, 108), linear(150, 158, 166), hair_height=0.016, stubble=0.35,
    ),
    Person(
        23, linear(192, 136, 104), linear(172, 92, 76), linear(150, 76, 70), linear(26, 20, 18), linear(78, 54, 36),
        linear(128, 52, 48), linear(186, 182, 170), hair_height=0.020, fringe=0.006, brow=1.15,
    ),
    Person(
        37, linear(120, 78, 56), linear(104, 56, 44), linear(112, 58, 54), linear(16, 13, 12), linear(52, 34, 24),
        linear(196, 190, 176), linear(112, 128, 122), hair_height=0.008, stubble=0.25, brow=1.1,
    ),
    Person(
        41, linear(232, 188, 166), linear(214, 134, 122), linear(190, 96, 98), linear(120, 84, 50), linear(96, 120, 84),
        linear(40, 44, 52), linear(122, 134, 156), hair_height=0.024, fringe=0.010, brow=0.9,
    ),
)  # fmt: skip
