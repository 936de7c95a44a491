"""Hears training sound once, with a frozen ear, so that a motion network trains on hidden states.

In: `MotionClip`s with log-mel features. Out: the same clips several times over, each heard with another look-ahead and
half of them augmented; a window cut from them has the past and future of the whole recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ...models.ear import TOKENS, Ear, frames_ahead
from .augmentation import augment
from .motion_data import MotionClip

LOOK_AHEADS = (0.16, 0.4, "full")


@torch.no_grad()
def heard_clips(
    clips: Sequence[MotionClip],
    ear: Ear,
    look_aheads: Sequence[float | str] = LOOK_AHEADS,
    augmented: int = 3,
    seed: int = 0,
) -> list[MotionClip]:
    """The clips with the ear's hidden states `[2 T, 512]` float16 as `sound`.

    Args:
        clips: with features `[Tf, 82]`. ear: frozen.
        look_aheads: each clip is heard once with each of them.
        augmented: and so many times augmented, with the look-aheads in turn.
        seed: of the augmentation.
    """
    rng, out = np.random.default_rng(seed), []
    versions = [(ahead, False) for ahead in look_aheads]
    versions += [(look_aheads[i % len(look_aheads)], True) for i in range(augmented)]
    for clip in clips:
        sound = clip.sound[None].float()
        for ahead, changed in versions:
            features = augment(sound, rng) if changed else sound
            tokens = ear(features, frames_ahead(ahead))[0, : TOKENS * len(clip)]
            out.append(replace(clip, sound=tokens.half()))
    return out


__all__ = ["LOOK_AHEADS", "heard_clips"]
