"""Tunes a distilled ear on lips: what of the sound moves the mouth is kept, whoever speaks.

In: tracked clips (`track_talkers.py`), the frames by which each clip's sound is late. Out: a state dict of the ear with
a small head for the mouth's opening, width and chin, with which the motion network's Audio Net begins. The loss is half
the squared error of each clip's standardised curves and 1 - r of each window; an average of the weights is the result.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from emotag_hf.audio.audio_features import FRAME_RATE, log_mel_features
from emotag_hf.constants import MOTION_FPS
from emotag_hf.models.ear import DIM, PER_FRAME, TOKENS, Ear
from emotag_hf.training.pretraining.augmentation import augment
from emotag_hf.training.pretraining.motion_data import WARM_UP, shifted

from .distil import AHEAD

BATCH, WINDOW = 16, 150  # windows in a step, and frames of each
KERNEL, HIDDEN, MEASURES = 5, 192, 3  # of the head
_DECAY, _AVERAGE, _AUGMENTED = 0.05, 0.98, 0.7
_LEAST, _WIDEST = 20, 4.0  # frames of a clip; standard deviations of an outlier


@dataclass(frozen=True)
class TuneOptions:
    """Numbers of the tuning. Few people need more `dropout`, a slower head and a frozen ear.

    Attributes:
        passes: over the clips. ear_rate, head_rate: learning rates; an `ear_rate` of 0 leaves the ear as it is.
        dropout: in the head. fairness: people count by this power of their seconds.
    """

    passes: float = 5.0
    ear_rate: float = 5e-5
    head_rate: float = 1e-3
    dropout: float = 0.2
    fairness: float = 0.75
    seed: int = 0


@dataclass(frozen=True)
class TaughtClip:
    """A clip: `sound` `[Tf, 82]` in step, standardised `mouth` `[T, 3]`, `valid` `[T]`, and how much it counts."""

    name: str
    person: str
    sound: Tensor
    mouth: Tensor
    valid: Tensor
    weight: float

    def __len__(self) -> int:
        return len(self.mouth)


def read_clips(
    folder: Path, persons: Mapping[str, str], lags: Mapping[str, float], weights: Mapping[str, float]
) -> list[TaughtClip]:
    """The tracked clips of a folder that `lags` names, with their sound shifted by that many frames."""
    found = []
    for path in sorted(p for p in folder.glob("*.safetensors") if p.stem in lags):
        parts = load_file(path)
        mouth = parts["mouth"][:, :MEASURES]
        valid = np.isfinite(mouth).all(1)
        if valid.sum() < _LEAST:
            continue
        scaled = (mouth - mouth[valid].mean(0)) / (mouth[valid].std(0) + 1e-6)
        scaled = np.where(valid[:, None], scaled.clip(-_WIDEST, _WIDEST), 0).astype(np.float32)
        sound = torch.from_numpy(log_mel_features(parts["samples"].astype(np.float32) / 32767))
        sound = shifted(sound, round(lags[path.stem] * FRAME_RATE / MOTION_FPS))
        person, weight = persons.get(path.stem, path.stem), weights.get(path.stem, 1.0)
        found.append(TaughtClip(path.stem, person, sound, torch.from_numpy(scaled), torch.from_numpy(valid), weight))
    return found


class TaughtEar(nn.Module):
    """An ear with the first layers of `EarAudioNet`, under the same names, and a last one for the mouth."""

    def __init__(self, ear: Ear, dropout: float = 0.0):
        super().__init__()
        self.ear, self.norm = ear, nn.LayerNorm(DIM)
        self.input = nn.Linear(TOKENS * DIM, HIDDEN)
        self.past = nn.Conv1d(HIDDEN, HIDDEN, KERNEL)
        self.out = nn.Linear(HIDDEN, MEASURES)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, ahead: int) -> Tensor:
        """`[B, Tf, 82]` -> `[B, T, 3]`."""
        x = self.norm(self.ear(features, ahead)).unflatten(1, (-1, TOKENS)).flatten(2)
        x = F.gelu(self.input(self.dropout(x)))
        y = F.gelu(self.past(F.pad(x.transpose(1, 2), (KERNEL - 1, 0)))).transpose(1, 2)
        return self.out(self.dropout(y + x))


def tune(
    ear: Ear, clips: Sequence[TaughtClip], validation: Sequence[TaughtClip], options: TuneOptions, out: Path
) -> TaughtEar:
    """Writes the averaged state dict and returns the network; prints r on the validation clips."""
    torch.manual_seed(options.seed)
    rng, net = np.random.default_rng(options.seed), TaughtEar(ear, options.dropout)
    steps = max(1, int(options.passes * sum(map(len, clips)) / (BATCH * WINDOW)))
    heads = [p for name, p in net.named_parameters() if not name.startswith("ear.")]
    groups = [{"params": heads, "lr": options.head_rate}]
    if options.ear_rate:
        groups.append({"params": list(ear.parameters()), "lr": options.ear_rate})
    else:
        ear.requires_grad_(False)
    optimizer = torch.optim.AdamW(groups, weight_decay=_DECAY)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=0.1)
    mean = copy.deepcopy(net).eval().requires_grad_(False)
    chances, began = _chances(clips, options.fairness), time.perf_counter()
    for step in range(1, steps + 1):
        features, mouth, valid = _batch(clips, chances, rng)
        found = net(features, int(rng.choice(AHEAD)))
        loss = _loss(found, mouth, valid)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        keep = min(_AVERAGE, step / (step + 10))
        with torch.no_grad():
            for slow, now in zip(mean.parameters(), net.parameters(), strict=True):
                slow.lerp_(now, 1 - keep)
        if step % max(1, steps // 6) == 0 or step == steps:
            save_file(mean.state_dict(), out)
            left = (time.perf_counter() - began) / step * (steps - step)
            print(f"step {step} of {steps}, {left / 60:.0f} min left: {score(mean, validation)}", flush=True)
    return mean


def _chances(clips: Sequence[TaughtClip], fairness: float) -> np.ndarray:
    own = np.array([max(len(c), 25) * c.weight for c in clips])
    of_person: dict[str, float] = {}
    for clip, amount in zip(clips, own):
        of_person[clip.person] = of_person.get(clip.person, 0.0) + amount
    fair = np.array([amount * of_person[c.person] ** (fairness - 1) for c, amount in zip(clips, own)])
    return fair / fair.sum()


def _batch(clips: Sequence[TaughtClip], chances: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, ...]:
    rows = []
    for index in rng.choice(len(clips), BATCH, p=chances):
        clip = clips[index]
        start = int(rng.integers(0, max(1, len(clip) - WINDOW + 1)))
        inside = slice(start, start + WINDOW)
        sound = clip.sound[start * PER_FRAME : (start + WINDOW) * PER_FRAME]
        missing = WINDOW - len(clip.mouth[inside])
        valid = F.pad(clip.valid[inside], (0, missing))
        if start:
            valid[:WARM_UP] = False
        pad = lambda x, count: F.pad(x, (0, 0, 0, count))  # noqa: E731
        rows.append((pad(sound, WINDOW * PER_FRAME - len(sound)), pad(clip.mouth[inside], missing), valid))
    features, mouth, valid = (torch.stack([row[i] for row in rows]) for i in range(3))
    changed = torch.from_numpy(rng.random(BATCH) < _AUGMENTED)[:, None, None]
    return torch.where(changed, augment(features, rng), features), mouth, valid


def _loss(found: Tensor, mouth: Tensor, valid: Tensor) -> Tensor:
    known = valid[..., None].float()
    count = known.sum(1).clamp(min=1)
    error = ((found - mouth).square() * known).sum() / known.sum().clamp(min=1) / MEASURES
    centred = lambda x: (x - (x * known).sum(1, keepdim=True) / count[:, None]) * known  # noqa: E731
    a, b = centred(found), centred(mouth)
    r = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1) + 1e-6).sqrt()
    enough = (count > _LEAST).float()
    return 0.5 * error + ((1 - r) * enough).sum() / enough.sum().clamp(min=1) / MEASURES


@torch.no_grad()
def score(net: TaughtEar, clips: Sequence[TaughtClip]) -> str:
    """Mean r of opening, width and chin over the clips, by look-ahead in frames."""
    lines = []
    for ahead in (2, 8, 24):
        rows = []
        for clip in clips:
            found, valid = net(clip.sound[None], ahead)[0, : len(clip)].numpy(), clip.valid.numpy()
            pairs = zip(found[valid].T, clip.mouth.numpy()[valid].T)
            rows.append([np.corrcoef(a, b)[0, 1] for a, b in pairs])
        means = np.nanmean(rows, 0) if rows else np.full(MEASURES, np.nan)
        lines.append(f"{ahead} frames: " + " / ".join(f"{r:.3f}" for r in means))
    return "; ".join(lines)
