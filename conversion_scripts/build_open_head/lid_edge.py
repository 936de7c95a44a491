"""The visible edge of the eyelids: the dense half of the skin in, smooth matched rows of sites along the edge out.

The source's surface continues behind the eyelids to an inner rim; the visible opening ends at the edge in front of it.
The edge is where the surface is closest to the middle of the opening; rows next to it follow at fixed distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from remesh import geodesic
from scipy import sparse
from source import HalfSheet

SEGMENTS = 18  # between the canthi, per lid
OUTER_ROWS = (0.0, 0.0013, 0.0028)  # metres along the skin from the edge: edge, lash line, lid
HARMONICS = 5


@dataclass
class LidEdge:
    """Rows over the dense points. Index pairs with mixing rows: a site is a local mean, not a vertex."""

    upper: np.ndarray  # [SEGMENTS+1] dense indices, inner to outer canthus
    lower: np.ndarray
    fixed: np.ndarray  # all sites, the inner rim included
    mixing: dict[int, sparse.csr_matrix]  # dense index -> row over the dense points
    curves: np.ndarray  # dense points along the rows
    offset: np.ndarray  # [n] metres along the skin from the edge; negative inside, large far away


def find(sheet: HalfSheet, points: np.ndarray, centre: np.ndarray) -> LidEdge:
    """Traces the edge and samples it at equal arcs of both lids."""
    far = geodesic(points, sheet.triangles, sheet.lid_rim, 0.02)
    angle, radius = _polar(points, centre, sheet.lid_rim)
    near = np.flatnonzero(far < 0.0075)
    edge_at = _fourier(near, angle, radius, far)
    offset = np.where(far < 0.015, far - edge_at(angle), 0.02)

    def place(phi: float, row: float) -> tuple[int, sparse.csr_matrix]:
        turn = np.abs((angle[near] - phi + np.pi) % (2 * np.pi) - np.pi)
        sharp = np.exp(-0.5 * ((offset[near] - row) / 0.00022) ** 2 - 0.5 * (turn / 0.035) ** 2)
        weight = np.where(sharp > 1e-3 * sharp.max(), sharp, 0)
        weight /= weight.sum()
        mean = weight @ points[near]
        index = near[(((points[near] - mean) ** 2).sum(1) + (np.abs(offset[near] - row) > 0.0004)).argmin()]
        return int(index), sparse.csr_matrix((weight, (np.zeros(len(near), int), near)), (1, len(points)))

    dense = np.linspace(-np.pi, np.pi, 240, endpoint=False)
    curve = np.array([(place(phi, 0.0)[1] @ points)[0] for phi in dense])
    upper_phi, lower_phi = _matched(dense, curve)
    mixing, rows = {}, []
    for level in OUTER_ROWS:
        for phis in (upper_phi, lower_phi[1:-1]):
            found = [place(phi, level) for phi in phis]
            mixing.update(found)
            rows.append(np.array([i for i, _ in found]))
    upper = rows[0]
    lower = np.concatenate([upper[:1], rows[1], upper[-1:]])
    inner = _inner_rim(sheet.lid_rim, angle, np.concatenate([upper_phi, lower_phi[1:-1]]))
    lines = np.min([np.abs(offset - level) for level in OUTER_ROWS], axis=0) < 0.00018
    curves = np.concatenate([np.flatnonzero(lines & (far < 0.0075)), sheet.lid_rim])
    return LidEdge(upper, lower, np.unique(np.concatenate([*rows, inner])), mixing, curves, offset)


def _polar(points: np.ndarray, centre: np.ndarray, rim: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angle and radius around the middle of the opening, seen from the eyeball's centre."""
    q = points - centre
    azimuth, elevation = np.arctan2(q[:, 0], q[:, 2]), np.arcsin(q[:, 1] / np.linalg.norm(q, axis=1))
    u = azimuth - 0.5 * (azimuth[rim].min() + azimuth[rim].max())
    v = (elevation - elevation[rim].mean()) * 1.8  # the opening is about 1.8 times wider than high
    return np.arctan2(v, u), np.hypot(u, v)


def _fourier(near: np.ndarray, angle: np.ndarray, radius: np.ndarray, far: np.ndarray):
    """Smooth distance from the inner rim to the edge as a function of the angle."""
    grid = np.linspace(-np.pi, np.pi, 120, endpoint=False)
    found = []
    for phi in grid:
        turn = np.abs((angle[near] - phi + np.pi) % (2 * np.pi) - np.pi)
        sector = near[turn < 0.04]
        found.append(far[sector[radius[sector].argmin()]])

    def basis(phi: np.ndarray) -> np.ndarray:
        k = np.arange(1, HARMONICS + 1)
        return np.concatenate([np.ones((len(phi), 1)), np.cos(phi[:, None] * k), np.sin(phi[:, None] * k)], 1)

    fit = np.linalg.lstsq(basis(grid), np.array(found), rcond=None)[0]
    return lambda phi: basis(phi) @ fit


def _matched(dense: np.ndarray, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angles at equal fractions of the arcs of the upper and the lower lid, inner to outer canthus."""
    inner, outer = int(curve[:, 0].argmin()), int(curve[:, 0].argmax())
    n = len(curve)
    out = []
    for step in (-1, 1):  # angles grow counter-clockwise: from the inner canthus (-x) down is the lower lid
        index = [inner]
        while index[-1] != outer:
            index.append((index[-1] + step) % n)
        length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(curve[index], axis=0), axis=1))]
        unwrapped = np.unwrap(dense[index])
        out.append(np.interp(np.linspace(0, length[-1], SEGMENTS + 1), length, unwrapped))
    return out[0], out[1]


def _inner_rim(rim: np.ndarray, angle: np.ndarray, phis: np.ndarray) -> np.ndarray:
    turn = np.abs((angle[rim][:, None] - phis[None] + np.pi) % (2 * np.pi) - np.pi)
    return np.unique(rim[turn.argmin(0)])
