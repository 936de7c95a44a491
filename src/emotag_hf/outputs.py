"""Data classes that are passed between the parts: motion, posed Gaussians, images, results.

T is the number of video frames, N of Gaussians, C of cameras. Axis-angle in radians, metres, colours in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from .constants import MOTION_DIMS


@dataclass
class FlameMotion:
    """Motion of a parametric head over T frames; every field is float32 `[T, dim]` with the dims of `MOTION_DIMS`.

    Args:
        expression: `[T, 50]` coefficients of `EXPRESSION_NAMES`.
        jaw_pose: `[T, 3]` axis-angle; +x opens.
        eyelids: `[T, 2]` closure of the left and right eyelids, 0 open .. 1 closed.
        eyes_pose: `[T, 6]` axis-angle of the left, then the right eye.
        neck_pose, rotation: `[T, 3]` axis-angle of the neck and of the whole head.
        translation: `[T, 3]` metres.
        mouth_code: `[T, R]` or None: offsets code of the inner-mouth Gaussians (GRMN's delta_mouth).
        body_translation: `[T, 3]` metres or None: shift of chest and shoulders (the part that moves with the root joint
            alone) against the head, which FLAME's single neck joint cannot express.
        fps: frames per second.
    """

    expression: torch.Tensor
    jaw_pose: torch.Tensor
    eyelids: torch.Tensor
    eyes_pose: torch.Tensor
    neck_pose: torch.Tensor
    rotation: torch.Tensor
    translation: torch.Tensor
    mouth_code: torch.Tensor | None = None
    body_translation: torch.Tensor | None = None
    fps: float = 25.0

    def __post_init__(self) -> None:
        num_frames = self.expression.shape[0]
        for name, dim in MOTION_DIMS.items():
            shape = tuple(getattr(self, name).shape)
            if shape != (num_frames, dim):
                raise ValueError(f"{name}: expected a tensor of shape ({num_frames}, {dim}), got {shape}.")
        body = self.body_translation
        if body is not None and tuple(body.shape) != (num_frames, 3):
            raise ValueError(
                f"body_translation: expected a tensor of shape ({num_frames}, 3), got {tuple(body.shape)}."
            )

    @classmethod
    def zeros(cls, num_frames: int, *, fps: float = 25.0, device: torch.device | str | None = None) -> FlameMotion:
        """A motionless, neutral head for `num_frames` frames."""
        return cls(**{n: torch.zeros(num_frames, d, device=device) for n, d in MOTION_DIMS.items()}, fps=fps)

    def __len__(self) -> int:
        return self.expression.shape[0]

    def __getitem__(self, index: slice) -> FlameMotion:
        return self._map(lambda x: x[index])

    def to(self, *args: Any, **kwargs: Any) -> FlameMotion:
        return self._map(lambda x: x.to(*args, **kwargs))

    def _map(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> FlameMotion:
        changed: dict[str, Any] = {
            f.name: fn(v) for f in fields(self) if isinstance(v := getattr(self, f.name), torch.Tensor)
        }
        return replace(self, **changed)

    def head_inputs(self) -> dict[str, torch.Tensor]:
        """The keyword arguments of `ParametricHead.forward`."""
        inputs = {name: getattr(self, name) for name in MOTION_DIMS}
        return inputs if self.body_translation is None else inputs | {"body_translation": self.body_translation}

    @classmethod
    def cat(cls, parts: list[FlameMotion]) -> FlameMotion:
        """Joins motions in time."""
        joined: dict[str, Any] = {n: torch.cat([getattr(p, n) for p in parts]) for n in MOTION_DIMS}
        for name in ("mouth_code", "body_translation"):
            rows = [getattr(p, name) for p in parts]
            joined[name] = None if rows[0] is None else torch.cat(rows)
        return cls(**joined, fps=parts[0].fps)


@dataclass
class GRMNOutput:
    """Output of the Gated Residual Motion Network for T frames (METHOD 3).

    Args:
        expression: `[B, T, 50]`; jaw_pose: `[B, T, 3]`; mouth_code: `[B, T, R]`: Base + g · Residual.
        gate: `[B, T, 1]` in [0, 1], g, the weight of the residual.
        emotion_logits: `[B, T, 7]`, z_e in the order of `EMOTIONS`.
        viseme_logits: `[B, T, 17]` of the viseme head, which only training uses, or None.
    """

    expression: torch.Tensor
    jaw_pose: torch.Tensor
    mouth_code: torch.Tensor
    gate: torch.Tensor
    emotion_logits: torch.Tensor
    viseme_logits: torch.Tensor | None = None


@dataclass
class PosedGaussians:
    """Gaussians in world space: `means [T, N, 3]` m, `quats [T, N, 4]` wxyz, `scales [T, N, 3]` m, `opacities [N]`,
    `colors [N, 3]` RGB, or with `sh_degree` > 0 `[N, K, 3]` spherical-harmonics coefficients; with one more dimension
    in front, `[T, N, 3]`, where the expression changes them."""

    means: torch.Tensor
    quats: torch.Tensor
    scales: torch.Tensor
    opacities: torch.Tensor
    colors: torch.Tensor
    sh_degree: int = 0

    def __getitem__(self, frames: slice) -> PosedGaussians:
        """A subset of the frames."""
        per_frame = self.colors.dim() == (4 if self.sh_degree else 3)
        return replace(
            self,
            means=self.means[frames],
            quats=self.quats[frames],
            scales=self.scales[frames],
            colors=self.colors[frames] if per_frame else self.colors,
        )

    def frame_colors(self, index: int) -> torch.Tensor:
        """The colours of one frame, as `rasterize` takes them."""
        return self.colors[index] if self.colors.dim() == (4 if self.sh_degree else 3) else self.colors


@dataclass
class RenderOutput:
    """Rendered frames: `images [T, H, W, 3]` in [0, 1] over the background, `alphas [T, H, W, 1]`."""

    images: torch.Tensor
    alphas: torch.Tensor


@dataclass
class EmoTaGOutput:
    """Output of `EmoTaGModel.predict_motion`: the motion, and the gate and emotion over time.

    Args:
        motion: `FlameMotion` of T frames.
        gate: `[T]` in [0, 1].
        emotion_logits: `[T, 7]` in the order of `EMOTIONS`.
    """

    motion: FlameMotion
    gate: torch.Tensor
    emotion_logits: torch.Tensor
