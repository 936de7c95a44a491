"""The ear: a pretrained speech encoder made local, which hears for GRMN's Audio Net (METHOD 3 has a whole wav2vec2).

In: log-mel features `[B, Tf, 82]` at 100 Hz (`audio_features`). Out: hidden states `[B, 2 T, 512]`, two tokens per
video frame. It is the convolutional stem and the first blocks of Whisper base (Radford et al. 2022, MIT) with three
changes, to which it was taught: a token attends to one second of the past and to a stated part of the future only, so
that a stream keeps keys and values and computes nothing twice; positions are relative, so that sound has no greatest
length; and a linear layer maps this package's features, which are relative to the voice's running level, to Whisper's
mel bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..audio.audio_features import FEATURE_DIM, FRAME_RATE, LATENCY_MS, NUM_MEL_BANDS
from ..constants import MOTION_FPS
from ..utils.precision import Float32Module
from .ear_linear import EarLinear

DIM, NUM_HEADS, FFN_DIM = 512, 8, 2048  # of Whisper base
PER_FRAME = FRAME_RATE // MOTION_FPS  # feature rows per video frame
TOKENS = 2  # per video frame
PAST = 25  # video frames before its own that a token attends to
MAX_AHEAD = 24  # video frames after its own that all blocks together may look ahead
# The stem's look-ahead: a frame's second token covers the first feature row after the frame.
_STEM_MS = 1000 / MOTION_FPS + LATENCY_MS
_CHUNK = 128  # frames of a recording that are computed at once, to bound the memory of the attention


def frames_ahead(look_ahead: float | str) -> int:
    """Whole video frames that the blocks together may look ahead, for a look-ahead in seconds or `"full"`.

    Raises:
        ValueError: less than the stem needs, more than 2 s, or another word.
    """
    if look_ahead == "full":
        return MAX_AHEAD
    number = isinstance(look_ahead, (int, float)) and not isinstance(look_ahead, bool)
    if not number or not _STEM_MS / 1000 <= look_ahead <= 2:  # type: ignore[operator]
        raise ValueError(
            f'look_ahead: expected seconds from {math.ceil(_STEM_MS) / 1000:g} to 2, or "full", got {look_ahead!r}.'
        )
    return min(MAX_AHEAD, math.floor((look_ahead * 1000 - _STEM_MS) * MOTION_FPS / 1000 + 1e-6))  # type: ignore[operator]


def seconds_ahead(frames: int) -> float:
    """The look-ahead in seconds, everything included, of blocks that look so many video frames ahead."""
    return (_STEM_MS + frames * 1000 / MOTION_FPS) / 1000


@dataclass
class BlockState:
    """Of one block between chunks: inputs and queries that wait for later keys; keys and values of the past."""

    inputs: Tensor  # [B, n, 512]
    queries: Tensor  # [B, n, 512]
    keys: Tensor  # [B, k, 512]
    values: Tensor  # [B, k, 512]
    frames_in: int = 0
    frames_out: int = 0
    first: int = 0  # video frame of the first key


@dataclass
class EarState:
    """State of an `Ear` between chunks; made by `init_state`, updated in place by `step`."""

    rows: Tensor  # [B, k, 82] feature rows that do not fill a frame yet, and the two before them
    ahead: tuple[int, ...]  # video frames that each block looks ahead
    blocks: list[BlockState] = field(default_factory=list)
    rows_in: int = 0
    frames: int = 0  # that the stem has computed


class _Block(nn.Module):
    """A block of Whisper's encoder with relative positions and local attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(DIM)
        self.query_key_value = EarLinear(DIM, 3 * DIM)
        self.attention_out = EarLinear(DIM, DIM)
        self.norm = nn.LayerNorm(DIM)
        self.expand = EarLinear(DIM, FFN_DIM)
        self.project = EarLinear(FFN_DIM, DIM)
        # Added to the attention's logits, by the distance in tokens from query to key.
        self.distance_bias = nn.Parameter(torch.zeros(NUM_HEADS, TOKENS * (PAST + 1 + MAX_AHEAD) + TOKENS - 1))

    def init_state(self, batch_size: int, like: Tensor) -> BlockState:
        return BlockState(*(like.new_zeros(batch_size, 0, DIM) for _ in range(4)))

    def forward(self, x: Tensor, state: BlockState, ahead: int, flush: bool) -> Tensor:
        """`[B, 2 m, 512]` of the next m frames -> `[B, 2 n, 512]` of the frames whose look-ahead is now complete."""
        q, k, v = self.query_key_value(self.attention_norm(x)).chunk(3, -1)
        state.inputs, state.queries = torch.cat([state.inputs, x], 1), torch.cat([state.queries, q], 1)
        state.keys, state.values = torch.cat([state.keys, k], 1), torch.cat([state.values, v], 1)
        state.frames_in += x.shape[1] // TOKENS
        until = max(state.frames_out, state.frames_in - (0 if flush else ahead))
        rows = TOKENS * (until - state.frames_out)
        if rows == 0:
            return x[:, :0]
        heads = lambda t: t.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)  # noqa: E731
        bias = self._bias(state.frames_out, rows, state.first, state.keys.shape[1], ahead)
        found = F.scaled_dot_product_attention(
            heads(state.queries[:, :rows]), heads(state.keys), heads(state.values), attn_mask=bias
        )
        x = state.inputs[:, :rows] + self.attention_out(found.transpose(1, 2).flatten(2))
        x = x + self.project(F.gelu(self.expand(self.norm(x))))
        state.inputs, state.queries = state.inputs[:, rows:], state.queries[:, rows:]
        gone = max(0, until - PAST - state.first)
        state.keys, state.values = state.keys[:, TOKENS * gone :], state.values[:, TOKENS * gone :]
        state.first, state.frames_out = state.first + gone, until
        return x

    def _bias(self, first_query: int, queries: int, first_key: int, keys: int, ahead: int) -> Tensor:
        """`[heads, queries, keys]`: the bias by distance; -inf outside of the past and the look-ahead."""
        device = self.distance_bias.device
        query = TOKENS * first_query + torch.arange(queries, device=device)[:, None]
        key = TOKENS * first_key + torch.arange(keys, device=device)
        frames = key // TOKENS - query // TOKENS
        place = (key - query + TOKENS * (PAST + 1) - 1).clamp(0, self.distance_bias.shape[1] - 1)
        return self.distance_bias[:, place].masked_fill((frames < -PAST) | (frames > ahead), -torch.inf)


