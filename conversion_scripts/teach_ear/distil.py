"""Teaches an untaught ear to hear as Whisper's blocks do, with a second of the past and a part of the future.

In: recordings of anybody's speech; nothing about lips. Out: a state dict. The loss is the squared error of the hidden
states, each channel by its spread; the ear hears augmented sound, its teacher the clean one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from emotag_hf.audio.audio_features import log_mel_features
from emotag_hf.audio.audio_io import AudioError, read_audio
from emotag_hf.models.ear import Ear
from emotag_hf.training.pretraining.augmentation import augment

from .whisper import Whisper, untaught_ear

BATCH, ROWS = 8, 400  # recordings in a step, and feature rows of each
AHEAD = (1, 2, 2, 3, 4, 6, 8, 12, 24)  # video frames of look-ahead, one of them in a step
_RATE, _BIAS_RATE = 3e-4, 3e-3
_AUGMENTED = 0.6
_EVERY = 50  # steps between lines
_HELD_OUT = 40  # one recording of so many is not learned from


def read_recordings(paths: Sequence[Path], whisper: Whisper) -> list[tuple[Tensor, Tensor]]:
    """Features `[Tf, 82]` and Whisper's bands `[Tf, 80]` of each recording of a second or more."""
    found = []
    for path in paths:
        try:
            samples = read_audio(path)
        except AudioError:
            continue
        if len(samples) >= 16_000:
            features, bands = torch.from_numpy(log_mel_features(samples)), whisper.bands(samples)
            count = min(len(features), len(bands))
            found.append((features[:count].half(), bands[:count].half()))
    return found


def distil(whisper: Whisper, recordings: list[tuple[Tensor, Tensor]], steps: int, out: Path) -> Ear:
    """Teaches a new ear in so many steps and writes its state dict."""
    rng = np.random.default_rng(0)
    heard, kept = [r for i, r in enumerate(recordings) if i % _HELD_OUT], recordings[::_HELD_OUT]
    some = [recordings[i] for i in rng.permutation(len(recordings))[:120]]
    ear = untaught_ear(whisper, [f.float() for f, _ in some], [b.float() for _, b in some])
    whisper.learn_positions(_batch(heard, 24, rng)[1])
    sample = whisper.hidden(_batch(heard, 16, rng)[1], 0)
    mean, spread = sample.mean((0, 1)), sample.std((0, 1)) + 0.05
    named = dict(ear.named_parameters())
    biases = [p for name, p in named.items() if "distance" in name or name == "place"]
    others = [p for name, p in named.items() if not ("distance" in name or name == "place")]
    groups = [{"params": others, "lr": _RATE}, {"params": biases, "lr": _BIAS_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=0.05)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        features, bands = _batch(heard, BATCH, rng)
        target = whisper.hidden(bands, int(rng.integers(0, 900)))
        if rng.random() < _AUGMENTED:
            features = augment(features, rng)
        error = (ear(features, int(rng.choice(AHEAD))) - target) / spread
        optimizer.zero_grad()
        error.square().mean().backward()
        nn.utils.clip_grad_norm_(ear.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % _EVERY == 0 or step == steps:
            save_file(ear.state_dict(), out)
            left = (time.perf_counter() - began) / step * (steps - step)
            print(
                f"step {step} of {steps}, {left / 60:.0f} min left: {_score(ear, whisper, kept, mean, spread)}",
                flush=True,
            )
    return ear


@torch.no_grad()
def _score(ear: Ear, whisper: Whisper, kept, mean: Tensor, spread: Tensor) -> str:
    """R^2 of the hidden states of recordings that were not learned from, by look-ahead."""
    features, bands = _batch(kept, 12, np.random.default_rng(1))
    target = whisper.hidden(bands, 100)
    total = ((target - mean) / spread).square().mean()
    found = {a: 1 - ((ear(features, a) - target) / spread).square().mean() / total for a in (2, 8, 24)}
    return ", ".join(f"R^2 {value:.3f} at {ahead} frames" for ahead, value in found.items())


def _batch(recordings, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """`[size, ROWS, 82]` and `[size, ROWS, 80]`, shorter recordings continued by silence."""
    rows = []
    for index in rng.integers(len(recordings), size=size):
        features, bands = recordings[index]
        start = int(rng.integers(0, max(1, len(features) - ROWS + 1)))
        features, bands = features[start : start + ROWS].float(), bands[start : start + ROWS].float()
        pad = (0, 0, 0, ROWS - len(features))
        rows.append((F.pad(features, pad), F.pad(bands, pad, value=float(bands.min()))))
    return torch.stack([f for f, _ in rows]), torch.stack([b for _, b in rows])
