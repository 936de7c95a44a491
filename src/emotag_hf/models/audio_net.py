"""The Audio Nets of GRMN: feature frames in, one audio feature `a` per video frame out (METHOD 3).

`LogMelAudioNet` reads the embedded log-mel features: a causal convolutional network whose look-ahead is a fixed shift
of its input, so that the same code runs a whole recording or one chunk after another. `TransformerAudioNet` is the
paper's: a Transformer over a 16-token window of a speech encoder's hidden states around each video frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from ..audio.audio_features import FRAME_RATE, LATENCY_MS
from .configuration_emotag import EmoTaGMotionConfig

TOKEN_RATE = 50  # hidden states of wav2vec2, HuBERT and WavLM per second
_TOKEN_MS = 25  # milliseconds of sound that one token covers


@dataclass
class AudioNetState:
    """State of a `LogMelAudioNet` between chunks; made by `init_state`, updated in place by `step`."""

    pending: torch.Tensor  # [B, k, 82] frames that do not fill a video frame yet
    caches: list[torch.Tensor] = field(default_factory=list)  # the past inputs of each convolution
    frames_in: int = 0
    groups: int = 0
    finished: bool = False


class CausalConv1d(nn.Module):
    """Causal convolution over `[B, C, T]`; the past inputs that it needs are its cache."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, dilation=dilation, groups=groups)
        self.past = (kernel - 1) * dilation - (stride - 1)
        self.inputs = inputs

    def forward(self, x: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.cat([cache, x], 2)
        return self.conv(x), x[:, :, x.shape[2] - self.past :]


class _Block(nn.Module):
    """Depthwise causal convolution, then a pointwise MLP, with a residual connection."""

    def __init__(self, dim: int, kernel: int, dilation: int, dropout: float):
        super().__init__()
        self.depthwise = CausalConv1d(dim, dim, kernel, dilation=dilation, groups=dim)
        self.norm = nn.LayerNorm(dim)  # over channels at one time step: a norm over time would look ahead
        self.expand = nn.Linear(dim, 2 * dim)
        self.project = nn.Linear(2 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, cache = self.depthwise(x.transpose(1, 2), cache)
        y = self.project(F.gelu(self.expand(self.norm(y.transpose(1, 2)))))
        return x + self.dropout(y), cache


class LogMelAudioNet(nn.Module):
    """Causal TCN over log-mel features: `[B, Tf, 82]` at 100 Hz -> `[B, T, hidden]`, T = ceil(Tf * fps / 100).

    Video frame t is at time t / fps. Its receptive field is about a second of the past and `look_ahead_ms` of the
    future, including the latency of the feature window.
    """

    kernel = 5

    def __init__(self, config: EmoTaGMotionConfig):
        super().__init__()
        self.per_frame = FRAME_RATE // config.fps
        # The last feature frame whose window ends within the look-ahead of video frame 0.
        last = math.floor((config.look_ahead_ms - LATENCY_MS) * FRAME_RATE / 1000)
        # Groups of `per_frame` feature frames must end at that frame: `lead` silent frames are put in front, and
        # the first `delay` groups only fill the caches.
        short = self.per_frame - 1 - last
        self.lead = short if short > 0 else short % self.per_frame
        self.delay = (last + 1 + self.lead) // self.per_frame - 1
        self.feature_dim, stride = config.audio_feature_dim, self.per_frame // 2
        dim = config.hidden_dim
        self.pairs = CausalConv1d(2 * self.feature_dim, dim, self.kernel)
        self.downsample = CausalConv1d(dim, dim, 2 * stride, stride=stride)
        self.blocks = nn.ModuleList(
            _Block(dim, self.kernel, 1 if i < config.num_layers // 2 else 2, config.dropout)
            for i in range(config.num_layers)
        )

    def certain(self, frames_in: int) -> int:
        """Number of video frames that are determined by so many feature frames of a stream."""
        groups = min((frames_in + self.lead) // self.per_frame, self.num_frames(frames_in) + self.delay)
        return max(0, groups - self.delay)

    def num_frames(self, features: int) -> int:
        """Number of video frames of a recording of so many feature frames."""
        return -(-features // self.per_frame)

    def _convolutions(self) -> list[CausalConv1d]:
        return [self.pairs, self.downsample, *(b.depthwise for b in self.blocks)]

    def init_state(self, batch_size: int = 1) -> AudioNetState:
        like = self.pairs.conv.weight
        caches = [like.new_zeros(batch_size, c.inputs, c.past) for c in self._convolutions()]
        return AudioNetState(like.new_zeros(batch_size, self.lead, self.feature_dim), caches)

    def step(self, features: torch.Tensor, state: AudioNetState, flush: bool = False) -> torch.Tensor:
        """`[B, k, 82]` new frames -> `[B, t, hidden]` for the video frames that are now determined (t may be 0)."""
        groups, dropped = self.group(features, state, flush)
        return self.run(groups, state)[:, dropped:]

    def group(self, features: torch.Tensor, state: AudioNetState, flush: bool = False) -> tuple[torch.Tensor, int]:
        """`[B, k, 82]` new frames -> `[B, n * per_frame, 82]`, the complete groups of one video frame each, and how
        many of them precede the first video frame."""
        x = torch.cat([state.pending, features.to(state.pending)], 1)
        state.frames_in += features.shape[1]
        wanted = -(-state.frames_in // self.per_frame) + self.delay - state.groups
        if flush:
            # After the end there is silence, and silence is all zeros (see LogMelStream).
            x = F.pad(x, (0, 0, 0, max(0, wanted * self.per_frame - x.shape[1])))
        groups = max(0, min(x.shape[1] // self.per_frame, wanted))
        state.pending = x[:, groups * self.per_frame :]
        dropped = min(groups, max(0, self.delay - state.groups))
        state.groups += groups
        state.finished = flush
        return x[:, : groups * self.per_frame], dropped

    def run(self, x: torch.Tensor, state: AudioNetState) -> torch.Tensor:
        """Groups of feature frames -> `[B, n, hidden]`."""
        if x.shape[1] == 0:
            return x.new_zeros(x.shape[0], 0, self.pairs.conv.out_channels)
        return self._run(x, state.caches)

    def _run(self, x: torch.Tensor, caches: list[torch.Tensor]) -> torch.Tensor:
        batch, frames, _ = x.shape
        x = x.reshape(batch, frames // 2, -1).transpose(1, 2)
        x, caches[0] = self.pairs(x, caches[0])
        x, caches[1] = self.downsample(F.gelu(x), caches[1])
        x = F.gelu(x).transpose(1, 2)
        for index, block in enumerate(self.blocks, start=2):
            x, caches[index] = block(x, caches[index])
        return x

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.step(features, self.init_state(features.shape[0]), flush=True)


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

    def forward(self, features: torch.Tensor) -> torch.Tensor:
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
    return LogMelAudioNet(config) if config.frontend == "log_mel" else TransformerAudioNet(config)