class Ear(Float32Module):
    """See the module. `forward` hears a whole recording, `step` a chunk of a stream; both give the same to rounding.

    Args:
        num_blocks: of Whisper base's six, the first ones.
    """

    source: str | None = None  # name or path of the file it was loaded from

    def __init__(self, num_blocks: int = 2):
        super().__init__()
        self.bands = nn.Linear(FEATURE_DIM, NUM_MEL_BANDS)
        # Convolutions over three rows, as products: for few rows that is five times as fast.
        self.conv1 = EarLinear(3 * NUM_MEL_BANDS, DIM)
        self.conv2 = EarLinear(3 * DIM, DIM)
        self.place = nn.Parameter(torch.zeros(DIM))  # instead of Whisper's absolute positions
        self.blocks = nn.ModuleList(_Block() for _ in range(num_blocks))

    def init_state(self, batch_size: int = 1, frames_ahead: int = MAX_AHEAD) -> EarState:
        """The state of new sound, for blocks that together look so many video frames ahead."""
        like, count = self.place, len(self.blocks)
        # The first blocks look ahead further, if it does not divide.
        ahead = tuple(frames_ahead // count + (i < frames_ahead % count) for i in range(count))
        rows = like.new_zeros(batch_size, 2, FEATURE_DIM)
        return EarState(rows, ahead, [block.init_state(batch_size, like) for block in self.blocks])  # type: ignore[operator]

    def step(self, features: Tensor, state: EarState, flush: bool = False) -> Tensor:
        """`[B, k, 82]` next rows -> `[B, 2 n, 512]` for the n video frames that no later sound can change; the rest
        with `flush`."""
        x = self._stem(features, state, flush)
        for block, blockstate, ahead in zip(self.blocks, state.blocks, state.ahead, strict=True):
            x = block(x, blockstate, ahead, flush)
        return x

    def certain(self, rows: int, state: EarState) -> int:
        """Number of video frames that so many feature rows of a stream determine."""
        return max(0, (rows - 1) // PER_FRAME - sum(state.ahead))

    def forward(self, features: Tensor, frames_ahead: int = MAX_AHEAD) -> Tensor:
        """`[B, Tf, 82]` -> `[B, 2 T, 512]`, T = ceil(Tf / 4)."""
        state = self.init_state(features.shape[0], frames_ahead)
        parts = [self.step(part, state) for part in features.split(_CHUNK * PER_FRAME, 1)]
        return torch.cat([*parts, self.step(features[:, :0], state, flush=True)], 1)

    def _stem(self, features: Tensor, state: EarState, flush: bool) -> Tensor:
        """Tokens `[B, 2 m, 512]` of the next frames; a frame needs its four rows, two before and one after."""
        state.rows = torch.cat([state.rows, features.to(state.rows)], 1)
        state.rows_in += features.shape[1]
        frames = -(-state.rows_in // PER_FRAME) if flush else max(0, state.rows_in - 1) // PER_FRAME
        new = frames - state.frames
        if new <= 0:
            return state.rows.new_zeros(state.rows.shape[0], 0, DIM)
        wanted = PER_FRAME * new + 3
        # Beyond the end there is silence, which is all zeros.
        rows = F.pad(state.rows, (0, 0, 0, max(0, wanted - state.rows.shape[1])))[:, :wanted]
        state.rows, state.frames = state.rows[:, PER_FRAME * new :], frames
        x = F.gelu(self.conv1(_threes(self.bands(rows), 1)))
        return F.gelu(self.conv2(_threes(x, 2))) + self.place


def _threes(x: Tensor, stride: int) -> Tensor:
    """`[B, T, C]` -> every three rows in a row, `[B, (T - 3) // stride + 1, 3 C]`, channel by channel."""
    return x.unfold(1, 3, stride).flatten(2)


__all__ = ["DIM", "MAX_AHEAD", "PER_FRAME", "TOKENS", "Ear", "EarState", "frames_ahead", "seconds_ahead"]
