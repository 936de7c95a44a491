"""Paint for ICT-FaceKit: what colour every place of the mesh has before any light falls on it.

In: the neutral mesh and a person's colours. Out: for every triangle a small grid of linear RGB and gloss. All people
share the mesh, so everything is painted in the place that it has on the neutral face.
"""

from __future__ import annotations

import numpy as np
from ict_face import EYES, PARTS, IctFace, sphere
from noise import inside_polygon, linear, mix, smoothstep, to_polyline, value_noise
from people import Person

GRID = 5  # colour samples along a triangle's edge, less one
IRIS, PUPIL = 0.0068, 0.0027  # metres; a little large, as ICT's eyeballs are
SCLERA, VEIN = linear(222, 216, 212), linear(200, 140, 132)
TOOTH, GUM, TONGUE, CAVITY = linear(226, 218, 200), linear(158, 76, 74), linear(172, 86, 84), linear(70, 22, 22)
LASH = linear(24, 17, 15)

# MediaPipe's numbers: outer lip line all around, inner lip line, brow outlines inner to outer (upper row, lower row),
# lid rims inner to outer corner (upper, lower); the person's left first.
OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
BROWS = (
    ((336, 296, 334, 293, 300), (285, 295, 282, 283, 276)),
    ((107, 66, 105, 63, 70), (55, 65, 52, 53, 46)),
)
LIDS = (
    ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263)),
    ((133, 173, 157, 158, 159, 160, 161, 246, 33), (133, 155, 154, 153, 145, 144, 163, 7, 33)),
)


def grid_weights() -> np.ndarray:
    """Barycentrics `[(GRID + 1)^2, 3]` of the samples; those beyond the triangle's third edge are never read."""
    v, w = np.meshgrid(np.arange(GRID + 1), np.arange(GRID + 1), indexing="ij")
    bary = np.stack([GRID - v - w, v, w], -1).reshape(-1, 3) / GRID
    return np.clip(bary, 0, None) / np.clip(bary, 0, None).sum(1, keepdims=True)


def paint(face: IctFace, person: Person) -> np.ndarray:
    """Linear RGB and gloss of every sample, `[F, (GRID + 1)^2, 4]` float32."""
    weights = grid_weights()
    out = np.empty((len(face.faces), len(weights), 4), np.float32)
    skin = np.flatnonzero(face.in_part("face", "head", "mouth", "sockets"))
    places = np.einsum("sk,fkd->fsd", weights, face.neutral[face.faces[skin]]).reshape(-1, 3)
    mouth = np.repeat(face.in_part("mouth", "sockets")[skin], len(weights))
    out[skin] = paint_skin(face, person, places.astype(np.float64), mouth).reshape(len(skin), -1, 4)
    for name in EYES:
        which = np.flatnonzero(face.in_part(name))
        places = np.einsum("sk,fkd->fsd", weights, face.neutral[face.faces[which]]).reshape(-1, 3)
        out[which] = paint_eye(face, person, places.astype(np.float64), name).reshape(len(which), -1, 4)
    for name, color, gloss in (("teeth", TOOTH, 0.5), ("gums", GUM, 0.3)):
        which = np.flatnonzero(face.in_part(name))
        out[which] = np.r_[color, gloss]
    return out


