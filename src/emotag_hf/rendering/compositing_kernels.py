"""Compositing and quantisation as Numba kernels: a frame is too small to gain from torch's threads."""

from __future__ import annotations

from .numba_runtime import kernel


@kernel("void(float32[:,:,::1], float32[:,:,::1], float32[:,:,::1], float32[:,:,::1])")
def over(color, alpha, background, out):  # pragma: no cover - compiled
    """`out = color + (1 - alpha) * background`, clipped to [0, 1]."""
    height, width, channels = color.shape
    for y in range(height):
        for x in range(width):
            rest = 1 - alpha[y, x, 0]
            for c in range(channels):
                out[y, x, c] = min(max(color[y, x, c] + rest * background[y, x, c], 0), 1)


@kernel("void(float32[:,:,::1], uint8[:,:,::1])")
def quantise(image, out):  # pragma: no cover - compiled
    """[0, 1] to 0..255, rounded."""
    height, width, channels = image.shape
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                out[y, x, c] = int(image[y, x, c] * 255 + 0.5)
