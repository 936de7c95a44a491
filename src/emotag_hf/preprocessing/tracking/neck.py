"""Splits the head's rotation between neck joint and root, so that the body does not follow every head movement.

In: rotation and translation of the head as a rigid body. Out: the same head in FLAME's joints. Face landmarks
do not show the body. It is assumed to follow the low frequencies of the head's rotation; the neck does the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.modeling_head import ParametricHead
from ...utils.rotations import rotation_matrix, rotation_to_axis_angle
from .solver import FrameState

_SLOW_SECONDS = 1.0  # standard deviation of the temporal low-pass filter
_MAX_NECK_ROTATION = 0.6  # rad: largest rotation of the neck; the root takes the rest


def share_with_neck(
    state: FrameState, shape: Tensor, head: ParametricHead, fps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation `[T,3]`, translation `[T,3]` and neck_pose `[T,3]` that reproduce the head pose of `state`.

    The root takes half of the low-pass filtered rotation and what exceeds the neck's limit; the neck takes the rest.
    """
    whole = rotation_to_axis_angle(state.rotation)
    root = 0.5 * _low_pass(whole, _SLOW_SECONDS * fps)
    neck = rotation_to_axis_angle(rotation_matrix(root).transpose(1, 2) @ state.rotation)
    angle = neck.norm(dim=-1, keepdim=True)
    neck = neck * (_MAX_NECK_ROTATION / angle.clamp_min(_MAX_NECK_ROTATION))
    turn = state.rotation @ rotation_matrix(neck).transpose(1, 2)
    root = rotation_to_axis_angle(turn)
    joints = head(shape=shape[None]).joints[0]
    joints = joints + torch.einsum("jck,tk->tjc", head.joint_expression, state.expression)
    # FLAME rotates about its joints: x -> R_root (neck + R_neck (x - neck) - base) + base + translation
    base, neck_joint = joints[:, 0], joints[:, 1]
    stays = torch.einsum("tab,tb->ta", state.rotation, neck_joint)
    turned = torch.einsum("tab,tb->ta", turn, neck_joint - base)
    return root, state.translation + stays - turned - base, neck


def _low_pass(values: Tensor, sigma: float) -> Tensor:
    """Temporal Gaussian filter of `[T,C]`, renormalised at the ends."""
    reach = max(1, min(int(3 * sigma), len(values) - 1))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    stacked = torch.cat([values, torch.ones(len(values), 1)], 1).T[:, None]
    smooth = torch.nn.functional.conv1d(stacked, kernel[None, None], padding=reach)[:, 0].T
    return smooth[:, :-1] / smooth[:, -1:]


__all__ = ["share_with_neck"]
