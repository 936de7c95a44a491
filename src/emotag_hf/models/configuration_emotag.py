"""Configuration of an EmoTaG model: the only source of sizes.

In: keyword arguments or a `config.json`. Out: `EmoTaGConfig` with one sub-config for the head, the motion network
and the Gaussians (METHOD sections 2 and 3).
"""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..constants import EMOTIONS, EXPRESSION_NAMES, GRMN_ACTION_UNITS, MOTION_FPS, SAMPLE_RATE, TASK
from .former_networks import embedded_motion, is_former

FRONTENDS = ("whisper_blocks", "transformers")
FRONTENDS_TEXT = "'whisper_blocks' or 'transformers'"

# What PreTrainedConfig itself may pass on; any other unknown name is a spelling mistake.
_INHERITED = {
    "_name_or_path", "_attn_implementation", "attn_implementation", "_experts_implementation", "name_or_path",
    "torch_dtype", "custom_pipelines", "auto_map", "model_type", "task_specific_params", "_commit_hash",
}  # fmt: skip


class StrictNames:
    """Refuses unknown keyword arguments, which `PreTrainedConfig` would store silently."""

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(
            k for k in kwargs if k not in _INHERITED and not k.startswith("_") and not hasattr(PreTrainedConfig, k)
        )
        if unknown:
            known = sorted(n for n in type(self).__dataclass_fields__ if not hasattr(PreTrainedConfig, n))  # type: ignore[attr-defined]
            raise ValueError(
                f"{type(self).__name__}: unknown argument{'s' * (len(unknown) > 1)} {', '.join(unknown)}; "
                f"expected one of {', '.join(known)}."
            )
        super().__post_init__(**kwargs)  # type: ignore[misc]
        # Not a class validator of `@strict`, which would wrap the message in a long one.
        self._check_values()

    def _check_values(self) -> None:
        """Raises ValueError for invalid sizes."""


