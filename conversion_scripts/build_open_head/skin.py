"""The skin: sites on half of the surface in, the whole skin with matched rows at eyelids and lips and with the bust
out.

Every vertex carries a row of mixing weights over the source's vertices, so that all directions can be resampled; the
bust is our own geometry and follows the rim it grows from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from features import find
from parts import Part, smoothstep
from remesh import check_manifold, flip_edges, sites
from scipy import sparse
from scipy.spatial import cKDTree
from source import EYE_RADIUS, SKIN, HalfSheet, Source, boundary_loops

BUST_ROWS = 7


@dataclass
class Skin:
    """The whole skin; rows of vertices are indices into `part.points`."""

    part: Part
    mix: sparse.csr_matrix  # [n, N] what each vertex is made of
    half: int  # vertices 0..half-1 are at x >= 0
    mirror: np.ndarray  # [n] the vertex at -x
    lids: dict[str, tuple[np.ndarray, np.ndarray]]  # side -> upper and lower rim, inner to outer canthus
    lips: tuple[np.ndarray, np.ndarray]  # upper and lower contact rows, left corner .. midline .. right corner
    sleeve: np.ndarray  # [n] bool, inside of the lids
    bust: np.ndarray  # [n] 0 on the fitted skin, 0..1 down the bust
    mouth_distance: np.ndarray  # [n] metres along the skin from the line between the lips
    lid_distance: np.ndarray  # [n] metres along the skin from the nearest lid rim
    bag: np.ndarray  # [n] bool, inside of the lips
    upper_lip: np.ndarray  # [n] bool, nearer along the skin to the upper lip than to the lower one
    inside_lips: np.ndarray  # [n] bool, between the line where the lips meet and the bag
    red_border: np.ndarray  # [n] bool, on the border of the red of the lips
    nose_wing: np.ndarray  # [3] the left wing of the nose


def build(source: Source, sheet: HalfSheet, density: float) -> Skin:
    """Remeshes the half sheet, mirrors it and grows the bust."""
    f = find(source, sheet, density)
    seeds, tri = sites(f.points, sheet.triangles, f.size, f.fixed, f.curves)
    where = {int(v): i for i, v in enumerate(seeds)}

    def row(of: np.ndarray) -> np.ndarray:
        return np.array([where[int(v)] for v in of])

    tri = flip_edges(f.points[seeds], tri, _locked(row(f.upper_lip), row(f.lower_lip)))
    check_manifold(tri, len(seeds))
    dense_mix = sparse.vstack([f.mixing[v] if v in f.mixing else _unit(v, len(f.points)) for v in seeds.tolist()])
    upper, lower = row(f.upper_lip), row(f.lower_lip)
    points = _seal(dense_mix @ f.points, upper, lower)
    behind = f.behind_lid[seeds]
    points[behind] = _outside(points[behind], source.eye_centre, EYE_RADIUS + 0.0003)
    tri, points, parent = _socket(points, tri, source.eye_centre)
    tri, points, parent, bust = _grow(points, tri, parent, row(f.bust))
    mix = (dense_mix @ sheet.mix).tocsr()[parent]
    return _mirror(source, f, seeds, points, tri, mix, bust, parent, (upper, lower), row)


def _unit(index: int, count: int) -> sparse.csr_matrix:
    return sparse.csr_matrix(([1.0], ([0], [index])), (1, count))


def _outside(points: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Pushes points out of a sphere."""
    away = points - centre
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    return centre + away * np.maximum(distance, radius) / distance


def _locked(*rows: np.ndarray) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for r in rows for a, b in zip(r, r[1:], strict=False)}


