"""The CUDA backend: passes the checked arguments of `rasterize` to gsplat; the only file that imports it."""

from __future__ import annotations

from typing import Any

import torch

from ..utils.import_utils import require_package

_TILE = 16


def alpha_clamp(version: str) -> float:
    """The largest alpha of one Gaussian in one pixel in the installed gsplat, a compile-time constant."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return 0.999 if (major, minor) < (1, 6) else 0.99


def rasterize(
    *, means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane, far_plane, eps2d, sh_degree,
    render_mode, rasterize_mode, absgrad, alpha_max, backgrounds=None,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:  # fmt: skip
    """See `emotag_hf.rendering.rasterize`; the tensors are on one CUDA device.

    Raises:
        ImportError: if gsplat is not installed, with the command that installs it.
        NotImplementedError: if `alpha_max` is not what this gsplat was compiled with.
    """
    gsplat = require_package("gsplat", extra="gpu")
    clamp = alpha_clamp(gsplat.__version__)
    if alpha_max is not None and abs(alpha_max - clamp) > 1e-6:
        raise NotImplementedError(
            f"alpha_max={alpha_max} is not implemented by gsplat {gsplat.__version__}, which clamps at {clamp}: leave "
            "alpha_max out, or use backend='numba'."
        )
    return gsplat.rasterization(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane=near_plane,
        far_plane=far_plane, eps2d=eps2d, sh_degree=sh_degree, packed=False, tile_size=_TILE, backgrounds=backgrounds,
        render_mode=render_mode, absgrad=absgrad, rasterize_mode=rasterize_mode,
    )  # fmt: skip
