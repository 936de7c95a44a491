"""GatedResidualMotionNetwork: speech features, action units and identity in; face and mouth motion out (METHOD 3).

Identity-Conditioned Encoder (Audio Net, Expr Net, ID Net with AdaIN on both streams) and Expert Motion Decoder (Base
from the audio alone, Residual through the emotion logits z_e, Gate): motion = Base + g * Residual. Written after the
paper, not after its released code. Recordings and streams share one code path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..audio.audio_features import FRAME_RATE
from ..constants import EMOTIONS, EXPRESSION_NAMES
from ..motion.emotion_prototypes import emotion_to_logits, expression_prototypes
from ..outputs import GRMNOutput
from .audio_net import AudioNetState, FrameGroups, GroupState, build_audio_net
from .configuration_emotag import EmoTaGMotionConfig
from .ear import DIM as EAR_DIM
from .ear import frames_ahead, seconds_ahead
from .lip_closures import VISEMES, close_lips, rest_lips, spoken
from .voice_listener import VoiceListener, VoiceState

_CHUNK_FRAMES = 128  # video frames of a recording that are heard at once
_LISTENER_AHEAD_MS = 120  # at most: an emotion must not begin long before the voice has it
_SURELY_SILENT = 0.75  # probability of silence: 0.8 and more in rooms, hum and fans, less between words
_MOUTH_OFFSETS = 9  # mean 3, rotation 3 (axis-angle), log-scale 3 per Gaussian


def _mlp(inputs: int, hidden: int, outputs: int, *, zero: bool = False) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
    if zero:
        nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
    return layers


def adain(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """`(1 + gamma) * norm(x) + beta` for x `[B, T, C]`, gamma and beta `[B, C]` (METHOD 3).

    The normalisation is over the channels of one time step; over time, as in AdaIN for images, it would not be causal.
    """
    return (1 + gamma[:, None]) * F.layer_norm(x, x.shape[-1:]) + beta[:, None]


@dataclass
class GRMNState:
    """State between the chunks of a stream; made by `init_state`, updated in place by `step`."""

    audio: AudioNetState
    frames_out: int = 0
    voice: HeardVoice | None = None


@dataclass
class HeardVoice:
    """The Voice Listener's part of the state."""

    listener: VoiceState
    cutter: FrameGroups
    groups: GroupState
    weights: torch.Tensor  # [B, n, 7] of video frames whose audio feature is not determined yet


class IdentityNet(nn.Module):
    """ID Net: a 512-d face embedding -> (gamma, beta) for the audio stream a and the action-unit stream e. Initialised
    to zero: without an identity nothing is modulated."""

    def __init__(self, config: EmoTaGMotionConfig):
        super().__init__()
        self.hidden_dim = config.hidden_dim
        self.mlp = _mlp(config.identity_dim, config.hidden_dim, 4 * config.hidden_dim, zero=True)

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.mlp(embedding).chunk(4, -1)


