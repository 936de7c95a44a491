"""Teeth, gums and tongue: own procedural geometry on arches fitted to the source. Out come Parts.

Upper parts move with the skull, lower parts with the jaw. Tooth widths are textbook means for adults.
"""

from __future__ import annotations

import numpy as np
from parts import Part, grid_faces, grid_uv, join, outward

UPPER_WIDTHS = np.array([8.5, 6.8, 7.6, 7.0, 6.8, 9.8, 9.2]) * 1e-3
LOWER_WIDTHS = np.array([5.4, 5.9, 6.8, 7.0, 7.2, 10.6, 9.8]) * 1e-3
UPPER_HEIGHTS = np.array([9.6, 8.6, 9.0, 8.0, 7.4, 7.0, 6.6]) * 1e-3
LOWER_HEIGHTS = np.array([8.4, 8.6, 8.9, 8.2, 7.8, 7.2, 6.8]) * 1e-3
DEPTHS = np.array([6.4, 6.0, 7.4, 8.4, 8.6, 10.4, 10.0]) * 1e-3
EDGE = np.array([1.5, 1.5, 1.6, 5.2, 5.8, 8.0, 7.6]) * 1e-3  # depth at the cutting edge or chewing face
TOOTH_RING = 8


class Arch:
    """Outer line of a dental arch in the xz plane: z = front - a x^2 - b x^4, walked by arc length from the midline."""

    def __init__(self, front: float, a: float, b: float) -> None:
        self.x = np.linspace(0, 0.034, 800)
        self.z = front - a * self.x**2 - b * self.x**4
        self.length = np.r_[0, np.cumsum(np.hypot(np.diff(self.x), np.diff(self.z)))]

    def at(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Point [n,2] (x, z) and outward normal [n,2] at signed arc length s [n]."""
        s = np.atleast_1d(np.asarray(s, float))
        size, sign = np.abs(s), np.where(s < 0, -1.0, 1.0)
        x, z = np.interp(size, self.length, self.x), np.interp(size, self.length, self.z)
        slope = np.interp(size, self.length, np.gradient(self.z, self.x))
        normal = np.stack([-slope, np.ones_like(slope)], 1) / np.hypot(slope, 1)[:, None]
        return np.stack([sign * x, z], 1), normal * np.stack([sign, np.ones_like(sign)], 1)


UPPER = Arch(0.0263, 5.7, 4.2e4)
LOWER = Arch(0.0240, 7.95, 5.17e4)
UPPER_EDGE, LOWER_EDGE = -0.0713, -0.0704  # metres, height of the cutting edges


def teeth(upper: bool) -> Part:
    """Fourteen crowns of one arch."""
    arch = UPPER if upper else LOWER
    widths, heights = (UPPER_WIDTHS, UPPER_HEIGHTS) if upper else (LOWER_WIDTHS, LOWER_HEIGHTS)
    middles = np.cumsum(widths) - widths / 2
    parts = []
    for i, s in enumerate(middles):
        crown = _crown(widths[i] * 0.97, DEPTHS[i], EDGE[i], heights[i], i)
        right = _place(crown, arch, -s, upper, i)
        parts += [_place(crown, arch, s, upper, i), right]
    whole, _ = join(parts)
    whole.regions = {"teeth_upper" if upper else "teeth_lower": np.ones(len(whole.points), bool)}
    return whole


def _crown(width: float, depth: float, edge: float, height: float, kind: int) -> np.ndarray:
    """Rings [5, ring, 3] of one crown: x along the arch, y from the edge towards the root, z outwards (0 = front)."""
    angle = (np.arange(TOOTH_RING) + 0.5) * 2 * np.pi / TOOTH_RING
    power = 0.55  # below 1 squares the cross-section
    cx = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power
    cz = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    level = np.array([0.0, 0.08, 0.35, 0.7, 1.12])
    wide = np.array([0.90, 0.985, 1.0, 0.90, 0.72] if kind != 2 else [0.45, 0.75, 1.0, 0.9, 0.74]) * width / 2
    deep = np.interp(level, [0, 0.08, 1.12], [edge * 0.7, edge, depth]) / 2
    bulge = np.array([-0.0006, -0.0001, 0.0002, 0.0, -0.0008])  # the front of a crown is slightly convex
    rings = np.zeros((len(level), TOOTH_RING, 3))
    rings[..., 0] = wide[:, None] * cx
    rings[..., 1] = (level * height)[:, None]
    rings[..., 2] = deep[:, None] * cz - deep[:, None] + bulge[:, None]
    if kind == 2:  # the cusp of a canine
        rings[0, :, 1] -= 0.0003
    if kind > 2:  # cusps of a molar: corners up, middle down
        rings[0, :, 1] -= 0.0005 * np.abs(cx * cz)
    return rings


def _place(crown: np.ndarray, arch: Arch, s: float, upper: bool, kind: int) -> Part:
    (x, z), normal = (v[0] for v in arch.at(s))
    along = np.array([normal[1], 0, -normal[0]])
    out = np.array([normal[0], 0, normal[1]])
    up = np.array([0, 1.0 if upper else -1.0, 0])
    step = np.array([0.0, 0.0006, 0.0, 0.0004, 0.0006, 0.0008, 0.0008])[kind]  # the bite line rises towards the back
    edge = UPPER_EDGE + step if upper else LOWER_EDGE - step * 0.3 + (0.0008 if kind > 2 else 0)
    origin = np.array([x, edge, z])
    points = origin + crown[..., :1] * along + crown[..., 1:2] * up + crown[..., 2:] * out
    cap = points[0].mean(0) + up * (0.0009 if kind > 2 else 0.0)
    rows = len(points)
    ring = grid_faces(rows, TOOTH_RING, wrap=True)
    fan = np.stack(
        [np.full(TOOTH_RING, rows * TOOTH_RING), (np.arange(TOOTH_RING) + 1) % TOOTH_RING, np.arange(TOOTH_RING)], 1
    )
    part = Part(np.concatenate([points.reshape(-1, 3), cap[None]]), np.concatenate([ring, fan]), np.zeros((0, 2)))
    part.uv = np.concatenate([grid_uv(rows, TOOTH_RING), [[0.5, 0.0]]])
    return outward(part, part.points.mean(0))


def gums(upper: bool) -> Part:
    """A scalloped ridge along one arch; above it the palate, below it the floor of the mouth."""
    arch = UPPER if upper else LOWER
    widths, heights = (UPPER_WIDTHS, UPPER_HEIGHTS) if upper else (LOWER_WIDTHS, LOWER_HEIGHTS)
    ends = np.r_[0, np.cumsum(widths)]
    s = np.unique(np.concatenate([ends, (ends[1:] + ends[:-1]) / 2]))
    s = np.concatenate([-s[:0:-1], s])
    point, normal = arch.at(s)
    tooth = np.clip(np.searchsorted(ends, np.abs(s), side="right") - 1, 0, 6)
    between = np.isclose(np.abs(s)[:, None], ends, atol=1e-6).any(1)
    edge = UPPER_EDGE if upper else LOWER_EDGE
    sign = 1.0 if upper else -1.0
    line = edge + sign * (heights[tooth] - np.where(between, 0.0014, 0.0))
    level = edge + sign * np.interp(np.abs(s), ends[:-1] + widths / 2, heights)  # without the scallops
    depth = np.interp(np.abs(s), ends[:-1] + widths / 2, DEPTHS)
    # cross-section: outwards offset, height above the gum line
    section = [(-0.0012, 0.008), (0.0011, 0.0055), (0.0012, 0.002), (0.0003, -0.0002), (-0.0022, 0.0012)]
    section_back = [(0.0012, 0.001), (-0.0012, 0.003), (-0.0035, 0.008)]
    rows = [
        np.stack([point[:, 0] + o * normal[:, 0], line + sign * h, point[:, 1] + o * normal[:, 1]], 1)
        for o, h in section
    ]
    for row, weight in zip(rows, (0.0, 0.15, 0.7, 1.0, 1.0), strict=True):
        row[:, 1] += (1 - weight) * (level - line)
    for o, h in section_back:
        inner = point + (o - depth * 0.82)[:, None] * normal
        rows.append(np.stack([inner[:, 0], level + sign * h, inner[:, 1]], 1))
    points = np.stack(rows, 0)
    part = Part(points.reshape(-1, 3), grid_faces(len(rows), len(s)), grid_uv(len(rows), len(s)))
    # the ridge looks towards the bite line
    part = outward(part, np.array([0, edge + sign * 0.05, point[:, 1].mean()]))
    part.regions = {"gums": np.ones(len(part.points), bool)}
    return part


def tongue() -> Part:
    """A closed flattened body from root to tip, with a groove along its middle."""
    along = np.array([0.0, 0.12, 0.26, 0.42, 0.58, 0.72, 0.84, 0.93, 0.98])
    spine = np.stack([np.interp(along, [0, 0.3, 0.65, 1], [-0.0900, -0.0765, -0.0765, -0.0805]),
                      np.interp(along, [0, 0.3, 0.65, 1], [-0.0350, -0.0220, 0.0000, 0.0150])], 1)  # fmt: skip
    for _ in range(2):
        spine[1:-1] = 0.25 * spine[:-2] + 0.5 * spine[1:-1] + 0.25 * spine[2:]
    wide = 0.0188 * np.interp(along, [0, 0.3, 0.6, 0.8, 0.93, 0.98], [0.85, 1.0, 0.98, 0.80, 0.50, 0.24])
    thick = 0.0075 * np.interp(along, [0, 0.3, 0.6, 0.85, 0.98], [1.2, 1.2, 0.9, 0.55, 0.2])
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ca, sa = np.cos(angle), np.sin(angle)
    groove = -0.0011 * np.exp(-((ca / 0.22) ** 2)) * (sa > 0)
    y = spine[:, :1] + thick[:, None] * np.where(sa > 0, 0.75, 1.0) * sa + groove * np.sin(np.pi * along)[:, None]
    points = np.stack([wide[:, None] * ca, y, np.broadcast_to(spine[:, 1:], y.shape)], -1).reshape(-1, 3)
    tip = np.array([[0, spine[-1, 0] - 0.0002, spine[-1, 1] + 0.0014]])
    rows, last = len(along), (len(along) - 1) * 16
    k = np.arange(16)
    fan = np.stack([np.full(16, rows * 16), last + (k + 1) % 16, last + k], 1)
    body = grid_faces(rows, 16, wrap=True)
    part = Part(np.concatenate([points, tip]), np.concatenate([body, fan[:, ::-1]]), np.zeros((0, 2)))
    part.uv = np.concatenate([grid_uv(rows, 16), [[0.5, 1.0]]])
    part.regions = {"tongue": np.ones(len(part.points), bool)}
    return outward(part, points.mean(0))


def tongue_reach(points: np.ndarray) -> np.ndarray:
    """How free a point of the tongue [n,3] is: 0 at the root, 1 at the tip."""
    return np.clip((points[:, 2] + 0.035) / 0.0525, 0, 1)
