"""SSIM of a rendered and a true image, fast enough for every training step (METHOD 5).

In: pictures `[H, W, 3]` in [0, 1]. Out: one differentiable number. The convention is that of 3D Gaussian Splatting: an
11x11 Gaussian window with sigma 1.5, zeros outside the picture, the mean over pixels and colours. float32 on a CPU uses
Numba kernels; other devices and float64 use reference implementations in torch, against which the kernels are tested.
On a CPU the gradient is computed together with the value, because both need the same cached data.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ...rendering.numba_threads import WorkspaceLease, get_num_threads, run_parts, split
from . import ssim_kernels as kernels

_ROWS_PER_THREAD = 32  # with fewer, most of a thread's work is the border of its rows


class SsimTarget:
    """A target image with the part of SSIM that does not depend on the prediction.

    Args:
        picture: `[H, W, 3]` in [0, 1], float32 or float64. Not copied if it is contiguous: do not write to it later.

    Attributes:
        picture: the image, detached.
        mean, variance: `[H, W, 3]`, the window's mean and variance around each pixel, with zeros outside the picture.
            All three are 9.4 MB at 512x512; with many frames, make it again in each step.

    Raises:
        ValueError: the picture has another shape or type.
    """

    def __init__(self, picture: Tensor) -> None:
        if picture.ndim != 3 or picture.shape[2] != kernels.CHANNELS or 0 in picture.shape:
            raise ValueError(f"picture: expected shape [H, W, 3], got {list(picture.shape)}.")
        if picture.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"picture: expected float32 or float64 in [0, 1], got {picture.dtype}; divide bytes by 255."
            )
        self.picture = picture.detach().contiguous()
        if _has_kernels(self.picture):
            self.mean, self.variance = torch.empty_like(self.picture), torch.empty_like(self.picture)
            arrays = [_rows(t) for t in (self.picture, self.mean, self.variance)]
            _in_bands(
                lambda *band: kernels.truth_rows(arrays[0], *band, *arrays[1:]),
                WorkspaceLease(),
                *self.picture.shape[:2],
            )
        else:
            self.mean = _window_mean(self.picture)
            self.variance = _window_mean(self.picture**2) - self.mean**2


def ssim(prediction: Tensor, target: SsimTarget, weight: Tensor | None = None) -> Tensor:
    """Mean SSIM of a prediction and the truth, differentiable in the prediction (once).

    Args:
        prediction: `[H, W, 3]`, the target's size, type and device; nominally in [0, 1].
        target: the truth.
        weight: `[H, W]`, not negative, how much each pixel counts; equally by default. A constant: it gets no gradient.

    Returns:
        a scalar, 1 for equal images.

    Raises:
        ValueError: shapes, types or devices differ, or no weight is above 0.
    """
    return l1_and_ssim(prediction, target, 0.0, 1.0, weight)


def ssim_torch(prediction: Tensor, target: SsimTarget, weight: Tensor | None = None) -> Tensor:
    """The slow reference implementation of `ssim`, on any device."""
    return l1_and_ssim_torch(prediction, target, 0.0, 1.0, weight)


def l1_and_ssim(
    prediction: Tensor, target: SsimTarget, l1_factor: float, ssim_factor: float, weight: Tensor | None = None
) -> Tensor:
    """`l1_factor` x mean |prediction - truth| + `ssim_factor` x mean SSIM: computed in one pass over the images.

    Other arguments, result and errors as in `ssim`.
    """
    _check(prediction, target, weight)
    if _has_kernels(prediction):
        if not torch.is_grad_enabled():
            prediction = prediction.detach()  # else a gradient would be computed that is not needed
        return _Mixture.apply(prediction, target, float(l1_factor), float(ssim_factor), weight)
    return l1_and_ssim_torch(prediction, target, l1_factor, ssim_factor, weight)


def l1_and_ssim_torch(
    prediction: Tensor, target: SsimTarget, l1_factor: float, ssim_factor: float, weight: Tensor | None = None
) -> Tensor:
    """The slow reference implementation of `l1_and_ssim`, on any device."""
    _check(prediction, target, weight)
    mean = _window_mean(prediction)
    variance = _window_mean(prediction**2) - mean**2
    covariance = _window_mean(prediction * target.picture) - mean * target.mean
    luminance = (2 * mean * target.mean + kernels.C1) / (mean**2 + target.mean**2 + kernels.C1)
    structure = (2 * covariance + kernels.C2) / (variance + target.variance + kernels.C2)
    mixture = l1_factor * (prediction - target.picture).abs() + ssim_factor * luminance * structure
    if weight is None:
        return mixture.mean()
    weight = weight.detach()[..., None]
    return (mixture * weight).sum() / (weight.sum() * kernels.CHANNELS)


class _Mixture(torch.autograd.Function):
    """`l1_and_ssim` by the kernels; the gradient is computed in the forward pass."""

    @staticmethod
    def forward(ctx, prediction, target, l1_factor, ssim_factor, weight):
        height, width, _ = prediction.shape
        x = prediction.detach().contiguous()
        ctx.lease = lease = WorkspaceLease()  # reused memory: allocating megabytes would cost more than the arithmetic
        shape = x.shape if ctx.needs_input_grad[0] else (0, 0, 0)
        ctx.gradient = gradient = torch.from_numpy(lease.workspace.array("ssim gradient", tuple(shape), np.float32))
        sums = np.empty((height, 2), np.float32)
        if weight is None:
            weights, total = np.empty((0, 0), np.float32), height * width
        else:
            weights = weight.detach().to(x.dtype).contiguous().numpy()
            total = weights.sum(dtype=np.float64)
        unit = np.float32(1 / (total * kernels.CHANNELS))
        given = [_rows(t) for t in (x, target.picture, target.mean, target.variance)]
        given += [weights, unit, np.float32(l1_factor), np.float32(ssim_factor)]
        _in_bands(lambda *band: kernels.compare_rows(*given, *band, sums, _rows(gradient)), lease, height, width)
        l1, similarity = sums.sum(axis=0, dtype=np.float64)
        return x.new_tensor(l1_factor * l1 + ssim_factor * similarity)

    @staticmethod
    @once_differentiable
    def backward(ctx, v_mixture):
        return ctx.gradient * v_mixture, None, None, None, None


def _has_kernels(picture: Tensor) -> bool:
    return picture.device.type == "cpu" and picture.dtype == torch.float32


def _rows(picture: Tensor) -> np.ndarray:
    """`[H, W, 3]` as `[H, W * 3]`, the same memory."""
    return picture.numpy().reshape(picture.shape[0], picture.shape[1] * picture.shape[2])


def _in_bands(work: Callable[..., None], lease: WorkspaceLease, height: int, width: int) -> None:
    """Calls `work(start, stop, scratch, chunk)` for bands of rows, side by side."""
    parts = min(get_num_threads(), -(-height // _ROWS_PER_THREAD))
    shape = kernels.scratch_shape(width)
    scratch = lease.workspace.array("ssim rows", (parts, *shape), np.float32)
    chunks = lease.workspace.array("ssim chunks", (parts, 3 * kernels.CHUNK), np.float32)
    run_parts(lambda part: work(*split(height, parts, part), scratch[part], chunks[part]), parts)


def _window_mean(picture: Tensor) -> Tensor:
    """`[H, W, 3]` -> the same, each value the window's weighted mean."""
    taps = torch.as_tensor(kernels.TAPS, dtype=picture.dtype, device=picture.device)
    window = torch.outer(taps, taps).expand(kernels.CHANNELS, 1, -1, -1)
    planes = F.conv2d(picture.permute(2, 0, 1)[None], window, padding=kernels.RADIUS, groups=kernels.CHANNELS)
    return planes[0].permute(1, 2, 0)


def _check(prediction: Tensor, target: SsimTarget, weight: Tensor | None) -> None:
    truth = target.picture
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction: expected the target's shape {list(truth.shape)}, got {list(prediction.shape)}.")
    if prediction.dtype != truth.dtype or prediction.device != truth.device:
        raise ValueError(
            f"prediction: expected {truth.dtype} on {truth.device} as the target has, got {prediction.dtype} on "
            f"{prediction.device}."
        )
    if weight is not None:
        if weight.shape != truth.shape[:2]:
            raise ValueError(f"weight: expected shape {list(truth.shape[:2])}, got {list(weight.shape)}.")
        if not weight.sum() > 0:  # NaN too
            raise ValueError("weight: expected some weight above 0, got none; leave such a picture out.")


__all__ = ["SsimTarget", "l1_and_ssim", "l1_and_ssim_torch", "ssim", "ssim_torch"]
