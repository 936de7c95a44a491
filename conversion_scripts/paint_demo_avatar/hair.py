"""Short, swept hair: strands that grow out of the scalp, each a chain of thin Gaussians.

In: the canvas. Out: strokes, and the position of each along its strand. Every strand is bound to the triangle of its
root.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from canvas import Canvas, linear, smoothstep, value_noise
from scipy.spatial import cKDTree
from surface import Samples, Strokes, tangent_axes

ROOT_COLOR, TIP_COLOR = linear(30, 20, 15), linear(96, 64, 42)
_SEGMENTS = 5


@dataclass
class Strands:
    """`points [S, K + 1, 3]` along S strands, `face [S]` of the roots, `normal [S, 3]` of the skull there,
    `shade [S]` lighter or darker than the rest, `growth [S]` 0 at the hairline to 1 where hair is full."""

    points: np.ndarray
    face: np.ndarray
    normal: np.ndarray
    shade: np.ndarray
    growth: np.ndarray


def hairline(canvas: Canvas, position: np.ndarray) -> np.ndarray:
    """How much hair grows at `position [N, 3]`, 0 on the face to 1 on the crown."""
    brow = canvas.landmarks[[105, 334]].mean(0)
    top = canvas.landmarks[10]
    temple = canvas.landmarks[[127, 356]].mean(0)  # in front of the ears, at the height of the eyes
    x, y, z = position.T
    # The front line rises to the middle of the forehead and falls along the temples to the sideburns.
    front = top[1] + 0.002 - 0.75 * np.maximum(np.abs(x) - 0.026, 0)
    height = smoothstep(-0.005, 0.012, y - front - 0.007 * value_noise(position, 0.010, 21))
    height = height * smoothstep(brow[1] - 0.01, brow[1] + 0.02, y)
    # Behind the ears it reaches down to the nape, before them only to the ear's middle.
    behind = smoothstep(temple[2] - 0.030, temple[2] - 0.055, z) * smoothstep(-0.085, -0.060, y)
    edge = temple[2] + 0.020 + 0.004 * value_noise(position, 0.008, 22)
    burns = smoothstep(edge + 0.006, edge - 0.006, z) * smoothstep(
        temple[1] - 0.016, temple[1] - 0.002, y - 0.003 * value_noise(position, 0.006, 23)
    )
    return np.maximum(height, np.maximum(behind, burns))


def on_ear(canvas: Canvas, samples: Samples) -> np.ndarray:
    """1 on the ear, 0 elsewhere, `[N]`: what stands off the side of the skull, or lies below the ear's top edge."""
    ears = canvas.mask("ears")
    temple = canvas.landmarks[[127, 356]].mean(0)
    v = canvas.vertices
    # The skull's side without ears: a smooth surface |x| = f(y, z) through the bare skin around them.
    around = canvas.mask("scalp", "face", "neck") & ~ears & (np.abs(v[:, 0]) > 0.045)
    around &= (np.abs(v[:, 1] - temple[1]) < 0.07) & (v[:, 2] < temple[2] + 0.03)
    terms = lambda y, z: np.stack([y**i * z**j for i in range(4) for j in range(4 - i)], -1)  # noqa: E731
    scaled = lambda p: (20 * (p[:, 1] - temple[1]), 20 * (p[:, 2] - temple[2]))  # noqa: E731
    fit = np.linalg.lstsq(terms(*scaled(v[around])), np.abs(v[around, 0]), rcond=None)[0]
    p = samples.position
    stands_off = smoothstep(0.004, 0.007, np.abs(p[:, 0]) - terms(*scaled(p)) @ fit)
    low = smoothstep(temple[1] + 0.014, temple[1] + 0.006, p[:, 1])
    region = samples.interpolate(canvas.faces, canvas.soft_mask("ears", rounds=1))
    return smoothstep(0.2, 0.7, region) * np.maximum(stands_off, low)


