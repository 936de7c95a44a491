"""`rasterize`: 3D Gaussians and cameras in, images out, with gsplat's interface on any device.

The entry point of rendering. It checks the inputs, selects the backend and implements what the CPU backends share:
projection, colours from spherical harmonics, compositing, depth.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch

from ..utils.import_utils import is_available
from .spherical_harmonics import MAX_DEGREE, spherical_harmonics_colors

logger = logging.getLogger(__name__)

BACKENDS = ("numba", "gsplat", "torch")
RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
RASTERIZE_MODES = ("classic", "antialiased")
_MAX_SIZE = 16384  # pixels
_ALPHA_MAX = 0.999  # gsplat 1.5


def available_backends() -> tuple[str, ...]:
    """Names of the backends that can run here, the preferred one first."""
    found = ["numba", "torch"]
    if torch.cuda.is_available() and is_available("gsplat"):
        found.insert(0, "gsplat")
    return tuple(found)


def rasterize(
    means: torch.Tensor,
    quats: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    colors: torch.Tensor,
    viewmats: torch.Tensor,
    Ks: torch.Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    backgrounds: torch.Tensor | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    absgrad: bool = False,
    alpha_max: float | None = None,
    backend: str | None = None,
    **unsupported: Any,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Renders N Gaussians in C pinhole cameras. Differentiable in all float tensors but `Ks`.

    The semantics are those of gsplat 1.5.3: pixel centres at +0.5, contributions with alpha below 1/255 are skipped,
    a pixel stops before its transmittance falls to 1e-4.

    Args:
        means: [N, 3] centres, world metres.
        quats: [N, 4] rotations (w, x, y, z) of any length but zero.
        scales: [N, 3] standard deviations, metres.
        opacities: [N], in [0, 1].
        colors: [N, D] or [C, N, D] colours with any small D; with `sh_degree`, [N, K, 3] or [C, N, K, 3] spherical
            harmonics with K >= (sh_degree + 1)^2.
        viewmats: [C, 4, 4] world-to-camera, OpenCV axes.
        Ks: [C, 3, 3] intrinsics, pixels.
        width: pixels.
        height: pixels.
        near_plane: Gaussians with nearer centres are skipped, metres.
        far_plane: Gaussians with farther centres are skipped, metres.
        eps2d: variance added to each 2D covariance, pixels^2.
        sh_degree: None for colours, else 0 to 2.
        backgrounds: [C, D] background colours; black by default. Depth has none.
        render_mode: "RGB", "D" (accumulated depth), "ED" (depth / alpha), "RGB+D" or "RGB+ED".
        rasterize_mode: "classic", or "antialiased" (opacity shrinks by what `eps2d` adds, as in Mip-Splatting).
        absgrad: after backward, `meta["means2d"].absgrad` [C, N, 2] holds sums of absolute gradients (AbsGS).
        alpha_max: the largest alpha of one Gaussian in one pixel. None is 0.999, or what the installed gsplat was
            compiled with: 0.999 in 1.5, 0.99 in 1.6.
        backend: None or "auto" (gsplat for CUDA tensors, else numba), "numba", "gsplat" or "torch" (slow and dense;
            also takes float64).

    Returns:
        colors [C, H, W, X] (X = D, 1 or D + 1 with the depth last), alphas [C, H, W, 1], and a dict with means2d
        [C, N, 2], conics [C, N, 3], depths [C, N], radii [C, N, 2] int32 (0 where culled), opacities [C, N], width,
        height, n_cameras, backend.

    Raises:
        ValueError: naming the argument that has a wrong shape, dtype, device or value.
        NotImplementedError: naming the gsplat option that this package does not offer.
        ImportError: if the requested backend is not installed.
    """
    if unsupported:
        names = ", ".join(sorted(unsupported))
        raise NotImplementedError(f"rasterize does not implement {names}: pinhole cameras, unpacked, one device only.")
    _check_options(sh_degree, render_mode, rasterize_mode, width, height, near_plane, far_plane, eps2d, alpha_max)
    tensors = {
        "means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors,
        "viewmats": viewmats, "Ks": Ks,
    }  # fmt: skip
    if backgrounds is not None:
        tensors["backgrounds"] = backgrounds
    _check_tensors(tensors, sh_degree, render_mode)
    name = _choose_backend(backend, tensors)
    options = {
        "width": width, "height": height, "near_plane": near_plane, "far_plane": far_plane, "eps2d": eps2d,
        "sh_degree": sh_degree, "render_mode": render_mode, "rasterize_mode": rasterize_mode, "absgrad": absgrad,
        "alpha_max": alpha_max,
    }  # fmt: skip
    if name == "gsplat":
        from . import gsplat_backend

        out_colors, alphas, meta = gsplat_backend.rasterize(**tensors, **options)
    else:
        device = means.device
        if name == "numba" and device.type != "cpu":
            tensors = {key: tensor.cpu() for key, tensor in tensors.items()}
        out_colors, alphas, meta = _project_and_composite(name, **tensors, **options)
        if out_colors.device != device:
            out_colors, alphas = out_colors.to(device), alphas.to(device)
    meta.update(width=width, height=height, n_cameras=len(viewmats), backend=name)
    return out_colors, alphas, meta


