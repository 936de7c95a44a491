"""One piece of the head before assembly, and the mirror and grid helpers that the pieces share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Part:
    """Own geometry: points [n,3], triangles [f,3] (counter-clockwise from outside), uv [n,2], regions by name."""

    points: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    regions: dict[str, np.ndarray] = field(default_factory=dict)  # name -> bool mask [n]

    def mirrored(self, swap: dict[str, str]) -> Part:
        """The same part at -x; region names are exchanged by `swap`."""
        regions = {swap.get(name, name): mask for name, mask in self.regions.items()}
        return Part(self.points * [-1, 1, 1], self.faces[:, ::-1].copy(), self.uv.copy(), regions)


def join(parts: list[Part]) -> tuple[Part, list[np.ndarray]]:
    """Concatenates parts; also returns the vertex indices of each."""
    starts = np.cumsum([0] + [len(p.points) for p in parts])
    total = int(starts[-1])
    regions: dict[str, np.ndarray] = {}
    for part, start in zip(parts, starts, strict=False):
        for name, mask in part.regions.items():
            regions.setdefault(name, np.zeros(total, bool))[start : start + len(mask)] |= mask
    faces = np.concatenate([p.faces + s for p, s in zip(parts, starts, strict=False)])
    whole = Part(np.concatenate([p.points for p in parts]), faces, np.concatenate([p.uv for p in parts]), regions)
    return whole, [np.arange(a, b) for a, b in zip(starts, starts[1:], strict=False)]


def grid_faces(rows: int, columns: int, wrap: bool = False) -> np.ndarray:
    """Triangles of a grid of rows x columns vertices (row-major); `wrap` closes each row to a ring."""
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns if wrap else columns - 1), indexing="ij")
    a = (r * columns + c).ravel()
    b = (r * columns + (c + 1) % columns).ravel()
    return np.concatenate([np.stack([a, b, b + columns], 1), np.stack([a, b + columns, a + columns], 1)])


def grid_uv(rows: int, columns: int) -> np.ndarray:
    """Texture coordinates [rows*columns,2] of such a grid over the unit square."""
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    return np.stack([u.ravel(), v.ravel()], 1)


def outward(part: Part, centre: np.ndarray) -> Part:
    """Turns the winding so that most faces look away from `centre`."""
    corner = part.points[part.faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    if ((corner.mean(1) - centre) * normal).sum() < 0:
        part.faces = part.faces[:, ::-1].copy()
    return part


def smoothstep(x: np.ndarray, start: float, end: float) -> np.ndarray:
    t = np.clip((np.asarray(x) - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)
