"""Light for the painter: many small lamps around the head, each with its own shadow map.

In: points with normals, and the meshes that cast shadows. Out: the light that each point receives, linear RGB. The
result is baked into the Gaussians' colours: one studio, one moment, as in a portrait.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_RESOLUTION = 420  # cells of a shadow map
_BIAS = 0.0022  # metres behind the first surface that still count as lit


def fibonacci_sphere(count: int) -> np.ndarray:
    """`[count, 3]` unit directions, evenly spread."""
    i = np.arange(count) + 0.5
    y = 1 - 2 * i / count
    angle = i * np.pi * (3 - np.sqrt(5))
    r = np.sqrt(1 - y * y)
    return np.stack([r * np.cos(angle), y, r * np.sin(angle)], -1)


def studio(count: int = 360) -> tuple[np.ndarray, np.ndarray]:
    """Directions `[count, 3]` and radiance `[count, 3]` of a portrait studio.

    A large warm key from the upper left of the picture, a cool fill from the right, a rim behind each shoulder and a
    dim dome, brighter above.
    """
    directions = fibonacci_sphere(count)
    lamps = (
        # direction, tightness, colour
        ((-0.62, 0.62, 0.75), 7.0, (4.3, 4.0, 3.6)),
        ((0.85, 0.15, 0.65), 3.0, (0.62, 0.70, 0.84)),
        ((0.85, 0.45, -0.65), 12.0, (3.2, 3.3, 3.6)),
        ((-0.9, 0.30, -0.6), 14.0, (1.6, 1.6, 1.8)),
        ((0.0, -0.3, 0.95), 3.5, (0.32, 0.29, 0.27)),
    )
    radiance = (0.28 + 0.20 * directions[:, 1:2]) * np.array([0.95, 1.0, 1.08])
    for towards, tightness, color in lamps:
        towards = np.array(towards) / np.linalg.norm(towards)
        lobe = np.exp(tightness * (directions @ towards - 1))
        radiance = radiance + lobe[:, None] * np.array(color)
    return directions, radiance


@njit(cache=False)
def _depth_map(points, faces, depth):
    """Largest z per cell of triangles whose points are in cell units; z grows towards the lamp."""
    res = depth.shape[0]
    for f in range(faces.shape[0]):
        ax, ay, az = points[faces[f, 0]]
        bx, by, bz = points[faces[f, 1]]
        cx, cy, cz = points[faces[f, 2]]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-12:
            continue
        x0, x1 = int(max(0, np.floor(min(ax, bx, cx)))), int(min(res - 1, np.ceil(max(ax, bx, cx))))
        y0, y1 = int(max(0, np.floor(min(ay, by, cy)))), int(min(res - 1, np.ceil(max(ay, by, cy))))
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                px, py = x + 0.5, y + 0.5
                u = ((bx - px) * (cy - py) - (by - py) * (cx - px)) / area
                v = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) / area
                w = 1.0 - u - v
                if u >= -1e-6 and v >= -1e-6 and w >= -1e-6:
                    z = u * az + v * bz + w * cz
                    if z > depth[y, x]:
                        depth[y, x] = z


def _lamp_axes(direction: np.ndarray) -> np.ndarray:
    up = np.array([0.0, 1, 0]) if abs(direction[1]) < 0.9 else np.array([1.0, 0, 0])
    right = np.cross(up, direction)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(direction, right), direction])


class LightField:
    """Which lamps each point sees.

    Args:
        vertices, faces: the mesh that casts shadows.
        occluders: `[M, 3]` further points that cast shadows (hair), each a small disc.
        points, normals: `[N, 3]` where the light is wanted.
    """

    def __init__(self, vertices, faces, points, normals, occluders=None, count: int = 360, offset: float = 0.0012):
        self.directions, self.radiance = studio(count)
        self.normals = normals
        lifted = points + normals * offset
        low = np.minimum(vertices.min(0), points.min(0))
        center = (low + np.maximum(vertices.max(0), points.max(0))) / 2
        scale = _RESOLUTION / (1.05 * np.linalg.norm(vertices.max(0) - low))
        self.visibility = np.empty((count, len(points)), np.float32)
        for i, direction in enumerate(self.directions):
            axes = _lamp_axes(direction)
            project = lambda p: np.ascontiguousarray(  # noqa: E731
                ((p - center) @ axes.T) * [scale, scale, 1] + [_RESOLUTION / 2, _RESOLUTION / 2, 0]  # noqa: B023
            )
            depth = np.full((_RESOLUTION, _RESOLUTION), -1e9)
            _depth_map(project(vertices), faces, depth)
            p = project(lifted)
            x, y = (np.clip(p[:, k].astype(int), 0, _RESOLUTION - 1) for k in (0, 1))
            self.visibility[i] = p[:, 2] > depth[y, x] - _BIAS
            if occluders is not None and len(occluders):
                o = project(occluders)
                density = np.zeros((_RESOLUTION, _RESOLUTION))
                far = np.full((_RESOLUTION, _RESOLUTION), -1e9)
                ox, oy = (np.clip(o[:, k].astype(int), 0, _RESOLUTION - 1) for k in (0, 1))
                np.add.at(density, (oy, ox), 0.35)
                np.maximum.at(far, (oy, ox), o[:, 2])
                behind = p[:, 2] < far[y, x] - 0.006
                self.visibility[i] *= np.where(behind, np.exp(-density[y, x]), 1)

    def diffuse(self, wrap=(0.0, 0.0, 0.0)) -> np.ndarray:
        """Irradiance over pi, `[N, 3]`. `wrap` softens the terminator per channel, as light inside skin does."""
        out = np.empty((len(self.normals), 3))
        cosine = self.directions @ self.normals.T
        for k, w in enumerate(wrap):
            weight = np.clip((cosine + w) / (1 + w), 0, None) / (1 + w) * self.visibility
            out[:, k] = self.radiance[:, k] @ weight
        return out * (4 / len(self.directions))

    def openness(self) -> np.ndarray:
        """Cosine-weighted share of the sky that each point sees, `[N]` in [0, 1]: ambient occlusion."""
        weight = np.clip(self.directions @ self.normals.T, 0, None)
        return (weight * self.visibility).sum(0) / np.maximum(weight.sum(0), 1e-6)

    def specular(self, view: np.ndarray, power: float) -> np.ndarray:
        """Blinn-Phong highlights towards `view [N, 3]`, `[N, 3]`, normalised so that `power` keeps the energy."""
        half = self.directions[:, None] + view[None]
        half /= np.linalg.norm(half, axis=-1, keepdims=True) + 1e-9
        lobe = np.clip(np.einsum("lnk,nk->ln", half, self.normals), 0, None) ** power
        lobe *= self.visibility * np.clip(self.directions @ self.normals.T, 0, None) ** 0.5
        return (lobe.T @ self.radiance) * ((power + 8) / 8) / len(self.directions)


def to_srgb(linear: np.ndarray, exposure: float = 1.0) -> np.ndarray:
    """Filmic shoulder, then the sRGB curve; linear `[..., 3]` to [0, 1]."""
    x = np.maximum(linear * exposure, 0)
    x = x * (1 + x / 6.0) / (1 + x)  # soft shoulder, white at 6
    x = np.clip(x * 1.18, 0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
