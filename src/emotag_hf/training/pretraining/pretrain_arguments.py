"""The parameters of a pretraining; the command line's options are made from this dataclass.

In: keywords. Out: `PretrainArguments`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..gaussians.adapt_arguments import number


@dataclass(frozen=True)
class PretrainArguments:
    """Parameters of the pretraining; each field is described by its `metadata["help"]`, as in `emotag pretrain --help`.

    Raises:
        ValueError: naming the invalid field.
    """

    steps: int = number(1200, "optimiser steps")
    batch_size: int = number(8, "windows a step, over all processes")
    window: int = number(160, "frames of a window")
    learning_rate: float = number(6e-4, "at its highest; it falls along a cosine")
    trunk_rate: float = number(0.25, "factor on the learning rate of the Audio Net, where it is trained already")
    last_rate: float = number(8.0, "the same of the Base's last layer: how far mouths are open on average")
    weight_decay: float = number(0.02, "of AdamW")
    id_decay: float = number(1.0, "of the ID Net, which would know few people by heart")
    ema: float = number(0.995, "decay of the averaged weights, which are the result (METHOD 5)")
    synthetic_share: float = number(0.4, "of the windows, where there is synthetic speech")
    augment: float = number(0.7, "share of the windows whose sound is roughened (log-mel alone)")
    stretch: float = number(0.13, "people are also heard slower and faster by this share; 0 for none")
    told: float = number(0.5, "share of the windows that come with the person's identity")
    without_units: float = number(0.25, "share of the windows that come without action units")
    seed: int = number(0, "of data order, augmentation and dropout")
    check_every: int = number(100, "steps between looks at the validation speakers")
    patience: int = number(6, "looks without gain after which it ends; 0 never ends early")
    save_every: int = number(100, "steps between states on disk")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "window", "check_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}.")
        for name in ("ema", "synthetic_share", "augment", "told", "without_units"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {getattr(self, name)}.")
        if not 0 <= self.stretch < 0.5:
            raise ValueError(f"stretch: expected a number from 0 to 0.5, got {self.stretch}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: expected a number above 0, got {self.learning_rate}.")


__all__ = ["PretrainArguments"]
