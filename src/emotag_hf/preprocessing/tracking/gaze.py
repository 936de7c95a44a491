"""Where the eyes look: from MediaPipe's irises and the fitted head to the eyes' joints.

In: five points of each iris in pixels, the head's pose. Out: axis-angle of both eye joints. An eye ball's centre is a
joint of the head, so the iris' centre in the picture gives its direction in closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.modeling_head import ParametricHead
from ...rendering.cameras import Camera

_JOINT = {"left": 3, "right": 4}  # constants.JOINTS
_IRIS = {"right": 0, "left": 5}  # first of the five points; MediaPipe's 468 and 473; the first is the centre
_LIMIT = 0.7  # rad: an eye turns no further
_VERGENCE = 0.25  # how much of the difference between the eyes is believed: it is mostly noise


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
        camera, head, shape `[S]`, expression `[T, 50]`: as they were fitted.

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
        # the iris centre's ray, met with the plane through the resting iris, in head space
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
        own = (mean + _VERGENCE * (angles[side] - mean)).clamp(-_LIMIT, _LIMIT)
        out.append(torch.cat([own, torch.zeros(len(own), 1)], 1))
    return torch.cat(out, 1)


def _eye_region(head: ParametricHead, side: str) -> Tensor:
    iris, eye = head.region("pupil"), head.region(f"{side}_eye")
    return iris[torch.isin(iris, eye)]


def _on_sphere(origin: Tensor, ray: Tensor, radius: Tensor) -> Tensor:
    """Unit directions `[T,3]` to where a ray meets the sphere around 0, or comes nearest to it."""
    ray = torch.nn.functional.normalize(ray, dim=-1)
    along = -(origin * ray).sum(-1, keepdim=True)
    nearest = origin + along * ray
    inside = (radius.square() - nearest.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()
    return torch.nn.functional.normalize(nearest - inside * ray, dim=-1)


__all__ = ["fit_gaze"]
