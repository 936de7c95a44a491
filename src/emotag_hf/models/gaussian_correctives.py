"""The expression code: a few values per frame, computed from its motion, that change means and colours of the
Gaussians.

In: `FlameMotion`. Out: codes `[T, K]` for `RiggedGaussians.pose`. Blend shapes cannot model folds and shading;
correctives do, along K directions of motion. Codes are clamped to the range of the training frames, because linear
correctives extrapolate badly.
"""

from __future__ import annotations

import torch

from ..outputs import FlameMotion
from ..utils.precision import Float32Module
from ..utils.rotations import rotation_matrix

NUM_FEATURES = 50 + 3 + 2 + 6 + 3


def code_features(motion: FlameMotion) -> torch.Tensor:
    """Inputs of the expression code, `[T, 64]`: expression, jaw, eyelids, gaze, and the head's rotation (root and
    neck).

    The last three are the skew part of the rotation (rad for small angles): the light does not turn with the head.
    """
    turn = rotation_matrix(motion.rotation) @ rotation_matrix(motion.neck_pose)
    skew = torch.stack(
        [turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], -1
    )
    return torch.cat([motion.expression, motion.jaw_pose, motion.eyelids, motion.eyes_pose, 0.5 * skew], -1)


class ExpressionCode(Float32Module):
    """Computes the code of a motion: `clamp((features - center) @ basis^T, low, high)`.

    Buffers, all in the checkpoint: `basis [K, 64]`, `center [64]`, `low [K]`, `high [K]`.
    """

    basis: torch.Tensor
    center: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, num_codes: int):
        super().__init__()
        self.register_buffer("basis", torch.zeros(num_codes, NUM_FEATURES))
        self.register_buffer("center", torch.zeros(NUM_FEATURES))
        self.register_buffer("low", torch.zeros(num_codes))
        self.register_buffer("high", torch.zeros(num_codes))

    def forward(self, motion: FlameMotion) -> torch.Tensor:
        """Codes `[T, K]` of T frames; differentiable within the range."""
        codes = (code_features(motion).float() - self.center) @ self.basis.T
        return torch.minimum(torch.maximum(codes, self.low), self.high)


__all__ = ["ExpressionCode", "NUM_FEATURES", "code_features"]
