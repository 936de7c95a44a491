"""A z-buffer rasteriser for triangle meshes on the CPU: camera-space vertices in, the visible face of each pixel out.

Used by METHOD 5's geometry teachers and for image regions in tracking. OpenCV camera: x right, y down, looking along
+z, metres; pixel centres lie at +0.5. Not differentiable; deterministic.

Vertices are rounded to 1/1024 pixel, so that edge tests are exact in float64 and adjacent faces leave no hole. A pixel
on an edge belongs to the nearer face and, at equal depth, to the one with the lower index.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .numba_runtime import device, kernel

NEAR = 0.01  # metres; faces with a corner nearer than this are left out, not clipped
_SUBPIXELS = 1024.0


class MeshBuffers(NamedTuple):
    """The visible faces of a mesh for a pinhole camera.

    Attributes:
        face_index: `[H, W]` int32, the nearest face at the pixel's centre; -1 where there is none.
        barycentric: `[H, W, 3]` float32, perspective-correct weights of that face's corners; 0 where there is none.
        depth: `[H, W]` float32, the camera's z in metres; inf where there is none.
    """

    face_index: np.ndarray
    barycentric: np.ndarray
    depth: np.ndarray


def rasterize_mesh(
    vertices: np.ndarray, faces: np.ndarray, K: np.ndarray, width: int, height: int, *, cull: bool = False
) -> MeshBuffers:
    """Finds the nearest face at each pixel's centre.

    Args:
        vertices: `[V, 3]` in camera space, metres; an array or a tensor.
        faces: `[F, 3]` whole numbers in 0..V-1, counter-clockwise seen from outside.
        K: `[3, 3]` intrinsics in pixels, no skew.
        width, height: pixels.
        cull: leaves out back faces.

    A face with a corner nearer than `NEAR` (or behind the camera) is left out entirely.

    Raises:
        ValueError: a wrong shape, a vertex that is not finite, or an invalid vertex index.
    """
    points = _array("vertices", vertices, np.float64)
    corners = _array("faces", faces, np.int32)
    intrinsics = np.asarray(K, np.float64)
    if intrinsics.shape != (3, 3):
        raise ValueError(f"K: expected shape (3, 3), got {intrinsics.shape}.")
    if width < 1 or height < 1:
        raise ValueError(f"width, height: expected at least one pixel, got {width} x {height}.")
    if not np.isfinite(points).all():
        raise ValueError("vertices: expected finite metres, got NaN or infinity.")
    if corners.size and not (corners.min() >= 0 and corners.max() < len(points)):
        raise ValueError(f"faces: expected indices in 0..{len(points) - 1}, got {corners.min()}..{corners.max()}.")
    screen = np.empty_like(points)
    face_index = np.full((height, width), -1, np.int32)
    barycentric = np.zeros((height, width, 3), np.float32)
    depth = np.zeros((height, width), np.float32)
    _project(points, intrinsics, screen)
    _visible_faces(screen, corners, cull, face_index, depth)
    _resolve(screen, corners, face_index, barycentric, depth)
    return MeshBuffers(face_index, barycentric, depth)


def interpolate(buffers: MeshBuffers, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolates vertex values to pixels, perspective-correct.

    Args:
        buffers: of `rasterize_mesh`.
        faces: `[F, 3]` the faces that it was called with.
        values: `[V, C]`, an array or a tensor.

    Returns:
        `[H, W, C]` float32, 0 where there is no face.

    Raises:
        ValueError: the faces or values do not belong to these buffers.
    """
    corners = _array("faces", faces, np.int32)
    values = np.ascontiguousarray(np.asarray(values), np.float32)
    if values.ndim != 2 or (corners.size and corners.max() >= len(values)):
        raise ValueError(f"values: expected shape [V, C] with a row for each vertex of faces, got {values.shape}.")
    if buffers.face_index.max() >= len(corners):
        raise ValueError(f"faces: expected those of the buffers (at least {buffers.face_index.max() + 1} faces).")
    out = np.zeros((*buffers.face_index.shape, values.shape[1]), np.float32)
    _interpolate(buffers.face_index, buffers.barycentric, corners, values, out)
    return out


def _array(name: str, value: np.ndarray, dtype: type) -> np.ndarray:
    array = np.ascontiguousarray(np.asarray(value.detach().cpu() if hasattr(value, "detach") else value), dtype)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"{name}: expected shape [n, 3], got {list(array.shape)}.")
    return array


