"""EmoTaGModel: parametric head + motion network + rigged Gaussians (METHOD 2 and 3).

In: audio features, controls, a camera. Out: motion, posed Gaussians, images, by the three methods that both pipelines
call: `predict_motion` -> `pose` -> `render`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..constants import OPEN_MODEL
from ..hub.avatar_card import is_open_license
from ..hub.hub_transfer import Pushed, fetch
from ..hub.push_model import push_model
from ..hub.repo_contents import refuse_push
from ..motion.driving_motion import DrivingClip
from ..motion.emotion_direction import EmotionDirection
from ..motion.motion_stream import MotionStream
from ..motion.motion_strengths import MotionStrengths
from ..outputs import EmoTaGOutput, FlameMotion, GRMNOutput, PosedGaussians, RenderOutput
from ..rendering import Camera, rasterize
from ..rendering.compositing import composite, make_background
from ..rights.consent import CONSENT_JSON
from ..utils.asset_paths import model_path
from ..utils.rotations import rotation_matrix, rotation_to_axis_angle
from ..utils.typing import EmotionInput, PathLike
from .checkpoints import check_loading, check_weights_file
from .configuration_emotag import EmoTaGConfig, EmoTaGHeadConfig
from .ear import Ear
from .ear_asset import refill_ear_
from .former_networks import embedded_weights
from .gaussian_correctives import ExpressionCode
from .modeling_gaussians import RiggedGaussians
from .modeling_head import ParametricHead
from .modeling_motion import GatedResidualMotionNetwork

logger = logging.getLogger(__name__)

_HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
_STORED_IN_HALF = ("gaussians.corrective_",)
DEFAULT_CAMERA = {"target": [0.0, -0.03, 0.0], "distance": 1.7, "focal": 4.0}


@lru_cache(maxsize=8)
def _say_licence_once(name: str) -> None:
    logger.warning(
        "These weights were trained on real recordings; their licence, %s, allows research and other non-commercial "
        "use. %r is under Apache-2.0; name it to use it instead.",
        name,
        OPEN_MODEL,
    )


def _stored(name: str, values: torch.Tensor) -> torch.Tensor:
    """A parameter as it is written to disk."""
    lossless = values.dtype == torch.float32 and values.half().float().equal(values)
    return values.half() if lossless or name.startswith(_STORED_IN_HALF) else values


class EmoTaGPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by every EmoTaG model."""

    config_class = EmoTaGConfig
    base_model_prefix = "emotag"
    main_input_name = "input_features"
    _no_split_modules: list[str] = []
    folder: str | None = None  # where it was loaded from
    is_avatar = False  # whether it came with a person's consent; it may be shared with that consent only
    # Parameters that stay float32 under `from_pretrained(dtype=...)`, as `precision.Float32Module` does it for `.to()`;
    # named, because the binding's integers must not become floats.
    _keep_in_fp32_modules_strict = [
        "gaussians.means", "gaussians.quats", "gaussians.log_scales", "gaussians.opacity_logits", "gaussians.colors",
        "gaussians.canonical", "gaussians.corrective_means", "gaussians.corrective_colors", "expression_code.basis",
        "expression_code.center", "expression_code.low", "expression_code.high", "shape", "listener",
    ]  # fmt: skip

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        # `from_pretrained` builds on the meta device and leaves what a checkpoint lacks uninitialised. That is the
        # head, whose data may be licensed, and the ear, which many share; all else must be in the checkpoint.
        if isinstance(module, ParametricHead):
            module.refill_()
        if isinstance(module, Ear):
            refill_ear_(module)

    def save_pretrained(self, save_directory: PathLike, **kwargs: Any) -> None:
        """As in transformers, without `push_to_hub`: call `push_to_hub` instead. Correctives (most of an avatar's
        bytes) are stored in 16 bits and loaded as 32; so are tensors that lose nothing by it."""
        refuse_push(kwargs)
        if kwargs.get("state_dict") is None:
            state = self.state_dict()
            kwargs["state_dict"] = {name: _stored(name, values) for name, values in state.items()}
        super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: PathLike, *model_args: Any, **kwargs: Any) -> Any:
        """As in transformers, but strict: a corrupt file, a pickle, or a missing or unexpected key is a ValueError.

        Args:
            pretrained_model_name_or_path: a folder with `config.json` and `model.safetensors`, `"user/name"`, or the
                name of an embedded model.
        """
        path = pretrained_model_name_or_path and model_path(pretrained_model_name_or_path)
        if path is not None and not kwargs.get("subfolder"):
            path = fetch(path, **{name: kwargs.pop(name) for name in _HUB_ARGUMENTS if name in kwargs})
        folder: PathLike | None = path
        if path is not None and os.path.isdir(path) and "state_dict" not in kwargs:
            own = os.path.join(path, kwargs.get("subfolder") or "")
            check_weights_file(own)
            if (weights := embedded_weights(own)) is not None:
                kwargs.setdefault("config", cls.config_class.from_pretrained(own))
                kwargs["state_dict"], folder = weights, None
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["use_safetensors"] = True
        kwargs["ignore_mismatched_sizes"] = True  # `check_loading` reports mismatches in one sentence
        model, info = super().from_pretrained(folder, *model_args, output_loading_info=True, **kwargs)
        check_loading(path, info)
        model.gaussians.check_binding(len(model.head.faces))
        if not is_open_license(model.config.weights_license):
            _say_licence_once(model.config.weights_license)
        if path is not None:
            model.folder = os.fspath(path)
            model.is_avatar = os.path.isfile(os.path.join(path, CONSENT_JSON))
        return (model, info) if wants_info else model

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | None = None,
        commit_message: str | None = None,
        remote_code: bool = False,
    ) -> Pushed:
        """Uploads config, weights and a card in one commit; a new repository is private unless said otherwise.

        `EmoTaGPipeline.push_to_hub` uploads the processor too, which `pipeline("talking-head", model=repo_id)` needs,
        and is the only way to upload a person's avatar, with its consent.

        Args:
            repo_id: `"user/name"`; created if it does not exist.
            private: whether a new repository is private. If the repository exists and is public, a private push is
                refused.
            token: with write permission; None for the user who is logged in (`hf auth login`, HF_TOKEN).
            commit_message: of the commit.
            remote_code: also uploads a file for users who load without `import emotag_hf` (`trust_remote_code=True`).

        Raises:
            ValueError: it is a person's avatar, or part of it must not be uploaded, such as another head's data or a
                local speech encoder.
            HubError: a wrong token, no write permission or no connection; nothing was committed.
        """
        options: dict[str, Any] = dict(
            private=private, token=token, commit_message=commit_message, remote_code=remote_code
        )
        return push_model(self, repo_id, **options)


