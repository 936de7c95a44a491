"""Learnable per-frame corrections to a tracked motion, for photometric refinement.

In: a `FlameMotion`. Out: the corrected motion. Each number is in steps that move the picture by about half a pixel of a
512-wide portrait, so that one learning rate and one prior fit all. The head rotates about the point between its eyes:
about the root joint, some 10 cm below, rotation and translation would be strongly correlated. The body offsets rotate
and translate the body while the head keeps its pose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...constants import EXPRESSION_NAMES, MOTION_DIMS
from ...models.modeling_head import ParametricHead
from ...outputs import FlameMotion
from ...utils.rotations import rotation_matrix, rotation_to_axis_angle

# Name -> size of one step: radians, metres (depth has larger steps, since it changes the picture less), coefficients.
STEPS = {
    "head_rotation": (0.004,) * 3,
    "head_translation": (0.0003, 0.0003, 0.004),
    "jaw_pose": (0.006, 0.003, 0.003),
    "expression": (0.04,) * len(EXPRESSION_NAMES),
    "eyelids": (0.05,) * 2,
    "eyes_pose": (0.02,) * 6,
    "body_translation": (0.0005, 0.0005, 0.004),
    "body_rotation": (0.004,) * 3,
}
_BETAS = (0.7, 0.95)  # Adam with short averages, since a row gets only few updates


class MotionOffsets:
    """Offsets of T frames. Each row has its own Adam state: a shared Adam would also move rows without a gradient.

    Args:
        motion: T frames to be corrected; not changed.
        head, shape: the head `[S]` they belong to.

    Attributes:
        rows: `[T, 77]` the offsets, in steps; zero at first.
    """

    def __init__(self, motion: FlameMotion, head: ParametricHead, shape: Tensor):
        self.base = motion
        device = motion.expression.device
        self.steps = torch.tensor([size for sizes in STEPS.values() for size in sizes], device=device)
        self._widths = [len(sizes) for sizes in STEPS.values()]
        self.rows = torch.zeros(len(motion), len(self.steps), device=device)
        self._first, self._second = torch.zeros_like(self.rows), torch.zeros_like(self.rows)
        self._visits = torch.zeros(len(motion), device=device)
        with torch.no_grad():
            joints = head(shape=shape[None]).joints[0]
        self._to_eyes, self._to_neck = -joints[0], joints[1] - joints[0]  # from the root joint

    def row(self, frame: int) -> Tensor:
        """`[77]` a leaf tensor that requires gradients."""
        return self.rows[frame].clone().requires_grad_(True)

    def update(self, frame: int, gradient: Tensor, rate: float) -> None:
        """One Adam step of one frame's row; `rate` in steps."""
        decay, decay2 = _BETAS
        self._visits[frame] += 1
        count = self._visits[frame]
        self._first[frame] = decay * self._first[frame] + (1 - decay) * gradient
        self._second[frame] = decay2 * self._second[frame] + (1 - decay2) * gradient.square()
        mean, square = self._first[frame] / (1 - decay**count), self._second[frame] / (1 - decay2**count)
        self.rows[frame] -= rate * mean / (square.sqrt() + 1e-12)

    def motion(self, frames: Tensor, rows: Tensor | None = None) -> FlameMotion:
        """The corrected motion of some frames.

        Args:
            frames: `[n]` int64. rows: `[n, 77]` to use instead of the stored ones; differentiable.
        """
        rows = self.rows[frames] if rows is None else rows
        part = dict(zip(STEPS, (rows * self.steps).split(self._widths, 1)))
        base = {name: getattr(self.base, name)[frames] for name in MOTION_DIMS}
        before = rotation_matrix(base["rotation"])
        after = rotation_matrix(part["head_rotation"]) @ before
        root = rotation_matrix(part["body_rotation"]) @ after
        neck = root.transpose(1, 2) @ after @ rotation_matrix(base["neck_pose"])
        body = self.base.body_translation
        return FlameMotion(
            expression=base["expression"] + part["expression"],
            jaw_pose=base["jaw_pose"] + part["jaw_pose"],
            eyelids=(base["eyelids"] + part["eyelids"]).clamp(0, 1),
            eyes_pose=base["eyes_pose"] + part["eyes_pose"],
            neck_pose=rotation_to_axis_angle(neck),
            rotation=rotation_to_axis_angle(root),
            translation=base["translation"]
            + part["head_translation"]
            + (before - after) @ self._to_eyes
            + (after - root) @ self._to_neck,
            mouth_code=None if self.base.mouth_code is None else self.base.mouth_code[frames],
            body_translation=part["body_translation"] + (0 if body is None else body[frames]),
            fps=self.base.fps,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Offsets and optimiser state, for an exact resume from a checkpoint."""
        return {"rows": self.rows, "first": self._first, "second": self._second, "visits": self._visits}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        for mine, name in (
            (self.rows, "rows"),
            (self._first, "first"),
            (self._second, "second"),
            (self._visits, "visits"),
        ):
            mine.copy_(state[name])


__all__ = ["STEPS", "MotionOffsets"]
