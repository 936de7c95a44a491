"""The Audio Nets of GRMN: feature frames in, one audio feature `a` per video frame out (METHOD 3).

`EarAudioNet` hears the embedded log-mel features through the `Ear`, with a look-ahead that is chosen when sound begins,
a whole recording or one chunk after another. `TransformerAudioNet` is the paper's: a Transformer over a 16-token window
of a speech encoder's hidden states around each video frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..audio.audio_features import FRAME_RATE, LATENCY_MS
from .configuration_emotag import EmoTaGMotionConfig
from .ear import DIM as EAR_DIM
from .ear import PER_FRAME, TOKENS, EarState, frames_ahead
from .ear_asset import load_ear

TOKEN_RATE = 50  # hidden states of wav2vec2, HuBERT and WavLM per second
_TOKEN_MS = 25  # milliseconds of sound that one token covers


class FrameGroups:
    """Cuts a stream of feature rows into groups of one video frame that end a fixed look-ahead after it.

    Args:
        look_ahead_ms: sound after a video frame that its group may contain, the feature window's latency included.
        per_frame: feature rows per video frame.
    """

    def __init__(self, look_ahead_ms: int, per_frame: int):
        self.per_frame = per_frame
        # The last feature frame whose window ends within the look-ahead of video frame 0.
        last = math.floor((look_ahead_ms - LATENCY_MS) * FRAME_RATE / 1000)
        # Groups must end at that frame: `lead` silent rows are put in front, and the first `delay` groups precede the
        # first video frame.
        short = per_frame - 1 - last
        self.lead = short if short > 0 else short % per_frame
        self.delay = (last + 1 + self.lead) // per_frame - 1

    def num_frames(self, rows: int) -> int:
        """Number of video frames of a recording of so many rows."""
        return -(-rows // self.per_frame)

    def init_state(self, batch_size: int, feature_dim: int, like: torch.Tensor) -> GroupState:
        return GroupState(like.new_zeros(batch_size, self.lead, feature_dim))

    def take(self, features: torch.Tensor, state: GroupState, flush: bool = False) -> tuple[torch.Tensor, int]:
        """`[B, k, C]` new rows -> `[B, n * per_frame, C]`, the groups that are now complete, and how many of them
        precede the first video frame."""
        x = torch.cat([state.pending, features.to(state.pending)], 1)
        state.rows_in += features.shape[1]
        wanted = self.num_frames(state.rows_in) + self.delay - state.groups
        if flush:
            # After the end there is silence, and silence is all zeros (see LogMelStream).
            x = F.pad(x, (0, 0, 0, max(0, wanted * self.per_frame - x.shape[1])))
        groups = max(0, min(x.shape[1] // self.per_frame, wanted))
        state.pending = x[:, groups * self.per_frame :]
        dropped = min(groups, max(0, self.delay - state.groups))
        state.groups += groups
        return x[:, : groups * self.per_frame], dropped


@dataclass
class GroupState:
    """State of `FrameGroups` between chunks, updated in place by `take`."""

    pending: torch.Tensor  # [B, k, C] rows that do not fill a group yet
    rows_in: int = 0
    groups: int = 0


@dataclass
class AudioNetState:
    """State of an Audio Net between chunks; made by `init_state`, updated in place by `step`."""

    caches: list[torch.Tensor]  # the past inputs of each convolution
    ear: EarState
    finished: bool = False


class CausalConv1d(nn.Module):
    """Causal convolution over `[B, C, T]`; the past inputs that it needs are its cache."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel)
        self.past = kernel - 1
        self.inputs = inputs

    def forward(self, x: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.cat([cache, x], 2)
        return self.conv(x), x[:, :, x.shape[2] - self.past :]


class TokenNet(nn.Module):
    """The ear's hidden states `[B, 2 T, 512]` -> `[B, T, dim]`, with the four video frames before."""

    kernel = 5  # video frames, causal

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(EAR_DIM)
        self.input = nn.Linear(TOKENS * EAR_DIM, dim)
        self.past = CausalConv1d(dim, dim, self.kernel)
        self.dropout = nn.Dropout(dropout)

    def init_cache(self, batch_size: int) -> torch.Tensor:
        """The past of new sound."""
        return self.input.weight.new_zeros(batch_size, self.past.inputs, self.past.past)

    def project(self, tokens: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of at least one video frame, and the new cache."""
        x = self.norm(tokens.to(self.norm.weight)).unflatten(1, (-1, TOKENS)).flatten(2)
        x = F.gelu(self.input(self.dropout(x)))
        y, cache = self.past(x.transpose(1, 2), cache)
        return self.dropout(F.gelu(y).transpose(1, 2)) + x, cache


class EarAudioNet(TokenNet):
    """What the motion network makes of the ear's hidden states: `[B, Tf, 82]` at 100 Hz -> `[B, T, hidden]`, followed
    by `[B, T, phone_dim]` for the viseme head, if that has a net of its own.

    Phonemes are known for hours of speech without pictures, lips for minutes: a net that learned both forgot lips.

    The ear itself is an asset that many checkpoints share: it is loaded by name, does not learn with the motion network
    and is not stored with it.
    """

    def __init__(self, config: EmoTaGMotionConfig):
        super().__init__(config.hidden_dim, config.dropout)
        self.ear = load_ear(config.audio_encoder, config.audio_encoder_sha256)
        self.phones = TokenNet(config.phone_dim, config.dropout) if config.phone_dim else None
        self.dim = config.hidden_dim + config.phone_dim

    def certain(self, features: int, state: AudioNetState) -> int:
        """Number of video frames that are determined by so many feature frames of a stream."""
        return self.ear.certain(features, state.ear)

    def num_frames(self, features: int) -> int:
        """Number of video frames of a recording of so many feature frames."""
        return -(-features // PER_FRAME)

    def init_state(self, batch_size: int = 1, look_ahead: float | str | None = None) -> AudioNetState:
        """The state of new sound, heard with a look-ahead in seconds or `"full"` (None): see `ear.frames_ahead`."""
        ear = self.ear.init_state(batch_size, frames_ahead("full" if look_ahead is None else look_ahead))
        nets = [self] if self.phones is None else [self, self.phones]
        return AudioNetState([net.init_cache(batch_size) for net in nets], ear)

    def step(self, features: torch.Tensor, state: AudioNetState, flush: bool = False) -> torch.Tensor:
        """`[B, k, 82]` new frames -> `[B, t, dim]` for the video frames that are now determined (t may be 0)."""
        tokens = self.ear.step(features, state.ear, flush)
        state.finished = flush
        return self.hear(tokens, state)

    def hear(self, tokens: torch.Tensor, state: AudioNetState) -> torch.Tensor:
        """Hidden states of the ear `[B, 2 t, 512]` -> features of t video frames."""
        if tokens.shape[1] == 0:
            return self.input.weight.new_zeros(tokens.shape[0], 0, self.dim)
        found, state.caches[0] = self.project(tokens, state.caches[0])
        if self.phones is None:
            return found
        phones, state.caches[1] = self.phones.project(tokens, state.caches[1])
        return torch.cat([found, phones], -1)

    def forward(self, features: torch.Tensor, look_ahead: float | str | None = None) -> torch.Tensor:
        """Of a whole recording; also of hidden states that were heard before, `[B, 2 T, 512]`."""
        state = self.init_state(features.shape[0], look_ahead)
        if features.shape[-1] == EAR_DIM:
            return self.hear(features, state)
        ahead = sum(state.ear.ahead)
        return self.hear(self.ear(features, ahead), state)


class TransformerAudioNet(nn.Module):
    """The paper's Audio Net: `[B, Tt, D]` hidden states at 50 Hz -> `[B, T, hidden]`, T = ceil(Tt * fps / 50).

    Difference from the paper, whose window is centred on the video frame: here it is shifted if necessary, so that no
    token covers more than `look_ahead_ms` after the frame. The encoder itself still attends to the whole recording.
    """

    def __init__(self, config: EmoTaGMotionConfig):
        super().__init__()
        self.fps, self.window = config.fps, config.audio_window
        ahead = (config.look_ahead_ms - _TOKEN_MS) * TOKEN_RATE // 1000
        self.first = min(ahead, config.audio_window // 2 - 1) - config.audio_window + 1
        dim = config.hidden_dim
        self.input = nn.Linear(config.audio_feature_dim, dim)
        self.position = nn.Parameter(torch.randn(config.audio_window, dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim,
            config.num_attention_heads,
            config.intermediate_dim,
            config.dropout,
            config.audio_activation,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)

    def forward(self, features: torch.Tensor, look_ahead: float | str | None = None) -> torch.Tensor:
        batch, tokens, _ = features.shape
        frames = self.num_frames(tokens)
        x = self.input(features.to(self.input.weight))
        centres = torch.arange(frames, device=x.device) * TOKEN_RATE // self.fps
        index = centres[:, None] + torch.arange(self.first, self.first + self.window, device=x.device)
        inside = (index >= 0) & (index < tokens)
        windows = x[:, index.clamp(0, tokens - 1)] * inside[None, :, :, None]
        windows = (windows + self.position).flatten(0, 1)
        return self.encoder(windows).mean(1).unflatten(0, (batch, frames))

    def num_frames(self, features: int) -> int:
        """Number of video frames of a recording of so many tokens."""
        return -(-features * self.fps // TOKEN_RATE)


def build_audio_net(config: EmoTaGMotionConfig) -> nn.Module:
    """Makes the Audio Net for `config.frontend`."""
    return (EarAudioNet if config.frontend == "whisper_blocks" else TransformerAudioNet)(config)
