"""Eyes: sclera, iris, pupil and highlight; brows and lashes as single hairs.

In: the canvas. Out: strokes. Eyeballs are spheres around the eye joints, looking along +z at rest.
"""

from __future__ import annotations

import numpy as np
from canvas import Canvas, linear, smoothstep, value_noise
from surface import Samples, Strokes, discs, tangent_axes

IRIS_RADIUS, PUPIL_RADIUS = 0.0060, 0.0023  # metres on the eyeball
SCLERA = linear(226, 220, 216)
VEIN = linear(206, 150, 142)
IRIS_OUTER, IRIS_INNER = linear(54, 76, 86), linear(110, 104, 76)
BROW = linear(46, 32, 26)
LASH = linear(22, 16, 14)

# MediaPipe's brow outlines, inner end to outer end: the person's left, then right.
BROWS = (
    ((336, 296, 334, 293, 300), (285, 295, 282, 283, 276)),
    ((107, 66, 105, 63, 70), (55, 65, 52, 53, 46)),
)


def eyeball(canvas: Canvas, side: int) -> tuple[Samples, np.ndarray, np.ndarray]:
    """Points on one eyeball (0 left, 1 right), their spacing, and their albedo."""
    name = ("left_eye", "right_eye")[side]
    center = canvas.joints[3 + side]
    which = canvas.faces_in(canvas.mask(name))
    tri = canvas.vertices[canvas.faces[which]].mean(1)
    forward = (tri - center)[:, 2] / np.maximum(np.linalg.norm(tri - center, axis=-1), 1e-9)
    which, forward = which[forward > 0.05], forward[forward > 0.05]
    samples, spacing = canvas.cover(which, np.where(forward > 0.80, 0.00045, 0.0008))
    d = samples.position - center
    radius = np.hypot(d[:, 0], d[:, 1])
    angle = np.arctan2(d[:, 1], d[:, 0])
    color = np.repeat(SCLERA[None], len(d), 0)
    corner = smoothstep(0.0065, 0.011, radius)
    veins = smoothstep(0.45, 0.8, value_noise(samples.position * [1, 2.5, 1], 0.0012, 11)) * corner
    color = color + (VEIN - color) * np.clip(0.28 * corner + 0.25 * veins, 0, 1)[:, None]
    inside = smoothstep(IRIS_RADIUS + 0.0004, IRIS_RADIUS - 0.0004, radius)
    t = np.clip((radius - PUPIL_RADIUS) / (IRIS_RADIUS - PUPIL_RADIUS), 0, 1)
    spokes = value_noise(np.stack([angle * 0.006, 0.15 * radius, 0 * radius], -1), 0.0006, 12)
    iris = IRIS_INNER + (IRIS_OUTER - IRIS_INNER) * smoothstep(0.05, 0.38, t)[:, None]
    iris = iris * (1.0 + 0.5 * spokes)[:, None]
    iris *= (1 - 0.78 * smoothstep(0.78, 1.0, t))[:, None]  # the dark limbal ring
    # Light that enters from above leaves the iris brighter at the far side, below.
    iris *= (1.0 + 0.55 * np.clip(-d[:, 1] / IRIS_RADIUS, -0.6, 1) * smoothstep(0.1, 0.5, t))[:, None]
    color = color + (iris - color) * inside[:, None]
    pupil = smoothstep(PUPIL_RADIUS + 0.0003, PUPIL_RADIUS - 0.0003, radius)
    # The upper lid and its lashes shade the top of the ball, more than the shadow maps can resolve.
    shaded = 1 - 0.50 * smoothstep(0.0015, 0.0060, d[:, 1])
    return samples, spacing, color * ((1 - 0.97 * pupil) * shaded)[:, None]


def highlights(canvas: Canvas, samples: Samples, side: int) -> Strokes:
    """The key lamp mirrored in the cornea: one bright spot and a faint second one."""
    center = canvas.joints[3 + side]
    d = samples.position - center
    eye_radius = np.linalg.norm(d, axis=-1).max()
    parts = []
    for towards, size, opacity in (((-0.15, 0.16, 1.0), 0.0012, 0.99), ((0.20, -0.12, 1.0), 0.0006, 0.28)):
        towards = np.array(towards) / np.linalg.norm(towards)
        i = np.argmax(d @ towards)
        position = center + towards * (eye_radius + 0.0004)
        spot = Samples(samples.face[[i]], samples.bary[[i]], position[None], towards[None])
        parts.append(discs(spot, np.array([size / 0.80]), np.ones((1, 3)), opacity=opacity, thin=0.1))
    return Strokes.cat(parts)


