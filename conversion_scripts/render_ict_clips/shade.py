"""Shading of a rasterised mesh: z-buffer, colours and normals in; an image out.

A key lamp with the soft shadow edge of skin, a fill lamp, a sky, and two highlights. In linear RGB, sRGB at the end.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from paint import GRID

from emotag_hf.rendering.mesh import MeshBuffers, rasterize_mesh

# towards the lamp in camera space (x right, y down, z away), colour, how far light reaches around the edge
KEY = (np.array([-0.45, -0.55, -0.70]), np.array([1.00, 0.96, 0.90]) * 0.72)
FILL = (np.array([0.75, -0.10, -0.65]), np.array([0.88, 0.94, 1.00]) * 0.30)
WRAP = np.array([0.32, 0.18, 0.14])  # red light travels furthest under skin
SKY, GROUND = np.array([0.36, 0.38, 0.41]), np.array([0.20, 0.18, 0.17])
DIRECTIONS = 48


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals `[V, 3]`."""
    out = np.zeros((len(vertices), 3), np.float32)
    _add_normals(np.ascontiguousarray(vertices, np.float32), faces, out)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def openness(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, size: int = 320) -> np.ndarray:
    """How much of the sky each vertex sees, `[V]` 0..1: seen or not from lamps all around, far away."""
    k = np.arange(DIRECTIONS) + 0.5
    z, angle = 1 - 2 * k / DIRECTIONS, np.pi * (1 + 5**0.5) * k
    ring = np.sqrt(1 - z**2)
    seen, possible = np.zeros(len(vertices)), np.full(len(vertices), 1e-6)
    middle = vertices.mean(0)
    radius = np.linalg.norm(vertices - middle, axis=1).max()
    far = 20 * radius
    focal = 0.49 * size * far / radius
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    for way in np.stack([ring * np.cos(angle), z, ring * np.sin(angle)], 1):
        right = np.cross(way, [0.0, 1, 0] if abs(way[1]) < 0.9 else [1.0, 0, 0])
        right /= np.linalg.norm(right)
        basis = np.stack([right, np.cross(-way, right), -way])
        at = (vertices - middle) @ basis.T + [0, 0, far]
        depth = rasterize_mesh(at, faces, K, size, size).depth
        u, v = np.floor(focal * at[:, :2] / at[:, 2:] + size / 2).astype(int).clip(0, size - 1).T
        facing = np.clip(normals @ way, 0, None)
        seen += facing * (at[:, 2] < depth[v, u] + 0.0035)
        possible += facing
    return (seen / possible).astype(np.float32)


def shade(
    buffers: MeshBuffers,
    faces: np.ndarray,
    texture: np.ndarray,
    normals: np.ndarray,
    light: np.ndarray,
    background: np.ndarray,
) -> np.ndarray:
    """Linear RGB `[H, W, 3]`.

    Args:
        texture: `[F, (GRID + 1)^2, 4]` colour and gloss of `paint`.
        normals: `[V, 3]` in camera space. light: `[V]` how open each vertex lies.
        background: `[H, W, 3]` linear RGB.
    """
    out = background.astype(np.float32).copy()
    lamps = np.stack([KEY[0] / np.linalg.norm(KEY[0]), FILL[0] / np.linalg.norm(FILL[0])]).astype(np.float32)
    powers = np.stack([KEY[1], FILL[1]]).astype(np.float32)
    half = lamps + np.array([0, 0, -1], np.float32)
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    _shade(
        buffers.face_index, buffers.barycentric, faces, texture, np.ascontiguousarray(normals, np.float32), light,
        lamps, powers, half.astype(np.float32), WRAP.astype(np.float32), SKY.astype(np.float32),
        GROUND.astype(np.float32), out,
    )  # fmt: skip
    return out


def to_picture(linear: np.ndarray, samples: int) -> np.ndarray:
    """uint8 sRGB, each pixel the mean of `samples` x `samples` of the linear picture."""
    parts = [linear[i::samples, j::samples] for i in range(samples) for j in range(samples)]
    mean = (sum(parts[1:], parts[0]) / len(parts)).clip(0, 1)
    srgb = np.where(mean <= 0.0031308, 12.92 * mean, 1.055 * mean ** (1 / 2.4) - 0.055)
    return (255 * srgb + 0.5).astype(np.uint8)


@njit(nogil=True, cache=True)
def _add_normals(vertices, faces, out):  # pragma: no cover - compiled
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        n0, n1, n2 = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for i in (a, b, c):
            out[i, 0] += n0
            out[i, 1] += n1
            out[i, 2] += n2


@njit(nogil=True, cache=True, fastmath=True)
def _shade(index, bary, faces, texture, normals, light, lamps, powers, half, wrap, sky, ground, out):
    # pragma: no cover - compiled
    n = GRID
    row = n + 1
    height, width = index.shape
    for y in range(height):
        for x in range(width):
            f = index[y, x]
            if f < 0:
                continue
            wa, wb, wc = bary[y, x, 0], bary[y, x, 1], bary[y, x, 2]
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
            ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
            nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
            scale = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
            nx, ny, nz = nx * scale, ny * scale, nz * scale
            opened = wa * light[a] + wb * light[b] + wc * light[c]
            # the small triangle of the colour grid that the pixel lies in
            u, v = wb * n, wc * n
            i, j = min(int(u), n - 1), min(int(v), n - 1)
            u, v = u - i, v - j
            if i + j > n - 1:
                i -= 1
                u += 1
            if u + v <= 1 or i + j >= n - 1:
                p0, p1, p2 = i * row + j, (i + 1) * row + j, i * row + j + 1
                t1, t2 = u, v
            else:
                p0, p1, p2 = (i + 1) * row + j + 1, i * row + j + 1, (i + 1) * row + j
                t1, t2 = 1 - u, 1 - v
            t0 = 1 - t1 - t2
            gloss = t0 * texture[f, p0, 3] + t1 * texture[f, p1, 3] + t2 * texture[f, p2, 3]
            up = 0.5 - 0.5 * ny
            shine = 0.0
            for lamp in range(2):
                h = nx * half[lamp, 0] + ny * half[lamp, 1] + nz * half[lamp, 2]
                if h > 0:
                    strength = 0.05 * h**12 + (0.10 * h**40 if gloss < 0.9 else 1.6 * h**400)
                    shine += gloss * strength * powers[lamp, 0] * opened
            for k in range(3):
                albedo = t0 * texture[f, p0, k] + t1 * texture[f, p1, k] + t2 * texture[f, p2, k]
                total = (ground[k] + (sky[k] - ground[k]) * up) * opened
                for lamp in range(2):
                    facing = nx * lamps[lamp, 0] + ny * lamps[lamp, 1] + nz * lamps[lamp, 2]
                    facing = (facing + wrap[k]) / (1 + wrap[k])
                    if facing > 0:
                        total += facing * powers[lamp, k] * min(1.0, 0.15 + opened)
                out[y, x, k] = albedo * total + shine
