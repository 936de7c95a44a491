"""Gaze: rotations of the eye joints from MediaPipe's irises and the fitted head.

In: five points of each iris in pixels, the head's pose. Out: axis-angle of both eye joints. The centre of an
eyeball is a joint of the head, so the gaze direction follows in closed form from the iris centre in the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.modeling_head import ParametricHead
from ...rendering.cameras import Camera

_JOINT = {"left": 3, "right": 4}  # constants.JOINTS
_IRIS = {"right": 0, "left": 5}  # index of the iris centre among the ten iris points (MediaPipe's 468 and 473)
_MAX_ROTATION = 0.7  # rad: largest rotation of an eye
_VERGENCE_SHARE = 0.25  # share of the difference between the eyes that is kept: most of it is noise


def fit_gaze(
    irises: Tensor,
    rotation: Tensor,
    translation: Tensor,
    camera: Camera,
    head: ParametricHead,
    shape: Tensor,
    expression: Tensor,
) -> Tensor:
    """Gaze of T frames.

    Args:
        irises: `[T, 10, 3]` pixels: right and left iris, five points each.
        rotation, translation: `[T, 3, 3]` and `[T, 3]` metres, head space to world, about the head's origin.
        camera, head, shape `[S]`, expression `[T, 50]`: the fitted values.

    Returns:
        `[T, 6]` axis-angle of the left, then the right eye joint in radians: +x looks down, +y to the person's left.
    """
    rest = head(shape=shape[None])
    turn, shift = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    angles = {}
    for side in ("left", "right"):
        centre = rest.joints[0, _JOINT[side]] + expression @ head.joint_expression[_JOINT[side]].T  # [T,3]
        iris = rest.vertices[0, _eye_region(head, side)]
        radius = (iris.mean(0) - rest.joints[0, _JOINT[side]])[2]
        # intersection of the ray through the iris centre with the eyeball's sphere, in head space
        pixel = irises[:, _IRIS[side], :2]
        ray = torch.cat([(pixel - camera.K[:2, 2]) / camera.K.diagonal()[:2], torch.ones(len(pixel), 1)], 1)
        ray = torch.einsum("tba,cb,tc->ta", rotation, turn, ray)
        eye = torch.einsum("tba,tb->ta", rotation, (-shift @ turn) - translation) - centre
        direction = _on_sphere(eye, ray, radius)
        yaw, pitch = torch.atan2(direction[:, 0], direction[:, 2]), -torch.asin(direction[:, 1].clamp(-1, 1))
        angles[side] = torch.stack([pitch, yaw], 1)
    mean = (angles["left"] + angles["right"]) / 2
    out = []
    for side in ("left", "right"):
        own = (mean + _VERGENCE_SHARE * (angles[side] - mean)).clamp(-_MAX_ROTATION, _MAX_ROTATION)
        out.append(torch.cat([own, torch.zeros(len(own), 1)], 1))
    return torch.cat(out, 1)


def _eye_region(head: ParametricHead, side: str) -> Tensor:
    iris, eye = head.region("pupil"), head.region(f"{side}_eye")
    return iris[torch.isin(iris, eye)]


def _on_sphere(origin: Tensor, ray: Tensor, radius: Tensor) -> Tensor:
    """Unit directions `[T,3]` to the intersection of a ray with the sphere around 0, or to its nearest point."""
    ray = torch.nn.functional.normalize(ray, dim=-1)
    along = -(origin * ray).sum(-1, keepdim=True)
    nearest = origin + along * ray
    inside = (radius.square() - nearest.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()
    return torch.nn.functional.normalize(nearest - inside * ray, dim=-1)


__all__ = ["fit_gaze"]