class EmotionDecoder(nn.Module):
    """EMO Decoder: z_e `[B, T, 7]` -> residual face `[B, T, 53]` and mouth code `[B, T, R]`.

    Difference from the paper: it starts from FACS prototypes weighted by softmax(z_e), with the learned part at zero,
    so that emotion already acts before the first training step.
    """

    def __init__(self, config: EmoTaGMotionConfig):
        super().__init__()
        self.face_dim = config.expression_dim + config.jaw_dim
        table = torch.zeros(config.num_emotions, self.face_dim + config.mouth_code_dim)
        if config.expression_dim == len(EXPRESSION_NAMES) and config.num_emotions == len(EMOTIONS):
            table[:, : self.face_dim] = expression_prototypes(config.jaw_dim)
        self.prototypes = nn.Parameter(table)
        self.correction = _mlp(config.num_emotions, config.hidden_dim // 2, table.shape[1], zero=True)

    @torch.no_grad()
    def use_prototypes_(self) -> EmotionDecoder:
        """Resets to the faces of `emotion_prototypes`, without the learned part."""
        self.prototypes[:, : self.face_dim] = expression_prototypes(self.face_dim - len(EXPRESSION_NAMES))
        self.correction[-1].weight.zero_()
        self.correction[-1].bias.zero_()
        return self

    def forward(self, emotion_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights = emotion_logits.softmax(-1)
        residual = weights @ self.prototypes + self.correction(weights)
        return residual[..., : self.face_dim], residual[..., self.face_dim :]


class MouthTriplane(nn.Module):
    """Tri-plane that gives, at an inner-mouth Gaussian's canonical position, how it moves with the mouth code.

    Difference from the paper: the planes hold a basis, fixed over time, and the mouth code combines it; so the planes
    are read once per avatar, not once per frame. Zero before training.
    """

    def __init__(self, config: EmoTaGMotionConfig):
        super().__init__()
        self.code_dim = config.mouth_code_dim
        size = config.triplane_resolution
        self.planes = nn.Parameter(torch.randn(3, config.triplane_dim, size, size) * 0.1)
        self.basis = nn.Linear(3 * config.triplane_dim, config.mouth_code_dim * _MOUTH_OFFSETS)
        nn.init.zeros_(self.basis.weight)
        nn.init.zeros_(self.basis.bias)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Canonical positions `[Nm, 3]` in [-1, 1] -> basis `[Nm, R, 9]`."""
        projected = torch.stack([positions[:, [0, 1]], positions[:, [1, 2]], positions[:, [0, 2]]])
        read = F.grid_sample(self.planes, projected[:, None], align_corners=True, padding_mode="border")
        features = read[:, :, 0].permute(2, 0, 1).flatten(1)
        return self.basis(features).unflatten(-1, (self.code_dim, _MOUTH_OFFSETS))


class GatedResidualMotionNetwork(nn.Module):
    """GRMN (METHOD 3).

    Args:
        config: sizes, front end and look-ahead.

    Example:

    ```python
    >>> network = GatedResidualMotionNetwork(EmoTaGMotionConfig()).eval()
    >>> output = network(features)  # [1, Tf, 82] -> expression [1, T, 50], jaw_pose [1, T, 3], ...
    ```
    """

    def __init__(self, config: EmoTaGMotionConfig):
        super().__init__()
        self.config = config
        dim = config.hidden_dim
        self.face_dim = config.expression_dim + config.jaw_dim
        self.audio_net = build_audio_net(config)
        self.expr_net = _mlp(config.num_action_units, dim, dim)
        self.id_net = IdentityNet(config)
        self.base_hidden = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU())
        self.base_motion = nn.Linear(2 * dim, self.face_dim + config.mouth_code_dim)
        self.viseme_head = nn.Linear(config.phone_dim or 2 * dim, config.num_visemes)
        self.emotion_encoder = _mlp(2 * dim, dim, config.num_emotions, zero=True)
        self.emotion_decoder = EmotionDecoder(config)
        self.gate = _mlp(2 * dim, dim // 2, 1, zero=True)
        self.mouth_triplane = MouthTriplane(config)
        self.listener = VoiceListener(config) if config.listener_dim else None
        self._start_at_rest()

    def _start_at_rest(self) -> None:
        """Initialises to a neutral face that hardly moves: small Base, neutral z_e, gate nearly 0."""
        with torch.no_grad():
            self.base_motion.weight.mul_(0.1)
            self.base_motion.bias.zero_()
            if self.config.num_emotions == len(EMOTIONS):
                self.emotion_encoder[-1].bias.copy_(emotion_to_logits("neutral").clamp(min=-4))
            self.gate[-1].bias.fill_(-4.0)

    # --- inference -------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> bool:
        """Whether sound can be heard in chunks; speech encoders of transformers attend to whole recordings."""
        return self.config.frontend != "transformers"

    def init_state(self, batch_size: int = 1, look_ahead: float | str | None = None) -> GRMNState:
        """The state of a new stream.

        Args:
            batch_size: B. look_ahead: in seconds, or `"full"` (None): sound after a frame that may influence it.

        Raises:
            ValueError: the front end cannot be streamed, or the look-ahead is out of range.
        """
        if not self.streams:
            raise ValueError(
                "frontend: streaming needs 'whisper_blocks', this model has 'transformers', whose speech encoder hears "
                "the whole recording at once; call the network on all features instead."
            )
        audio, voice = self.audio_net.init_state(batch_size, look_ahead), None
        if self.listener is not None:
            like, config = self.listener.center, self.config
            ahead = min(_LISTENER_AHEAD_MS, int(1000 * seconds_ahead(sum(audio.ear.ahead))))
            cutter = FrameGroups(ahead, FRAME_RATE // config.fps)
            groups = cutter.init_state(batch_size, config.audio_feature_dim, like)  # type: ignore[arg-type]
            empty = like.new_zeros(batch_size, 0, config.num_emotions)
            voice = HeardVoice(self.listener.init_state(batch_size), cutter, groups, empty)
        return GRMNState(audio, voice=voice)

    def look_ahead(self, wanted: float | str | None = None) -> float:
        """Seconds of sound after a frame that influence it, for what is asked of `init_state`."""
        if self.config.frontend != "whisper_blocks":
            return self.config.look_ahead_ms / 1000
        return seconds_ahead(frames_ahead("full" if wanted is None else wanted))

    def certain(self, rows: int, state: GRMNState) -> int:
        """Number of video frames that so many feature rows of a stream determine."""
        return self.audio_net.certain(rows, state.audio)

    def forward(
        self,
        input_features: torch.Tensor,
        action_units: torch.Tensor | None = None,
        identity_embedding: torch.Tensor | None = None,
        emotion_logits: torch.Tensor | None = None,
        gate: torch.Tensor | float | None = None,
        state: GRMNState | None = None,
        look_ahead: float | str | None = None,
    ) -> GRMNOutput:
        """Motion of a whole recording or, with `state`, of the next chunk of a stream.

        Args:
            input_features: `[B, Tf, C]` of the front end; beyond a recording's end zeros, which mean silence. Or, with
                "whisper_blocks", the ear's hidden states `[B, 2 T, 512]`; then no emotion is heard.
            action_units: `[B, T, 6]` or `[B, 6]` in 0..5, the six of the upper face (`GRMN_ACTION_UNITS`); None is a
                neutral face.
            identity_embedding: `[B, 512]`; None, or a row of zeros, modulates nothing.
            emotion_logits: `[B, T, 7]` or `[B, 7]`, replaces z_e.
            gate: number, `[B, 1]` or `[B, T, 1]` in [0, 1], replaces g.
            state: of `init_state`; then only the frames determined so far are returned, and controls with a time axis
                are indexed from the start of the stream (their last value is repeated).
            look_ahead: of a whole recording, as in `init_state`.

        Returns:
            `GRMNOutput` of T = ceil(Tf * fps / rate) frames; the front end gives 100 feature frames a second, speech
            encoders 50.

        Raises:
            ValueError: a tensor of the wrong shape.
        """
        if self.config.frontend != "whisper_blocks" or input_features.shape[-1] != EAR_DIM:
            self._check_features(input_features)
        if state is not None:
            return self.step(input_features, state, False, action_units, identity_embedding, emotion_logits, gate)
        if not self.streams or input_features.shape[-1] == EAR_DIM:
            audio = self.audio_net(input_features)
            return self._decode(audio, 0, action_units, identity_embedding, emotion_logits, gate)
        state = self.init_state(input_features.shape[0], look_ahead)
        rows = _CHUNK_FRAMES * FRAME_RATE // self.config.fps
        parts = [self.hear(part, state) for part in input_features.split(rows, 1)]
        parts.append(self.hear(input_features[:, :0], state, flush=True))
        audio = torch.cat([part[0] for part in parts], 1)
        voice = None if self.listener is None else torch.cat([part[1] for part in parts], 1)  # type: ignore[misc]
        return self._decode(audio, 0, action_units, identity_embedding, emotion_logits, gate, voice)

    def step(
        self,
        features: torch.Tensor,
        state: GRMNState,
        flush: bool = False,
        action_units: torch.Tensor | None = None,
        identity_embedding: torch.Tensor | None = None,
        emotion_logits: torch.Tensor | None = None,
        gate: torch.Tensor | float | None = None,
    ) -> GRMNOutput:
        """The next chunk `[B, k, C]` of a stream (k may be 0); `flush=True` ends it. Arguments as in `forward`."""
        start = state.frames_out
        audio, voice = self.hear(features, state, flush)
        return self._decode(audio, start, action_units, identity_embedding, emotion_logits, gate, voice)

    def hear(
        self, features: torch.Tensor, state: GRMNState, flush: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The first half of `step`: `[B, k, C]` -> audio feature `[B, t, hidden]` of the frames that are now
        determined, and what the Voice Listener hears, `[B, t, 7]` or None."""
        self._check_features(features)
        if state.audio.finished:
            raise ValueError("state: this stream was flushed; call init_state() for the next recording.")
        audio = self.audio_net.step(features, state.audio, flush)
        heard = state.voice
        if heard is None:
            state.frames_out += audio.shape[1]
            return audio, None
        groups, dropped = heard.cutter.take(features, heard.groups, flush)
        voice = self.listener(groups, heard.listener)[:, dropped:]  # type: ignore[misc]
        voice = torch.cat([heard.weights, voice.to(heard.weights)], 1)
        count = audio.shape[1]
        heard.weights = voice[:, count:]
        state.frames_out += count
        return audio, voice[:, :count].to(audio)

    def mouth_basis(self, positions: torch.Tensor) -> torch.Tensor:
        """The linear map from mouth code to offsets of inner-mouth Gaussians at `positions` `[Nm, 3]` in [-1, 1]: `[Nm,
        R, 9]`."""
        return self.mouth_triplane(positions)

    def mouth_offsets(
        self, mouth_code: torch.Tensor, positions: torch.Tensor | None = None, basis: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Offsets of the inner-mouth Gaussians: mouth code `[T, R]` -> `[T, Nm, 9]`.

        The nine are mean 3 (in the canonical frame's units), rotation 3 (small axis-angle), log-scale 3. Pass `basis`
        (from `mouth_basis`) instead of `positions` to compute it once for many frames.
        """
        if basis is None:
            if positions is None:
                raise ValueError("mouth_offsets: expected `positions` [Nm, 3] or `basis` [Nm, R, 9], got neither.")
            basis = self.mouth_basis(positions)
        return torch.einsum("tr,nrk->tnk", mouth_code, basis)

    # --- parts -----------------------------------------------------------------------------------------------------

    def _check_features(self, features: torch.Tensor) -> None:
        if features.ndim != 3 or features.shape[-1] != self.config.audio_feature_dim:
            raise ValueError(
                f"input_features: expected [batch, frames, {self.config.audio_feature_dim}], "
                f"got {list(features.shape)}."
            )

    def _control(self, name: str, value: Any, dim: int, start: int, like: torch.Tensor) -> torch.Tensor:
        """A control as `[B, T, dim]` for the T frames of `like`, frame `start` of the stream being the first."""
        batch, count, _ = like.shape
        value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        if value.ndim == 0:
            value = value.expand(1, dim)
        if value.ndim not in (2, 3) or value.shape[-1] != dim or value.shape[0] not in (1, batch):
            raise ValueError(f"{name}: expected [{batch}, {dim}] or [{batch}, frames, {dim}], got {list(value.shape)}.")
        if value.ndim == 2:
            return value[:, None].expand(batch, count, dim)
        if value.shape[1] == 0:
            raise ValueError(f"{name}: expected at least one frame, got {list(value.shape)}.")
        frames = torch.arange(start, start + count, device=like.device).clamp(max=value.shape[1] - 1)
        return value[:, frames].expand(batch, count, dim)

    def base(self, audio: torch.Tensor, identity_embedding: torch.Tensor | None = None) -> Any:
        """Base of the Audio Net's features, before `close_lips`: motion `[B, T, 53 + R]`, viseme logits."""
        gamma, beta, _, _ = self._modulation(audio, identity_embedding)
        audio, phones = self._split(audio)
        return self._base(adain(audio, gamma, beta), phones)

    def _split(self, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the Audio Net gives: the audio feature `a`, and the feature of the viseme head (none: width 0)."""
        return audio.tensor_split((self.config.hidden_dim,), -1)  # type: ignore[return-value]

    def _base(self, a: torch.Tensor, phones: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.base_hidden(a)  # the audio feature only
        return self.base_motion(hidden), self.viseme_head(phones if self.config.phone_dim else hidden)

    def _modulation(self, audio: torch.Tensor, identity_embedding: torch.Tensor | None) -> list[torch.Tensor]:
        """gamma, beta of a and of e, `[B, hidden]` each."""
        if identity_embedding is None:
            return [audio.new_zeros(1, self.config.hidden_dim)] * 4
        if identity_embedding.shape != (audio.shape[0], self.config.identity_dim):
            raise ValueError(
                f"identity_embedding: expected [{audio.shape[0]}, {self.config.identity_dim}], "
                f"got {list(identity_embedding.shape)}."
            )
        # An embedding of zeros means unknown: nothing is modulated, whatever the ID Net's biases are.
        known = identity_embedding.ne(0).any(-1, keepdim=True)
        return [m * known for m in self.id_net(identity_embedding.to(audio))]

    def decode(
        self,
        audio: torch.Tensor,
        voice: torch.Tensor | None = None,
        action_units: torch.Tensor | float | None = None,
        identity_embedding: torch.Tensor | None = None,
        emotion_logits: torch.Tensor | None = None,
        gate: torch.Tensor | float | None = None,
        articulation: float = 1.0,
    ) -> GRMNOutput:
        """The second half of `step`, for what `hear` gave; controls with a time axis begin with its first frame.
        `articulation` is a factor on the Base's motion of the mouth: closed lips stay closed."""
        return self._decode(
            audio, 0, action_units, identity_embedding, emotion_logits, gate, voice, articulation=articulation
        )

    def _decode(
        self,
        audio: torch.Tensor,
        start: int,
        action_units: torch.Tensor | float | None,
        identity_embedding: torch.Tensor | None,
        emotion_logits: torch.Tensor | None,
        gate: torch.Tensor | float | None,
        voice: Any = None,
        articulation: float = 1.0,
    ) -> GRMNOutput:
        """Expert Motion Decoder on the audio feature `[B, T, hidden]`; `voice` `[B, T, 7]` of the listener, if any."""
        config = self.config
        if action_units is None:
            action_units = 0.0
        units = self._control("action_units", action_units, config.num_action_units, start, audio)
        expression = self.expr_net(units / 5.0)
        modulation = self._modulation(audio, identity_embedding)
        audio, phones = self._split(audio)
        a = adain(audio, modulation[0], modulation[1])
        e = adain(expression, modulation[2], modulation[3])

        base, visemes = self._base(a, phones)
        if articulation != 1 and self.config.expression_dim == len(EXPRESSION_NAMES):
            base = torch.where(spoken(base.shape[-1]).to(base.device), base * articulation, base)
        both = torch.cat([a, e], -1)
        z_e, g = self.emotion_encoder(both), torch.sigmoid(self.gate(both))
        if voice is not None:
            # Not in the paper: emotion from the voice over several seconds, in addition to the action units.
            weights = g * z_e.softmax(-1) + (1 - g) * voice
            g = g + (1 - g) * voice.sum(-1, keepdim=True)
            z_e = torch.log(weights / g + 1e-6)
        if emotion_logits is not None:
            z_e = self._control("emotion_logits", emotion_logits, config.num_emotions, start, audio)
        if gate is not None:
            g = self._control("gate", gate, 1, start, audio)
        face, mouth = self.emotion_decoder(z_e)
        motion = self.close_lips(base + g * torch.cat([face, mouth], -1), base, visemes)
        return GRMNOutput(
            expression=motion[..., : config.expression_dim],
            jaw_pose=motion[..., config.expression_dim : self.face_dim],
            mouth_code=motion[..., self.face_dim :],
            gate=g,
            emotion_logits=z_e,
            viseme_logits=visemes,
        )

    def hears_speech(self, out: GRMNOutput) -> torch.Tensor | None:
        """`[B, T]` bool: the frames that are not surely without speech; None without a net that tells phonemes."""
        if not self.config.phone_dim or out.viseme_logits is None:
            return None
        return out.viseme_logits.softmax(-1)[..., VISEMES.index("sil")] < _SURELY_SILENT

    def close_lips(self, motion: torch.Tensor, base: torch.Tensor, viseme_logits: torch.Tensor) -> torch.Tensor:
        """`motion` with lips closed for p, b and m (`lip_closures`); unchanged for other expression directions."""
        if self.config.expression_dim != len(EXPRESSION_NAMES):
            return motion
        return close_lips(motion, base, viseme_logits)

    def rest_lips(self, motion: torch.Tensor, base: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`motion` with lips that rest shut (`lip_closures`); unchanged for other expression directions."""
        if self.config.expression_dim != len(EXPRESSION_NAMES):
            return motion
        return rest_lips(motion, base, weight)
