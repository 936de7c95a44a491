"""Finds by how much each clip's sound is late, with an ear that was tuned on other people, and which clips do not fit.

In: tracked clips, a tuned ear. Out: for each clip its lag in frames at 25 fps (positive: the sound is late) and r of
the mouth there, or why it cannot teach. Lags have no zero of their own: a network reproduces the mean lag of what it
learned from. The zero is that of recordings whose p, b and m are aligned (docs/pretraining.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from emotag_hf.models.ear import MAX_AHEAD
from emotag_hf.training.pretraining.motion_scores import lag_evidence

from .tune import TaughtClip, TaughtEar

MOST = 14  # frames either way
_USUAL = 4.0  # frames, spread of the lags of clips
_WEIGHTS = (0.5, 0.35, 0.15)  # of opening, width and chin
_LEAST_R, _LEAST_FRAMES = 0.3, 25


def find_lags(net: TaughtEar, clips: Sequence[TaughtClip]) -> tuple[dict[str, dict], dict[str, str]]:
    """Clip's name -> lag, r and person of those that fit; name -> reason of those that do not."""
    found, left_out = {}, {}
    for clip in clips:
        lag, r = _best(net, clip)
        if int(clip.valid.sum()) < _LEAST_FRAMES:
            left_out[clip.name] = f"{int(clip.valid.sum())} frames with a face, fewer than {_LEAST_FRAMES}"
        elif abs(lag) == MOST:
            left_out[clip.name] = f"no lag within {MOST} frames fits best"
        elif r < _LEAST_R:
            left_out[clip.name] = f"r {r:.2f} at its best lag {lag:+d}, less than {_LEAST_R}"
        else:
            found[clip.name] = {"person": clip.person, "lag": lag, "r": round(r, 3)}
    return found, left_out


@torch.no_grad()
def _best(net: TaughtEar, clip: TaughtClip) -> tuple[int, float]:
    heard, mouth = net(clip.sound[None], MAX_AHEAD)[0].numpy(), clip.mouth.numpy()
    rows = []
    for lag in range(-MOST, MOST + 1):
        index = np.arange(len(mouth)) + lag
        inside = (index >= 0) & (index < len(heard)) & clip.valid.numpy()
        if inside.sum() < 10:
            rows.append((-math.inf, 0.0))
            continue
        pairs = zip(heard[index[inside]].T, mouth[inside].T)
        r = float(sum(w * np.corrcoef(a, b)[0, 1] for w, (a, b) in zip(_WEIGHTS, pairs)))
        rows.append((lag_evidence(r, int(inside.sum()), lag, _USUAL), r))
    best = int(np.argmax([score for score, _ in rows]))
    return best - MOST, rows[best][1]
