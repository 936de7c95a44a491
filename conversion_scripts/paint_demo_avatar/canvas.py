"""The neutral head as the painter sees it: geometry, landmarks, masks and noise.

In: a `ParametricHead` and the person's identity coefficients. Out: `Canvas`, which every other part paints on.
"""

from __future__ import annotations

import numpy as np
import torch
from surface import Samples, scatter, vertex_normals

from emotag_hf.models.modeling_head import ParametricHead


def linear(*srgb: float) -> np.ndarray:
    """sRGB bytes (0..255) to linear [0, 1]."""
    x = np.asarray(srgb, float) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


class Canvas:
    """Neutral geometry in float64, `vertices [V, 3]`, `faces [F, 3]`, `normals [V, 3]`, `landmarks [468, 3]`."""

    def __init__(self, head: ParametricHead, shape: np.ndarray, seed: int = 0):
        self.head, self.shape = head, torch.from_numpy(shape).float()[None]
        self.rng = np.random.default_rng(seed)
        self.faces = head.faces.numpy().astype(np.int64)
        self.vertices = self.posed()
        self.normals = vertex_normals(self.vertices, self.faces)
        self.landmarks = head.landmarks(torch.from_numpy(self.vertices).float()[None])[0].double().numpy()
        self.joints = head(shape=self.shape).joints[0].double().numpy()
        # Triangles that are folded or small at rest (lids, lips) are covered as their stretched selves need it.
        wide = [self.posed(eyelids=[1, 1]), self.posed(jaw_pose=[0.25, 0, 0])]
        rest = self._areas(self.vertices)
        self.stretch = np.sqrt(np.maximum.reduce([self._areas(v) for v in wide] + [rest]) / np.maximum(rest, 1e-12))

    def posed(self, **motion) -> np.ndarray:
        """Vertices of this person under `motion` (lists of numbers, as `ParametricHead.forward`)."""
        tensors = {k: torch.tensor([v], dtype=torch.float32) for k, v in motion.items()}
        return self.head(shape=self.shape, **tensors).vertices[0].double().numpy()

    def _areas(self, vertices: np.ndarray) -> np.ndarray:
        a, b, c = (vertices[self.faces[:, k]] for k in range(3))
        return np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2

    def mask(self, *names: str) -> np.ndarray:
        """Vertices in any of the regions, `[V]` bool."""
        out = np.zeros(len(self.vertices), bool)
        for name in names:
            out[self.head.region(name).numpy()] = True
        return out

    def soft_mask(self, *names: str, rounds: int = 2) -> np.ndarray:
        """A mask that fades over `rounds` rings of neighbours, `[V]` in [0, 1]."""
        weight = self.mask(*names).astype(float)
        edges = np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])
        edges = np.concatenate([edges, edges[:, ::-1]])
        degree = np.bincount(edges[:, 0], minlength=len(weight)) + 1
        for _ in range(rounds):
            weight = (weight + np.bincount(edges[:, 0], weight[edges[:, 1]], minlength=len(weight))) / degree
        return weight

    def faces_in(self, mask: np.ndarray) -> np.ndarray:
        """Triangles with at least two corners in a vertex mask."""
        return np.flatnonzero(mask[self.faces].sum(1) >= 2)

    def cover(self, which: np.ndarray, spacing: float | np.ndarray) -> tuple[Samples, np.ndarray]:
        """Points on triangles `which`, closer where the skin will stretch; with the spacing of each point."""
        spacing = np.broadcast_to(spacing, which.shape) / np.minimum(self.stretch[which], 3.0)
        per_face = np.zeros(len(self.faces))
        per_face[which] = spacing
        samples = scatter(self.vertices, self.faces, self.normals, which, spacing, self.rng)
        return samples, per_face[samples.face]

    def near(self, position: np.ndarray, landmark: int, radius: float) -> np.ndarray:
        """A Gaussian spot around a landmark, `[N]` in [0, 1]."""
        return np.exp(-(((position - self.landmarks[landmark]) / radius) ** 2).sum(-1))


def value_noise(position: np.ndarray, cell: float, seed: int) -> np.ndarray:
    """Smooth random field over space, `[N]` about -1..1, with features of `cell` metres."""
    rng = np.random.default_rng(seed)
    table = rng.uniform(-1, 1, 4096)
    p = position / cell
    base = np.floor(p).astype(np.int64)
    t = p - base
    t = t * t * (3 - 2 * t)
    out = np.zeros(len(position))
    for corner in np.ndindex(2, 2, 2):
        index = base + corner
        key = (index[:, 0] * 73856093 ^ index[:, 1] * 19349663 ^ index[:, 2] * 83492791) & 4095
        weight = np.prod(np.where(np.array(corner), t, 1 - t), -1)
        out += weight * table[key]
    return out
