"""Fits the expression code: principal components of motion, weighted by millimetres of skin motion.

In: features of tracked motion (`gaussian_correctives.code_features`), of one clip or of many people. Out: an
`ExpressionCode`, scaled so that codes are about 1 for usual motion.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...constants import EXPRESSION_NAMES
from ...models.gaussian_correctives import NUM_FEATURES, ExpressionCode
from ...models.modeling_head import ParametricHead

POSE_CODES = 3  # the head's rotation, appended to the directions of the face
_SKIN_PER_JAW = (40.0, 20.0, 20.0)  # mm of the lower face per rad
_SKIN_PER_LID, _SKIN_PER_GAZE = 1.5, 2.0
_USUAL_TURN = 0.15  # rad
_LEAST_SPREAD = 0.3  # lower bound of the spread, so that directions that hardly move are not amplified
_MARGIN = 0.1  # margin beyond the observed range before codes are clamped


def fit_expression_code(features: Tensor, head: ParametricHead, num_directions: int) -> ExpressionCode:
    """Computes directions, scale and range from `features [n, 64]`.

    Returns:
        `ExpressionCode` of size `num_directions` + 3.
    """
    face = head.region("face")
    skin = torch.zeros(NUM_FEATURES)
    n = len(EXPRESSION_NAMES)
    skin[:n] = 1000 * head.expression_basis[face].square().sum(1).mean(0).sqrt().cpu()
    skin[n : n + 3] = torch.tensor(_SKIN_PER_JAW)
    skin[n + 3 : n + 5], skin[n + 5 : n + 11] = _SKIN_PER_LID, _SKIN_PER_GAZE
    center = features.mean(0)
    away = features - center
    directions = torch.linalg.svd(away * skin, full_matrices=False).Vh[:num_directions]
    if len(directions) < num_directions:  # fewer frames than directions
        directions = torch.cat([directions, directions.new_zeros(num_directions - len(directions), NUM_FEATURES)])
    # The sign of a principal direction is arbitrary: its largest component is made positive, for reproducibility.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * torch.where(largest < 0, -1.0, 1.0) * skin
    spread = (away @ directions.T).std(0) if len(features) > 1 else torch.ones(num_directions)
    turn = torch.zeros(POSE_CODES, NUM_FEATURES)
    turn[:, -POSE_CODES:] = torch.eye(POSE_CODES) / _USUAL_TURN
    code = ExpressionCode(num_directions + POSE_CODES)
    code.basis.copy_(torch.cat([directions / spread.clamp_min(_LEAST_SPREAD)[:, None], turn]))
    code.center.copy_(center)
    set_range(code, features)
    return code


def set_range(code: ExpressionCode, features: Tensor) -> None:
    """Sets the range of codes to that of `features [n, 64]` plus a margin."""
    codes = (features - code.center) @ code.basis.T
    low, high = codes.min(0).values, codes.max(0).values
    margin = _MARGIN * (high - low)
    code.low.copy_(low - margin)
    code.high.copy_(high + margin)


__all__ = ["POSE_CODES", "fit_expression_code", "set_range"]
