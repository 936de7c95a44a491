"""Lip landmarks as a linear function of expression and jaw.

In: a parametric head; expression `[..., 50]` and jaw `[..., 3]`. Out: displacements of the lips in millimetres, the gap
between them and their width. Coefficients and radians have no common unit (METHOD 5's motion loss adds both);
millimetres of lip are visible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...constants import EXPRESSION_NAMES
from ...models.modeling_head import ParametricHead
from ...preprocessing.tracking.head_track import MOUTH_POINTS

_UPPER, _LOWER = (82, 13, 312), (87, 14, 317)  # MediaPipe's points: middles of the inner lips
_CORNERS = (61, 291)
_CHIN = (152, 148, 377)
_JAW_STEP = 0.1  # rad: the slope is taken at a typical opening, not at zero
_MILLIMETRES = 1000.0


class LipSpace:
    """Linear map from face motion to lips.

    Attributes:
        basis: `[53, P, 3]` mm per coefficient or radian. num_points: P, the lips' outlines and the chin.
    """

    @torch.no_grad()
    def __init__(self, head: ParametricHead):
        num_expression = len(EXPRESSION_NAMES)
        face_dim = num_expression + 3
        points = list(MOUTH_POINTS) + list(_CHIN)
        steps = torch.cat([torch.zeros(1, face_dim), torch.eye(face_dim)])
        steps[1 + num_expression :] *= _JAW_STEP
        vertices = head(expression=steps[:, :num_expression], jaw_pose=steps[:, num_expression:]).vertices
        places = head.landmarks(vertices)[:, points] * _MILLIMETRES
        self.basis = (places[1:] - places[0]) / steps[1:].sum(1)[:, None, None]
        self.num_points = len(points)
        self._rows = {name: [points.index(i) for i in group] for name, group in
                      (("upper", _UPPER), ("lower", _LOWER), ("corners", _CORNERS))}  # fmt: skip

    def points(self, expression: Tensor, jaw_pose: Tensor) -> Tensor:
        """Displacement of the lips from rest: `[..., P, 3]` mm."""
        face = torch.cat([expression, jaw_pose], -1)
        return (face @ self.basis.flatten(1).to(face)).unflatten(-1, (self.num_points, 3))

    def opening(self, points: Tensor) -> Tensor:
        """Gap of the inner lips beyond rest, `[...]` mm, of `points` `[..., P, 3]`; below 0 where they are pressed."""
        heights = points[..., 1]
        return heights[..., self._rows["upper"]].mean(-1) - heights[..., self._rows["lower"]].mean(-1)

    def width(self, points: Tensor) -> Tensor:
        """Distance of the corners beyond rest, `[...]` mm."""
        right, left = self._rows["corners"]
        return points[..., left, 0] - points[..., right, 0]


__all__ = ["LipSpace"]
