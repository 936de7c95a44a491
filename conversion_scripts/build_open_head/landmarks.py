"""MediaPipe's 468 landmarks on our mesh: in comes its canonical face, out come face indices and barycentrics.

The canonical face is laid over ours by a similarity, bent by thin-plate splines through anchors (lid rims, both lines
of the lips, nose, chin, oval) and dropped onto the nearest outer skin triangle. Connectivity stays MediaPipe's.
"""

from __future__ import annotations

import numpy as np
from parts import smoothstep
from scipy.interpolate import RBFInterpolator
from skin import Skin

# MediaPipe's contours: right outer canthus .. inner, and so on; the person's right is at -x
EYES = {
    "right": ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
    "left": ((263, 466, 388, 387, 386, 385, 384, 398, 362), (263, 249, 390, 373, 374, 380, 381, 382, 362)),
}
INNER_LIPS = ((78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308), (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308))
OUTER_LIPS = ((61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291), (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291))
NOSE_TIP, SUBNASALE, CHIN, WINGS, NASION = 4, 2, 152, {"right": 129, "left": 358}, 168
BROWS = {
    "right": ((46, 53, 52, 65, 55), (70, 63, 105, 66, 107)),
    "left": ((276, 283, 282, 295, 285), (300, 293, 334, 296, 336)),
}


