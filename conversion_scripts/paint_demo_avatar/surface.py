"""Points on the head's triangles and the brush strokes (Gaussians) put there.

In: the neutral head and, per triangle, how far apart points should lie. Out: `Strokes`, in world space on the neutral
head, and their conversion into `RiggedGaussians` parameters (METHOD 2).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.spatial import cKDTree

from emotag_hf.models.modeling_gaussians import triangle_frames
from emotag_hf.rendering.spherical_harmonics import SH_C0
from emotag_hf.utils.rotations import quat_multiply, rotation_to_quat


@dataclass
class Strokes:
    """Gaussians on the neutral head: positions and sizes in metres, colours sRGB in [0, 1].

    Args:
        face: `[N]` triangle. position: `[N, 3]`. axes: `[N, 3, 3]`, columns are the Gaussian's own x, y and z.
        scale: `[N, 3]` standard deviations along those axes. color: `[N, 3]`. opacity: `[N]`.
        mouth: `[N]` True inside the mouth, where GRMN's mouth motion acts.
    """

    face: np.ndarray
    position: np.ndarray
    axes: np.ndarray
    scale: np.ndarray
    color: np.ndarray
    opacity: np.ndarray
    mouth: np.ndarray

    def __len__(self) -> int:
        return len(self.face)

    def __getitem__(self, index) -> Strokes:
        return Strokes(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def cat(cls, parts: list[Strokes]) -> Strokes:
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


@dataclass
class Samples:
    """Points on triangles: `face [N]`, `bary [N, 3]`, `position [N, 3]`, smooth unit `normal [N, 3]`."""

    face: np.ndarray
    bary: np.ndarray
    position: np.ndarray
    normal: np.ndarray

    def __len__(self) -> int:
        return len(self.face)

    def __getitem__(self, index) -> Samples:
        return Samples(self.face[index], self.bary[index], self.position[index], self.normal[index])

    def interpolate(self, faces: np.ndarray, per_vertex: np.ndarray) -> np.ndarray:
        """Values `[V, ...]` at the points."""
        return np.einsum("nk,nk...->n...", self.bary, per_vertex[faces[self.face]])


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals, `[V, 3]`."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    out = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(out, faces[:, k], normal)
    return out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)


def scatter(vertices, faces, normals, which: np.ndarray, spacing: np.ndarray, rng) -> Samples:
    """Evenly spread points: about `spacing` metres apart, by thinning a denser random set.

    Args:
        which: `[M]` triangles to cover. spacing: `[M]` metres between neighbours on each.
    """
    tri = vertices[faces[which]]
    area = np.linalg.norm(np.cross(tri[:, 1] - tri[:, 0], tri[:, 2] - tri[:, 0]), axis=-1) / 2
    wanted = area / spacing**2 * 8  # candidates per triangle, before thinning
    count = rng.poisson(wanted)
    chosen = np.repeat(np.arange(len(which)), count)
    u, v = rng.random((2, len(chosen)))
    flip = u + v > 1
    u[flip], v[flip] = 1 - u[flip], 1 - v[flip]
    bary = np.stack([1 - u - v, u, v], -1)
    position = np.einsum("nk,nkd->nd", bary, tri[chosen])
    keep = _thin(position, 0.82 * spacing[chosen], rng)
    face, bary, position = which[chosen[keep]], bary[keep], position[keep]
    normal = np.einsum("nk,nkd->nd", bary, normals[faces[face]])
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    return Samples(face, bary, position, normal)


def _thin(position: np.ndarray, radius: np.ndarray, rng) -> np.ndarray:
    """Greedy dart throwing: indices of points none of which has another one within its radius."""
    tree = cKDTree(position)
    alive = np.ones(len(position), bool)
    kept = np.zeros(len(position), bool)
    neighbours = tree.query_ball_point(position, radius, workers=1)
    for i in rng.permutation(len(position)):
        if alive[i]:
            kept[i] = True
            alive[neighbours[i]] = False
    return np.flatnonzero(kept)


def tangent_axes(normal: np.ndarray, along: np.ndarray | None = None) -> np.ndarray:
    """Axes `[N, 3, 3]` whose y column is the normal and whose x column follows `along` (any tangent if None)."""
    if along is None:
        along = np.where(np.abs(normal[:, 1:2]) < 0.9, [[0.0, 1, 0]], [[1.0, 0, 0]])
    x = along - (along * normal).sum(-1, keepdims=True) * normal
    x /= np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)
    return np.stack([x, normal, np.cross(x, normal)], -1)


def discs(samples: Samples, spacing: np.ndarray, color, *, opacity=0.985, size=0.80, thin=0.18, mouth=False) -> Strokes:
    """Flat Gaussians that cover the surface: `size` times the spacing wide, `thin` times that thick."""
    n = len(samples)
    flat = size * spacing
    return Strokes(
        samples.face,
        samples.position,
        tangent_axes(samples.normal),
        np.stack([flat, thin * flat, flat], -1),
        color,
        np.broadcast_to(np.asarray(opacity, float), (n,)).copy(),
        np.full(n, mouth),
    )


def bind(strokes: Strokes, vertices: np.ndarray, faces: np.ndarray) -> dict[str, torch.Tensor]:
    """Parameters and buffers of `RiggedGaussians` (degree-0 colours), inner-mouth Gaussians last."""
    strokes = strokes[np.argsort(strokes.mouth, kind="stable")]
    face = torch.from_numpy(strokes.face.astype(np.int64))
    rotations, centroids, sizes = triangle_frames(torch.from_numpy(vertices), torch.from_numpy(faces)[face])
    as_tensor = lambda x: torch.from_numpy(np.ascontiguousarray(x, np.float64))  # noqa: E731
    offset = as_tensor(strokes.position) - centroids
    means = (rotations.mT @ offset[..., None]).squeeze(-1) / sizes
    frame_quat = rotation_to_quat(rotations)
    inverse = frame_quat * torch.tensor([1.0, -1, -1, -1], dtype=torch.float64)
    quats = quat_multiply(inverse, rotation_to_quat(as_tensor(strokes.axes)))
    opacity = as_tensor(strokes.opacity).clamp(1e-4, 1 - 1e-4)
    low, high = vertices.min(0), vertices.max(0)
    canonical = (strokes.position - low) / (high - low).max() * 2 - 1
    out = {
        "means": means,
        "quats": quats,
        "log_scales": (as_tensor(strokes.scale) / sizes).log(),
        "opacity_logits": opacity.logit(),
        "colors": ((as_tensor(strokes.color) - 0.5) / SH_C0)[:, None],
        "canonical": as_tensor(canonical).clamp(-1, 1),
    }
    return {name: value.float() for name, value in out.items()} | {"binding": face}
