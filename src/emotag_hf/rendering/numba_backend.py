"""The CPU backend: tensors of 3D Gaussians and cameras in, colours and alphas out, by the Numba kernels.

`project` and `composite` are the two differentiable steps that `rasterize` joins; they work on float32 CPU tensors that
the caller has checked. Images and gradients are bit-identical for any number of threads: lists are built in one order,
each Gaussian's gradient is summed in the order of its tiles, and sums over Gaussians use fixed chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from . import numba_binning as binning
from .numba_projection import CAMERA_SIZE, POSE_CHUNK, project_backward, project_forward
from .numba_runtime import Kernel, compile_kernels
from .numba_threads import run_parts, split
from .numba_tiles import CompositingKernels, Splats, TileLists, compositing_kernels, parts_for


def warm_up(*, backward: bool = False, extra: Sequence[Kernel] = ()) -> None:
    """Compiles or loads the kernels now instead of in the first call, with one progress bar.

    Args:
        backward: also the kernels for training.
        extra: further kernels to compile.
    """
    _ready(compositing_kernels(), False, extra)
    if backward:
        _ready(compositing_kernels(), True)


def _ready(kernels: CompositingKernels, backward: bool, extra: Sequence[Kernel] = ()) -> None:
    needed = [project_forward, binning.pack_rows, binning.depth_order, binning.scan_counts, binning.scatter_entries]
    needed += [kernels.list_entries, kernels.forward]
    if backward:
        needed = [kernels.backward, kernels.gather, project_backward]
    compile_kernels([*needed, *extra])


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _camera_vector(
    viewmat: np.ndarray, intrinsics: np.ndarray, width: int, height: int, eps2d: float, near: float, far: float
) -> np.ndarray:
    camera = np.empty(CAMERA_SIZE, np.float32)
    camera[:9] = viewmat[:3, :3].ravel()
    camera[9:12] = viewmat[:3, 3]
    camera[12:16] = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    camera[16:] = width, height, eps2d, near, min(far, 3e38)
    return camera


def _project_part(count: int, parts: int, args: tuple, part: int) -> None:
    project_forward(*split(count, parts, part), *args)


def _project_part_backward(chunks: int, parts: int, args: tuple, part: int) -> None:
    project_backward(*split(chunks, parts, part), *args)


class _Project(torch.autograd.Function):
    """3D Gaussians -> means2d, conics, depths, compensations (differentiable) and radii."""

    @staticmethod
    def forward(
        ctx, means, quats, scales, opacities, viewmats, intrinsics, width, height, eps2d, near, far, antialiased
    ):
        _ready(compositing_kernels(), backward=False)
        arrays = [_numpy(t) for t in (means, quats, scales, opacities)]
        count, cameras = len(means), len(viewmats)
        vectors = [
            _camera_vector(v, k, width, height, eps2d, near, far) for v, k in zip(_numpy(viewmats), _numpy(intrinsics))
        ]
        means2d = means.new_empty(cameras, count, 2)
        conics = means.new_empty(cameras, count, 3)
        depths = means.new_empty(cameras, count)
        radii = means.new_empty(cameras, count, 2, dtype=torch.int32)
        compensations = means.new_empty(cameras, count if antialiased else 0)
        parts = parts_for(count)
        for c, camera in enumerate(vectors):
            outs = [t[c].numpy() for t in (means2d, conics, depths, radii, compensations)]
            work = partial(_project_part, count, parts, (*arrays, camera, antialiased, *outs))
            run_parts(work, parts)
        ctx.save_for_backward(means, quats, scales, conics, radii, compensations)
        ctx.cameras, ctx.antialiased = vectors, antialiased
        ctx.mark_non_differentiable(radii)
        return means2d, conics, depths, compensations, radii

    @staticmethod
    @once_differentiable
    def backward(ctx, v_means2d, v_conics, v_depths, v_compensations, _):
        _ready(compositing_kernels(), backward=True)
        means, quats, scales, conics, radii, compensations = ctx.saved_tensors
        arrays = [_numpy(t) for t in (means, quats, scales)]
        given = [_numpy(t) for t in (v_means2d, v_conics, v_depths, v_compensations)]
        kept = [_numpy(t) for t in (conics, radii, compensations)]
        count, chunks = len(means), -(-len(means) // POSE_CHUNK)
        with_pose = ctx.needs_input_grad[4]
        total: list[np.ndarray] | None = None
        v_viewmats = means.new_zeros(len(ctx.cameras), 4, 4) if with_pose else None
        for c, camera in enumerate(ctx.cameras):
            v_inputs = [np.empty_like(a) for a in arrays]
            v_pose = np.empty((chunks, 12), np.float64)
            args = (
                *arrays, camera, ctx.antialiased, with_pose, *(a[c] for a in kept), *(a[c] for a in given), *v_inputs,
                v_pose
            )  # fmt: skip
            parts = min(parts_for(count), max(1, chunks))
            run_parts(partial(_project_part_backward, chunks, parts, args), parts)
            total = v_inputs if total is None else [a + b for a, b in zip(total, v_inputs)]
            if v_viewmats is not None:
                pose = torch.from_numpy(v_pose.sum(axis=0))
                v_viewmats[c, :3, :3], v_viewmats[c, :3, 3] = pose[:9].view(3, 3), pose[9:]
        v_means, v_quats, v_scales = (torch.from_numpy(a) for a in total)
        return v_means, v_quats, v_scales, None, v_viewmats, *(None,) * 7


class _Composite(torch.autograd.Function):
    """2D Gaussians -> colours and alphas."""

    @staticmethod
    def forward(
        ctx,
        means2d,
        conics,
        colors,
        opacities,
        depths,
        backgrounds,
        radii,
        width,
        height,
        with_depth,
        alpha_max,
        absgrad,
    ):
        kernels = compositing_kernels()
        _ready(kernels, backward=False)
        cameras, per_camera = len(means2d), colors.dim() == 3
        channels = colors.shape[-1] + with_depth
        out_colors = means2d.new_empty(cameras, height, width, channels)
        out_alphas = means2d.new_empty(cameras, height, width, 1)
        arrays = [_numpy(t) for t in (means2d, conics, opacities, depths, radii)]
        color_array, background_array = _numpy(colors), _numpy(backgrounds)
        ctx.lists = []
        for c in range(cameras):
            m, q, o, d, r = (a[c] for a in arrays)
            splats = Splats(m, q, color_array[c] if per_camera else color_array, o, d, r, with_depth)
            lists = TileLists(kernels, splats, width, height)
            lists.forward(background_array[c], alpha_max, out_colors[c].numpy(), out_alphas[c, ..., 0].numpy())
            ctx.lists.append(lists)
        ctx.settings = alpha_max, absgrad, per_camera
        # means2d is kept as a tensor because absgrad is an attribute of it; the others so that torch detects in-place
        # changes
        ctx.save_for_backward(means2d, conics, colors, opacities, depths, backgrounds, out_colors, out_alphas)
        return out_colors, out_alphas

    @staticmethod
    @once_differentiable
    def backward(ctx, v_colors, v_alphas):
        alpha_max, absgrad, per_camera = ctx.settings
        means2d, *_, backgrounds, out_colors, out_alphas = ctx.saved_tensors
        _ready(ctx.lists[0].kernels, backward=True)
        pictures = [_numpy(t) for t in (backgrounds, out_colors, out_alphas, v_colors, v_alphas)]
        grads = []
        for c, lists in enumerate(ctx.lists):
            background, colors, alphas, v_color, v_alpha = (a[c] for a in pictures)
            grads.append(
                lists.backward(background, alpha_max, colors, alphas[..., 0], v_color, v_alpha[..., 0], absgrad)
            )

        def stack(name: str) -> torch.Tensor:
            return torch.from_numpy(np.stack([getattr(g, name) for g in grads]))

        if absgrad:
            means2d.absgrad = stack("absolute")
        v_color_inputs = stack("colors") if per_camera else stack("colors").sum(0)
        v_backgrounds = None
        if ctx.needs_input_grad[5]:
            v_backgrounds = (v_colors * (1.0 - out_alphas)).sum(dim=(1, 2))
        return (
            stack("means2d"), stack("conics"), v_color_inputs, stack("opacities"), stack("depths"), v_backgrounds,
            *(None,) * 6,
        )  # fmt: skip


def project(
    means, quats, scales, opacities, viewmats, Ks, width, height, eps2d, near_plane, far_plane, antialiased
) -> tuple[torch.Tensor, ...]:
    """means2d [C, N, 2], conics [C, N, 3], depths [C, N], compensations [C, N] or None, radii [C, N, 2] int32."""
    means2d, conics, depths, compensations, radii = _Project.apply(
        means, quats, scales, opacities, viewmats, Ks, width, height, eps2d, near_plane, far_plane, antialiased
    )
    return means2d, conics, depths, compensations if antialiased else None, radii


def composite(
    means2d, conics, colors, opacities, depths, backgrounds, radii, width, height, with_depth, alpha_max, absgrad
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours [C, H, W, D (+ 1 with the depth)] over `backgrounds` and alphas [C, H, W, 1].

    Raises:
        NotImplementedError: for absgrad with more than four channels, which are composited four at a time.
    """
    if absgrad and colors.shape[-1] + with_depth > binning.CHANNELS:
        raise NotImplementedError(f"absgrad with more than {binning.CHANNELS} channels is not implemented on the CPU.")
    return _Composite.apply(
        means2d, conics, colors, opacities, depths, backgrounds, radii, width, height, with_depth, alpha_max, absgrad
    )
