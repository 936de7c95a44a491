"""Turns the first blocks of Whisper base into an untaught `Ear`, and gives the hidden states that teach it.

In: the folder of openai/whisper-base (MIT), for transformers; recordings. Out: an `Ear`; hidden states. Whisper's
positions are absolute and its mel bands belong to its own filters, so two things are estimated on recordings: the
linear map from this package's features to its bands, and how much each distance adds to the attention's logits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emotag_hf.models.ear import MAX_AHEAD, NUM_HEADS, PAST, TOKENS, Ear

_RIDGE = 1e-6
_LENGTH = 500  # rows of the recordings on which distances are measured
_OFFSET = 300  # position at which they are
_POSITIONS = 1450  # at which a block's mean hidden state is known
_EDGE = 50  # tokens at the ends of a recording, which have less context


class Whisper:
    """The encoder's stem and first blocks.

    Args:
        folder: for `WhisperModel.from_pretrained`. num_blocks: of its six.
    """

    def __init__(self, folder: str, num_blocks: int):
        from transformers import WhisperFeatureExtractor, WhisperModel

        self.encoder = WhisperModel.from_pretrained(folder).encoder.eval().requires_grad_(False)
        self.layers = self.encoder.layers[:num_blocks]
        self.positions = self.encoder.embed_positions.weight
        filters = WhisperFeatureExtractor.from_pretrained(folder).mel_filters
        self._filters, self._window = torch.from_numpy(np.asarray(filters, np.float32)).T, torch.hann_window(400)
        self._mean_at: Tensor | None = None

    def bands(self, samples: np.ndarray) -> Tensor:
        """Whisper's log-mel of a recording, `[Tf, 80]`, without padding it to 30 s."""
        spectrum = torch.stft(torch.from_numpy(samples), 400, 160, window=self._window, return_complex=True)
        log = (self._filters @ spectrum[..., :-1].abs().square()).clamp(min=1e-10).log10()
        return ((torch.maximum(log, log.max() - 8) + 4) / 4).T

    def stem(self, bands: Tensor) -> Tensor:
        """`[B, Tf, 80]` -> tokens `[B, L, 512]` without positions."""
        x = F.gelu(self.encoder.conv1(bands.transpose(1, 2)))
        return F.gelu(self.encoder.conv2(x)).transpose(1, 2)

    @torch.no_grad()
    def hidden(self, bands: Tensor, offset: int) -> Tensor:
        """Hidden states `[B, L, 512]` of the last block, for bands that begin at position `offset`, less what the
        position alone adds to them (after `learn_positions`)."""
        x = self.stem(bands)
        x = x + self.positions[offset : offset + x.shape[1]]
        for layer in self.layers:
            x = _output(layer(x, None))
        return x if self._mean_at is None else x - self._mean_at[offset : offset + x.shape[1]]

    def learn_positions(self, bands: Tensor) -> None:
        """Measures the mean hidden state at each position, on `[B, 400, 80]`."""
        self._mean_at = None
        inside = slice(_EDGE, _EDGE + 100)
        parts = [self.hidden(bands, offset).mean(0)[inside] for offset in range(0, 1101, 100)]
        mean = torch.cat(parts)
        mean = F.pad((mean - mean.mean(0)).T[None], (_EDGE, _POSITIONS - len(mean) - _EDGE), mode="replicate")
        self._mean_at = mean[0].T


def _output(found) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def untaught_ear(whisper: Whisper, features: list[Tensor], bands: list[Tensor]) -> Ear:
    """An `Ear` with Whisper's weights.

    Args:
        features, bands: of recordings, `[Tf, 82]` and `[Tf, 80]` each, row by row at the same time.
    """
    ear = Ear(len(whisper.layers)).eval()
    with torch.no_grad():
        weight = _bands_from_features(features, bands)
        ear.bands.weight.copy_(weight[:-1].T)
        ear.bands.bias.copy_(weight[-1])
        for mine, theirs in ((ear.conv1, whisper.encoder.conv1), (ear.conv2, whisper.encoder.conv2)):
            mine.weight.copy_(theirs.weight.flatten(1))
            mine.bias.copy_(theirs.bias)
        ear.place.copy_(whisper.positions[:600].mean(0))
        for block, layer in zip(ear.blocks, whisper.layers, strict=True):
            _copy_block(block, layer)
        _measure_distances(ear, whisper, [b for b in bands if len(b) >= _LENGTH][:24])
    return ear


def _bands_from_features(features: list[Tensor], bands: list[Tensor]) -> Tensor:
    """`[83, 80]` ridge regression, the constant last."""
    x = torch.cat(features).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    return torch.linalg.solve(
        x.T @ x + _RIDGE * len(x) * torch.eye(x.shape[1]), x.T @ torch.cat(bands).double()
    ).float()


def _copy_block(block: nn.Module, layer: nn.Module) -> None:
    own = layer.self_attn
    block.query_key_value.weight.copy_(torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight]))
    block.query_key_value.bias.copy_(torch.cat([own.q_proj.bias, torch.zeros_like(own.q_proj.bias), own.v_proj.bias]))
    pairs = (
        (block.attention_out, own.out_proj), (block.attention_norm, layer.self_attn_layer_norm),
        (block.norm, layer.final_layer_norm), (block.expand, layer.fc1), (block.project, layer.fc2),
    )  # fmt: skip
    for mine, theirs in pairs:
        mine.load_state_dict(theirs.state_dict())


def _measure_distances(ear: Ear, whisper: Whisper, bands: list[Tensor]) -> None:
    """Sets each block's bias to what positions add to the attention's logits on average, by distance."""
    tokens = whisper.stem(torch.stack([b[:_LENGTH] for b in bands]))
    length = tokens.shape[1]
    true, mine = tokens + whisper.positions[_OFFSET : _OFFSET + length], tokens + ear.place
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    before, after = TOKENS * (PAST + 1) - 1, MAX_AHEAD + 1
    near = (distance >= -before) & (distance <= after)
    for block, layer in zip(ear.blocks, whisper.layers, strict=True):
        missing = _logits(layer, true) - _logits(layer, mine)
        # The softmax does not see a constant.
        missing = missing - (missing * near).sum(-1, keepdim=True) / near.sum(-1)[:, None]
        means = [missing[:, :, distance == d].mean((0, 2)) for d in range(-before, after + 1)]
        table = torch.stack(means, 1)
        block.distance_bias.copy_(F.pad(table, (0, block.distance_bias.shape[1] - table.shape[1]), mode="replicate"))
        true = _output(layer(true, None))
        mine = block(mine, block.init_state(len(mine), mine), MAX_AHEAD, flush=True)


def _logits(layer: nn.Module, x: Tensor) -> Tensor:
    own, x = layer.self_attn, layer.self_attn_layer_norm(x)
    heads = lambda t: t.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)  # noqa: E731
    query, key = heads(own.q_proj(x)), heads(own.k_proj(x))
    return query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
