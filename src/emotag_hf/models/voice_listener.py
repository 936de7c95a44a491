"""VoiceListener: emotion read from the voice over the last seconds, added to z_e and g (METHOD 3 and 4).

In: log-mel feature frames in groups of a video frame. Out: per video frame the weights of the seven emotions, g times
softmax(z_e), from the voice alone. The Audio Net sees half a second, enough for lips; the emotion of a voice shows in
its pitch, pitch range and spectrum over seconds.

Leaky averages of pitch, loudness and spectrum statistics (time constant `MEMORY`) go to a small network, whose output
is smoothed: it starts neutral, cannot jump, and decays in long silence. Causal, so that streaming equals offline.
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

MEMORY = 3.0  # time constant of the averages, seconds of speech
REACTION = 0.8  # time constant of the output, s: a weight changes by at most 1 / REACTION per second
_BANDS = 16  # the mel bands, in groups
_DOUBT = 20.0  # feature frames that count as much as the prior
_HEARING = 15.0  # voiced feature frames at which the gate may reach two thirds
# Weights of `LogMelStream`'s running means: of the initial values, and at most (feature frames).
_PRIOR, _LONGEST = 70.0, 800.0
_RANGE_DB = 40.0
_FORGET = 120.0  # time constant of their sum, s, so that errors do not accumulate
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
    """State of a `VoiceListener` between chunks; made by `init_state`, updated in place."""

    before: torch.Tensor  # [B, n, 3 + bands] pitch, voicedness, loudness and bands of the last group
    count: torch.Tensor  # [B, 2] feature frames in the front end's running pitch and spectrum
    level: torch.Tensor  # [B, 1 + bands] how much both have changed
    sums: torch.Tensor  # [B, sums]
    output: torch.Tensor  # [B, 7]


def _ramp(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """0 below `low`, 1 above `high`, linear between; not a step, which would amplify rounding."""
    return ((x - low) / (high - low)).clamp(0, 1)


class VoiceListener(Float32Module):
    """Reads emotion from the voice. Untrained, the output is neutral.

    Args:
        config: `listener_dim` hidden units; log-mel features.
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
        """Output of `statistics` -> z_e `[..., 7]` and g `[..., 1]` of the voice, before smoothing."""
        out = self.out(F.gelu(self.hidden(self.known(statistics, trust))))
        # Only voiced frames count, so that noise has no emotion.
        voiced = trust[..., len(_SPEECH), None]
        heard = _DOUBT * voiced / (1 - voiced)
        return out[..., :-1], torch.sigmoid(out[..., -1:]) * (1 - torch.exp(-heard / _HEARING))

    def known(self, statistics: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
        """Input of the small network, `[..., S + 1]`: normalised, 0 for an average voice or where nothing is known."""
        known = (statistics - self.center) / self.scale * trust
        # Bounded, so that an unusual voice does not saturate the output.
        return torch.cat([known.clamp(-4, 4), trust[..., :1]], -1)

    def follow(self, weights: torch.Tensor, state: VoiceState) -> torch.Tensor:
        """Smooths `weights` `[B, G, 7]` with time constant `REACTION`."""
        step, followed = 1 / (REACTION * self.fps), []
        for now in weights.unbind(1):
            state.output = state.output + step * (now - state.output)
            followed.append(state.output)
        return torch.stack(followed, 1)

    def statistics(self, features: torch.Tensor, state: VoiceState) -> tuple[torch.Tensor, torch.Tensor]:
        """Groups of feature frames -> statistics `[B, G, S]` and how far each is known, `[B, G, S]` in [0, 1).

        The front end subtracts the speaker's running pitch and spectrum. Their changes follow from the features, so
        that summing these restores them, relative to the initial values.
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
        colour = colour - colour.mean(-1, keepdim=True)  # without loudness, which depends on the microphone

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
    """Leaky sum of `new` `[B, G, C]` with time constant `frames`, starting at `state` `[B, C]`: the last, and all `[B,
    1 + G, C]`."""
    keep, levels = math.exp(-1 / frames), [state]
    for row in new.unbind(1):  # sequential, so that rounding does not depend on the chunks
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
