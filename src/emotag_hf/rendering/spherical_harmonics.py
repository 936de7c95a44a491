"""Real spherical harmonics of degree 0 to 2: coefficients and viewing directions in, colours out.

The basis, its signs and its order are those of 3D Gaussian Splatting (and of gsplat), so its checkpoints load.
"""

from __future__ import annotations

import torch

MAX_DEGREE = 2
SH_C0 = 0.28209479177387814  # sqrt(1 / 4 pi)
_DEGREE_1 = 0.4886025119029199  # sqrt(3 / 4 pi)
_DEGREE_2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)  # sqrt(15, 5/4, 15/4 over 4 pi)


def spherical_harmonics_basis(degree: int, directions: torch.Tensor) -> torch.Tensor:
    """Values of the first (degree + 1)^2 harmonics.

    Args:
        degree: 0 to 2.
        directions: [..., 3], any length but zero.

    Returns:
        [..., (degree + 1)^2].

    Raises:
        NotImplementedError: for a degree above 2.
    """
    if degree not in range(MAX_DEGREE + 1):
        raise NotImplementedError(f"sh_degree={degree} is not implemented: use 0, 1 or 2.")
    terms = [torch.full_like(directions[..., 0], SH_C0)]
    if degree >= 1:
        x, y, z = torch.nn.functional.normalize(directions, dim=-1).unbind(-1)
        terms += [-_DEGREE_1 * y, _DEGREE_1 * z, -_DEGREE_1 * x]
    if degree >= 2:
        off, axial, planar = _DEGREE_2
        terms += [off * x * y, -off * y * z, axial * (3.0 * z * z - 1.0), -off * x * z, planar * (x * x - y * y)]
    return torch.stack(terms, dim=-1)


def spherical_harmonics_colors(
    degree: int, means: torch.Tensor, viewmat: torch.Tensor, coefficients: torch.Tensor
) -> torch.Tensor:
    """Colours of Gaussians seen from one camera: harmonics + 0.5, not below zero (as gsplat does).

    Args:
        degree: 0 to 2; higher coefficients than it needs are ignored.
        means: [N, 3] centres in the world.
        viewmat: [4, 4] world-to-camera.
        coefficients: [N, K, 3] with K >= (degree + 1)^2.

    Returns:
        [N, 3] colours, differentiable in all tensors.
    """
    used = coefficients[:, : (degree + 1) ** 2]
    if degree == 0:
        return (used[:, 0] * SH_C0 + 0.5).clamp_min(0.0)
    position = torch.linalg.inv(viewmat)[:3, 3]
    basis = spherical_harmonics_basis(degree, means - position)
    return ((basis[..., None] * used).sum(dim=1) + 0.5).clamp_min(0.0)
