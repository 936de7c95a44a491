"""Systematic error (bias) of MediaPipe's landmarks as a function of the viewing direction.

In: head rotations. Out: offsets in pixels, to be subtracted from the landmarks. Face Mesh's landmarks are off by up
to some millimetres, and slide along the face as the head turns, which a fit mistakes for head rotation. The bias was
measured on rendered people (conversion_scripts/render_ict_clips/calibrate.py), so it contains no real person's data.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from safetensors import safe_open
from torch import Tensor

from ...rendering.cameras import Camera
from ...utils.asset_paths import asset_path
from .person_offsets import View

ASSET = "landmark_bias.safetensors"


@lru_cache(maxsize=1)
def load_bias() -> Tensor:
    """`[6, 468, 2]` coefficients of 1, x, y, x², xy, y² of the view, in metres along the head's right and down."""
    with safe_open(asset_path(ASSET), framework="pt") as file:
        return file.get_tensor("landmark_bias")


def bias_pixels(rotation: Tensor, translation: Tensor, camera: Camera) -> Tensor:
    """The bias of the landmarks of T frames.

    Args:
        rotation, translation: `[T, 3, 3]` and `[T, 3]` metres, head space to world, about the head's origin.
        camera: of these frames.

    Returns:
        `[T, 468, 2]` pixels: detected minus true.
    """
    view = View(rotation, translation, camera)
    x, y = view.x, view.y
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)
    return view.to_pixels(torch.einsum("tk,kni->tni", terms, load_bias()))


__all__ = ["bias_pixels", "load_bias"]
