"""A person's constant offsets between landmarks and the fitted head, which are not expression.

In: residuals of a first fit, in pixels. Out: offsets to subtract from the landmarks. MediaPipe's landmark of a brow,
for example, is not exactly at the head's corresponding point on this face. Identity coefficients do not remove this
offset, which is about ten times the frame-to-frame noise of a landmark. After it is subtracted, the fit can assume less
landmark noise, so that the expression prior no longer weakens expressions (docs/tracking.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...rendering.cameras import Camera

_MAX_DEVIATION = 0.004  # metres: larger deviations from the median are outliers and are clamped
_RIDGE = (1e-3, 1.0, 1.0)  # ridge penalty of the constant and the two view terms, for clips with little rotation


class View:
    """The head's right and down axes in the picture, and the viewing direction.

    Args:
        rotation, translation: `[T, 3, 3]` and `[T, 3]` metres, head space to world, about the head's origin.
    """

    def __init__(self, rotation: Tensor, translation: Tensor, camera: Camera):
        seen = camera.viewmat[:3, :3] @ rotation
        depth = (translation @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3])[:, 2].clamp_min(1e-3)
        self.x, self.y = -seen[:, 2, 0], -seen[:, 2, 1]  # of the unit vector to the camera, in head space
        down = -seen[:, :2, 1] / seen[:, :2, 1].norm(dim=1, keepdim=True).clamp_min(1e-6)
        self._axes = torch.stack([torch.stack([down[:, 1], -down[:, 0]], 1), down], 1)  # [T, (right, down), (x, y)]
        self._pixels = (camera.K[0, 0] / depth)[:, None, None]  # per metre

    def to_pixels(self, offsets: Tensor) -> Tensor:
        """`[T, L, 2]` metres along right and down to pixels in the picture."""
        return offsets @ self._axes * self._pixels

    def to_metres(self, pixels: Tensor) -> Tensor:
        """The inverse of `to_pixels`."""
        return pixels @ self._axes.transpose(1, 2) / self._pixels


class PersonOffsets:
    """Offsets `[L, 2]` of a person's landmarks, a constant and a view-dependent part: metres along right and down.

    Args:
        views: of the T frames of a first fit. residuals: `[T, L, 2]` pixels, detected minus fitted.
    """

    def __init__(self, views: View, residuals: Tensor):
        metres = views.to_metres(residuals)
        middle = metres.median(0).values
        rest = (metres - middle).clamp(-_MAX_DEVIATION, _MAX_DEVIATION)
        self._centre = torch.stack([views.x.mean(), views.y.mean()])
        terms = self._terms(views)
        normal = terms.T @ terms + torch.diag(torch.tensor(_RIDGE))
        self._by_term = torch.linalg.solve(normal, terms.T @ rest.flatten(1)).unflatten(1, rest.shape[1:])
        self._by_term[0] += middle

    def pixels(self, view: View) -> Tensor:
        """The offsets in these views, `[T, L, 2]` pixels."""
        return view.to_pixels(torch.einsum("tk,kli->tli", self._terms(view), self._by_term))

    def _terms(self, view: View) -> Tensor:
        return torch.stack([torch.ones_like(view.x), view.x - self._centre[0], view.y - self._centre[1]], 1)


__all__ = ["PersonOffsets", "View"]
