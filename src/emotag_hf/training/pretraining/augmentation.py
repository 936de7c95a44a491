"""Audio augmentation on log-mel features.

In: features `[B, Tf, 82]`. Out: the same with other vocal tracts (the mel axis warped), flatter or sharper spectra,
uneven loudness and effort, noise floors, echoes, microphones, weaker voicing and SpecAugment's masked bands.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_KNOT = 18  # feature frames between the knots of a drift


def augment(features: Tensor, rng: np.random.Generator) -> Tensor:
    """Augments features; the only randomness is `rng`.

    Args:
        features: `[B, Tf, 82]` log-mel bands, pitch and voicing.
    """
    batch, frames, channels = features.shape
    bands = channels - 2
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    normal = lambda *shape: torch.randn(*shape, generator=noise)  # noqa: E731

    def draw(low: float, high: float, share: float = 1.0, rest: float = 0.0) -> Tensor:
        """A random number per clip `[B, 1, 1]`, uniform for a share of the clips, `rest` for the others."""
        values = np.where(rng.random(batch) < share, rng.uniform(low, high, batch), rest)
        return torch.from_numpy(values.astype(np.float32))[:, None, None]

    def drift() -> Tensor:
        """Smooth random curves `[B, Tf, 1]` with unit standard deviation."""
        knots = normal(batch, 1, frames // _KNOT + 2)
        return F.interpolate(knots, frames, mode="linear", align_corners=True)[:, 0, :, None]

    mel, pitch = features[..., :bands], features[..., bands:]
    position = torch.arange(bands)[None, None] * (1 + draw(-0.09, 0.09)) + draw(-2.0, 2.0)
    position = position.clamp(0, bands - 1.001)
    low = position.floor().long().expand(batch, frames, bands)
    fraction = position - position.floor()
    mel = mel.gather(2, low) * (1 - fraction) + mel.gather(2, low + 1) * fraction
    sounding = (mel > 0).float()
    ramp = torch.linspace(-1, 1, bands)
    wave = torch.cos(math.pi * (ramp * draw(0.5, 3.0) + draw(-1.0, 1.0)))
    mel = 1 + (mel - 1) * draw(0.65, 1.15)
    mel = mel + sounding * (draw(-0.1, 0.1) + ramp * draw(-0.12, 0.12) + wave * draw(0.0, 0.1))
    mel = mel + draw(0.01, 0.07) * normal(*mel.shape)
    # Real speech varies more in level than synthetic speech: syllables 10 dB weaker must not be taken for closed lips.
    mel = mel + sounding * drift() * draw(0.0, 0.25, share=0.8)
    mel = mel + sounding * drift() * ramp * draw(0.0, 0.15, share=0.8)
    floor = draw(0.0, 0.5, share=0.6) + ramp * draw(-0.1, 0.1)
    mel = torch.maximum(mel, floor + 0.04 * normal(*mel.shape))
    # An echo that falls by `decay` per frame: the running maximum of decayed past values.
    fallen = draw(0.02, 0.08, share=0.4, rest=2.0) * torch.arange(frames)[None, :, None]
    mel = (mel + fallen).cummax(1).values - fallen
    for row in range(batch):
        for _ in range(rng.integers(0, 3)):
            width = int(rng.integers(2, 12))
            first = int(rng.integers(0, bands - width))
            mel[row, :, first : first + width] = mel[row, :, first : first + width].mean()
    pitch = pitch * draw(0.5, 1.0, share=0.7, rest=1.0) * draw(0.0, 0.0, share=0.15, rest=1.0)
    pitch = pitch + 0.03 * normal(*pitch.shape)
    # Exact silence is not changed, because the network must know the zeros that pad a recording.
    silent = (features.abs().amax(-1, keepdim=True) == 0) & (draw(0, 1) < 0.5)
    return torch.cat([mel.clamp(0, 2), pitch.clamp(-1, 1)], -1).masked_fill(silent, 0)


__all__ = ["augment"]
