"""A parametric head reduced to its 468 landmarks, with the derivatives that fitting needs.

In: a `ParametricHead`. Out: landmarks in head space and their derivatives, about ten times faster than posing the head.
The bases are computed by posing the head once per coefficient, so that only the jaw's skinning (METHOD 2) is
implemented a second time here; a test compares the landmarks with those of the posed head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.modeling_head import POSE_FEATURES, ParametricHead
from ...utils.rotations import rotation_matrix

_JAW = 2  # index in constants.JOINTS
_STEP = 1e-3  # rad, step of the finite difference for the jaw's derivative


class HeadLandmarks(NamedTuple):
    """L landmarks of T frames in head space, before rotation and translation; coordinates before landmarks.

    `points [T,3,L]` metres; `expression [T,3,L,50]`, `jaw [T,3,L,3]`, `eyelids [T,3,L,2]` and (on request)
    `shape [T,3,L,S]`: derivatives with respect to expression, the jaw's axis-angle, lid closure and identity.
    """

    points: Tensor
    expression: Tensor
    jaw: Tensor
    eyelids: Tensor
    shape: Tensor | None


@dataclass
class LandmarkModel:
    """The head's landmarks as x = rest(shape, expression, eyelids) with the jaw's rotation applied.

    rest = template + shape·beta + expression·psi + sum over lids of closure·(lid + lid_shape·beta + lid_expression·psi)
    """

    template: Tensor  # [3,L]
    shape: Tensor  # [3,L,S]
    expression: Tensor  # [3,L,50]
    lid: Tensor  # [3,L,2]
    lid_shape: Tensor  # [3,L,S,2]
    lid_expression: Tensor  # [3,L,50,2]
    jaw_weight: Tensor  # [L] skinning weight of the jaw joint
    jaw_corrective: Tensor  # [3,L,9] pose corrective for the entries of R - I
    jaw_joint: Tensor  # [3]
    jaw_joint_shape: Tensor  # [3,S]
    jaw_joint_expression: Tensor  # [3,50]

    @classmethod
    def from_head(cls, head: ParametricHead) -> LandmarkModel:
        """Computes the bases of a head."""
        num_shape, num_expression = head.num_shape, head.expression_basis.shape[-1]
        corners = head.faces[head.landmark_faces]

        def rest(lids: Tensor, shape: Tensor | None = None, expression: Tensor | None = None) -> Tensor:
            return head.landmarks(head(shape=shape, expression=expression, eyelids=lids).vertices)

        with torch.no_grad():
            eye_s, eye_e = torch.eye(num_shape), torch.eye(num_expression)
            open_, sides = torch.zeros(1, 2), torch.eye(2)
            template = rest(open_)[0]
            shape = rest(open_, shape=eye_s) - template
            expression = rest(open_, expression=eye_e) - template
            lid = rest(sides) - template
            lid_shape = torch.stack([rest(s[None], shape=eye_s) - template - shape - d for s, d in zip(sides, lid)], -1)
            lid_expression = torch.stack(
                [rest(s[None], expression=eye_e) - template - expression - d for s, d in zip(sides, lid)], -1
            )
            first = 9 * (_JAW - 1)
            corrective = head.pose_basis.reshape(POSE_FEATURES, -1, 3)[first : first + 9]  # [9,V,3]
            corrective = (corrective[:, corners] * head.landmark_bary[..., None]).sum(2)
            weight = (head.lbs_weights[corners, _JAW] * head.landmark_bary).sum(1)
            regressor = head.joint_regressor[_JAW]
        return cls(
            template=template.T.contiguous(),
            shape=shape.permute(2, 1, 0).contiguous(),
            expression=expression.permute(2, 1, 0).contiguous(),
            lid=lid.permute(2, 1, 0).contiguous(),
            lid_shape=lid_shape.permute(2, 1, 0, 3).contiguous(),
            lid_expression=lid_expression.permute(2, 1, 0, 3).contiguous(),
            jaw_weight=weight,
            jaw_corrective=corrective.permute(2, 1, 0).contiguous(),
            jaw_joint=regressor @ head.v_template,
            jaw_joint_shape=torch.einsum("v,vcs->cs", regressor, head.shape_basis),
            jaw_joint_expression=head.joint_expression[_JAW],
        )

    def select(self, index: Tensor) -> LandmarkModel:
        """The same model with a subset of the landmarks."""
        joint = {name: getattr(self, name) for name in self.__dataclass_fields__ if name.startswith("jaw_joint")}
        rest = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in joint}
        weight = rest.pop("jaw_weight")[index]
        return LandmarkModel(**{name: value[:, index] for name, value in rest.items()}, jaw_weight=weight, **joint)

    def __call__(
        self, shape: Tensor, expression: Tensor, jaw_pose: Tensor, eyelids: Tensor, with_shape: bool = False
    ) -> HeadLandmarks:
        """Landmarks of T frames of one person.

        Args:
            shape: `[S]`. expression: `[T, 50]`. jaw_pose: `[T, 3]` rad. eyelids: `[T, 2]`.
            with_shape: also the derivative with respect to identity.
        """
        lids = (self.lid + torch.einsum("clsk,s->clk", self.lid_shape, shape)).expand(len(expression), -1, -1, -1)
        lids = lids + torch.einsum("clek,te->tclk", self.lid_expression, expression)
        rest = self.template + self.shape @ shape + _apply(self.expression, expression)
        rest = rest + (lids * eyelids[:, None, None]).sum(-1)
        joint = self.jaw_joint + self.jaw_joint_shape @ shape + expression @ self.jaw_joint_expression.T  # [T,3]

        turn = rotation_matrix(jaw_pose)
        nudged = rotation_matrix(jaw_pose[:, None] + _STEP * torch.eye(3, dtype=jaw_pose.dtype))  # [T,3,3,3]
        turn_by = (nudged - turn[:, None]) / _STEP
        change = turn - torch.eye(3, dtype=turn.dtype)
        rest = rest + _apply(self.jaw_corrective, change.flatten(1))
        arm = rest - joint[..., None]
        points = rest + self.jaw_weight * (change @ arm)

        expression_by = self.expression + torch.einsum("clek,tk->tcle", self.lid_expression, eyelids)
        expression_by = self._through_jaw(change, expression_by, self.jaw_joint_expression)
        jaw_by = self._through_jaw(change, torch.einsum("cln,tkn->tclk", self.jaw_corrective, turn_by.flatten(2)))
        jaw_by = jaw_by + self.jaw_weight[:, None] * torch.einsum("tkab,tbl->talk", turn_by, arm)
        shape_by = None
        if with_shape:
            shape_by = self.shape + torch.einsum("clsk,tk->tcls", self.lid_shape, eyelids)
            shape_by = self._through_jaw(change, shape_by, self.jaw_joint_shape)
        return HeadLandmarks(points, expression_by, jaw_by, self._through_jaw(change, lids), shape_by)

    def _through_jaw(self, change: Tensor, rest_by: Tensor, joint_by: Tensor | None = None) -> Tensor:
        """The jaw's skinning applied to a derivative `[T,3,L,K]` of unposed landmarks and `[3,K]` of the joint."""
        moved = (change @ rest_by.flatten(2)).unflatten(2, rest_by.shape[2:])
        if joint_by is not None:
            moved = moved - (change @ joint_by)[:, :, None]
        return rest_by + self.jaw_weight[:, None] * moved


def _apply(basis: Tensor, coefficients: Tensor) -> Tensor:
    """`[3,L,K]` times `[T,K]` as `[T,3,L]`."""
    return (coefficients @ basis.flatten(0, 1).T).unflatten(1, (3, -1))


__all__ = ["HeadLandmarks", "LandmarkModel"]
