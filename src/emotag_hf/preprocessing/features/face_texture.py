"""The face's colours independent of pose: a small texture in the head's own coordinates.

In: a frame, and the head that was fitted to it. Out: `[32, 32, 3]` colours, sampled where the points of a frontal grid
on the head lie in the frame. Eyes, nose and mouth are at the same places for every person and pose.
"""

from __future__ import annotations

import numpy as np
import torch

from ...models.modeling_head import ParametricHead
from ...rendering.cameras import Camera
from ...rendering.mesh import rasterize_mesh

SIZE = 32
# The grid's window in the resting head's x and y, metres: brows to chin, cheek to cheek.
_LEFT, _RIGHT, _TOP, _BOTTOM = -0.050, 0.050, 0.034, -0.090
_SUPER = 4  # samples a cell and axis
_SHAPE = 60
_WEIGHTS = {"pattern": 1.0, "colours": 0.5, "skin": 0.5, "shape": 0.7}
_MEAN_SKIN = (0.35, -0.3, -0.48)  # between light and dark skin, as an offset
_FAR = 100.0  # metres: distance of a nearly parallel view


class FaceTexture:
    """Reads the texture off frames. Args: head, the parametric head that the frames were fitted with."""

    def __init__(self, head: ParametricHead):
        self.corners, self.weights = _grid(head)

    def __call__(self, frame: np.ndarray, vertices: torch.Tensor, camera: Camera) -> np.ndarray:
        """`[32, 32, 3]` float32 RGB in [0, 1]: row 0 at the brows, column 0 at the person's right.

        Args:
            frame: `[H, W, 3]` uint8 RGB of the camera's size; beyond its border its edge is repeated.
            vertices: `[V, 3]` the posed head, metres.
            camera: the one that saw the frame.

        Raises:
            ValueError: the frame has another size than the camera's picture.
        """
        if frame.shape != (camera.height, camera.width, 3):
            raise ValueError(f"frame: expected {camera.width}x{camera.height} RGB, got shape {list(frame.shape)}.")
        points = (vertices.detach().cpu()[self.corners].double() * self.weights[..., None]).sum(1)
        seen = points @ camera.viewmat[:3, :3].T.double() + camera.viewmat[:3, 3].double()
        pixels = (seen @ camera.K.T.double())[:, :2] / seen[:, 2:]
        colours = _sample(frame, pixels.numpy()).reshape(SIZE, _SUPER, SIZE, _SUPER, 3)
        return (colours.mean((1, 3)) / 255.0).astype(np.float32)


def _sample(frame: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Bilinear colours `[n, 3]` at `[n, 2]` pixels, centres at +0.5; outside, the edge's."""
    height, width = frame.shape[:2]
    x, y = (np.clip(pixels[:, i] - 0.5, 0, (width, height)[i] - 1) for i in (0, 1))
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    upper = frame[top, left] * (1 - fx) + frame[top, left + 1] * fx
    lower = frame[top + 1, left] * (1 - fx) + frame[top + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy


def _grid(head: ParametricHead) -> tuple[torch.Tensor, torch.Tensor]:
    """For each sample of the grid the corners `[n, 3]` of the resting head's foremost face there, and their weights."""
    rest = head.v_template.detach().cpu().double()
    centre = torch.tensor([(_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2, 0.0], dtype=torch.float64)
    view = (rest - centre) * torch.tensor([1.0, -1.0, -1.0]) + torch.tensor([0.0, 0.0, _FAR])
    count = SIZE * _SUPER
    scale_x, scale_y = count * _FAR / (_RIGHT - _LEFT), count * _FAR / (_TOP - _BOTTOM)
    intrinsics = np.array([[scale_x, 0, count / 2], [0, scale_y, count / 2], [0, 0, 1]])
    buffers = rasterize_mesh(view, head.faces.cpu(), intrinsics, count, count)
    if (buffers.face_index < 0).any():
        raise ValueError("head: expected a face around the origin that fills the window of the texture, got gaps.")
    index = torch.from_numpy(buffers.face_index.astype(np.int64)).flatten()
    return head.faces.cpu()[index], torch.from_numpy(buffers.barycentric).reshape(-1, 3).double()


def face_description(texture: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """`[279]` numbers that differ between faces more than between clips of one face.

    Four parts of about unit size, by the weights of `_WEIGHTS`: the pattern of brightness (the low 12x12 cosines of the
    standardised logarithm, without the light's fall from side to side), the pattern of colour (6x6 cosines of log R/G
    and log B/G relative to their medians), the skin itself (those medians and the brightness), and the identity
    coefficients of the head.

    Args:
        texture: `[32, 32, 3]` of `FaceTexture`.
        shape: `[S]` identity coefficients; 60 of them count, missing ones are 0.
    """
    logs = np.log(np.asarray(texture, dtype=np.float64) + 0.02)  # 0.02: black is dark, not infinitely dark
    bright = np.log(texture @ np.array([0.3, 0.59, 0.11]) + 0.02)
    pattern = _cosines((bright - bright.mean()) / max(float(bright.std()), 1e-6), 12)
    pattern[0, 1] = 0.0
    tints = [logs[..., channel] - logs[..., 1] for channel in (0, 2)]
    medians = [float(np.median(tint)) for tint in tints]
    colours = [_cosines(tint - median, 6).ravel() for tint, median in zip(tints, medians, strict=True)]
    skin = 2.0 * (np.array([*medians, 0.4 * float(np.median(bright))]) - np.array(_MEAN_SKIN))
    parts = {
        "pattern": pattern.ravel() / max(float(np.linalg.norm(pattern)), 1e-6),
        "colours": np.concatenate(colours) / 2.5,
        "skin": skin,
        "shape": np.pad(shape[:_SHAPE], (0, max(0, _SHAPE - len(shape)))) / 12.0,
    }
    return np.concatenate([_WEIGHTS[name] * part for name, part in parts.items()])


def _cosines(picture: np.ndarray, count: int) -> np.ndarray:
    """The lowest `[count, count]` coefficients of the orthonormal two-dimensional cosine transform."""
    k, size = np.arange(count)[:, None], len(picture)
    basis = np.cos(np.pi * (np.arange(size) + 0.5) * k / size) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis @ picture @ basis.T


__all__ = ["SIZE", "FaceTexture", "face_description"]