def _seal(points: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Puts matched lip vertices on one another, overlapping by 0.04 mm so that no slit shows."""
    points = points.copy()
    middle = 0.5 * (points[upper] + points[lower])
    points[upper] = middle - [0, 0.00002, 0]
    points[lower] = middle + [0, 0.00002, 0]
    return points


def _socket(points: np.ndarray, tri: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, ...]:
    """A ring from the inner rim of the lids into the eyeball, so that nothing behind it shows in the canthi."""
    loop = next(lp for lp in boundary_loops(tri) if points[lp, 0].min() > 0.01)
    away = points[loop] - centre
    ring = centre + away / np.linalg.norm(away, axis=1, keepdims=True) * (EYE_RADIUS - 0.0006)
    ids = len(points) + np.arange(len(loop))
    strip = _strip(loop, ids, closed=True, flip=_runs_along(tri, loop[0], loop[1]))
    parent = np.concatenate([np.arange(len(points)), loop])
    return np.concatenate([tri, strip]), np.concatenate([points, ring]), parent


def _grow(points: np.ndarray, tri: np.ndarray, parent: np.ndarray, bust_loop: np.ndarray) -> tuple[np.ndarray, ...]:
    """Adds the bust below the rim of the fitted skin; each new vertex has a parent on the rim."""
    new_tri, rows, parents, count = [tri], [points], [parent], len(points)
    torso = _torso(points[bust_loop], _leaving(points, tri, bust_loop))
    down = [np.zeros(count)]
    last, flip = bust_loop, _runs_along(tri, bust_loop[0], bust_loop[1])
    for k, ring in enumerate(torso):
        ids_here = count + k * len(bust_loop) + np.arange(len(bust_loop))
        new_tri.append(_strip(last, ids_here, closed=False, flip=flip))
        last = ids_here
        rows.append(ring)
        parents.append(bust_loop)
        down.append(np.full(len(bust_loop), (k + 1) / BUST_ROWS))
    return np.concatenate(new_tri), np.concatenate(rows), np.concatenate(parents), np.concatenate(down)


def _runs_along(tri: np.ndarray, a: int, b: int) -> bool:
    """Whether a -> b is the direction of an edge of the mesh."""
    half = np.concatenate([tri[:, [0, 1]], tri[:, [1, 2]], tri[:, [2, 0]]])
    return bool(((half[:, 0] == a) & (half[:, 1] == b)).any())


def _strip(a: np.ndarray, b: np.ndarray, closed: bool, flip: bool) -> np.ndarray:
    """Two triangles between each neighbouring pair of two rows."""
    if closed:
        a, b = np.append(a, a[0]), np.append(b, b[0])
    t = np.concatenate([np.stack([a[:-1], a[1:], b[:-1]], 1), np.stack([a[1:], b[1:], b[:-1]], 1)])
    return t[:, ::-1] if flip else t


def _leaving(points: np.ndarray, tri: np.ndarray, loop: np.ndarray) -> np.ndarray:
    """Unit direction [n,3] in which the surface leaves each vertex of its rim."""
    inside = np.zeros_like(points[loop])
    for k, v in enumerate(loop):
        fan = np.unique(tri[(tri == v).any(1)])
        fan = fan[~np.isin(fan, loop)]
        inside[k] = points[fan].mean(0) if len(fan) else points[v]
    away = points[loop] - inside
    for _ in range(4):
        away[1:-1] = 0.25 * away[:-2] + 0.5 * away[1:-1] + 0.25 * away[2:]
    away[[0, -1], 0] = 0.0
    return away / np.linalg.norm(away, axis=1, keepdims=True)


def _torso(rim: np.ndarray, leaving: np.ndarray) -> list[np.ndarray]:
    """Rows of points from the rim to the section of an upper chest, along Hermite curves."""
    angle = np.linspace(np.pi / 2, -np.pi / 2, len(rim))  # front .. side .. back
    power = 0.75
    x = 0.205 * np.abs(np.cos(angle)) ** power
    z = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power * np.where(angle > 0, 0.098, 0.090) - 0.078
    end = np.stack([x, np.full(len(rim), -0.345), z], 1)
    end[[0, -1], 0] = 0.0
    shoulder = np.cos(angle)[:, None]
    t0 = leaving * (0.10 + 0.16 * shoulder)
    t1 = np.array([[0.0, -1.0, 0.0]]) * (0.12 + 0.13 * shoulder)
    rows = []
    for k in range(1, BUST_ROWS + 1):
        u = (k / BUST_ROWS) ** 1.1
        h = (2 * u**3 - 3 * u**2 + 1, u**3 - 2 * u**2 + u, -2 * u**3 + 3 * u**2, u**3 - u**2)
        rows.append(h[0] * rim + h[1] * t0 + h[2] * end + h[3] * t1)
        rows[-1][[0, -1], 0] = 0.0
    return rows


def _mirror(source, f, seeds, points, tri, mix, bust, parent, lips, row) -> Skin:
    half = len(points)
    on_mid = np.abs(points[:, 0]) < 1e-7
    points[on_mid, 0] = 0.0
    other = np.arange(half)
    other[~on_mid] = half + np.arange((~on_mid).sum())
    copy = np.flatnonzero(~on_mid)
    mirror = np.concatenate([other, copy])
    tree = cKDTree(source.neutral[: SKIN[1]])
    swap = np.arange(mix.shape[1])
    swap[: SKIN[1]] = tree.query(source.neutral[: SKIN[1]] * [-1, 1, 1])[1]
    columns = sparse.csr_matrix((np.ones(len(swap)), (swap, np.arange(len(swap)))))  # mix @ columns.T moves columns
    full_mix = sparse.vstack([mix, (mix @ columns.T)[copy]]).tocsr()
    whole = np.concatenate([points, points[copy] * [-1, 1, 1]])
    faces = np.concatenate([tri, other[tri][:, ::-1]])

    def spread(values: np.ndarray) -> np.ndarray:
        padded = values[seeds][parent]
        return np.concatenate([padded, padded[copy]])

    lids = {"left": (row(f.upper_lid), row(f.lower_lid))}
    lids["right"] = tuple(mirror[r] for r in lids["left"])
    rows = tuple(np.concatenate([r[::-1], mirror[r[1:]]]) for r in lips)
    lid_distance = spread(f.lid_distance)
    full_sleeve = spread(f.behind_lid.astype(float)) > 0.5
    part = Part(whole, faces, _uv(whole))
    bag = spread(f.is_bag.astype(float)) > 0.5
    full_bust = np.concatenate([bust, bust[copy]])
    upper = spread(f.nearer_upper.astype(float)) > 0.5
    return Skin(
        part, full_mix, half, mirror, lids, rows, full_sleeve, full_bust, spread(f.mouth_distance), lid_distance, bag,
        upper, spread(f.inside_lips.astype(float)) > 0.5, spread(f.border.astype(float)) > 0.5, f.nose_wing,
    )  # fmt: skip


def _uv(points: np.ndarray) -> np.ndarray:
    """Cylindrical: u around the head (0.5 in front), v from the chest to the crown."""
    centre_z = -0.06 - 0.02 * smoothstep(-points[:, 1], 0.08, 0.2)
    u = 0.5 + np.arctan2(points[:, 0], points[:, 2] - centre_z) / (2 * np.pi)
    v = (points[:, 1] + 0.35) / 0.47
    return np.stack([u, v], 1)