def _project_and_composite(
    name, *, means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane, far_plane, eps2d,
    sh_degree, render_mode, rasterize_mode, absgrad, alpha_max, backgrounds=None,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:  # fmt: skip
    """What the numba and torch backends share: the steps of gsplat's `rasterization`."""
    if name == "numba":
        from . import numba_backend as steps
    else:
        from . import torch_reference as steps

    antialiased = rasterize_mode == "antialiased"
    means2d, conics, depths, compensations, radii = steps.project(
        means, quats, scales, opacities, viewmats, Ks, width, height, eps2d, near_plane, far_plane, antialiased
    )
    alpha_max = _ALPHA_MAX if alpha_max is None else alpha_max
    cameras = len(viewmats)
    opacities = opacities.expand(cameras, -1)
    if compensations is not None:
        opacities = opacities * compensations
    with_depth = render_mode != "RGB"
    if render_mode in ("D", "ED"):
        colors, backgrounds = means.new_empty(len(means), 0), None
    elif sh_degree is not None:
        per_camera = [
            spherical_harmonics_colors(sh_degree, means, viewmats[c], colors if colors.dim() == 3 else colors[c])
            for c in range(cameras)
        ]
        colors = per_camera[0] if cameras == 1 else torch.stack(per_camera)
    channels = colors.shape[-1]
    if backgrounds is None:
        backgrounds = means.new_zeros(cameras, channels + with_depth)
    elif with_depth:
        backgrounds = torch.cat([backgrounds, backgrounds.new_zeros(cameras, 1)], dim=-1)
    rendered, alphas = steps.composite(
        means2d, conics, colors, opacities, depths, backgrounds, radii, width, height, with_depth, alpha_max, absgrad
    )
    if render_mode.endswith("ED"):
        depth = rendered[..., -1:] / alphas.clamp_min(1e-10)
        rendered = torch.cat([rendered[..., :-1], depth], dim=-1)
    meta = {"means2d": means2d, "conics": conics, "depths": depths, "radii": radii, "opacities": opacities}
    return rendered, alphas, meta


@functools.cache  # once per process, not once per frame
def _warn_without_gsplat() -> None:
    logger.warning("gsplat is not installed: rendering on the CPU. Run: pip install 'emotag_hf[gpu]'")


def _choose_backend(backend: str | None, tensors: dict[str, torch.Tensor]) -> str:
    if backend not in (None, "auto", *BACKENDS):
        raise ValueError(f"backend must be auto or one of {', '.join(BACKENDS)}; got {backend!r}.")
    means = tensors["means"]
    on_cuda = means.device.type == "cuda"
    if backend in (None, "auto"):
        has_gsplat = is_available("gsplat")
        if on_cuda and not has_gsplat:
            _warn_without_gsplat()
        backend = "gsplat" if on_cuda and has_gsplat else "numba"
    if backend == "gsplat" and not on_cuda:
        raise ValueError(f"means must be on a CUDA device for backend='gsplat'; it is on {means.device}.")
    if backend != "torch":
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32:
                raise ValueError(f"{name} must be float32 for backend={backend!r}; got {tensor.dtype}.")
    return backend


def _check_options(
    sh_degree, render_mode, rasterize_mode, width, height, near_plane, far_plane, eps2d, alpha_max
) -> None:
    for name, value in (("width", width), ("height", height)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_SIZE:
            raise ValueError(f"{name} must be a whole number of pixels from 1 to {_MAX_SIZE}; got {value!r}.")
    if render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode must be one of {', '.join(RENDER_MODES)}; got {render_mode!r}.")
    if rasterize_mode not in RASTERIZE_MODES:
        raise ValueError(f"rasterize_mode must be one of {', '.join(RASTERIZE_MODES)}; got {rasterize_mode!r}.")
    if sh_degree is not None:
        if isinstance(sh_degree, bool) or not isinstance(sh_degree, int) or sh_degree < 0:
            raise ValueError(f"sh_degree must be None or a whole number from 0 to {MAX_DEGREE}; got {sh_degree!r}.")
        if sh_degree > MAX_DEGREE:
            raise NotImplementedError(f"sh_degree={sh_degree} is not implemented: use 0 to {MAX_DEGREE}.")
    if not 0 < near_plane < far_plane:
        raise ValueError(f"near_plane must lie between 0 and far_plane ({far_plane!r}); got {near_plane!r}.")
    if not 0 <= eps2d < float("inf"):
        raise ValueError(f"eps2d must be a finite variance in pixels^2, at least 0; got {eps2d!r}.")
    if alpha_max is not None and not 0 < alpha_max < 1:
        raise ValueError(f"alpha_max must lie between 0 and 1; got {alpha_max!r}.")


def _check_tensors(tensors: dict[str, torch.Tensor], sh_degree: int | None, render_mode: str) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{name} must be a torch.Tensor; got {type(tensor).__name__}.")
    means, viewmats = tensors["means"], tensors["viewmats"]
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != means.dtype:
            raise ValueError(f"{name} must be float32 like means ({means.dtype}); got {tensor.dtype}.")
        if tensor.device != means.device:
            raise ValueError(f"{name} must be on the device of means ({means.device}); it is on {tensor.device}.")
    count = means.shape[0] if means.dim() == 2 else -1
    cameras = viewmats.shape[0] if viewmats.dim() == 3 else -1
    expected: dict[str, tuple[tuple[int, ...], ...]] = {
        "means": ((count, 3),), "quats": ((count, 4),), "scales": ((count, 3),), "opacities": ((count,),),
        "viewmats": ((cameras, 4, 4),), "Ks": ((cameras, 3, 3),),
    }  # fmt: skip
    words = {
        "means": "[N, 3]", "quats": "[N, 4]", "scales": "[N, 3]", "opacities": "[N]",
        "viewmats": "[C, 4, 4] with C >= 1", "Ks": "[C, 3, 3]",
    }  # fmt: skip
    for name, shapes in expected.items():
        shape = tuple(tensors[name].shape)
        if shape not in shapes or (name == "viewmats" and cameras < 1):
            raise ValueError(f"{name} must have shape {words[name]} (N={count}, C={cameras}); got {list(shape)}.")
    _check_colors(tensors["colors"], count, cameras, sh_degree)
    backgrounds = tensors.get("backgrounds")
    if backgrounds is not None and render_mode not in ("D", "ED"):
        wanted = (cameras, tensors["colors"].shape[-1])
        if tuple(backgrounds.shape) != wanted:
            raise ValueError(f"backgrounds must have shape [C, D] = {list(wanted)}; got {list(backgrounds.shape)}.")


def _check_colors(colors: torch.Tensor, count: int, cameras: int, sh_degree: int | None) -> None:
    shape = tuple(colors.shape)
    if sh_degree is None:
        if shape[:-1] not in ((count,), (cameras, count)) or not 1 <= shape[-1] <= 512:
            raise ValueError(
                f"colors must have shape [N, D] or [C, N, D] (N={count}, C={cameras}, 1 <= D <= 512); "
                f"got {list(shape)}. For spherical harmonics give sh_degree."
            )
        return
    needed = (sh_degree + 1) ** 2
    if len(shape) < 3 or shape[:-2] not in ((count,), (cameras, count)) or shape[-1] != 3 or shape[-2] < needed:
        raise ValueError(
            f"colors must have shape [N, K, 3] or [C, N, K, 3] with N={count}, C={cameras} and K >= {needed} for "
            f"sh_degree={sh_degree}; got {list(shape)}."
        )
