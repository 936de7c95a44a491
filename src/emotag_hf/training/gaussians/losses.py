"""The terms of the loss that fits Gaussians to a person (METHOD 5), each a pure function: tensors in, scalars out.

Pictures, alphas and mattes are in [0, 1], depth grows away from the camera. Terms are unweighted; the constants here
are METHOD 5's weights, the defaults of training. Every term is a mean, so that it does not change with the size of the
picture or the number of Gaussians, and has a finite gradient wherever its inputs are finite.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...preprocessing.features.geometry import standardise_depth
from .ssim import SsimTarget, l1_and_ssim

SSIM_WEIGHT = 0.2  # of 1 - SSIM; L1 has the rest [code]
DEPTH_WEIGHT, NORMALS_WEIGHT = 0.01, 0.001  # of L_Geo [code]
MAX_ELONGATION = 4.0  # largest ratio of the longest to the middle axis of a Gaussian


def photometric_loss(
    prediction: Tensor,
    target: Tensor,
    ssim_target: SsimTarget | None = None,
    weight: Tensor | None = None,
    ssim_weight: float = SSIM_WEIGHT,
) -> Tensor:
    """(1 - ssim_weight) x L1 + ssim_weight x (1 - SSIM) of two images (METHOD 5).

    Args:
        prediction: `[H, W, 3]`.
        target: `[H, W, 3]`, the truth, of the same type and device.
        ssim_target: `SsimTarget(target)` if available, which saves a fifth of the time.
        weight: `[H, W]`, not negative, how much each pixel counts in both terms; only ratios matter. A constant.
        ssim_weight: 0 to 1; with 0 SSIM is not computed.

    Raises:
        ValueError: shapes, types or devices differ, no weight is above 0, or ssim_weight is out of range.
    """
    if not 0 <= ssim_weight <= 1:
        raise ValueError(f"ssim_weight: expected 0 to 1, got {ssim_weight}.")
    check_same_shape("target", target, prediction.shape)
    if ssim_weight == 0:
        return _weighted_mean((prediction - target).abs().mean(-1), weight)
    kept = ssim_target if ssim_target is not None else SsimTarget(target)
    return l1_and_ssim(prediction, kept, 1 - ssim_weight, -ssim_weight, weight) + ssim_weight


def alpha_loss(alpha: Tensor, matte: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean |alpha - matte|: the Gaussians cover the person and nothing else.

    Args:
        alpha: `[H, W, 1]` rendered.
        matte: `[H, W]`.
        weight: `[H, W]` as in `photometric_loss`.

    Raises:
        ValueError: shapes differ, or no weight is above 0.
    """
    check_same_shape("alpha", alpha, (*matte.shape, 1))
    return _weighted_mean((alpha[..., 0] - matte).abs(), weight)