def _positive(config: PreTrainedConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise ValueError(
                f"{type(config).__name__}.{name}: expected a positive number, got {getattr(config, name)}."
            )


@strict
class EmoTaGHeadConfig(StrictNames, PreTrainedConfig):
    """The parametric head (METHOD 2).

    Args:
        asset (`str`): `"open_head"` for the embedded head, or the path of a head asset in safetensors. A head's data
            are never stored in a checkpoint (FLAME is licensed to each user); they are loaded from the asset.
        sha256 (`str`, *optional*): hash of that asset; loading refuses another one, because Gaussians are bound to
            its triangles.
        num_shape (`int`): identity directions used.
        num_expression (`int`): expression directions, 50 in the paper and here.
    """

    model_type = "emotag_head"
    base_config_key = "head_config"

    asset: str = "open_head"
    sha256: str | None = None
    num_shape: int = 60
    num_expression: int = len(EXPRESSION_NAMES)

    def _check_values(self) -> None:
        _positive(self, "num_shape", "num_expression")


@strict
class EmoTaGMotionConfig(StrictNames, PreTrainedConfig):
    """The Gated Residual Motion Network and its audio front end (METHOD 3).

    Args:
        frontend (`str`): `"whisper_blocks"` (80 log-mel bands, log-F0, voicing at 100 Hz, heard by an ear: the first
            blocks of Whisper base, made local) or `"transformers"` (hidden states of a speech encoder at 50 Hz, the
            paper's).
        audio_encoder, audio_encoder_sha256 (`str`, *optional*): name or path of the ear (None: `"ear-open"`), and the
            hash of its file; only with `"whisper_blocks"`. Its weights are never in a checkpoint.
        audio_model (`str`, *optional*): Hub id or folder of the speech encoder; only with `"transformers"`.
        audio_revision (`str`, *optional*): its revision.
        sampling_rate (`int`): of the sound, 16,000.
        audio_feature_dim (`int`): channels of the front end: 82 for `"whisper_blocks"`, 768 for wav2vec2-base.
        audio_window (`int`): tokens around a video frame (`"transformers"` only, 16 in the paper).
        hidden_dim (`int`): width of the audio feature `a` and of the expression feature `e`. The paper has 256; the
            embedded weights are smaller.
        phone_dim (`int`): width of the feature from which the viseme head tells p, b and m, learned apart from lips
            (only with `"whisper_blocks"`); 0: the head reads the Base's hidden units.
        num_layers, num_attention_heads, intermediate_dim (`int`): of the Audio Net's Transformer (`"transformers"`
            only; the paper has 8 heads and 1024).
        audio_activation (`str`): in its feed-forward layers, `"gelu"`, or `"relu"` as in the authors' checkpoints.
        look_ahead_ms (`int`): sound after a frame that may influence it, 0..160 ms (`"transformers"` only; an
            ear's look-ahead is an argument of each call).
        num_action_units (`int`), identity_dim (`int`), num_emotions (`int`): inputs e and id, and the size of z_e.
        num_visemes (`int`): classes of the viseme head, of which p, b and m close the lips.
        expression_dim, jaw_dim (`int`): the face motion (50 and 3).
        mouth_code_dim (`int`): size of the code that moves the inner-mouth Gaussians through the tri-plane.
        triplane_dim, triplane_resolution (`int`): channels and cells of that tri-plane.
        listener_dim (`int`): hidden units of the Voice Listener, which reads emotion from the voice (not with
            `"transformers"`); 0 for none.
        dropout (`float`): in the Audio Net, while training.
        fps (`int`): frames per second of the motion; 25 for `"whisper_blocks"`.
    """

    model_type = "emotag_motion"
    base_config_key = "motion_config"

    frontend: str = "whisper_blocks"
    audio_encoder: str | None = None
    audio_encoder_sha256: str | None = None
    audio_model: str | None = None
    audio_revision: str | None = None
    sampling_rate: int = SAMPLE_RATE
    audio_feature_dim: int = 82
    audio_window: int = 16
    hidden_dim: int = 128
    phone_dim: int = 0
    num_layers: int = 4
    num_attention_heads: int = 8
    intermediate_dim: int = 1024
    audio_activation: str = "gelu"
    listener_dim: int = 0
    dropout: float | int = 0.1
    look_ahead_ms: int = 160
    num_action_units: int = len(GRMN_ACTION_UNITS)
    identity_dim: int = 512
    num_emotions: int = len(EMOTIONS)
    num_visemes: int = 17
    expression_dim: int = len(EXPRESSION_NAMES)
    jaw_dim: int = 3
    mouth_code_dim: int = 8
    triplane_dim: int = 8
    triplane_resolution: int = 32
    fps: int = MOTION_FPS

    def _check_values(self) -> None:
        if self.frontend not in FRONTENDS:
            raise ValueError(f"frontend: expected {FRONTENDS_TEXT}, got {self.frontend!r}.")
        if self.audio_activation not in ("gelu", "relu"):
            raise ValueError(f"audio_activation: expected 'gelu' or 'relu', got {self.audio_activation!r}.")
        if not 0 <= self.look_ahead_ms <= 160:
            raise ValueError(f"look_ahead_ms: expected 0 to 160 milliseconds, got {self.look_ahead_ms}.")
        _positive(self, "audio_feature_dim", "audio_window", "hidden_dim", "num_layers", "num_attention_heads")
        _positive(self, "intermediate_dim", "identity_dim", "num_action_units", "num_emotions", "num_visemes")
        _positive(self, "expression_dim", "jaw_dim", "mouth_code_dim", "triplane_dim", "triplane_resolution", "fps")
        if self.sampling_rate != SAMPLE_RATE:
            raise ValueError(f"sampling_rate: the front ends work at {SAMPLE_RATE} Hz, got {self.sampling_rate}.")
        if self.listener_dim < 0 or (self.listener_dim and self.frontend == "transformers"):
            raise ValueError(
                f"listener_dim: expected 0 or more, and 0 if frontend is 'transformers', got {self.listener_dim}."
            )
        if self.frontend == "whisper_blocks" and self.fps != MOTION_FPS:
            raise ValueError(f"fps: the ear hears {MOTION_FPS} frames a second, got {self.fps}.")
        if self.frontend == "transformers" and self.hidden_dim % self.num_attention_heads:
            raise ValueError(
                f"hidden_dim: expected a multiple of num_attention_heads={self.num_attention_heads}, "
                f"got {self.hidden_dim}."
            )


@strict
class EmoTaGGaussiansConfig(StrictNames, PreTrainedConfig):
    """The Gaussians on the head (METHOD 2).

    Args:
        num_gaussians (`int`): their number; `RiggedGaussians.resize` updates it.
        num_mouth_gaussians (`int`): how many of them (the last ones) are inside the mouth and move with GRMN's mouth
            code.
        sh_degree (`int`): degree of the spherical harmonics, 0..2.
        num_correctives (`int`): size of the expression code that changes means and colours; 0 for none.
    """

    model_type = "emotag_gaussians"
    base_config_key = "gaussians_config"

    num_gaussians: int = 1000
    num_mouth_gaussians: int = 0
    sh_degree: int = 0
    num_correctives: int = 0

    def _check_values(self) -> None:
        _positive(self, "num_gaussians")
        if self.num_correctives < 0:
            raise ValueError(f"{type(self).__name__}.num_correctives: expected 0 or more, got {self.num_correctives}.")
        if not 0 <= self.sh_degree <= 2:
            raise ValueError(f"sh_degree: expected 0, 1 or 2, got {self.sh_degree}.")
        if not 0 <= self.num_mouth_gaussians <= self.num_gaussians:
            raise ValueError(
                f"num_mouth_gaussians: expected 0 to {self.num_gaussians} (num_gaussians), "
                f"got {self.num_mouth_gaussians}."
            )


@strict
class EmoTaGConfig(StrictNames, PreTrainedConfig):
    """Configuration of an [`EmoTaGModel`].

    Args:
        head_config, motion_config, gaussians_config (`dict` or config): the three parts.
        camera (`dict`, *optional*): how the avatar is framed: `{"target": [x, y, z] m, "distance": m, "focal": image
            widths}`; or the camera of its clip, `{"width", "height", "K": 3 x 3 px, "viewmat": 4 x 4}`.
        rest_pose (`dict`, *optional*): the person's neutral pose, to which generated motion is added: `rotation`,
            `neck_pose`, `translation`, `body_translation`, three numbers each (rad, m).
        backdrop (`dict`, *optional*): default background, a soft spot of light: `{"inner": [r, g, b], "outer": [r, g,
            b]}` in [0, 1].
        avatar_name (`str`): shown in logs and cards.
        weights_license (`str`): SPDX id or name of the licence of the weights; shown by `emotag info`.

    Example:

    ```python
    >>> from emotag_hf import EmoTaGConfig, EmoTaGModel
    >>> model = EmoTaGModel(EmoTaGConfig(gaussians_config={"num_gaussians": 2000}))
    ```
    """

    model_type = "emotag"
    sub_configs_defaults = {
        "head_config": EmoTaGHeadConfig,
        "motion_config": EmoTaGMotionConfig,
        "gaussians_config": EmoTaGGaussiansConfig,
    }

    head_config: dict | EmoTaGHeadConfig | None = None
    motion_config: dict | EmoTaGMotionConfig | None = None
    gaussians_config: dict | EmoTaGGaussiansConfig | None = None
    camera: dict | None = None
    rest_pose: dict | None = None
    backdrop: dict | None = None
    avatar_name: str = "unnamed"
    weights_license: str = "apache-2.0"

    def __post_init__(self, **kwargs: Any) -> None:
        # `Pipeline.save_pretrained` records a custom pipeline even when the task is registered, and loading would
        # then ask for `trust_remote_code`; this package registers the task at import.
        pipelines = kwargs.get("custom_pipelines")
        if isinstance(pipelines, dict):
            pipelines.pop(TASK, None)
            if not pipelines:
                kwargs.pop("custom_pipelines")
        if is_former(self.motion_config):
            self.motion_config = embedded_motion(self.weights_license)
        super().__post_init__(**kwargs)


__all__ = ["EmoTaGConfig", "EmoTaGGaussiansConfig", "EmoTaGHeadConfig", "EmoTaGMotionConfig"]
