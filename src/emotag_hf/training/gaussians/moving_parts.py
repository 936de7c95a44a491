"""Which Gaussians have correctives, and their neighbours on the same part of the face.

In: the head and the Gaussians bound to it. Out: a mask, and rows of neighbours for the smoothing of correctives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...models.modeling_gaussians import RiggedGaussians, triangle_frames

_NEIGHBOURS = 6
_MOVING = ("face", "lips", "lids", "lashes", "inner_lids", "mouth_interior", "teeth_upper", "teeth_lower", "gums",
           "tongue", "left_eye", "right_eye")  # fmt: skip
_NEAR = 2.0  # triangle sizes: Gaussians bound from farther away are hair


def moving_parts(head, gaussians: RiggedGaussians) -> Tensor:
    """`[N, 1, 1]` float: 1 for Gaussians of the face, eyes and mouth, 0 for hair, ears and clothes."""
    moving = head.face_mask(*_MOVING)[gaussians.binding] & (gaussians.means.detach().norm(dim=1) < _NEAR)
    return moving.float()[:, None, None]


@torch.no_grad()
def neighbours(head, shape: Tensor, gaussians: RiggedGaussians, moving: Tensor) -> Tensor:
    """`[m, 1 + k]`: each moving Gaussian and its nearest on the same part: upper and lower lip are not neighbours."""
    rotations, centroids, sizes = (
        x[gaussians.binding] for x in triangle_frames(head(shape=shape[None]).vertices[0], head.faces)
    )
    places = sizes * (rotations @ gaussians.means[..., None])[..., 0] + centroids
    part = torch.zeros(len(places), 1)
    for number, name in enumerate((*_MOVING[5:], "upper_lip", "lower_lip")):
        part[head.face_mask(name)[gaussians.binding]] = float(number + 1)  # metres apart
    key = torch.cat([places, part], 1)
    own = torch.nonzero(moving[:, 0, 0] > 0)[:, 0]
    if len(own) <= _NEIGHBOURS:
        return torch.zeros(0, 1 + _NEIGHBOURS, dtype=torch.int64)
    rows = [torch.cdist(key[some], key[own]).topk(_NEIGHBOURS + 1, largest=False).indices for some in own.split(1024)]
    return torch.cat([own[:, None], own[torch.cat(rows)[:, 1:]]], 1)


__all__ = ["moving_parts", "neighbours"]