class EmoTaGModel(EmoTaGPreTrainedModel):
    """A person's talking head: parametric head, motion network and Gaussians.

    Example:

    ```python
    >>> from emotag_hf import EmoTaGModel, default_model_path
    >>> model = EmoTaGModel.from_pretrained(default_model_path())
    ```
    """

    def __init__(self, config: EmoTaGConfig):
        super().__init__(config)
        self.head = load_head(config.head_config)  # type: ignore[arg-type]
        self.motion = GatedResidualMotionNetwork(config.motion_config)  # type: ignore[arg-type]
        self.gaussians = RiggedGaussians(config.gaussians_config)  # type: ignore[arg-type]
        num_codes = config.gaussians_config.num_correctives
        self.expression_code = ExpressionCode(num_codes) if num_codes else None
        # The person: identity coefficients of the head, and the face embedding that AdaIN reads (METHOD 3).
        self.register_buffer("shape", torch.zeros(config.head_config.num_shape))
        self.register_buffer("identity_embedding", torch.zeros(config.motion_config.identity_dim))
        self.post_init()

    def forward(self, input_features: torch.Tensor, **controls: Any) -> GRMNOutput:
        """Runs the motion network alone on `input_features [B, L, F]`: `GRMNOutput` (METHOD 3); see
        `predict_motion`."""
        return self.motion(input_features, identity_embedding=self.identity(input_features.shape[0]), **controls)

    def step(self, features: torch.Tensor, state: Any, **controls: Any) -> Any:
        """Runs the motion network on the next chunk `[B, k, F]` of a stream; see its `step`."""
        return self.motion.step(features, state, identity_embedding=self.identity(features.shape[0]), **controls)

    @torch.no_grad()
    def predict_motion(
        self,
        input_features: torch.Tensor,
        *,
        num_frames: int,
        fps: float,
        loudness: np.ndarray | None = None,
        emotion: EmotionInput | EmotionDirection = None,
        intensity: float = 1.0,
        seed: int = 0,
        head_motion: float | MotionStrengths = 1.0,
        driving: Sequence[DrivingClip] = (),
        look_ahead: float | str | None = None,
        articulation: float = 1.0,
    ) -> EmoTaGOutput:
        """Predicts the motion of the whole head from speech.

        Args:
            input_features: `[1, L, F]` from `EmoTaGProcessor`.
            num_frames: T, frames at `fps`.
            loudness: in [0, 1] at each of `native_times(num_frames, fps)`; None for a calm speaker.
            emotion: a class, a mixture, valence and arousal, action units or keyframes, as `EmotionDirection` takes
                them, or an `EmotionDirection`; None lets the network read the voice.
            intensity: in [0, 1]: the gate g for a given `emotion`, and a factor on the network's own gate without one.
                An `EmotionDirection` has its own.
            seed: of the generated head motion, blinks and gaze.
            head_motion: strength of generated motion, 0 to 2: `MotionStrengths`, or a number for all parts except
                blinks.
            driving: clips whose pose or upper face replaces the generated motion.
            look_ahead: sound after a frame that may influence it, in seconds, or `"full"` (None): see `speak`.
            articulation: how far the mouth moves in speech, 0.5 to 1.5; 1 is what the network learned.

        Returns:
            `EmoTaGOutput` of T frames at `fps`.
        """
        rate = self.config.motion_config.fps
        num_native = len(self.native_times(num_frames, fps))
        loudness = np.zeros(num_native) if loudness is None else np.asarray(loudness)
        if input_features.shape[0] != 1:
            raise ValueError(f"input_features: expected one recording [1, L, F], got {list(input_features.shape)}.")
        if loudness.shape != (num_native,):
            raise ValueError(f"loudness: expected {num_native} values, one per 1/{rate} s, got {loudness.shape}.")
        direction = emotion if isinstance(emotion, EmotionDirection) else EmotionDirection(emotion, intensity)
        direction.check_end(num_frames / fps)
        stream = MotionStream(
            self,
            fps=fps,
            direction=direction,
            seed=seed,
            head_motion=head_motion,
            driving=driving,
            look_ahead=look_ahead,
            articulation=articulation,
        )
        stream.hear(input_features[0], loudness)
        stream.end(num_frames)
        parts = list(stream.certain())
        return EmoTaGOutput(
            FlameMotion.cat([part.motion for part in parts]),
            torch.cat([part.gate for part in parts]),
            torch.cat([part.emotion_logits for part in parts]),
        )

    def on_rest_pose(self, motion: FlameMotion) -> FlameMotion:
        """Adds the person's neutral pose (`config.rest_pose`) to motion about the origin."""
        if not self.config.rest_pose:
            return motion
        rest = {name: torch.tensor(value, dtype=torch.float32) for name, value in self.config.rest_pose.items()}
        turn = rotation_matrix(rest["rotation"])
        # Shoulders keep still: the rotation of the root joint is applied to the neck, too.
        neck = rotation_matrix(motion.rotation) @ rotation_matrix(rest["neck_pose"]) @ rotation_matrix(motion.neck_pose)
        return replace(
            motion,
            rotation=rest["rotation"].expand(len(motion), 3),
            neck_pose=rotation_to_axis_angle(neck),
            translation=motion.translation @ turn.T + rest["translation"],
            body_translation=(rest["body_translation"] - motion.translation @ turn.T).contiguous(),
        )

    def native_times(self, num_frames: int, fps: float) -> np.ndarray:
        """Times in seconds of the network's own frames that cover `num_frames` at `fps`."""
        rate = self.config.motion_config.fps
        return np.arange(max(1, int(np.ceil(num_frames * rate / fps)))) / rate

    def mouth_basis(self) -> torch.Tensor | None:
        """The linear map from mouth code to offsets of the inner-mouth Gaussians, `[num_mouth, R, 9]`; None without
        such Gaussians."""
        num_mouth = self.config.gaussians_config.num_mouth_gaussians
        if not num_mouth:
            return None
        basis = self.motion.mouth_basis(self.gaussians.canonical[-num_mouth:].to(self.dtype))
        return basis.transpose(0, 1).contiguous().transpose(0, 1)  # the memory layout that the product reads

    def pose(
        self,
        motion: FlameMotion,
        mouth_basis: torch.Tensor | None = None,
        still: tuple[torch.Tensor, ...] | None = None,
    ) -> PosedGaussians:
        """The Gaussians of T frames in world space.

        Args:
            motion: T frames.
            mouth_basis: of `mouth_basis()`, to compute it once for many calls; None computes it here.
            still: likewise, of `gaussians.still()`.
        """
        motion = motion.to(device=self.gaussians.means.device)
        vertices = self.head(shape=self.shape[None], **motion.head_inputs()).vertices
        offsets = None
        if motion.mouth_code is not None and self.config.gaussians_config.num_mouth_gaussians:
            basis = self.mouth_basis() if mouth_basis is None else mouth_basis
            offsets = self.motion.mouth_offsets(motion.mouth_code.to(basis.dtype), basis=basis)
        codes = None if self.expression_code is None else self.expression_code(motion)
        return self.gaussians.pose(vertices, self.head.faces, offsets, codes, still)

    def camera(self, width: int = 512, height: int | None = None, *, yaw: float = 0.0, pitch: float = 0.0) -> Camera:
        """The avatar's default camera at `width` x `height` pixels, orbited by `yaw` and `pitch` radians."""
        framing = DEFAULT_CAMERA | (self.config.camera or {})
        size = (width, height or width)
        if "K" in framing:  # the camera of the person's clip
            own = Camera(framing["width"], framing["height"], framing["K"], framing["viewmat"])
            return own.fit(size).orbit(yaw, pitch)
        return Camera.portrait(
            size,
            target=framing["target"],
            distance=framing["distance"],
            focal=framing["focal"] * min(size),
            yaw=yaw,
            pitch=pitch,
        )

    def render(
        self, posed: PosedGaussians, camera: Camera, background: torch.Tensor | None = None, backend: str | None = None
    ) -> RenderOutput:
        """Renders every frame in `posed`.

        Args:
            posed: T frames.
            camera: one camera for all of them.
            background: `[H, W, 3]` in [0, 1]; None for the avatar's own backdrop.
            backend: of `rasterize`; None picks gsplat on CUDA and Numba on a CPU.

        Returns:
            `RenderOutput` with `images [T, H, W, 3]` and `alphas [T, H, W, 1]`.
        """
        device = posed.means.device
        if background is None:
            background = make_background(None, camera.width, camera.height, self.config.backdrop)
        if tuple(background.shape) != (camera.height, camera.width, 3):
            raise ValueError(
                f"background: expected a tensor of shape ({camera.height}, {camera.width}, 3), "
                f"got {tuple(background.shape)}; `make_background` makes one of a colour or a picture."
            )
        background = background.to(device, torch.float32)
        images, alphas = [], []
        for t, (means, quats, scales) in enumerate(zip(posed.means, posed.quats, posed.scales)):
            color, alpha, _ = rasterize(
                means, quats, scales, posed.opacities, posed.frame_colors(t),
                viewmats=camera.viewmat[None].to(device), Ks=camera.K[None].to(device),
                width=camera.width, height=camera.height,
                sh_degree=posed.sh_degree or None, backend=backend,
            )  # fmt: skip
            images.append(composite(color[0], alpha[0], background))
            alphas.append(alpha[0])
        return RenderOutput(torch.stack(images), torch.stack(alphas))

    def warm_up(self) -> None:
        """Compiles the CPU kernels now, with one progress bar, instead of in the first frame.

        Takes some seconds once per machine, and a moment to load in each process after that.
        """
        if self.device.type == "cpu":
            from ..rendering.compositing_kernels import over, quantise
            from ..rendering.numba_backend import warm_up
            from .ear_kernels import EAR_KERNELS
            from .gaussian_binding import BINDING_KERNELS

            warm_up(extra=[*BINDING_KERNELS, *EAR_KERNELS, over, quantise])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        shape = self.shape
        super()._apply(fn, recurse)
        if self.shape.dtype != shape.dtype:  # the person's geometry, see `precision`
            self.shape = shape.to(self.shape.device)
        return self

    def identity(self, batch: int) -> torch.Tensor:
        """The person's face embedding for the ID Net, `[batch, 512]`."""
        return self.identity_embedding.to(self.dtype)[None].expand(batch, -1)


def load_head(config: EmoTaGHeadConfig) -> ParametricHead:
    """The head that a config names.

    Raises:
        ValueError: the asset differs from the one that the Gaussians are bound to, or has another number of identity
            directions, or other expression directions (a head that was not retargeted).
    """
    with torch.device("cpu"):  # `from_pretrained` builds under the meta device, where nothing can be read
        head = ParametricHead.from_asset(None if config.asset == "open_head" else config.asset)
    head.check_expression_names()
    if config.sha256 not in (None, head.sha256):
        raise ValueError(
            f"head_config: this model is bound to head {config.asset!r} with sha256 {config.sha256[:12]}..., the one "
            f"here has {head.sha256[:12]}...; install the emotag_hf version that saved it, or pass that head's path."
        )
    if head.num_shape != config.num_shape:
        raise ValueError(f"head_config.num_shape: the head has {head.num_shape} directions, got {config.num_shape}.")
    return head


__all__ = ["EmoTaGModel", "EmoTaGPreTrainedModel"]
