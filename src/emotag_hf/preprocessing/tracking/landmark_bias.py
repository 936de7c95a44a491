"""Where MediaPipe's points lie beside the places that they name, by the direction from which a face is seen.

In: head rotations. Out: offsets in pixels, to be taken from the landmarks. Face Mesh errs in a way that repeats: its
points sit up to some millimetres off, and slide along the face as it turns; a fit takes that for a turn of the head.
Measured on rendered people (conversion_scripts/render_ict_clips/calibrate.py), so no real person's data is in it.
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
    """`[6, 468, 2]` metres right and down along the head in the picture, by 1, x, y, x², xy, y² of the view."""
    with safe_open(asset_path(ASSET), framework="pt") as file:
        return file.get_tensor("landmark_bias")


def bias_pixels(rotation: Tensor, translation: Tensor, camera: Camera) -> Tensor:
    """How far the landmarks of T frames are off.

    Args:
        rotation, translation: `[T, 3, 3]` and `[T, 3]` metres, head space to world, about the head's origin.
        camera: what sees it.

    Returns:
        `[T, 468, 2]` pixels: seen minus true.
    """
    view = View(rotation, translation, camera)
    x, y = view.x, view.y
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)
    return view.to_pixels(torch.einsum("tk,kni->tni", terms, load_bias()))


__all__ = ["bias_pixels", "load_bias"]
