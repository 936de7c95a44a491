"""A pinhole camera: size in pixels, intrinsics and pose; with tensors for `rasterize`.

OpenCV convention: the camera looks along its +z, x to the right, y down; `viewmat` takes world points (metres, y up)
to camera points. Pixel centres lie at +0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_MAX_SIZE = 16384  # pixels


def _check_size(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_SIZE:
        raise ValueError(f"{name} must be a whole number of pixels from 1 to {_MAX_SIZE}; got {value!r}.")
    return value


def _check_matrix(name: str, value: object, size: int) -> torch.Tensor:
    matrix = torch.as_tensor(value)
    if tuple(matrix.shape) != (size, size):
        raise ValueError(f"{name} must have shape [{size}, {size}]; got {list(matrix.shape)}.")
    matrix = matrix.detach().to(torch.float32)
    if not torch.isfinite(matrix).all():
        raise ValueError(f"{name} must be finite; it holds NaN or infinity.")
    return matrix


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        width: pixels.
        height: pixels.
        K: [3, 3] intrinsics in pixels, no skew.
        viewmat: [4, 4] world-to-camera, metres.

    Raises:
        ValueError: naming the invalid attribute and what was expected.
    """

    width: int
    height: int
    K: torch.Tensor
    viewmat: torch.Tensor

    def __post_init__(self) -> None:
        _check_size("width", self.width)
        _check_size("height", self.height)
        intrinsics = _check_matrix("K", self.K, 3)
        if not (intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0):
            focal = [intrinsics[0, 0].item(), intrinsics[1, 1].item()]
            raise ValueError(f"K must have positive focal lengths K[0, 0] and K[1, 1]; got {focal}.")
        if abs(intrinsics[0, 1].item()) > 1e-6 * abs(intrinsics[0, 0].item()):
            raise ValueError(f"K must have no skew (K[0, 1] = 0); got {intrinsics[0, 1].item()}.")
        viewmat = _check_matrix("viewmat", self.viewmat, 4)
        if not torch.allclose(viewmat[3], viewmat.new_tensor([0.0, 0.0, 0.0, 1.0]), atol=1e-5):
            raise ValueError(f"viewmat must have the last row [0, 0, 0, 1]; got {viewmat[3].tolist()}.")
        object.__setattr__(self, "K", intrinsics)
        object.__setattr__(self, "viewmat", viewmat)

    @classmethod
    def portrait(
        cls,
        size: int | tuple[int, int] = 512,
        *,
        target: Sequence[float] = (0.0, 0.0, 0.0),
        yaw: float = 0.0,
        pitch: float = 0.0,
        distance: float = 1.0,
        focal: float | None = None,
    ) -> Camera:
        """A camera that looks at `target` from the front of a person who faces along +z.

        Args:
            size: pixels, one number for a square or (width, height).
            target: [3] the world point in the middle of the picture, metres.
            yaw: radians around world y; positive moves the camera towards +x, the person's left.
            pitch: radians; positive moves the camera up.
            distance: metres from the camera to the target.
            focal: pixels; by default four times the width, a long portrait lens.

        Raises:
            ValueError: if a size, the distance, the focal length or the target is out of range.
        """
        width, height = (size, size) if isinstance(size, int) else tuple(size)
        _check_size("width", width)
        _check_size("height", height)
        focal = 4.0 * width if focal is None else float(focal)
        for name, value in (("distance", distance), ("focal", focal)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number; got {value!r}.")
        if not (math.isfinite(yaw) and math.isfinite(pitch)):
            raise ValueError(f"yaw and pitch must be finite radians; got {yaw!r} and {pitch!r}.")
        centre = torch.as_tensor(target, dtype=torch.float64)
        if tuple(centre.shape) != (3,) or not torch.isfinite(centre).all():
            raise ValueError(f"target must be three finite numbers in metres; got {target!r}.")
        away = torch.tensor(
            [math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)], dtype=torch.float64
        )
        forward = -away
        right = torch.tensor([math.cos(yaw), 0.0, -math.sin(yaw)], dtype=torch.float64)
        down = torch.linalg.cross(forward, right)
        rotation = torch.stack([right, down, forward])
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[:3, :3] = rotation
        viewmat[:3, 3] = -rotation @ (centre + distance * away)
        intrinsics = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        return cls(width, height, intrinsics, viewmat)

    def resize(self, size: int | tuple[int, int]) -> Camera:
        """The same view at another size in pixels: one number for a square or (width, height)."""
        width, height = (size, size) if isinstance(size, int) else tuple(size)
        _check_size("width", width)
        _check_size("height", height)
        scale = self.K.new_tensor([width / self.width, height / self.height, 1.0])
        return Camera(width, height, self.K * scale[:, None], self.viewmat)

    def fit(self, size: int | tuple[int, int]) -> Camera:
        """The same position and centre of view at another size and aspect ratio: the field of view of the shorter side
        stays; one number for a square or (width, height)."""
        width, height = (size, size) if isinstance(size, int) else tuple(size)
        _check_size("width", width)
        _check_size("height", height)
        scale = min(width, height) / min(self.width, self.height)
        K = self.K * self.K.new_tensor([scale, scale, 1.0])[:, None]
        K[0, 2] += (width - self.width * scale) / 2
        K[1, 2] += (height - self.height * scale) / 2
        return Camera(width, height, K, self.viewmat)

    def orbit(self, yaw: float = 0.0, pitch: float = 0.0) -> Camera:
        """The camera turned around the world's origin, by radians as in `portrait`."""
        if not yaw and not pitch:
            return self
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        about_y = torch.tensor([[cy, 0.0, -sy], [0.0, 1.0, 0.0], [sy, 0.0, cy]])
        about_x = torch.tensor([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
        viewmat = self.viewmat.clone()
        viewmat[:3, :3] = self.viewmat[:3, :3] @ about_x @ about_y
        return Camera(self.width, self.height, self.K, viewmat)

    @property
    def position(self) -> torch.Tensor:
        """[3] the camera's position in the world, metres."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]