def embed(skin: Skin, regions: dict[str, np.ndarray], canonical: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Face indices [468] into skin.part.faces and barycentrics [468,3]."""
    canonical = canonical.astype(np.float64) * 0.01
    anchors = _anchors(skin, regions, canonical)
    index = np.array(list(anchors))
    goal = np.stack([anchors[i] for i in index])
    laid = _similarity(canonical[index], goal, canonical)
    bend = RBFInterpolator(laid[index], goal - laid[index], kernel="thin_plate_spline", smoothing=1e-9)
    laid = laid + bend(laid)
    laid[index] = goal
    laid = 0.5 * (laid + laid[_partner(canonical)] * [-1, 1, 1])
    # MediaPipe sees brows and forehead of a hairless head lower than the canonical face has them
    above = laid[:, 1] - 0.004
    laid[:, 1] -= np.where(above > 0, 0.15 * above + 0.002 * smoothstep(above, 0.004, 0.016), 0)
    return _drop(skin, laid)


def _anchors(skin: Skin, regions: dict[str, np.ndarray], canonical: np.ndarray) -> dict[int, np.ndarray]:
    p, out = skin.part.points, {}
    for side, rows in EYES.items():
        for ids, row in zip(rows, skin.lids[side], strict=True):
            out.update(_along(p[row[::-1]], ids, canonical))
    corner = _mouth_corner(skin)
    for ids, row in zip(INNER_LIPS, skin.lips, strict=True):
        curve = p[row] if p[row[0], 0] < 0 else p[row[::-1]]
        out.update(_along(curve, ids, canonical))
    tip = p[p[:, 2].argmax()]
    out[NOSE_TIP] = tip * [0, 1, 1]
    middle = p[(np.abs(p[:, 0]) < 1e-7) & ~skin.bag & ~skin.inside_lips & (skin.bust == 0) & (p[:, 2] > -0.02)]
    under = middle[(middle[:, 1] < tip[1]) & (middle[:, 1] > p[skin.lips[0], 1].max())]
    out[SUBNASALE] = under[(under[:, 2] - 0.6 * under[:, 1]).argmin()]
    out[CHIN] = middle[(0.95 * middle[:, 1] - 0.3 * middle[:, 2] + np.where(middle[:, 1] < -0.13, 1, 0)).argmin()]
    bridge = middle[np.abs(middle[:, 1] - 0.004) < 0.01]
    out[NASION] = bridge[bridge[:, 2].argmin()]
    for side, ids in WINGS.items():
        out[ids] = skin.nose_wing * ([1, 1, 1] if side == "left" else [-1, 1, 1])
    out.update(_outer_lips(skin, regions, canonical, corner))
    return out


def _mouth_corner(skin: Skin) -> np.ndarray:
    """The left corner of the mouth, on the outside of the end of the line between the lips."""
    p = skin.part.points
    return p[skin.lips[0]][p[skin.lips[0], 0].argmax()] + [0.0018, 0.0, -0.0006]


def _along(curve: np.ndarray, ids: tuple[int, ...], canonical: np.ndarray) -> dict[int, np.ndarray]:
    """Places the ids on the curve at their own fractions of arc length in the canonical face."""

    def arc(points: np.ndarray) -> np.ndarray:
        length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
        return length / length[-1]

    at, own = arc(canonical[list(ids)]), arc(curve)
    return {i: np.array([np.interp(a, own, curve[:, d]) for d in range(3)]) for i, a in zip(ids, at, strict=True)}


def _outer_lips(skin: Skin, regions: dict, canonical: np.ndarray, corner: np.ndarray) -> dict[int, np.ndarray]:
    """The border of the red, as the outermost red vertices in columns of x."""
    p, out = skin.part.points, {}
    for ids, name, sign in ((OUTER_LIPS[0], "upper_lip", 1.0), (OUTER_LIPS[1], "lower_lip", -1.0)):
        red = np.flatnonzero(regions[name] & ~skin.bag & ~skin.inside_lips)
        curve = [corner * [-1, 1, 1]]
        for x in np.linspace(-0.021, 0.021, 15):
            column = red[np.abs(p[red, 0] - x) < 0.0022]
            best = column[(sign * p[column, 1]).argmax()]
            curve.append(np.array([x, p[best, 1], p[best, 2]]))
        curve.append(corner)
        out.update(_along(np.array(curve), ids, canonical))
    return out


def _similarity(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> np.ndarray:
    ca, cb = a.mean(0), b.mean(0)
    u, s, vt = np.linalg.svd((a - ca).T @ (b - cb))
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    scale = s.sum() / ((a - ca) ** 2).sum()
    return scale * (points - ca) @ turn + cb


def _partner(canonical: np.ndarray) -> np.ndarray:
    mirrored = canonical * [-1, 1, 1]
    return ((canonical[:, None] - mirrored[None]) ** 2).sum(-1).argmin(0)


def _drop(skin: Skin, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, faces = skin.part.points, skin.part.faces
    usable = np.flatnonzero(~(skin.bag | skin.sleeve)[faces].all(1) & (skin.bust[faces] == 0).all(1))
    corners = p[faces[usable]]
    chosen, bary = np.zeros(len(targets), int), np.zeros((len(targets), 3))
    for i, target in enumerate(targets):
        close = np.argsort(((corners.mean(1) - target) ** 2).sum(1))[:40]
        weight = np.stack([closest_bary(corners[c], target) for c in close])
        place = (corners[close] * weight[..., None]).sum(1)
        best = ((place - target) ** 2).sum(1).argmin()
        chosen[i], bary[i] = usable[close[best]], weight[best]
    return chosen, bary


def closest_bary(triangle: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Barycentrics [3] of the point of a triangle [3,3] that is closest to `point`."""
    a, ab, ac = triangle[0], triangle[1] - triangle[0], triangle[2] - triangle[0]
    gram = np.array([[ab @ ab, ab @ ac], [ab @ ac, ac @ ac]])
    v, w = np.linalg.solve(gram + 1e-18 * np.eye(2), [ab @ (point - a), ac @ (point - a)])
    if v >= 0 and w >= 0 and v + w <= 1:
        return np.array([1 - v - w, v, w])
    best, out = np.inf, np.array([1.0, 0, 0])
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = triangle[j] - triangle[i]
        t = np.clip((point - triangle[i]) @ edge / (edge @ edge + 1e-18), 0, 1)
        far = ((triangle[i] + t * edge - point) ** 2).sum()
        if far < best:
            best, out = far, np.zeros(3)
            out[i], out[j] = 1 - t, t
    return out
