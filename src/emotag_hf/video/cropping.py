"""The crop of a source frame, and its inverse for pasting back.

In: source frames and points in source pixels. Out: frames and points of the crop; and back again. Pixel centres are at
+0.5 in both images, so the corners of the window map exactly to the corners of the crop.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class FrameCrop:
    """A window of the source frame and the size to which it is resampled; constant over a clip.

    Args:
        x, y: the window's upper left corner in source pixels; it may be outside the frame.
        window_width, window_height: its size in source pixels.
        width, height: the crop's size in pixels.
        source_width, source_height: the upright source picture's size in pixels.
    """

    x: float
    y: float
    window_width: float
    window_height: float
    width: int
    height: int
    source_width: int
    source_height: int

    def __post_init__(self):
        for name in ("window_width", "window_height", "width", "height", "source_width", "source_height"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number of pixels, got {getattr(self, name)}.")

    @classmethod
    def whole(cls, source_width: int, source_height: int, width: int | None = None) -> FrameCrop:
        """The whole frame, `width` pixels wide (default: its own width), both sides even."""
        width = _even(source_width if width is None else width)
        height = _even(width * source_height / source_width)
        return cls(0.0, 0.0, source_width, source_height, width, height, source_width, source_height)

    @classmethod
    def square(cls, centre: tuple[float, float], side: float, size: int, source: tuple[int, int]) -> FrameCrop:
        """A square of `side` source pixels around `centre`, `size` pixels large; `source` is (width, height)."""
        return cls(centre[0] - side / 2, centre[1] - side / 2, side, side, size, size, *source)

    @property
    def scale(self) -> tuple[float, float]:
        """Crop pixels per source pixel, horizontally and vertically."""
        return self.width / self.window_width, self.height / self.window_height

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Source pixels `[..., 2 or more]` to crop pixels; a third coordinate (depth) is scaled along."""
        sx, sy = self.scale
        out = np.array(points, dtype=np.float32)
        out[..., 0] = (out[..., 0] - self.x) * sx
        out[..., 1] = (out[..., 1] - self.y) * sy
        out[..., 2:] *= sx
        return out

    def to_source(self, points: np.ndarray) -> np.ndarray:
        """Crop pixels `[..., 2 or more]` to source pixels: the inverse of `to_crop`."""
        sx, sy = self.scale
        out = np.array(points, dtype=np.float32)
        out[..., 0] = out[..., 0] / sx + self.x
        out[..., 1] = out[..., 1] / sy + self.y
        out[..., 2:] /= sx
        return out

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """Cuts and resamples a source frame `[source_height, source_width, 3]` uint8 to `[height, width, 3]`.

        Outside the source frame its edge is repeated.
        """
        if frame.shape[:2] != (self.source_height, self.source_width):
            raise ValueError(
                f"frame: expected {self.source_width}x{self.source_height} pixels as in the crop's source, "
                f"got {frame.shape[1]}x{frame.shape[0]}."
            )
        left, top = max(0, int(np.ceil(-self.x))), max(0, int(np.ceil(-self.y)))
        right = max(0, int(np.ceil(self.x + self.window_width - self.source_width)))
        bottom = max(0, int(np.ceil(self.y + self.window_height - self.source_height)))
        if left or top or right or bottom:
            frame = np.pad(frame, ((top, bottom), (left, right), (0, 0)), mode="edge")
        x, y = self.x + left, self.y + top
        box = (x, y, x + self.window_width, y + self.window_height)
        if (x, y) == (0, 0) and frame.shape[:2] == (self.height, self.width) == (self.window_height, self.window_width):
            return np.ascontiguousarray(frame)
        shrinks = self.scale[0] < 1
        resampling = Image.Resampling.BOX if shrinks and self.scale[0] <= 0.25 else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(frame).resize((self.width, self.height), resampling, box=box))

    def to_dict(self) -> dict[str, float]:
        """JSON values; `FrameCrop(**d)` restores it."""
        return asdict(self)


def _even(value: float) -> int:
    return max(2, 2 * round(value / 2))


__all__ = ["FrameCrop"]