def _polyline(points: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points at parameters `t [N]` in [0, 1] along a smooth curve through `points [K, 3]`."""
    from scipy.interpolate import CubicSpline

    return CubicSpline(np.linspace(0, 1, len(points)), points)(t)


class Anchors:
    """Nearest point of the face for loose hairs: which triangle carries them, and the normal there."""

    def __init__(self, canvas: Canvas, which: np.ndarray):
        from scipy.spatial import cKDTree

        self.which = which
        self.tree = cKDTree(canvas.vertices[canvas.faces[which]].mean(1))
        self.canvas = canvas

    def __call__(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        face = self.which[self.tree.query(position)[1]]
        normal = self.canvas.normals[self.canvas.faces[face]].mean(1)
        return face, normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def hairs(face, start, end, width, color, opacity=0.9) -> Strokes:
    """One long thin Gaussian per hair from `start` to `end`, `[N, 3]` each."""
    along = end - start
    length = np.linalg.norm(along, axis=-1, keepdims=True)
    normal = np.cross(along, np.array([0.0, 0.05, 1.0]))
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    n = len(start)
    width = np.broadcast_to(np.asarray(width, float), (n,))[:, None]
    return Strokes(
        face, (start + end) / 2, tangent_axes(normal, along), np.concatenate([length * 0.33, width, width], -1),
        color, np.full(n, opacity), np.zeros(n, bool),
    )  # fmt: skip


def brows(canvas: Canvas, anchors: Anchors, side: int, count: int = 380) -> Strokes:
    """Single brow hairs, combed up at the inner end, outward along the arch, thinner at the tail."""
    rng = canvas.rng
    upper, lower = (canvas.landmarks[list(x)] for x in BROWS[side])
    t = rng.beta(1.15, 1.25, count)
    v = rng.beta(1.6, 1.6, count)
    # MediaPipe's outline is wider than hair grows: keep to its middle, narrowing towards the tail.
    v = 0.5 + (v - 0.5) * (0.80 - 0.45 * t)
    root = _polyline(lower, t) * (1 - v)[:, None] + _polyline(upper, t) * v[:, None] - [0, 0.0015, 0]
    ahead = _polyline((lower + upper) / 2, np.clip(t + 0.05, 0, 1.05)) - _polyline((lower + upper) / 2, t)
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    up = np.array([0.0, 1, 0.15])
    lift = (0.95 * (1 - t) ** 2 + 0.18 - 0.35 * (v - 0.5) * t)[:, None]
    direction = ahead + lift * up + 0.16 * rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    length = rng.uniform(0.0045, 0.0075, count) * (1 - 0.35 * t)
    face, normal = anchors(root)
    # Keep the hairs on the skin: bend them into its tangent plane and lift them a little.
    direction -= (direction * normal).sum(-1, keepdims=True) * normal
    start = root + 0.0004 * normal
    end = start + direction * length[:, None] + 0.0003 * normal
    color = BROW * rng.uniform(0.7, 1.9, (count, 1))
    return hairs(face, start, end, 0.00026, color, opacity=0.42)


def lashes(canvas: Canvas, side: int) -> Strokes:
    """Upper lashes that curl forward and out, and short lower ones; they ride on the lid rims."""
    rng = canvas.rng
    parts = []
    outward, name = (1.0, "left") if side == 0 else (-1.0, "right")
    rims = canvas.mask("lashes")
    for lid, count, reach, rise in (("upper", 80, 0.0040, 0.30), ("lower", 14, 0.0016, -0.55)):
        edge = rims & canvas.mask(f"{lid}_lid_{name}")
        anchors = Anchors(canvas, canvas.faces_in(edge))  # the lid's edge alone: its skin folds when the eye opens
        rim = canvas.vertices[edge]
        rim = rim[np.argsort(outward * rim[:, 0])]  # inner to outer corner
        t = np.sort(rng.uniform(0.06, 0.98, count))
        root = _smooth_line(rim, t)
        face, normal = anchors(root)
        fan = (t - 0.35)[:, None] * np.array([outward * 0.95, 0, 0])
        direction = np.array([0, rise, 0.85]) + fan + 0.08 * rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        length = (reach * (0.55 + 0.45 * t) * rng.uniform(0.8, 1.15, count))[:, None]
        bend = root + 0.5 * length * direction
        tip = bend + 0.5 * length * (direction + [0, 0.5 * np.sign(rise), 0])
        color = np.repeat(LASH[None], count, 0)
        dark = 0.26 if lid == "upper" else 0.12
        parts += [hairs(face, root, bend, 0.00022, color, dark), hairs(face, bend, tip, 0.00014, color, 0.6 * dark)]
        if lid == "upper":  # the dark line that the roots make along the rim
            line = _smooth_line(rim, np.linspace(0.03, 0.99, 60)) + [0, 0, 0.0002]
            step = line[1:] - line[:-1]
            face, _ = anchors(line[:-1])
            parts.append(hairs(face, line[:-1] - step, line[1:] + step, 0.00034, np.repeat(LASH[None], 59, 0), 0.5))
    return Strokes.cat(parts)


def _smooth_line(points: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Positions at `t` in [0, 1] along `points [K, 3]`, which zigzag between two rows of the rim."""
    coefficients = np.polynomial.polynomial.polyfit(np.linspace(0, 1, len(points)), points, 5)
    return np.polynomial.polynomial.polyval(t, coefficients).T
