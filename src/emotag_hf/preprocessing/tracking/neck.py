"""Shares a head's rotation between the neck joint and the root, so that the body does not nod along.

In: rotation and translation of the head as a rigid body. Out: the same head in FLAME's joints. Landmarks of a face say
nothing about the body; a talker's body follows the slow part of the head's movement and the neck does the quick part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.modeling_head import ParametricHead
from ...utils.rotations import rotation_matrix, rotation_to_axis_angle
from .solver import FrameState

_SLOW_SECONDS = 1.0  # standard deviation of the window that separates posture from movement
_LIMIT = 0.6  # rad: beyond this the body turns, too


def share_with_neck(
    state: FrameState, shape: Tensor, head: ParametricHead, fps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation `[T,3]`, translation `[T,3]` and neck_pose `[T,3]` that put the face where `state` has it.

    The root turns half as far as the head's slow part, and with what the neck cannot do; the neck turns by the rest.
    """
    whole = rotation_to_axis_angle(state.rotation)
    root = 0.5 * _low_pass(whole, _SLOW_SECONDS * fps)
    neck = rotation_to_axis_angle(rotation_matrix(root).transpose(1, 2) @ state.rotation)
    angle = neck.norm(dim=-1, keepdim=True)
    neck = neck * (_LIMIT / angle.clamp_min(_LIMIT))
    turn = state.rotation @ rotation_matrix(neck).transpose(1, 2)
    root = rotation_to_axis_angle(turn)
    joints = head(shape=shape[None]).joints[0]
    joints = joints + torch.einsum("jck,tk->tjc", head.joint_expression, state.expression)
    # FLAME turns about its joints: x -> R_root (neck + R_neck (x - neck) - base) + base + translation
    base, neck_joint = joints[:, 0], joints[:, 1]
    stays = torch.einsum("tab,tb->ta", state.rotation, neck_joint)
    turned = torch.einsum("tab,tb->ta", turn, neck_joint - base)
    return root, state.translation + stays - turned - base, neck


def _low_pass(values: Tensor, sigma: float) -> Tensor:
    """A Gaussian window over time `[T,C]`, renormalised at the ends."""
    reach = max(1, min(int(3 * sigma), len(values) - 1))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    stacked = torch.cat([values, torch.ones(len(values), 1)], 1).T[:, None]
    smooth = torch.nn.functional.conv1d(stacked, kernel[None, None], padding=reach)[:, 0].T
    return smooth[:, :-1] / smooth[:, -1:]


__all__ = ["share_with_neck"]
