"""Feature lines and wanted edge lengths on the half sheet: lip contact, lid rim, midline, bust rim.

In comes the half sheet, out come the fixed sites in matched rows (upper lip i meets lower lip i, upper lid i meets
lower lid i) and the size field that grades the density: dense at lips, lids and nose, coarse at the cranium.
"""

from __future__ import annotations

from dataclasses import dataclass

import lid_edge
import lip_lines
import numpy as np
from remesh import geodesic
from scipy import sparse
from source import SOCKET_START, HalfSheet, Source, boundary_loops

SPACING = 0.85  # on feature lines, in units of the wanted edge length


@dataclass
class Features:
    """Fixed sites on the half sheet (indices into its points) and the moved points."""

    points: np.ndarray  # half-sheet points with the lips closed
    fixed: np.ndarray  # all fixed sites, unique
    curves: np.ndarray  # all points on feature lines
    upper_lip: np.ndarray  # [P] from the midline outwards
    lower_lip: np.ndarray  # [P] partners of upper_lip
    upper_lid: np.ndarray  # [L+1] inner canthus .. outer canthus
    lower_lid: np.ndarray  # [L+1], same ends
    bust: np.ndarray  # bust rim, front midline to back midline
    midline: np.ndarray  # sites with x = 0
    size: np.ndarray  # [n] wanted edge length in metres
    mouth_distance: np.ndarray
    lid_distance: np.ndarray
    is_bag: np.ndarray  # [n] bool, inside of the lips
    nearer_upper: np.ndarray  # [n] bool, nearer to the upper lip than to the lower one
    inside_lips: np.ndarray  # [n] bool, between the contact and the mouth bag
    nose_wing: np.ndarray  # [3]
    behind_lid: np.ndarray  # [n] bool, inside of the lids
    border: np.ndarray  # [n] bool, sites on the border of the red
    mixing: dict[int, sparse.csr_matrix]  # sites that are local means of the points


def find(source: Source, sheet: HalfSheet, density: float) -> Features:
    """Locates the feature lines, closes the lips and grades the density (`density` scales all edge lengths)."""
    points, upper, lower = lip_lines.close(sheet)
    inner = np.asarray(sheet.mix[:, SOCKET_START:].sum(1)).ravel() > 1e-6
    contact = np.concatenate([upper, lower])
    mouth = geodesic(points, sheet.triangles, contact)
    corner = sheet.inner_lip[sheet.upper_count - 1]
    mouth = np.minimum(mouth, geodesic(points, sheet.triangles, [corner]))
    edge = lid_edge.find(sheet, points, source.eye_centre)
    lid = geodesic(points, sheet.triangles, np.flatnonzero(np.abs(edge.offset) < 0.0002))
    size = _size(source, points, mouth, lid, inner) * density
    side = lip_lines.nearer_upper(points, sheet, upper, lower)
    inside = lip_lines.inside(points, sheet, upper, lower, mouth, side)
    border_mixing, border_curve = lip_lines.border(points, mouth, side, inside | inner)
    midline, bust = _outline(
        points, sheet.triangles, size, (upper[0], lower[0], *[v for v in border_mixing if points[v, 0] < 1e-9])
    )
    fixed = np.unique(np.concatenate([midline, bust, upper, lower, edge.fixed, np.array(list(border_mixing))]))
    lips = np.flatnonzero(mouth < 0.0004)
    curves = np.unique(np.concatenate([*boundary_loops(sheet.triangles), lips, edge.curves, border_curve]))
    return Features(
        points,
        fixed,
        curves,
        upper,
        lower,
        edge.upper,
        edge.lower,
        bust,
        midline,
        size,
        mouth,
        lid,
        inner,
        side,
        inside,
        _nose_wing(points),
        edge.offset < -0.0002,
        np.isin(np.arange(len(points)), list(border_mixing)),
        {**border_mixing, **edge.mixing},
    )


def _nose_wing(points: np.ndarray) -> np.ndarray:
    tip = points[points[:, 2].argmax()]
    wing = points[(np.abs(points[:, 1] - tip[1] + 0.004) < 0.004) & (points[:, 2] > tip[2] - 0.024)]
    wing = wing[wing[:, 0] < 0.021]
    return wing[wing[:, 0].argmax()]


def _outline(
    points: np.ndarray, tri: np.ndarray, size: np.ndarray, forced: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Sites along the outer boundary of the half sheet, spaced by the size field: midline, then bust rim."""
    loop = max(boundary_loops(tri), key=len)
    middle = np.abs(points[loop, 0]) < 1e-9
    start = int(np.flatnonzero(~middle & np.roll(middle, 1))[0]) - 1  # last midline vertex before the bust
    loop, middle = np.roll(loop, -start), np.roll(middle, -start)
    end = int(np.flatnonzero(middle[1:])[0]) + 1
    bust, mid = loop[: end + 1], np.concatenate([loop[end:], loop[:1]])
    cuts = sorted([0, len(mid) - 1] + [int(np.flatnonzero(mid == f)[0]) for f in forced])
    midline = np.concatenate([_spaced(points, size, mid[a : b + 1]) for a, b in zip(cuts, cuts[1:], strict=False)])
    bust = _spaced(points, size, bust)
    if points[bust[0], 2] < points[bust[-1], 2]:
        bust = bust[::-1]
    return np.unique(midline), bust


def _spaced(points: np.ndarray, size: np.ndarray, curve: np.ndarray) -> np.ndarray:
    step = np.linalg.norm(np.diff(points[curve], axis=0), axis=1) / (0.5 * (size[curve[1:]] + size[curve[:-1]]))
    length = np.r_[0, np.cumsum(step)]
    wanted = np.linspace(0, length[-1], max(int(np.ceil(length[-1] / SPACING)), 1) + 1)
    return curve[np.abs(length[:, None] - wanted).argmin(0)]


def _size(source: Source, p: np.ndarray, mouth: np.ndarray, lid: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Wanted edge length [n] in metres."""

    def ball(centre: tuple[float, float, float], radius: float, size: float, growth: float = 0.2) -> np.ndarray:
        return size + growth * np.maximum(np.linalg.norm(p - np.array(centre), axis=1) - radius, 0)

    tip = p[np.abs(p[:, 0]) < 1e-9][np.argmax(p[np.abs(p[:, 0]) < 1e-9, 2])]
    ear = p[(p[:, 1] > -0.06) & (p[:, 1] < 0.03)]
    ear = ear[ear[:, 0].argmax()]
    eye = source.eye_centre
    base = np.full(len(p), 0.0165)
    size = np.minimum.reduce(
        [
            base,
            ball((0.0, -0.02, 0.0), 0.075, 0.0062, 0.12),
            ball(tuple(tip - [0, 0, 0.008]), 0.019, 0.0026),
            ball(tuple(ear - [0.012, 0.0, -0.004]), 0.030, 0.0045, 0.35),
            ball((eye[0], 0.022, 0.015), 0.018, 0.0045),
            0.0015 + 0.2 * lid,
            0.0016 + 0.17 * np.maximum(mouth - 0.008, 0) + 0.05 * np.minimum(mouth, 0.008),
        ]
    )
    return np.where(inner, np.maximum(size, np.minimum(0.0016 + 0.3 * mouth, 0.0085)), size)
