"""Recordings that can be learned: what the lips do is written into the sound."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from emotag_hf.constants import EXPRESSION_NAMES
from emotag_hf.models.configuration_emotag import EmoTaGMotionConfig
from emotag_hf.models.ear_asset import load_ear
from emotag_hf.training.pretraining.hearing import heard_clips
from emotag_hf.training.pretraining.motion_data import MotionClip

SMALL = {"hidden_dim": 16, "num_layers": 2, "dropout": 0.0, "triplane_resolution": 4, "triplane_dim": 2}


def small_config() -> EmoTaGMotionConfig:
    return EmoTaGMotionConfig(**SMALL)


def toy_clip(number: int, frames: int = 200, person: str | None = None, real: bool = True) -> MotionClip:
    """A jaw that follows the loudness of the middle bands, and a smile that follows the high ones."""
    rng = np.random.default_rng(number)
    knots = rng.uniform(0, 1, (2, frames // 5 + 2))
    at = np.arange(frames * 4) / 20
    curves = torch.from_numpy(np.stack([np.interp(at, np.arange(len(k)), k) for k in knots], 1)).float()
    sound = torch.zeros(frames * 4, 82)
    sound[:, 20:40], sound[:, 50:70] = curves[:, :1], curves[:, 1:]
    sound += 0.02 * torch.from_numpy(rng.normal(size=sound.shape)).float()
    face = torch.zeros(frames, 53)
    face[:, 50] = 0.2 * curves[::4, 0]
    for side in "LR":
        face[:, EXPRESSION_NAMES.index(f"mouthSmile_{side}")] = 0.5 * curves[::4, 1]
    emotion = torch.zeros(frames, 7)
    emotion[:, -1] = 1
    return MotionClip(
        name=f"toy_{number}", person=person or f"person_{number}", sound=sound, face=face,
        valid=torch.ones(frames, dtype=torch.bool), units=torch.zeros(frames, 6), emotion=emotion,
        identity=torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=512)).float(), dim=0),
        visemes=torch.full((frames,), -1), closed=torch.zeros(frames, dtype=torch.bool), real=real,
    )  # fmt: skip


@cache
def heard_people() -> list[MotionClip]:
    """Six of them, heard once, so that a training is fast."""
    return heard_clips([toy_clip(i) for i in range(6)], load_ear(None), ("full",), augmented=0)