@kernel("void(float64[:,::1], float64[:,::1], float64[:,::1])")
def _project(points, intrinsics, screen):  # pragma: no cover - compiled
    """Pixels, rounded to a subpixel, and inverse depth; inverse depth 0 in front of the near plane."""
    for i in range(points.shape[0]):
        z = points[i, 2]
        if z >= NEAR:
            inverse = 1.0 / z
            x = intrinsics[0, 0] * points[i, 0] * inverse + intrinsics[0, 2]
            y = intrinsics[1, 1] * points[i, 1] * inverse + intrinsics[1, 2]
            screen[i, 0] = np.floor(x * _SUBPIXELS + 0.5) / _SUBPIXELS
            screen[i, 1] = np.floor(y * _SUBPIXELS + 0.5) / _SUBPIXELS
            screen[i, 2] = inverse
        else:
            screen[i, 0] = screen[i, 1] = screen[i, 2] = 0.0


@device
def _edge(ax, ay, bx, by, px, py):
    """Twice the signed area of (a, b, p); exact for points on the subpixel grid."""
    return (bx - ax) * (py - ay) - (by - ay) * (px - ax)


@kernel("void(float64[:,::1], int32[:,::1], boolean, int32[:,::1], float32[:,::1])")
def _visible_faces(screen, faces, cull, face_index, inverse_depth):  # pragma: no cover - compiled
    height, width = face_index.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        za, zb, zc = screen[a, 2], screen[b, 2], screen[c, 2]
        if za == 0.0 or zb == 0.0 or zc == 0.0:
            continue
        ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = _edge(ax, ay, bx, by, cx, cy)
        if area == 0.0 or (cull and area > 0.0):  # y points down: from outside the corners run the other way round
            continue
        left, right = min(ax, bx, cx), max(ax, bx, cx)
        top, bottom = min(ay, by, cy), max(ay, by, cy)
        if right < 0.0 or bottom < 0.0 or left > width or top > height:
            continue
        first_x, last_x = int(np.ceil(max(left, 0.0) - 0.5)), int(np.floor(min(right, width) - 0.5))
        first_y, last_y = int(np.ceil(max(top, 0.0) - 0.5)), int(np.floor(min(bottom, height) - 0.5))
        first_x, last_x = max(first_x, 0), min(last_x, width - 1)
        # all three edges positive inside; each grows by a constant from pixel to pixel, and the sums stay exact
        sign = 1.0 if area > 0.0 else -1.0
        step_a, step_b, step_c = sign * (by - cy), sign * (cy - ay), sign * (ay - by)
        scale = 1.0 / (area * sign)
        wa, wb, wc = za * scale, zb * scale, zc * scale
        px = first_x + 0.5
        for y in range(max(first_y, 0), min(last_y, height - 1) + 1):
            py = y + 0.5
            ea = sign * _edge(bx, by, cx, cy, px, py)
            eb = sign * _edge(cx, cy, ax, ay, px, py)
            ec = sign * _edge(ax, ay, bx, by, px, py)
            entered = False
            for x in range(first_x, last_x + 1):
                if ea >= 0.0 and eb >= 0.0 and ec >= 0.0:
                    entered = True
                    nearness = np.float32(ea * wa + eb * wb + ec * wc)  # 1/z is linear on the screen
                    if nearness > inverse_depth[y, x]:
                        inverse_depth[y, x] = nearness
                        face_index[y, x] = f
                elif entered:  # a face is convex
                    break
                ea, eb, ec = ea + step_a, eb + step_b, ec + step_c


@kernel("void(float64[:,::1], int32[:,::1], int32[:,::1], float32[:,:,::1], float32[:,::1])")
def _resolve(screen, faces, face_index, barycentric, depth):  # pragma: no cover - compiled
    """Weights and depth of the nearest face; `depth` is 1/z on input."""
    height, width = face_index.shape
    for y in range(height):
        py = y + 0.5
        for x in range(width):
            f = face_index[y, x]
            if f < 0:
                depth[y, x] = np.inf
                continue
            px = x + 0.5
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
            wa = _edge(bx, by, cx, cy, px, py) * screen[a, 2]
            wb = _edge(cx, cy, ax, ay, px, py) * screen[b, 2]
            wc = _edge(ax, ay, bx, by, px, py) * screen[c, 2]
            scale = 1.0 / (wa + wb + wc)
            barycentric[y, x, 0], barycentric[y, x, 1], barycentric[y, x, 2] = wa * scale, wb * scale, wc * scale
            depth[y, x] = _edge(ax, ay, bx, by, cx, cy) * scale


@kernel("void(int32[:,::1], float32[:,:,::1], int32[:,::1], float32[:,::1], float32[:,:,::1])")
def _interpolate(face_index, barycentric, faces, values, out):  # pragma: no cover - compiled
    height, width = face_index.shape
    for y in range(height):
        for x in range(width):
            f = face_index[y, x]
            if f >= 0:
                wa, wb, wc = barycentric[y, x, 0], barycentric[y, x, 1], barycentric[y, x, 2]
                a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                for i in range(values.shape[1]):
                    out[y, x, i] = wa * values[a, i] + wb * values[b, i] + wc * values[c, i]


__all__ = ["NEAR", "MeshBuffers", "interpolate", "rasterize_mesh"]
