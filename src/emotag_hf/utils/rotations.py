"""Rotations in the three ways the package writes them: axis-angle, matrices, quaternions. In, out: tensors.

Axis-angle is in radians, quaternions are wxyz, matrices act on column vectors. All are batched and differentiable.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def rotation_matrix(axis_angle: torch.Tensor) -> torch.Tensor:
    """Rodrigues: axis-angle [...,3] in radians to rotation matrices [...,3,3]; gradients are finite at zero."""
    square = (axis_angle * axis_angle).sum(-1, keepdim=True)[..., None]
    small = square < 1e-6
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    # Taylor series near zero: sqrt has no gradient there
    sine = torch.where(small, 1 - square / 6, angle.sin() / angle)
    cosine = torch.where(small, 0.5 - square / 24, (1 - angle.cos()) / safe)
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device) + sine * skew + cosine * (skew @ skew)


def rotation_to_quat(rotations: torch.Tensor) -> torch.Tensor:
    """Rotation matrices `[..., 3, 3]` to unit quaternions `[..., 4]`, wxyz; stable and differentiable everywhere."""
    m = rotations
    trace = m.diagonal(dim1=-2, dim2=-1)
    xx, yy, zz = trace.unbind(-1)
    # Four ways to write the same quaternion; the one with the largest leading term divides by no small number.
    squares = torch.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], -1)
    a, b, c = m[..., 2, 1], m[..., 0, 2], m[..., 1, 0]
    d, e, f = m[..., 1, 2], m[..., 2, 0], m[..., 0, 1]
    rows = torch.stack(
        [
            torch.stack([squares[..., 0], a - d, b - e, c - f], -1),
            torch.stack([a - d, squares[..., 1], c + f, b + e], -1),
            torch.stack([b - e, c + f, squares[..., 2], a + d], -1),
            torch.stack([c - f, b + e, a + d, squares[..., 3]], -1),
        ],
        -2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quat = F.normalize(rows.gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def rotation_to_axis_angle(rotation: torch.Tensor) -> torch.Tensor:
    """Rotation matrices `[...,3,3]` to axis-angle `[...,3]` in radians, below pi."""
    quat = rotation_to_quat(rotation)
    length = quat[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(length, quat[..., :1])
    return quat[..., 1:] * torch.where(length > 1e-8, angle / length.clamp_min(1e-8), torch.full_like(length, 2.0))


def quat_multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Hamilton product of quaternions `[..., 4]`, wxyz."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def small_rotation_to_quat(axis_angle: torch.Tensor) -> torch.Tensor:
    """Axis-angle `[..., 3]` (radians) to quaternions `[..., 4]`, wxyz; finite gradients at zero."""
    half = 0.5 * axis_angle
    # sinc(0) = 1 keeps both value and gradient finite where the angle vanishes.
    angle = (half.square().sum(-1, keepdim=True) + 1e-20).sqrt()
    return torch.cat([angle.cos(), half * (angle.sin() / angle)], -1)


__all__ = [
    "quat_multiply",
    "rotation_matrix",
    "rotation_to_axis_angle",
    "rotation_to_quat",
    "small_rotation_to_quat",
]