def _flow(canvas: Canvas, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Combing direction `[S, 3]` and strand length `[S]`: swept up and over on top, down at sides and back."""
    crown_y = canvas.vertices[:, 1].max()
    x, y, z = root.T
    top = smoothstep(crown_y - 0.070, crown_y - 0.028, y)
    side = np.tanh((x + 0.040) / 0.014)  # the parting lies above the person's right temple
    over = np.stack([0.85 * side, 0.10 + 0 * x, -0.30 + 0 * x], -1)
    down = np.stack([0.10 * np.sign(x), -0.9 + 0 * x, -0.45 + 0 * x], -1)
    front = smoothstep(0.0, 0.045, z) * top
    quiff = np.stack([0.85 * side, 0.45 + 0 * x, 0.05 + 0 * x], -1)
    direction = down + (over - down) * top[:, None]
    direction = direction + (quiff - direction) * front[:, None]
    length = 0.014 + 0.022 * top + 0.010 * front
    return direction / np.linalg.norm(direction, axis=-1, keepdims=True), length


def grow(canvas: Canvas, spacing: float) -> Strands:
    """Grows strands from roots about `spacing` metres apart."""
    rng = canvas.rng
    skull = canvas.mask("scalp", "face", "neck", "ears") & ~canvas.mask("lids", "lips")
    which = canvas.faces_in(skull)
    which = which[hairline(canvas, canvas.vertices[canvas.faces[which]].mean(1)) > 0.02]
    samples, _ = canvas.cover(which, spacing)
    samples = samples[rng.random(len(samples)) < hairline(canvas, samples.position) * (1 - on_ear(canvas, samples))]
    root, normal = samples.position, samples.normal
    flow, length = _flow(canvas, root)
    # Neighbours lean together: strands form locks.
    lock = np.stack([value_noise(root, 0.011, 30 + k) for k in range(3)], -1)
    stray = rng.normal(size=root.shape)
    flow = flow + 0.38 * lock + 0.10 * stray
    length = length * (1 + 0.22 * value_noise(root, 0.009, 35) + 0.10 * rng.normal(size=len(root)))
    growth = smoothstep(0.0, 0.6, hairline(canvas, root))
    length = np.clip(length, 0.004, None) * (0.45 + 0.55 * growth)
    tree = cKDTree(canvas.vertices)
    points = [root - 0.001 * normal]
    crown_y = canvas.vertices[:, 1].max()
    lift = 0.25 + 0.75 * smoothstep(crown_y - 0.06, crown_y - 0.02, root[:, 1])
    surface = normal
    for k in range(_SEGMENTS):
        t = k / _SEGMENTS
        # Combed hair lies along the skull: only `lift` takes it off, less and less towards the tip.
        combed = flow - (flow * surface).sum(-1, keepdims=True) * surface
        direction = surface * (lift * (1 - t) ** 1.5 - 0.10 * t)[:, None] + combed * (0.30 + t)
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        step = points[-1] + direction * (length / _SEGMENTS)[:, None]
        near = tree.query(step)[1]
        surface = canvas.normals[near]
        depth = ((step - canvas.vertices[near]) * surface).sum(-1)
        step += surface * np.clip(0.0018 + 0.003 * t * lift - depth, 0, None)[:, None]
        points.append(step)
    return Strands(np.stack(points, 1), samples.face, normal, lock[:, 0] + 0.4 * rng.normal(size=len(root)), growth)


def paint(strands: Strands, lamps: np.ndarray, radiance: np.ndarray, openness: np.ndarray) -> Strokes:
    """Shades every segment with the two highlights of hair (Kajiya and Kay) under the studio lamps.

    Args:
        lamps: `[L, 3]` directions. radiance: `[L, 3]`. openness: `[S * K]` how much light reaches each segment.
    """
    start, end = strands.points[:, :-1], strands.points[:, 1:]
    count, segments = start.shape[:2]
    t = np.broadcast_to((np.arange(segments) + 0.5) / segments, (count, segments)).reshape(-1)
    center = ((start + end) / 2).reshape(-1, 3)
    along = (end - start).reshape(-1, 3)
    length = np.linalg.norm(along, axis=-1)
    tangent = along / np.maximum(length, 1e-9)[:, None]
    view = np.array([0.0, 0.0, 1.0])
    strength = radiance * (4 / len(lamps))
    diffuse, shine, gloss = (np.zeros((len(center), 3)) for _ in range(3))
    tv = tangent @ view
    sin_view = np.sqrt(np.clip(1 - tv**2, 0, 1))
    normal = np.repeat(strands.normal, segments, 0)
    for lamp, light in zip(lamps, strength):
        tl = tangent @ lamp
        sin_light = np.sqrt(np.clip(1 - tl**2, 0, 1))
        facing = np.clip(normal @ lamp + 0.25, 0, 1)
        diffuse += (sin_light * facing)[:, None] * light
        mirror = np.clip(sin_light * sin_view - tl * tv, 0, 1)
        shine += (mirror**60 * facing)[:, None] * light
        gloss += (mirror**14 * facing)[:, None] * light
    shade = np.repeat(strands.shade, segments)
    base = ROOT_COLOR + (TIP_COLOR - ROOT_COLOR) * (smoothstep(0.15, 1.0, t) * 0.75)[:, None]
    base = base * np.exp(0.30 * shade)[:, None]
    openness = np.clip(openness, 0, 1)[:, None]
    color = base * diffuse * (0.18 + 0.95 * openness)
    color += (0.16 * shine + 0.9 * base * gloss) * openness**1.3
    n = len(center)
    full = np.repeat(strands.growth, segments)  # single fine hairs at the hairline, a dense coat behind it
    opacity = np.where(t > 0.8, 0.72, 0.92) * (0.30 + 0.70 * full)
    width = 0.00085 * (1.0 - 0.45 * t) * (0.55 + 0.45 * full)
    normal_axis = normal - (normal * tangent).sum(-1, keepdims=True) * tangent
    normal_axis /= np.maximum(np.linalg.norm(normal_axis, axis=-1, keepdims=True), 1e-9)
    return Strokes(
        np.repeat(strands.face, segments), center, tangent_axes(normal_axis, along),
        np.stack([0.62 * length, width, width], -1), color, opacity, np.zeros(n, bool),
    )  # fmt: skip
