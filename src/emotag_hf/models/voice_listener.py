"""VoiceListener: emotion of a voice over the last seconds, the slow half of z_e and g (METHOD 3 and 4).

In: log-mel feature frames in groups of a video frame. Out: per video frame the weights of the seven emotions, g times
softmax(z_e), as far as the voice alone tells. The Audio Net hears half a second, enough for lips; an angry voice is
known by its pitch, its range and the colour of its spectrum over seconds.

Statistics of pitch, loudness and spectrum leak away over `MEMORY` seconds of speech, a small network reads them, and
what it says leaks into the output: it starts neutral, cannot jump, and fades in long silence. Causal, one group after
another, so that streaming equals offline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..audio.audio_features import FRAME_RATE
from ..constants import EMOTIONS
from ..utils.precision import Float32Module
from .configuration_emotag import EmoTaGMotionConfig

MEMORY = 3.0  # s in which what was heard counts for a third
REACTION = 0.8  # s in which the output follows: a weight changes by at most 1 / REACTION a second
_BANDS = 16  # the mel bands, in groups
_DOUBT = 20.0  # feature frames of a kind that are worth as much as knowing nothing
_HEARING = 15.0  # feature frames of voice that open the gate to two thirds
# How `LogMelStream` moves its running means: what speech they are worth at first, and at most (feature frames).
_PRIOR, _LONGEST = 70.0, 800.0
_RANGE_DB = 40.0
_FORGET = 120.0  # s in which what is added up of them fades, and its errors with it
# Columns of the sums: five weights (speech, voiced, voiced twice running, unvoiced, all), then what is weighed by them.
_SPEECH = ("loudness", "loudness^2", "change", "change^2", "voicing", "voicing^2", *["flux"] * _BANDS)
_VOICED = ("pitch", "pitch^2", "accent", "accent^2", *["colour"] * _BANDS, *["colour^2"] * _BANDS)
_MOVING = ("rise", "rise^2", "slope")
_WEIGHTS = 5
_SUMS = _WEIGHTS + len(_SPEECH) + len(_VOICED) + len(_MOVING) + _BANDS
# Statistics: 6 + 16 of speech, 4 + 32 of voiced frames, 3 of their slopes, 16 of unvoiced frames, 2 shares.
NUM_STATISTICS = len(_SPEECH) + len(_VOICED) + len(_MOVING) + _BANDS + 2


@dataclass
class VoiceState:
    """What a `VoiceListener` remembers between chunks; made by `init_state`, updated in place."""

    before: torch.Tensor  # [B, n, 3 + bands] pitch, voicedness, loudness and bands of the last group
    count: torch.Tensor  # [B, 2] feature frames that the front end's running pitch and spectrum have taken in
    level: torch.Tensor  # [B, 1 + bands] how far both have moved
    sums: torch.Tensor  # [B, sums]
    output: torch.Tensor  # [B, 7]


def _ramp(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """0 below `low`, 1 above `high`: no step, which rounding could take on either side."""
    return ((x - low) / (high - low)).clamp(0, 1)


class VoiceListener(Float32Module):
    """Untrained it says neutral.

    Args:
        config: `listener_dim` hidden units; `"log_mel"` features.
    """

    def __init__(self, config: EmoTaGMotionConfig):
        super().__init__()
        self.fps, self.num_emotions = config.fps, config.num_emotions
        self.register_buffer("center", torch.zeros(NUM_STATISTICS))
        self.register_buffer("scale", torch.ones(NUM_STATISTICS))
        self.hidden = nn.Linear(NUM_STATISTICS + 1, config.listener_dim)
        self.out = nn.Linear(config.listener_dim, config.num_emotions + 1)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.fill_(-4.0)
            if config.num_emotions == len(EMOTIONS):
                self.out.bias[EMOTIONS.index("neutral")] = 0.0

    def init_state(self, batch_size: int = 1) -> VoiceState:
        zeros = lambda *shape: self.center.new_zeros(batch_size, *shape)  # noqa: E731
        return VoiceState(
            zeros(FRAME_RATE // self.fps, 3 + _BANDS),
            zeros(2),
            zeros(1 + _BANDS),
            zeros(_SUMS),
            zeros(self.num_emotions),
        )

    def forward(self, features: torch.Tensor, state: VoiceState) -> torch.Tensor:
        """Groups of feature frames `[B, G * n, 82]`, n = 100 / fps, -> weights `[B, G, 7]` of sum at most 1."""
        if features.shape[1] == 0:
            return features.new_zeros(features.shape[0], 0, self.num_emotions)
        logits, gate = self.read(*self.statistics(features, state))
        return self.follow(gate * logits.softmax(-1), state)

    def read(self, statistics: torch.Tensor, trust: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `statistics` gives -> z_e `[..., 7]` and g `[..., 1]` of the voice, before they leak into the output."""
        out = self.out(F.gelu(self.hidden(self.known(statistics, trust))))
        # Feature frames of voice: noise is as loud as speech, and no emotion.
        voiced = trust[..., len(_SPEECH), None]
        heard = _DOUBT * voiced / (1 - voiced)
        return out[..., :-1], torch.sigmoid(out[..., -1:]) * (1 - torch.exp(-heard / _HEARING))

    def known(self, statistics: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
        """What the small network reads, `[..., S + 1]`: 0 where nothing is known, or where the voice is like most."""
        known = (statistics - self.center) / self.scale * trust
        # A voice unlike any other must not be sure of anything.
        return torch.cat([known.clamp(-4, 4), trust[..., :1]], -1)

    def follow(self, weights: torch.Tensor, state: VoiceState) -> torch.Tensor:
        """`weights` `[B, G, 7]`, slowed to `REACTION`."""
        step, followed = 1 / (REACTION * self.fps), []
        for now in weights.unbind(1):
            state.output = state.output + step * (now - state.output)
            followed.append(state.output)
        return torch.stack(followed, 1)

    def statistics(self, features: torch.Tensor, state: VoiceState) -> tuple[torch.Tensor, torch.Tensor]:
        """Groups of feature frames -> statistics `[B, G, S]` and how far each is known, `[B, G, S]` in [0, 1).

        The front end takes the speaker's running pitch and spectrum away. Both move by what the features themselves
        say, so that adding it up gives them back, relative to where every recording begins.
        """
        features = features.float()
        mel, voicing = features[..., :-2], features[..., -1]
        loudness = mel.mean(-1)
        voiced = _ramp(voicing, 0.4, 0.6)
        accent = features[..., -2] / voicing.clamp_min(0.3)
        bands = mel.unflatten(-1, (_BANDS, -1)).mean(-1)

        counted = [_ramp(voicing, 0.65, 0.75) * _ramp(loudness, 0.25, 0.35), _ramp(loudness, 0.45, 0.55)]
        counted = torch.stack(counted, -1)
        count = state.count[:, None] + counted.cumsum(1)
        state.count = count[:, -1].clamp(max=_LONGEST)
        weight = (count + _PRIOR).clamp(max=_LONGEST)
        moves = torch.cat([accent[..., None], _RANGE_DB * (bands - 1)], -1)
        moves = (moves * (counted / (weight - 1))[..., [0] + [1] * _BANDS]).unflatten(1, (-1, FRAME_RATE // self.fps))
        state.level, level = _leak(state.level, moves.sum(2), _FORGET * self.fps)
        level = (level[:, :-1, None] + moves.cumsum(2)).flatten(1, 2)

        pitch = accent + level[..., 0]
        colour = (_RANGE_DB * (bands - 1) + level[..., 1:]) / 20
        colour = colour - colour.mean(-1, keepdim=True)  # no loudness: it is the microphone's

        now = torch.cat([pitch[..., None], voiced[..., None], loudness[..., None], bands], -1)
        both = torch.cat([state.before, now], 1)
        before, state.before = both[:, : now.shape[1]], both[:, now.shape[1] :]
        change = (now - before).abs()
        rise = now[..., 0] - before[..., 0]

        speech = _ramp(loudness, 0.4, 0.5)
        said = speech * voiced
        weights = torch.stack([speech, said, said * before[..., 1], speech - said, torch.ones_like(speech)], -1)
        pairs = lambda *parts: [y for x in parts for y in (x, x.square())]  # noqa: E731
        of_speech = torch.cat([torch.stack(pairs(loudness, change[..., 2], voicing), -1), change[..., 3:]], -1)
        of_voiced = torch.cat([torch.stack(pairs(pitch, accent), -1), colour, colour.square()], -1)
        of_moving = torch.stack([rise, rise.square(), rise.abs()], -1)
        rows = torch.cat(
            [
                weights, of_speech * weights[..., :1], of_voiced * weights[..., 1:2],
                of_moving * weights[..., 2:3], colour * weights[..., 3:4],
            ], -1,
        )  # fmt: skip
        rows = rows.unflatten(1, (-1, FRAME_RATE // self.fps)).sum(2)
        state.sums, sums = _leak(state.sums, rows, MEMORY * self.fps)
        return _summary(sums[:, 1:])


def _leak(state: torch.Tensor, new: torch.Tensor, frames: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Adds `new` `[B, G, C]` up from `state` `[B, C]` on, forgetting within `frames`: last, all `[B, 1 + G, C]`."""
    keep, levels = math.exp(-1 / frames), [state]
    for row in new.unbind(1):  # one after another, so that a chunk gives the bits of the whole
        levels.append(levels[-1] * keep + row)
    return levels[-1], torch.stack(levels, 1)


def _summary(sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Leaky sums `[..., sums]` -> means and spreads `[..., S]`, and how far each is known."""
    weights = sums[..., :_WEIGHTS]
    kinds = [0] * len(_SPEECH) + [1] * len(_VOICED) + [2] * len(_MOVING) + [3] * _BANDS
    means = sums[..., _WEIGHTS:] / weights[..., kinds].clamp_min(1e-3)
    speech, voiced, moving, unvoiced = means.split((len(_SPEECH), len(_VOICED), len(_MOVING), _BANDS), -1)
    spread = lambda mean, square: (square - mean.square()).clamp_min(0).add(1e-4).sqrt()  # noqa: E731
    statistics = torch.cat(
        [
            speech[..., 0:6:2], spread(speech[..., 0:6:2], speech[..., 1:6:2]), speech[..., 6:],
            voiced[..., 0:4:2], spread(voiced[..., 0:4:2], voiced[..., 1:4:2]),
            voiced[..., 4 : 4 + _BANDS], spread(voiced[..., 4 : 4 + _BANDS], voiced[..., 4 + _BANDS :]),
            moving[..., :1], spread(moving[..., :1], moving[..., 1:2]), moving[..., 2:], unvoiced,
            weights[..., 1:2] / weights[..., :1].clamp_min(1e-3), weights[..., :1] / weights[..., 4:].clamp_min(1e-3),
        ], -1,
    )  # fmt: skip
    return statistics, (weights / (weights + _DOUBT))[..., [*kinds, 0, 4]]


__all__ = ["MEMORY", "NUM_STATISTICS", "REACTION", "VoiceListener", "VoiceState"]
