"""The reference implementation in torch: every Gaussian at every pixel, any float dtype and device, with autograd;
slow.

Same two steps and arguments as `numba_backend`. Memory grows with N x width x height; meant for tests and tiny scenes.
"""

from __future__ import annotations

import torch

_SIGMAS = 3.33
_MIN_ALPHA = 1.0 / 255.0
_MIN_TRANSMITTANCE = 1e-4
_PAIRS_AT_ONCE = 2_000_000  # Gaussian-pixel pairs held at once


def quaternions_to_matrices(quats: torch.Tensor) -> torch.Tensor:
    """[N, 4] quaternions wxyz of any length but zero -> [N, 3, 3] rotations."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def project(
    means, quats, scales, opacities, viewmats, Ks, width, height, eps2d, near_plane, far_plane, antialiased
) -> tuple[torch.Tensor, ...]:
    """means2d [C, N, 2], conics [C, N, 3], depths [C, N], compensations [C, N] or None, radii [C, N, 2] int32."""
    factor = quaternions_to_matrices(quats) * scales[:, None, :]
    covariances = factor @ factor.transpose(-1, -2)
    per_camera = [
        _project_one(means, covariances, opacities, v, k, width, height, eps2d, near_plane, far_plane, antialiased)
        for v, k in zip(viewmats, Ks)
    ]
    means2d, conics, depths, compensations, radii = (torch.stack(parts) for parts in zip(*per_camera))
    return means2d, conics, depths, compensations if antialiased else None, radii


def _project_one(means, covariances, opacities, viewmat, K, width, height, eps2d, near, far, antialiased):
    rotation = viewmat[:3, :3]
    x, y, z = (means @ rotation.T + viewmat[:3, 3]).unbind(-1)
    in_range = (z >= near) & (z <= far)
    z = torch.where(in_range, z, torch.ones_like(z))  # keeps the gradient of what is culled finite
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    u = (x / z).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    v = (y / z).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], dim=-1).view(-1, 2, 3)
    transform = jacobian @ rotation
    covariance = transform @ covariances @ transform.transpose(-1, -2)
    raw_xx, xy, raw_yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    xx, yy = raw_xx + eps2d, raw_yy + eps2d
    det = xx * yy - xy * xy
    compensation = ((raw_xx * raw_yy - xy * xy).clamp_min(0.0) / det).sqrt() if antialiased else torch.ones_like(z)
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)
    conics = torch.stack([yy / det, -xy / det, xx / det], dim=-1)
    with torch.no_grad():
        effective = opacities * compensation
        reach = (2 * (effective.clamp_min(_MIN_ALPHA) / _MIN_ALPHA).log()).sqrt().clamp_max(_SIGMAS)
        extent = torch.stack([(reach * xx.sqrt()).ceil(), (reach * yy.sqrt()).ceil()], dim=-1)
        size = means2d.new_tensor([width, height])
        inside = ((means2d + extent > 0) & (means2d - extent < size)).all(-1)
        visible = in_range & (det > 0) & (effective >= _MIN_ALPHA) & inside & (extent > 0).any(-1)
        radii = torch.where(visible[:, None], extent, torch.zeros_like(extent)).to(torch.int32)
    keep = visible.to(z.dtype)
    return means2d * keep[:, None], conics * keep[:, None], z * keep, compensation * keep, radii


def composite(
    means2d, conics, colors, opacities, depths, backgrounds, radii, width, height, with_depth, alpha_max, absgrad
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours [C, H, W, D (+ 1 with the depth)] over `backgrounds` and alphas [C, H, W, 1].

    Raises:
        NotImplementedError: for absgrad, which autograd cannot give.
    """
    if absgrad:
        raise NotImplementedError("absgrad is not implemented by backend='torch': use numba or gsplat.")
    pictures = []
    for c in range(len(means2d)):
        channels = colors[c] if colors.dim() == 3 else colors
        if with_depth:
            channels = torch.cat([channels, depths[c][:, None]], dim=-1)
        drawn = (radii[c] > 0).any(-1).nonzero()[:, 0]
        order = drawn[depths[c][drawn].argsort(stable=True)]
        pictures.append(
            _composite_one(
                means2d[c][order], conics[c][order], channels[order], opacities[c][order], backgrounds[c],
                width, height, alpha_max,
            )
        )  # fmt: skip
    return torch.stack([p[0] for p in pictures]), torch.stack([p[1] for p in pictures])


def _composite_one(means2d, conics, colors, opacities, background, width, height, alpha_max):
    pixels = torch.arange(width * height, device=means2d.device)
    chunk = max(1, _PAIRS_AT_ONCE // max(1, len(means2d)))
    parts = [
        _composite_pixels(means2d, conics, colors, opacities, background, p, width, alpha_max)
        for p in pixels.split(chunk)
    ]
    rendered = torch.cat([p[0] for p in parts]).view(height, width, -1)
    return rendered, torch.cat([p[1] for p in parts]).view(height, width, 1)


def _composite_pixels(means2d, conics, colors, opacities, background, pixels, width, alpha_max):
    dx = (pixels % width + 0.5)[:, None] - means2d[:, 0]
    dy = (torch.div(pixels, width, rounding_mode="floor") + 0.5)[:, None] - means2d[:, 1]
    sigma = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
    alpha = (opacities * torch.exp(-sigma)).clamp_max(alpha_max)
    alpha = torch.where(alpha >= _MIN_ALPHA, alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1.0 - alpha, dim=1)
    with torch.no_grad():  # once the next Gaussian would darken a pixel too far, it and all behind it are dropped
        stopped = (after <= _MIN_TRANSMITTANCE).to(torch.int8).cummax(dim=1).values.bool()
    alpha = torch.where(stopped, torch.zeros_like(alpha), alpha)
    light = torch.cumprod(1.0 - alpha, dim=1)
    before = torch.cat([torch.ones_like(light[:, :1]), light[:, :-1]], dim=1)
    rest = light[:, -1:] if light.shape[1] else dx.new_ones(len(pixels), 1)
    return (before * alpha) @ colors + rest * background, 1.0 - rest
