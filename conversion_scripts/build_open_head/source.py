"""ICT-FaceKit (MIT) as a fitting target: its npz in, half of its skin surface out, to which our mesh is fitted.

METHOD 2 needs a FLAME-type head; this is the source of our head's shape. Metres, y up, looking along +z, origin between
the eyeballs, the person's left at +x.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.optimize import least_squares

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from convert.ict_source import PARTS, SKIN, read_ict  # noqa: E402

__all__ = ["SKIN", "HalfSheet", "Source", "boundary_loops", "half_sheet", "load"]
SOCKET_START = PARTS["mouth"][0]  # the first vertex that is not on the outside of the head
TEETH, GUMS = PARTS["teeth"], PARTS["gums"]
EYE_LEFT = (PARTS["teeth"][1], PARTS["left_eye"][1])  # with the outer eyeball
EYE_RADIUS = 0.0130
RIM_RADIUS = 0.0142
EDGE_SHIFT = np.array([0.0004, 0.0002, 0.0015])  # from the sphere of the inner lid rim to that of the visible edge


@dataclass
class Source:
    """The fitting target: neutral [N,3], identity [I,N,3], expression by name, triangles [T,3]."""

    neutral: np.ndarray
    identity: np.ndarray
    expression: dict[str, np.ndarray]
    triangles: np.ndarray
    eye_centre: np.ndarray  # [3] of the left eyeball that fits the lid rim

    def jaw_hinge(self) -> tuple[float, np.ndarray]:
        """Angle in radians and hinge [3] of the rigid motion of the lower teeth in jawOpen."""
        rows = np.arange(*TEETH)
        move = self.expression["jawOpen"][rows]
        rows, move = rows[np.linalg.norm(move, axis=1) > 0.005], move[np.linalg.norm(move, axis=1) > 0.005]
        start, end = self.neutral[rows], self.neutral[rows] + move
        u, _, vt = np.linalg.svd((start - start.mean(0)).T @ (end - end.mean(0)))
        rotation = (u @ vt).T
        shift = end.mean(0) - rotation @ start.mean(0)
        hinge = np.linalg.solve((np.eye(3) - rotation)[1:, 1:], shift[1:])
        return float(np.arctan2(rotation[2, 1], rotation[1, 1])), np.array([0.0, *hinge])


def boundary_loops(triangles: np.ndarray) -> list[np.ndarray]:
    """Ordered vertex loops along the open edges of a mesh."""
    half = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges = set(map(tuple, half.tolist()))
    follow = {a: b for a, b in edges if (b, a) not in edges}
    loops = []
    while follow:
        start = next(iter(follow))
        loop = [start]
        nxt = follow.pop(start)
        while nxt != start and nxt in follow:
            loop.append(nxt)
            nxt = follow.pop(nxt)
        loops.append(np.array(loop))
    return loops


def load(path: Path) -> Source:
    """Reads ICT-FaceKit in metres and moves the origin between the eyeballs that fit the lid rims."""
    ict = read_ict(path)
    neutral, triangles = ict.neutral, ict.triangles
    rim = neutral[_left_rim(neutral, triangles)]
    start = np.append(rim.mean(0) - [0, 0, 0.012], 0.0)

    def residual(p: np.ndarray) -> np.ndarray:
        return np.linalg.norm(rim - p[:3], axis=1) - RIM_RADIUS

    centre = least_squares(lambda p: np.append(residual(p), 0), start[:3]).x
    origin = np.array([0.0, centre[1], centre[2]])
    return Source(neutral - origin, ict.identity, ict.expression, triangles, centre - origin + EDGE_SHIFT)


def _left_rim(neutral: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    loops = boundary_loops(triangles[(triangles < SOCKET_START).all(1)])
    return next(loop for loop in loops if neutral[loop, 0].min() > 0.01)


@dataclass
class HalfSheet:
    """The left half of the skin, subdivided: points [n,3], triangles, and the source vertices they are mixed from."""

    points: np.ndarray
    triangles: np.ndarray
    mix: sparse.csr_matrix  # [n, N] rows sum to one
    inner_lip: np.ndarray  # indices of points on the line between face and mouth socket, upper half then lower half
    upper_count: int
    lid_rim: np.ndarray  # ordered indices along the lid rim


def half_sheet(source: Source, levels: int = 2) -> HalfSheet:
    """Cuts the skin along x = 0, keeps the left half, and splits each triangle in four, `levels` times."""
    t = source.triangles
    t = t[(t < SKIN[1]).all(1)]
    t = t[source.neutral[t][:, :, 0].mean(1) > 0]
    used = np.unique(t)
    local = np.full(len(source.neutral), -1)
    local[used] = np.arange(len(used))
    mix = sparse.csr_matrix((np.ones(len(used)), (np.arange(len(used)), used)), (len(used), len(source.neutral)))
    tri = local[t]
    for _ in range(levels):
        mix, tri = _subdivide(mix, tri)
    points = mix @ source.neutral
    loops = boundary_loops(tri)
    rim = next(loop for loop in loops if points[loop, 0].min() > 0.01)
    lip = _inner_lip(source, points)
    return HalfSheet(points, tri, mix, *lip, rim)


def _inner_lip(source: Source, points: np.ndarray) -> tuple[np.ndarray, int]:
    face = source.triangles[(source.triangles < SOCKET_START).all(1)]
    is_mouth = [lp for lp in boundary_loops(face) if abs(source.neutral[lp, 0].mean()) < 1e-3]
    loop = min(is_mouth, key=lambda lp: abs(source.neutral[lp, 1].mean() + 0.07))
    curve = source.neutral[loop]
    curve = curve[curve[:, 0] >= -1e-9]
    corner = curve[np.argmax(curve[:, 0])]
    above = curve[:, 1] > corner[1]
    nearest = [int(np.argmin(((points - p) ** 2).sum(1))) for p in np.concatenate([curve[above], curve[~above]])]
    return np.array(nearest), int(above.sum())


def _subdivide(mix: sparse.csr_matrix, tri: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    edges = np.sort(np.concatenate([tri[:, [0, 1]], tri[:, [1, 2]], tri[:, [2, 0]]]), axis=1)
    unique, inverse = np.unique(edges, axis=0, return_inverse=True)
    middle = (mix[unique[:, 0]] + mix[unique[:, 1]]) * 0.5
    ab, bc, ca = np.split(inverse.ravel() + mix.shape[0], 3)
    a, b, c = tri.T
    out = np.concatenate([np.stack(q, 1) for q in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return sparse.vstack([mix, middle]).tocsr(), out
