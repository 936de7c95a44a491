"""The lines of the lips: in comes the dense half sheet, out come closed lips, their contact rows and the red's border.

The source's lips are a fraction of a millimetre apart in the middle and overlap towards the corners: both are moved
onto their mean line, and matched rows of sites are placed along it.
"""

from __future__ import annotations

import numpy as np
from remesh import geodesic
from scipy import sparse
from source import SOCKET_START, HalfSheet

REACH = 0.0190  # metres from the midline to the last pair of lip vertices
STEP = 0.0015
GAP = -0.00005  # metres between the lips at rest; a slight overlap leaves no slit to look through
CLOSING_RADIUS = 0.0045
BORDER_X = np.array([0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0]) * 1e-3


def red_height(x: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Extent of the red of the lips in metres along the skin from their contact, at |x| [n] of either lip."""
    x = np.abs(x) * 1000
    bow = 10.0 + 0.8 * np.exp(-(((x - 5.0) / 3.0) ** 2)) - 0.7 * np.exp(-((x / 2.4) ** 2))
    above = bow * np.clip(1 - (x / 24.5) ** 2, 0, None) ** 0.72
    below = 12.5 * np.clip(1 - (x / 24.5) ** 2, 0, None) ** 0.62
    return np.where(upper, above, below) * 1e-3


def border(
    points: np.ndarray, mouth: np.ndarray, side: np.ndarray, inside: np.ndarray
) -> tuple[dict[int, sparse.csr_matrix], np.ndarray]:
    """Sites along the border of the red (dense index -> mixing row over the points) and the points near it."""
    ahead = mouth - red_height(points[:, 0], side)
    near = np.flatnonzero(~inside & (np.abs(ahead) < 0.0015) & (points[:, 0] < 0.024) & (mouth < 0.014))
    mixing: dict[int, sparse.csr_matrix] = {}
    for upper in (True, False):
        own = near[side[near] == upper]
        for x in BORDER_X:
            gauss = np.exp(-0.5 * (ahead[own] / 0.0003) ** 2 - 0.5 * ((points[own, 0] - x) / 0.0004) ** 2)
            if x == 0:
                gauss *= points[own, 0] < 1e-9
            weight = np.where(gauss > 1e-3 * gauss.max(), gauss, 0)
            weight /= weight.sum()
            index = own[((points[own] - weight @ points[own]) ** 2).sum(1).argmin()]
            mixing[int(index)] = sparse.csr_matrix((weight, (np.zeros(len(own), int), own)), (1, len(points)))
    return mixing, near[np.abs(ahead[near]) < 0.0003]


def close(sheet: HalfSheet) -> tuple[np.ndarray, ...]:
    """Moves the two contact lines onto their mean; picks matched vertices on them."""
    p = sheet.points
    upper_d = geodesic(p, sheet.triangles, sheet.inner_lip[: sheet.upper_count], 0.05)
    lower_d = geodesic(p, sheet.triangles, sheet.inner_lip[sheet.upper_count :], 0.05)
    face = np.asarray(sheet.mix[:, :SOCKET_START].sum(1)).ravel() > 0.999
    near = face & (np.minimum(upper_d, lower_d) < 0.0085)
    on_upper, on_lower = near & (upper_d < lower_d), near & (lower_d <= upper_d)
    grid = np.arange(0, REACH + 1e-6, 0.0005)
    contact_y = p[near & (p[:, 0] < 0.001), 1].mean()

    def line(mask: np.ndarray, sign: float) -> np.ndarray:
        found = []
        for x in grid:
            column = np.flatnonzero(mask & (np.abs(p[:, 0] - x) < 0.0004) & (np.abs(p[:, 1] - contact_y) < 0.0045))
            found.append(p[column[np.argmax(sign * p[column, 1])]])
        found = np.array(found)
        even = np.stack([grid**0, grid**2, grid**3, grid**4], 1)
        return np.linalg.lstsq(even, found[:, 1:], rcond=None)[0]

    fit_upper, fit_lower = line(on_upper, -1.0), line(on_lower, 1.0)
    x = np.clip(p[:, 0], 0, REACH)
    even = np.stack([x**0, x**2, x**3, x**4], 1)
    at_upper, at_lower = even @ fit_upper, even @ fit_lower
    middle = 0.5 * (at_upper + at_lower)
    away = np.where(upper_d < lower_d, np.hypot(*(p[:, 1:] - at_upper).T), np.hypot(*(p[:, 1:] - at_lower).T))
    beyond = np.maximum(p[:, 0] - REACH, 0)
    weight = np.exp(-0.5 * (away / CLOSING_RADIUS) ** 2 - 0.5 * (beyond / 0.0015) ** 2) * (
        np.minimum(upper_d, lower_d) < 0.03
    )
    shift = np.where(upper_d < lower_d, middle[:, 0] - at_upper[:, 0] + GAP / 2, 0)
    shift = np.where(lower_d <= upper_d, middle[:, 0] - at_lower[:, 0] - GAP / 2, shift)
    out = p.copy()
    out[:, 1] += shift * weight
    picks = []
    for mask, sign in ((on_upper, 1.0), (on_lower, -1.0)):
        row = []
        for x0 in np.arange(0, REACH + 1e-6, STEP):
            e = np.array([1, x0**2, x0**3, x0**4])
            y, z = e @ (0.5 * (fit_upper + fit_lower))
            score = ((out - [x0, y + sign * GAP / 2, z]) ** 2).sum(1) + np.where(mask, 0, 1.0)
            if x0 == 0:
                score = score + np.where(out[:, 0] < 1e-9, 0, 1.0)
            row.append(int(score.argmin()))
        picks.append(np.array(row))
    return out, *_to_corner(out, sheet, picks[0], picks[1])


def _to_corner(
    points: np.ndarray, sheet: HalfSheet, upper: np.ndarray, lower: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Goes on from the last pair to the corner, where both lips are one sheet: two more pairs, then one shared site."""
    side = nearer_upper(points, sheet, upper, lower)
    mixed = sheet.triangles[np.ptp(side[sheet.triangles].astype(int), axis=1) > 0]
    seam = np.unique(mixed)
    away = geodesic(points, sheet.triangles, [upper[-1], lower[-1]])
    seam = seam[points[seam, 0] > points[upper[-1], 0]]
    corner = int(seam[away[seam].argmin()])
    rows = [[], []]
    for share in (0.36, 0.7):
        goal = (1 - share) * 0.5 * (points[upper[-1]] + points[lower[-1]]) + share * points[corner]
        for row, own in zip(rows, (side, ~side), strict=True):
            row.append(int((((points - goal) ** 2).sum(1) + ~own).argmin()))
    return np.r_[upper, rows[0], corner], np.r_[lower, rows[1], corner]


def nearer_upper(points: np.ndarray, sheet: HalfSheet, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Whether each point is nearer along the skin to the upper lip than to the lower one."""
    return geodesic(points, sheet.triangles, upper) < geodesic(points, sheet.triangles, lower)


def inside(
    points: np.ndarray, sheet: HalfSheet, upper: np.ndarray, lower: np.ndarray, mouth: np.ndarray, side: np.ndarray
) -> np.ndarray:
    """Whether each point is between the line where the lips meet and the mouth bag."""
    inner = geodesic(points, sheet.triangles, sheet.inner_lip)
    x = points[:, 0]
    depth = [np.interp(x, points[row, 0], inner[row] - 0.0004, right=0.0015) for row in (upper, lower)]
    return (mouth < 0.012) & (inner < np.where(side, *depth))
