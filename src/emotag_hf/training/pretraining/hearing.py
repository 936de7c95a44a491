"""Hears training sound once, with a frozen ear, so that a motion network trains on hidden states.

In: `MotionClip`s with log-mel features. Out: the same clips several times over, each heard with another look-ahead and
half of them augmented; a window cut from them has the past and future of the whole recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...models.ear import DIM, TOKENS, Ear, frames_ahead
from ...utils.atomic_write import atomic_write
from .augmentation import augment
from .motion_data import MotionClip

LOOK_AHEADS = (0.16, 0.4, "full")


@torch.no_grad()
def heard_clips(
    clips: Iterable[MotionClip],
    ear: Ear,
    look_aheads: Sequence[float | str] = LOOK_AHEADS,
    augmented: int = 3,
    seed: int = 0,
    kept: Path | None = None,
) -> list[MotionClip]:
    """The clips with the ear's hidden states `[2 T, 512]` float16 as `sound`.

    Args:
        clips: with features `[Tf, 82]`. ear: frozen.
        look_aheads: each clip is heard once with each of them.
        augmented: and so many times augmented, with the look-aheads in turn.
        seed: of the augmentation.
        kept: folder in which the hidden states are kept, so that an interrupted training does not hear anew.
    """
    out = []
    versions = [(ahead, False) for ahead in look_aheads]
    versions += [(look_aheads[i % len(look_aheads)], True) for i in range(augmented)]
    for index, clip in enumerate(clips):
        file = kept / f"{index:05d}.safetensors" if kept else None
        if file is not None and file.is_file():
            tokens = load_file(file)["tokens"]
        else:
            tokens = _hear(clip, ear, versions, np.random.default_rng([seed, index]))
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(file) as partial:
                    save_file({"tokens": tokens}, partial)
        if tokens.shape[1:] != (TOKENS * len(clip), DIM) or len(tokens) != len(versions):
            raise ValueError(f"kept: {file} was heard from another clip than {clip.name}; delete {kept}.")
        out += [replace(clip, sound=sound) for sound in tokens]
    return out


def _hear(clip: MotionClip, ear: Ear, versions: list[tuple[float | str, bool]], rng: np.random.Generator) -> Tensor:
    """`[versions, 2 T, 512]` float16."""
    sound, rows = clip.sound[None].float(), []
    for ahead, changed in versions:
        features = augment(sound, rng) if changed else sound
        rows.append(ear(features, frames_ahead(ahead))[0, : TOKENS * len(clip)].half())
    return torch.stack(rows)


__all__ = ["LOOK_AHEADS", "heard_clips"]
