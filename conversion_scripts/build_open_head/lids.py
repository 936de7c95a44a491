"""Eyelids: the skin and the eyeball's centre in, the two closing directions out.

An eyelid rotates about the eyeball: matched rows of the rim move along the sphere to a common line, and the surrounding
skin follows with a biharmonic rotation that is zero away from the eyelids; the upper lid unrolls from its fold. A blend
shape moves vertices along straight lines, so open eyelids are lifted where such a line would cut the eyeball.
"""

from __future__ import annotations

import numpy as np
from parts import smoothstep
from scipy import sparse
from scipy.sparse.linalg import spsolve
from skin import Skin
from source import EYE_RADIUS

MEETING = 0.26  # where the eyelids meet: share of the opening above the lower rim
REACH = 0.017  # metres along the skin beyond which nothing moves
CLEARANCE = 0.00040  # metres a lid keeps from the eyeball at every closure
HALF_GAP = 0.00002


def closing(skin: Skin, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lifts the open eyelids where needed (changes skin.part.points) and returns the [n,3] directions of left and
    right."""
    for _ in range(4):
        direction = _turn(skin, centre)
        lift = _lift(skin, centre, direction)
        skin.part.points += lift + (lift * [-1, 1, 1])[skin.mirror]
        if np.abs(lift).max() < 2e-6:
            break
    return direction, (direction * [-1, 1, 1])[skin.mirror]


def follow(skin: Skin) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How eyelids compensate changes of the opening by identity or expression, so that they always close.

    Returns vertices [2,N] (left, right), rims [2,2,P] (side, upper and lower) and spread [2,N,P]: times the change of
    upper minus lower rim [P,3] it is the change [N,3] of the closing direction.
    """
    upper, lower = (r[1:-1] for r in skin.lids["left"])
    moving = _moving(skin)
    ends = skin.lids["left"][0][[0, -1]]
    rows = np.concatenate([upper, lower, ends])
    unit = np.eye(len(upper))
    values = np.concatenate([-(1 - MEETING) * unit, MEETING * unit, np.zeros((2, len(upper)))])
    fields = _biharmonic(skin, moving, rows, values)
    index = np.flatnonzero(np.abs(fields).max(1) > 1e-3)
    vertices = np.stack([index, skin.mirror[index]])
    rims = np.stack([np.stack([upper, lower]), np.stack([skin.mirror[upper], skin.mirror[lower]])])
    return vertices, rims, np.stack([fields[index]] * 2)


def _moving(skin: Skin) -> np.ndarray:
    return (skin.part.points[:, 0] > 0) & (skin.lid_distance < REACH)


def _spherical(points: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q = points - centre
    rho = np.linalg.norm(q, axis=1)
    return rho, np.arctan2(q[:, 0], q[:, 2]), np.arcsin(q[:, 1] / rho)


def _cartesian(rho: np.ndarray, azimuth: np.ndarray, elevation: np.ndarray, centre: np.ndarray) -> np.ndarray:
    flat = rho * np.cos(elevation)
    return centre + np.stack([flat * np.sin(azimuth), rho * np.sin(elevation), flat * np.cos(azimuth)], 1)


def _turn(skin: Skin, centre: np.ndarray) -> np.ndarray:
    """Displacement [n,3] of the left eyelids from open to closed."""
    points = skin.part.points
    rho, azimuth, elevation = _spherical(points, centre)
    upper, lower = skin.lids["left"]
    rows = np.concatenate([upper, lower[1:-1]])
    goal_azimuth = 0.5 * (azimuth[upper] + azimuth[lower])
    goal_elevation = (1 - MEETING) * elevation[lower] + MEETING * elevation[upper]
    travel = np.abs(goal_elevation - elevation[upper])
    chord = 2 * (EYE_RADIUS + CLEARANCE + 0.0001) / np.cos(travel / 2) - rho[upper]
    goal_rho = np.clip(chord, np.maximum(0.5 * (rho[upper] + rho[lower]), EYE_RADIUS + 0.0008), EYE_RADIUS + 0.0020)
    slide = np.concatenate([goal_azimuth, goal_azimuth[1:-1]]) - azimuth[rows]
    tilt = np.concatenate([goal_elevation, goal_elevation[1:-1]]) - elevation[rows]
    grow = np.concatenate([goal_rho, goal_rho[1:-1]]) - rho[rows]
    moving = _moving(skin)
    fields = _biharmonic(skin, moving, rows, np.stack([slide, tilt, grow], 1))
    new_rho = rho + fields[:, 2]
    smooth_rho = EYE_RADIUS + 0.0013 + 0.14 * skin.lid_distance
    # the fold over the upper lid flattens as it unrolls
    fold = smoothstep(-fields[:, 1], 0.0, np.radians(14)) * smoothstep(new_rho - smooth_rho, 0.0, 0.0008)
    new_rho += 0.8 * fold * (smooth_rho - new_rho)
    moved = _cartesian(new_rho, azimuth + fields[:, 0], elevation + fields[:, 1], centre)
    direction = np.where(moving[:, None], moved - points, 0.0)
    u, w = upper[1:-1], lower[1:-1]
    shut = points[u] + direction[u]
    direction[u], direction[w] = shut + [0, HALF_GAP, 0] - points[u], shut - [0, HALF_GAP, 0] - points[w]
    return direction


def _biharmonic(skin: Skin, moving: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Smoothest fields [n,k] over the moving vertices that take `values` at `rows` and vanish elsewhere."""
    faces = skin.part.faces
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    edges = edges[moving[edges].any(1)]
    weight = 1 / np.linalg.norm(skin.part.points[edges[:, 0]] - skin.part.points[edges[:, 1]], axis=1)
    n = len(moving)
    a = sparse.coo_matrix((weight, (edges[:, 0], edges[:, 1])), (n, n)).tocsr()
    a = a + a.T
    degree = np.asarray(a.sum(1)).ravel()
    laplace = sparse.diags(degree) - a
    energy = laplace @ sparse.diags(1 / np.maximum(degree, 1e-9)) @ laplace
    free = np.flatnonzero(moving & ~np.isin(np.arange(n), rows))
    out = np.zeros((n, values.shape[1]))
    out[rows] = values
    out[free] = spsolve(energy[free][:, free].tocsc(), -(energy[free][:, rows] @ values))
    return out


def _lift(skin: Skin, centre: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """How far the open eyelids must move outwards so that straight lines to their closed positions do not cut the
    eyeball."""
    start = skin.part.points - centre
    lowest = np.full(len(start), np.inf)
    for t in np.linspace(0, 1, 9):
        lowest = np.minimum(lowest, np.linalg.norm(start + t * direction, axis=1))
    near = (skin.part.points[:, 0] > 0) & (skin.lid_distance < 0.012) & ~skin.sleeve
    need = np.where(near, np.maximum(EYE_RADIUS + CLEARANCE - lowest, 0), 0.0)
    raised = np.flatnonzero(near)
    squared = ((start[raised][:, None] - start[raised][None]) ** 2).sum(-1)
    need[raised] = (need[raised][None] * np.exp(-0.5 * squared / 0.002**2)).max(1)
    return start / np.linalg.norm(start, axis=1, keepdims=True) * need[:, None]
