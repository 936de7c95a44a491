"""The 112x112 face picture that face-embedding networks read (METHOD 3, ID Net's input).

In: an RGB frame and MediaPipe's landmarks in its pixels. Out: the frame turned, scaled and shifted so that eyes, nose
and mouth corners lie where ArcFace's and AdaFace's networks expect them.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

ALIGNED_SIZE = 112
# ArcFace's five points in pixels of a 112x112 picture (pixel centres at whole numbers): the eye on the picture's left,
# the eye on its right, the tip of the nose, and the mouth's corners, left and right.
ALIGNED_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# MediaPipe's points for the same five; an eye is the middle of its corners. The person's right is the picture's left.
_FIVE = ((33, 133), (362, 263), (1,), (61,), (291,))


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """`[..., 478 or 468, >= 2]` MediaPipe landmarks to `[..., 5, 2]`: eyes, nose tip, mouth corners."""
    points = np.asarray(landmarks)[..., :2]
    return np.stack([points[..., list(rows), :].mean(-2) for rows in _FIVE], -2)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`[2, 3]`: scale, rotation and shift that take `source [n, 2]` to `target [n, 2]` in the least-squares sense.

    In complex numbers the map is w = a z + b, whose least squares have a closed form and never mirror.
    """
    z, w = (points[:, 0] + 1j * points[:, 1] for points in (np.asarray(source), np.asarray(target)))
    spread = np.abs(z - z.mean()) ** 2
    if not spread.sum() > 0:
        raise ValueError("source: expected points that differ from each other, got one point.")
    a = ((w - w.mean()) * np.conj(z - z.mean())).sum() / spread.sum()
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align_face(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """`[112, 112, 3]` uint8 RGB: the face of `frame [H, W, 3]` in ArcFace's position; black outside the frame.

    Args:
        frame: uint8 RGB.
        landmarks: `[478 or 468, >= 2]` in pixels of the frame, pixel centres at +0.5.

    Raises:
        ValueError: landmarks that are not finite.
    """
    points = five_points(landmarks)
    if not np.isfinite(points).all():
        raise ValueError("landmarks: expected finite pixels of one face, got NaN; choose a frame with a face.")
    forward = similarity_transform(points, ALIGNED_POINTS + 0.5)
    image = Image.fromarray(np.ascontiguousarray(frame))
    # Sampling a large face at 112 pixels would alias: the picture is first reduced by whole steps.
    steps = max(1, int(1 / np.hypot(forward[0, 0], forward[1, 0])))
    if steps > 1:
        image = image.reduce(steps)
        forward[:, :2] *= steps
    inverse = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))[:2]
    size = (ALIGNED_SIZE, ALIGNED_SIZE)
    return np.asarray(image.transform(size, Image.Transform.AFFINE, inverse.ravel(), Image.Resampling.BICUBIC))


__all__ = ["ALIGNED_POINTS", "ALIGNED_SIZE", "align_face", "five_points", "similarity_transform"]