def geometry_loss(
    depth: Tensor, normals: Tensor, teacher_depth: Tensor, teacher_normals: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """L_Geo: rendered depth and normals against a teacher's, on the head (METHOD 5).

    Args:
        depth: `[..., H, W]` rendered, metres, as "ED" of `rasterize` gives it; values of 0 or not finite are ignored.
        normals: `[..., H, W, 3]` in the camera's axes, as from `normals_from_depth`; zero vectors are ignored.
        teacher_depth: `[..., H, W]` up to scale and offset; both depths are standardised over the mask.
        teacher_normals: `[..., H, W, 3]` in the same axes, finite; zero vectors are ignored.
        mask: `[..., H, W]` bool, pixels of the head with alpha above a half, because depth is unreliable where the
            Gaussians hardly cover it.

    Returns:
        `depth`: mean absolute difference of the standardised depths; `normals`: of the components of the normals. Both
        are 0 where the mask is empty.

    Raises:
        ValueError: shapes differ.
    """
    for name, tensor in (("teacher_depth", teacher_depth), ("mask", mask)):
        check_same_shape(name, tensor, depth.shape)
    for name, tensor in (("normals", normals), ("teacher_normals", teacher_normals)):
        check_same_shape(name, tensor, (*depth.shape, 3))
    known = mask.bool() & _is_depth(depth) & torch.isfinite(teacher_depth)
    relief = standardise_depth(depth, known) - standardise_depth(teacher_depth, known)
    facing = mask.bool() & (normals.detach().abs().sum(-1) > 0) & (teacher_normals.abs().sum(-1) > 0)
    turned = (normals - teacher_normals).abs().mean(-1)
    return {"depth": mean_of_valid(relief.abs(), known), "normals": mean_of_valid(turned, facing)}


def normals_from_depth(depth: Tensor, K: Tensor) -> Tensor:
    """Normals of a rendered depth by central differences of the points behind the pixels, differentiable.

    The same as `features.geometry.normals_from_depth`, which has no gradient.

    Args:
        depth: `[..., H, W]` metres along the camera's axis.
        K: `[3, 3]` intrinsics in pixels.

    Returns:
        `[..., H, W, 3]`, unit length, camera axes (x right, y down, z away from the viewer); 0 in the outermost pixels
        and where a neighbour has no depth (0 or not finite).
    """
    known = _is_depth(depth)
    z = depth.where(known, 1)
    height, width = depth.shape[-2:]
    columns = torch.arange(width, device=depth.device, dtype=depth.dtype) + 0.5
    rows = torch.arange(height, device=depth.device, dtype=depth.dtype) + 0.5
    K = K.to(depth)
    # Computed per coordinate, because torch is slow along a last axis of size 3. Differences are divided by the size of
    # a pixel, so that their squares fit float32.
    points = ((columns - K[0, 2]) / K[0, 0] * z, (rows[:, None] - K[1, 2]) / K[1, 1] * z, z)
    unit = K[0, 0] / z[..., 1:-1, 1:-1].detach()
    ax, ay, az = ((p[..., 1:-1, 2:] - p[..., 1:-1, :-2]) * unit for p in points)  # across
    dx, dy, dz = ((p[..., 2:, 1:-1] - p[..., :-2, 1:-1]) * unit for p in points)  # down
    nx, ny, nz = dy * az - dz * ay, dz * ax - dx * az, dx * ay - dy * ax
    shrink = (nx * nx + ny * ny + nz * nz).clamp(min=1e-12).rsqrt()
    whole = known[..., 1:-1, 2:] & known[..., 1:-1, :-2] & known[..., 2:, 1:-1] & known[..., :-2, 1:-1]
    shrink = shrink.where(whole, 0)
    return torch.stack([F.pad(n * shrink, (1, 1, 1, 1)) for n in (nx, ny, nz)], -1)


def scale_loss(log_scales: Tensor, limit: float | Tensor, max_elongation: float = MAX_ELONGATION) -> Tensor:
    """Penalises large and needle-like Gaussians: mean squared excess of log-scales and of elongation.

    Both are hinges in the logarithm: no overflow, and no penalty within the limits. The elongation is the ratio of the
    longest to the middle axis, so that flat discs have no penalty.

    Args:
        log_scales: `[N, 3]`.
        limit: the largest scale, in the same unit before the logarithm; one number or `[N]`.
        max_elongation: the largest ratio of the longest to the middle axis, at least 1.

    Raises:
        ValueError: a limit is not positive, or max_elongation is below 1.
    """
    if max_elongation < 1:
        raise ValueError(f"max_elongation: expected at least 1, got {max_elongation}.")
    limit = _positive_limit(limit, log_scales)
    _, middle, longest = log_scales.sort(-1).values.unbind(-1)
    excess = F.relu(log_scales - limit.log()[..., None]).square().mean()
    log_elongation = torch.log(longest.new_tensor(max_elongation))
    return excess + F.relu(longest - middle - log_elongation).square().mean()


def position_loss(means: Tensor, limit: float | Tensor) -> Tensor:
    """Keeps Gaussians near their triangle: mean squared excess of their distance (GaussianAvatars' idea).

    Args:
        means: `[N, 3]` local, in triangle sizes.
        limit: distance that costs nothing, in the same unit; one number or `[N]`.

    Raises:
        ValueError: a limit is not positive.
    """
    distance = torch.linalg.vector_norm(means, dim=-1)
    return F.relu(distance - _positive_limit(limit, means)).square().mean()


def corrective_loss(corrective_means: Tensor, corrective_colors: Tensor) -> Tensor:
    """Mean square of the correctives `[N, K, 3]`, offsets plus colours: regularises correctives that few frames
    support."""
    return corrective_means.square().mean() + corrective_colors.square().mean()


def _is_depth(depth: Tensor) -> Tensor:
    return torch.isfinite(depth) & (depth > 0)


def _positive_limit(limit: float | Tensor, like: Tensor) -> Tensor:
    limit = torch.as_tensor(limit, dtype=like.dtype, device=like.device)
    if not (limit > 0).all():
        raise ValueError(f"limit: expected positive numbers, got {limit.min().item():g}.")
    return limit


def check_same_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `tensor` has that shape."""
    if tuple(tensor.shape) != tuple(shape):  # else torch would broadcast silently
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}.")


def _weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return values.mean()
    check_same_shape("weight", weight, values.shape)
    weight = weight.detach()
    total = weight.sum()
    if not total > 0:  # NaN too
        raise ValueError("weight: expected some weight above 0, got none; leave such a picture out.")
    return (values * weight).sum() / total


def mean_of_valid(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of the valid values; 0 if there is none."""
    if valid is None:
        return values.mean()
    check_same_shape("valid", valid, values.shape)
    valid = valid.bool()
    return values.where(valid, 0).sum() / valid.sum().clamp(min=1)


__all__ = [
    "DEPTH_WEIGHT", "MAX_ELONGATION", "NORMALS_WEIGHT", "SSIM_WEIGHT", "alpha_loss", "check_same_shape",
    "corrective_loss", "geometry_loss", "mean_of_valid", "normals_from_depth", "photometric_loss", "position_loss",
    "scale_loss",
]  # fmt: skip