def paint_skin(face: IctFace, person: Person, p: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """Skin, lips, brows, scalp and the inside of the mouth (`mouth [N]` bool) at places `p [N, 3]`: `[N, 4]`."""
    marks = face.landmarks.astype(np.float64)
    color = np.repeat(person.skin[None], len(p), 0)
    gloss = np.full(len(p), 0.10)
    for index, radius, weight in ((50, 0.026, 0.35), (280, 0.026, 0.35), (4, 0.014, 0.40), (199, 0.018, 0.15),
                                  (98, 0.010, 0.25), (327, 0.010, 0.25)):  # fmt: skip
        color = mix(color, person.flush, weight * _near(p, marks[index], radius))
    shade = person.skin * np.array([0.55, 0.47, 0.50])
    for index, radius, weight in ((145, 0.012, 0.35), (374, 0.012, 0.35), (133, 0.008, 0.45), (362, 0.008, 0.45),
                                  (159, 0.009, 0.40), (386, 0.009, 0.40)):  # fmt: skip
        color = mix(color, shade, weight * _near(p, marks[index], radius))
    for index in (4, 9, 151, 50, 280, 199):
        gloss += 0.12 * _near(p, marks[index], 0.018)
    if person.stubble:
        color = mix(color, person.hair * 1.5, person.stubble * _beard(p, marks))
    tone = 0.05 * value_noise(p, 0.018, 1) + 0.04 * value_noise(p, 0.005, 2) + 0.03 * value_noise(p, 0.0018, 3)
    color = color * (1 + tone)[:, None]
    color, gloss = _paint_lips(person, p, marks, color, gloss)
    color = mix(color, CAVITY, 0.85 * mouth * smoothstep(0.004, 0.012, _lip_front(p, marks)))
    for side in (0, 1):
        color = mix(color, person.hair * 0.7, _brow(p, marks, side, person.brow))
        color = mix(color, LASH, _lid_lines(p, marks, side))
    for x in (-1, 1):  # nostrils
        hole = marks[2] + [x * 0.0068, 0.0030, -0.0035]
        color = mix(color, shade * 0.12, 1.3 * _near(p, hole, 0.0034))
    hair = hair_cover(face, person, p)
    streak = 1 + 0.35 * value_noise(p * [1, 0.35, 0.35], 0.0022, 31) + 0.25 * value_noise(p, 0.012, 32)
    color = color + (person.hair * streak[:, None] - color) * hair[:, None]
    gloss = gloss * (1 - hair)
    return np.c_[np.clip(color, 0, 1), gloss]


def _near(p: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    return np.exp(-0.5 * ((p - centre) ** 2).sum(1) / radius**2)


def _lip_front(p: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """How far behind the line between the lips a place lies, metres."""
    return marks[13, 2] - p[:, 2]


def _paint_lips(person: Person, p: np.ndarray, marks: np.ndarray, color: np.ndarray, gloss: np.ndarray) -> tuple:
    close = (np.abs(p[:, 0]) < 0.04) & (np.abs(p[:, 1] - marks[13, 1]) < 0.03) & (p[:, 2] > marks[61, 2] - 0.012)
    red = np.zeros(len(p))
    red[close] = smoothstep(-0.0006, 0.0006, inside_polygon(p[close, :2], marks[list(OUTER_LIPS), :2]))
    grain = 1 + 0.08 * value_noise(p * [1.0, 0.25, 0.5], 0.0011, 6)
    color = mix(color, person.lip * grain[:, None], 0.92 * red)
    seam = np.ones(len(p))
    seam[close], _ = to_polyline(p[close], marks[[78, 80, 81, 82, 13, 312, 311, 310, 308]])
    color = mix(color, person.lip * 0.35, 0.7 * red * smoothstep(0.0022, 0.0004, seam))
    return color, gloss + 0.35 * red


def _brow(p: np.ndarray, marks: np.ndarray, side: int, thickness: float) -> np.ndarray:
    """How much brow hair covers a place, 0..1: strokes between the two rows of MediaPipe's outline."""
    upper, lower = (marks[list(row)] for row in BROWS[side])
    out = np.zeros(len(p))
    centre = (upper + lower) / 2
    close = ((p - centre.mean(0)) ** 2).sum(1) < 0.04**2
    q = p[close]
    fine = np.linspace(0, 1, 25)
    line = np.stack([np.interp(fine, np.linspace(0, 1, 5), centre[:, d]) for d in range(3)], 1)
    half = np.interp(fine, np.linspace(0, 1, 5), np.linalg.norm(upper - lower, axis=1) / 2)
    _, place = to_polyline(q[:, :2], line[:, :2])
    height = q[:, 1] - np.interp(place, fine, line[:, 1])
    width = thickness * np.interp(place, fine, half) * (1.15 - 0.35 * place) + 0.0004
    across = np.abs(height) / width
    # hairs: noise drawn out along the way they lie, up at the inner end, outward at the tail
    outward = q[:, 0] * (1 if side == 0 else -1)
    lie = smoothstep(0.0, 0.5, place)
    along, beside = 0.85 * lie * outward + (1 - 0.7 * lie) * q[:, 1], outward * (1 - 0.7 * lie) - 0.85 * lie * q[:, 1]
    strand = value_noise(np.c_[0.15 * along, beside, np.zeros(len(q))], 0.0006, 41 + side)
    edge = smoothstep(1.25, 0.65, across + 0.18 * strand)
    edge *= smoothstep(0.0, 0.05, place) * smoothstep(1.0, 0.93, place)
    out[close] = edge * (0.84 + 0.14 * strand)
    return np.clip(out, 0, 0.97)


def _lid_lines(p: np.ndarray, marks: np.ndarray, side: int) -> np.ndarray:
    """The dark line that the roots of the lashes make along the lid rims."""
    out = np.zeros(len(p))
    close = ((p - marks[list(LIDS[side][0])].mean(0)) ** 2).sum(1) < 0.03**2
    for row, width, weight in zip(LIDS[side], (0.0018, 0.0008), (0.95, 0.45), strict=True):
        away, place = to_polyline(p[close], marks[list(row)])
        line = weight * smoothstep(1.4 * width, 0.5 * width, away) * smoothstep(0.0, 0.12, place)
        out[close] = np.maximum(out[close], line)
    return out


def _beard(p: np.ndarray, marks: np.ndarray) -> np.ndarray:
    jaw = smoothstep(marks[2, 1] - 0.002, marks[13, 1], p[:, 1]) * smoothstep(-0.150, -0.125, p[:, 1])
    side = smoothstep(-0.085, -0.060, p[:, 2])
    grain = 0.7 + 0.3 * value_noise(p, 0.0010, 51)
    return jaw * side * grain


def hair_cover(face: IctFace, person: Person, p: np.ndarray) -> np.ndarray:
    """How much hair grows at places `p [N, 3]`, 0 on the face to 1 on the crown."""
    marks = face.landmarks.astype(np.float64)
    top, temple = marks[10], marks[[127, 356]].mean(0)
    x, y, z = p.T
    ragged = 0.003 * value_noise(p, 0.006, 61) + 0.0015 * value_noise(p, 0.002, 62)
    front = top[1] + 0.004 - person.fringe - 0.55 * np.maximum(np.abs(x) - 0.030, 0) + ragged
    above = smoothstep(-0.001, 0.004, y - front)
    behind = smoothstep(temple[2] - 0.034, temple[2] - 0.046, z + ragged) * smoothstep(-0.100, -0.085, y)
    burns = smoothstep(temple[2] + 0.002, temple[2] - 0.004, z + 0.35 * (temple[1] + 0.02 - y) + ragged)
    burns *= smoothstep(temple[1] - 0.014, temple[1] - 0.004, y + ragged)
    return np.maximum(above, np.maximum(behind, burns)) * (1 - ears(face, p))


def ears(face: IctFace, p: np.ndarray) -> np.ndarray:
    """1 on the ears, 0 elsewhere: what stands further out than the skull beside it."""
    marks = face.landmarks.astype(np.float64)
    temple = marks[[127, 356]].mean(0)
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    out = smoothstep(0.0015, 0.004, x - (np.abs(marks[356, 0]) + 0.0005))
    box = (y < temple[1] + 0.022) & (y > temple[1] - 0.060) & (z < temple[2] + 0.004) & (z > temple[2] - 0.060)
    return out * box


def paint_eye(face: IctFace, person: Person, p: np.ndarray, name: str) -> np.ndarray:
    """Sclera, iris and pupil of one eyeball, looking along +z at rest: `[N, 4]`."""
    centre, _ = sphere(face.neutral[slice(*PARTS[name])])
    d = p - centre
    radius, angle = np.hypot(d[:, 0], d[:, 1]), np.arctan2(d[:, 1], d[:, 0])
    front = d[:, 2] > 0
    color = np.repeat(SCLERA[None], len(p), 0)
    color = mix(color, VEIN, 0.35 * smoothstep(0.007, 0.012, radius))
    t = np.clip((radius - PUPIL) / (IRIS - PUPIL), 0, 1)
    spokes = value_noise(np.c_[angle * 0.006, 0.15 * radius, 0 * radius], 0.0006, 12)
    iris = person.iris * ((1 + 0.35 * spokes) * (1.25 - 0.45 * t) * (1 - 0.75 * smoothstep(0.80, 1.0, t)))[:, None]
    color = mix(color, iris, front * smoothstep(IRIS + 0.0004, IRIS - 0.0004, radius))
    color = mix(color, np.full(3, 0.004), front * smoothstep(PUPIL + 0.0003, PUPIL - 0.0003, radius))
    return np.c_[color, np.ones(len(p))]
