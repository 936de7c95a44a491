"""Small corrections to a tracked motion, one row a frame, that pixels find where landmarks cannot.

In: a `FlameMotion`. Out: the same, moved. Each number of a row is in steps of about half a pixel of a 512-wide
portrait, so that one learning rate and one prior serve them all. The head turns about the point between its eyes, not
about the root joint a hand's breadth below, or turning and shifting would undo each other; the body (what the root
joint carries) turns and shifts under a head that stays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...constants import EXPRESSION_NAMES, MOTION_DIMS
from ...models.modeling_head import ParametricHead
from ...outputs import FlameMotion
from ...utils.rotations import rotation_matrix, rotation_to_axis_angle

# Name -> size of one step: radians, metres (along the line of sight a shift shows ten times less), coefficients.
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
_BETAS = (0.7, 0.95)  # short memories: a row is visited a few times in all


class MotionOffsets:
    """Offsets of T frames, each with an optimiser of its own: Adam over all rows would go on moving frames unseen.

    Args:
        motion: T frames to be corrected; fixed.
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
        """`[77]` a leaf that takes gradients."""
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
        """Everything that changes, for an exact resume."""
        return {"rows": self.rows, "first": self._first, "second": self._second, "visits": self._visits}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state_dict` gave."""
        for mine, name in (
            (self.rows, "rows"),
            (self._first, "first"),
            (self._second, "second"),
            (self._visits, "visits"),
        ):
            mine.copy_(state[name])


__all__ = ["STEPS", "MotionOffsets"]
