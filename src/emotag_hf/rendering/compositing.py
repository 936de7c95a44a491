"""Puts the rendered head over a background.

In: colours and alphas of the rasteriser. Out: images. Backgrounds are straight (not premultiplied) sRGB in [0, 1].
"""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

DEFAULT_BACKDROP = {"inner": [0.62, 0.66, 0.70], "outer": [0.30, 0.33, 0.38]}


def make_background(background, width: int, height: int, backdrop: dict | None = None) -> torch.Tensor:
    """Makes the background image.

    Args:
        background: None for the avatar's default background; a colour name, `"#rrggbb"`; the path of an image; a PIL
            image; or an array `[h, w, 3]`, uint8 or float in [0, 1]. Images are cropped to the frame's aspect ratio,
            then resized.
        width, height: pixels.
        backdrop: `{"inner": [r, g, b], "outer": [r, g, b]}`, used for None.

    Returns:
        `[height, width, 3]` float32 in [0, 1].
    """
    if background is None:
        return _spotlight(width, height, **(backdrop or DEFAULT_BACKDROP))
    if isinstance(background, str) and not os.path.exists(background):
        try:
            color = ImageColor.getrgb(background)[:3]
        except ValueError:
            raise ValueError(
                f"background: expected a colour such as '#3366cc' or 'white', or the path of a picture; got "
                f"{background!r}, which is neither a colour nor a file."
            ) from None
        return torch.tensor(color, dtype=torch.float32).div(255).expand(height, width, 3).contiguous()
    return _fill(_as_image(background), width, height)


def composite(colors: torch.Tensor, alphas: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Premultiplied `colors [..., H, W, 3]` over `background [H, W, 3]` by `alphas [..., H, W, 1]`, kept in [0, 1]."""
    if colors.requires_grad or alphas.requires_grad or colors.device.type != "cpu":
        return torch.addcmul(colors, 1 - alphas, background).clamp(0, 1)
    from .compositing_kernels import over

    out = torch.empty_like(colors)
    pictures = zip(*(x.detach().reshape(-1, *x.shape[-3:]).numpy() for x in (colors, alphas, out)))
    for color, alpha, picture in pictures:
        over(np.ascontiguousarray(color), np.ascontiguousarray(alpha), background.contiguous().numpy(), picture)
    return out


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """An image `[H, W, 3]` in [0, 1] as uint8, rounded."""
    from .compositing_kernels import quantise

    array = np.ascontiguousarray(image.detach().cpu().numpy())
    out = np.empty(array.shape, np.uint8)
    quantise(array, out)
    return out


def _as_image(background) -> Image.Image:
    if isinstance(background, Image.Image):
        return background.convert("RGB")
    if isinstance(background, (str, os.PathLike)):
        try:
            with Image.open(background) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"background: {os.fspath(background)!r} cannot be read as a picture ({error}).") from None
    array = np.asarray(background)
    floats = array.dtype.kind == "f" and array.size and float(array.min()) >= 0 and float(array.max()) <= 1
    if array.ndim == 3 and array.size and array.dtype != np.uint8 and not floats:
        raise ValueError(
            f"background: expected a colour, a picture or an array of uint8 or of floats in [0, 1]; got {array.dtype} "
            f"from {array.min()} to {array.max()}."
        )
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f"background: expected a colour, a picture or an array of shape (height, width, 3); got "
            f"{type(background).__name__} of shape {array.shape}."
        )
    if array.dtype != np.uint8:
        array = (array * 255).round().astype(np.uint8)
    return Image.fromarray(array)


def _fill(image: Image.Image, width: int, height: int) -> torch.Tensor:
    scale = max(width / image.width, height / image.height)
    w, h = width / scale, height / scale
    left, top = (image.width - w) / 2, (image.height - h) / 2
    image = image.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + w, top + h))
    return torch.from_numpy(np.asarray(image, np.float32) / 255)


def _spotlight(width: int, height: int, inner: list[float], outer: list[float]) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    distance = ((x * width / max(width, height)) ** 2 + ((y + 0.25) * height / max(width, height)) ** 2).sqrt()
    weight = torch.exp(-((distance / 0.85) ** 2))[..., None]
    picture = weight * torch.tensor(inner) + (1 - weight) * torch.tensor(outer)
    # Dithering with fixed noise of half a level, because 8 bits show bands in a soft gradient.
    noise = torch.rand(height, width, 1, generator=torch.Generator().manual_seed(0))
    return (picture + (noise - 0.5) / 255).clamp(0, 1)
