"""Identity and expression directions: resampled from the source onto our mesh, corrected at eyelids and lips.

In come the skin's mixing rows and the parts inside it, out come directions [n,3,k] in metres. Identity is re-expressed
in its own principal directions (coefficients in standard deviations); expressions that the source lacks are built.
"""

from __future__ import annotations

import numpy as np
from mouth import tongue_reach
from parts import smoothstep
from skin import Skin
from source import EYE_LEFT, GUMS, TEETH, Source

# Expressions with closed lips: both lips get the same motion where they touch.
SEALED = {
    "cheekPuff_L", "cheekPuff_R", "cheekRaiser_L", "cheekRaiser_R", "cheekSquint_L", "cheekSquint_R",
    "mouthDimple_L", "mouthDimple_R", "mouthFrown_L", "mouthFrown_R", "mouthLeft", "mouthRight",
    "mouthPress_L", "mouthPress_R", "mouthSmile_L", "mouthSmile_R", "mouthStretch_L", "mouthStretch_R",
    "mouthPucker", "noseSneer_L", "noseSneer_R", "jawForward", "jawLeft", "jawRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
}  # fmt: skip
SHUT_ANGLE = 0.22  # radians of jaw opening at which mouthClose fits best, about the widest in speech
WITH_JAW = {"jawForward", "jawLeft", "jawRight"}


class Body:
    """What the directions need to know of the assembled head: index ranges of its pieces."""

    def __init__(self, points: np.ndarray, skin: Skin, pieces: dict[str, np.ndarray], centre: np.ndarray) -> None:
        self.points, self.skin, self.pieces, self.centre = points, skin, pieces, centre


def _affine(source_points: np.ndarray, moves: np.ndarray, points: np.ndarray, keep: float = 1e-4) -> np.ndarray:
    """Least-squares affine motion of the source points applied to others: [..., m, 3]."""
    mean = source_points.mean(0)
    basis = np.c_[source_points - mean, np.full(len(source_points), 0.03)]
    gram = basis.T @ basis + keep * np.eye(4) * len(basis) * 1e-4
    solve = np.linalg.solve(gram, basis.T)
    return np.c_[points - mean, np.full(len(points), 0.03)] @ (solve @ moves)


def identity(source: Source, body: Body, count: int) -> tuple[np.ndarray, float]:
    """Principal identity directions [n,3,count] in metres per standard deviation, and the share of variance kept."""
    skin, pieces = body.skin, body.pieces
    rows = []
    for move in source.identity:
        full = np.zeros_like(body.points)
        full[pieces["skin"]] = _hold_bust(skin, skin.mix @ move)
        full[pieces["skin"]] = _seal_lips(skin, full[pieces["skin"]])
        _move_inside(source, body, move, full)
        full[pieces["skin"]] = _ride_eyes(body, full)
        rows.append(full)
    flat = np.stack(rows).reshape(len(rows), -1)
    weight = np.ones(len(body.points))
    weight[np.concatenate([v for k, v in pieces.items() if k != "skin"])] = 0.2
    _, size, vt = np.linalg.svd(flat * np.repeat(weight, 3), full_matrices=False)
    kept = float((size[:count] ** 2).sum() / (size**2).sum())
    directions = (vt[:count] * size[:count, None]) / np.repeat(weight, 3)
    sign = np.sign(directions.reshape(count, -1, 3)[:, pieces["skin"], 1].sum(1))  # a fixed sign, so builds agree
    directions *= np.where(sign == 0, 1, sign)[:, None]
    return directions.reshape(count, -1, 3).transpose(1, 2, 0), kept


def _hold_bust(skin: Skin, move: np.ndarray) -> np.ndarray:
    """The own bust follows its rim less and less towards the chest."""
    return move * (1 - smoothstep(skin.bust, 0.0, 1.0))[:, None]


def _move_inside(source: Source, body: Body, move: np.ndarray, full: np.ndarray) -> None:
    """Eyeballs, teeth, gums and tongue follow the source's by similarity or affine motion."""
    for side, start in (("left", EYE_LEFT[0]), ("right", EYE_LEFT[1])):
        rows = np.arange(start, start + EYE_LEFT[1] - EYE_LEFT[0])
        place, shift = source.neutral[rows], move[rows]
        offset = place - place.mean(0)
        scale = (offset * (shift - shift.mean(0))).sum() / (offset**2).sum()
        centre = body.centre * ([1, 1, 1] if side == "left" else [-1, 1, 1])
        index = body.pieces[f"{side}_eye"]
        full[index] = shift.mean(0) + scale * (body.points[index] - centre)
    mouth = np.arange(GUMS[0], TEETH[1])
    for name in ("teeth_upper", "teeth_lower", "gums_upper", "gums_lower", "tongue"):
        index = body.pieces[name]
        full[index] = _affine(source.neutral[mouth], move[mouth], body.points[index])


def _seal_lips(skin: Skin, move: np.ndarray) -> np.ndarray:
    """Gives matched lip vertices their mean motion; the change fades out over 6 mm of skin."""
    upper, lower = skin.lips
    points = skin.part.points
    change = 0.5 * (move[lower] - move[upper])
    near = np.flatnonzero(skin.mouth_distance < 0.016)
    out = move.copy()
    seams = np.concatenate([upper, lower])
    wants = np.concatenate([change, -change])
    same = _lip_side(skin, near)[:, None] == np.r_[np.ones(len(upper), bool), np.zeros(len(lower), bool)][None]
    squared = ((points[near][:, None] - points[seams][None]) ** 2).sum(-1)
    narrow = np.exp(-0.5 * squared / 0.0022**2) * same
    share = narrow / np.maximum(narrow.sum(1, keepdims=True), 1e-12)
    fade = np.exp(-0.5 * (skin.mouth_distance[near] / 0.0045) ** 2)
    out[near] += (share @ wants) * fade[:, None]
    out[seams] = move[seams] + wants
    return out


def _lip_side(skin: Skin, index: np.ndarray) -> np.ndarray:
    """True for vertices of the upper lip, by the nearest matched row along the skin."""
    return skin.upper_lip[index]


def _ride_eyes(body: Body, full: np.ndarray) -> np.ndarray:
    """Near the eyelids, the motion towards or away from the eyeball is that of the eyeball."""
    skin, points = body.skin, body.skin.part.points
    out = full[body.pieces["skin"]].copy()
    for side, sign in (("left", 1.0), ("right", -1.0)):
        eye = body.pieces[f"{side}_eye"]
        centre = body.centre * [sign, 1, 1]
        near = np.flatnonzero((sign * points[:, 0] > 0) & (skin.lid_distance < 0.016))
        out[near] = _ride(points[near], out[near], centre, body.points[eye], full[eye], skin.lid_distance[near])
    return out


def _ride(
    points: np.ndarray, move: np.ndarray, centre: np.ndarray, eye: np.ndarray, eye_move: np.ndarray, far: np.ndarray
) -> np.ndarray:
    radial = points - centre
    distance = np.linalg.norm(radial, axis=1, keepdims=True)
    radial = radial / distance
    offset = eye - eye.mean(0)
    scale = (offset * (eye_move - eye_move.mean(0))).sum() / (offset**2).sum()
    own = eye_move.mean(0) + scale * (centre - eye.mean(0)) + scale * (points - centre)
    weight = (1 - smoothstep(far, 0.002, 0.014))[:, None]
    return move - weight * radial * ((move - own) * radial).sum(1, keepdims=True)


def expression(source: Source, body: Body, names: tuple[str, ...], opened, turn) -> np.ndarray:
    """Expression directions [n,3,len(names)] in metres at coefficient 1; `opened` and `turn` as in _mouth_close."""
    out = np.zeros((*body.points.shape, len(names)))
    for k, name in enumerate(names):
        if name == "mouthClose":
            out[..., k] = _mouth_close(source, body, opened, turn)
        elif name in source.expression:
            out[..., k] = _resampled(source, body, name)
        else:
            out[..., k] = BUILT[name.removesuffix("_L").removesuffix("_R")](body, name[-1] if name[-2] == "_" else "")
    return out


def _resampled(source: Source, body: Body, name: str) -> np.ndarray:
    skin, move = body.skin, source.expression[name]
    full = np.zeros_like(body.points)
    skin_move = _hold_bust(skin, skin.mix @ move)
    if name in SEALED:
        skin_move = _seal_lips(skin, skin_move)
    full[body.pieces["skin"]] = skin_move
    if name in WITH_JAW:
        lower = np.arange(*TEETH)[np.linalg.norm(source.expression["jawOpen"][slice(*TEETH)], axis=1) > 0.005]
        shift = move[lower].mean(0)
        for piece in ("teeth_lower", "gums_lower"):
            full[body.pieces[piece]] = shift
        tongue = body.pieces["tongue"]
        full[tongue] = shift * (0.3 + 0.7 * tongue_reach(body.points[tongue]))[:, None]
    full[body.pieces["skin"]] = _ride_eyes(body, full)
    return full


def _mouth_close(source: Source, body: Body, opened, turn) -> np.ndarray:
    """Shuts the lips over an open jaw, exactly at SHUT_ANGLE and in proportion to the angle elsewhere.

    `opened(angle)` [n,3] is what the model's jaw does, `turn(angle)` [n,3,3] how skinning turns an offset.
    """
    skin, index = body.skin, body.pieces["skin"]
    wide = source.jaw_hinge()[0]
    offset = np.zeros_like(body.points)
    offset[index] = _hold_bust(skin, skin.mix @ source.expression["mouthClose"])
    offset = np.linalg.solve(turn(wide), offset[..., None])[..., 0]
    share = SHUT_ANGLE / wide
    jaw = opened(SHUT_ANGLE)
    closed = jaw + (turn(SHUT_ANGLE) @ (share * offset)[..., None])[..., 0]
    closed[index] = _seal_lips(skin, closed[index])
    return np.linalg.solve(turn(SHUT_ANGLE), (closed - jaw)[..., None])[..., 0] / share


def _tongue_out(body: Body, side: str) -> np.ndarray:
    full, index = np.zeros_like(body.points), body.pieces["tongue"]
    reach = tongue_reach(body.points[index])[:, None]
    full[index] = reach**1.3 * np.array([0.0, 0.0125, 0.034]) - reach**5 * np.array([0.0, 0.006, 0.0])
    return full


def _tongue_up(body: Body, side: str) -> np.ndarray:
    full, index = np.zeros_like(body.points), body.pieces["tongue"]
    reach = tongue_reach(body.points[index])[:, None]
    full[index] = reach**2.2 * np.array([0.0, 0.0105, -0.003])
    return full


def _nostril(amount: float):
    def build(body: Body, side: str) -> np.ndarray:
        full = np.zeros_like(body.points)
        points = body.skin.part.points
        for sign in (1.0, -1.0):
            wing = body.skin.nose_wing * [sign, 1, 1]
            weight = np.exp(-0.5 * (((points - wing) / [0.0062, 0.0062, 0.0085]) ** 2).sum(1))
            weight *= smoothstep(sign * points[:, 0], 0.003, 0.008) * smoothstep(body.skin.mouth_distance, 0.004, 0.009)
            full[body.pieces["skin"]] += weight[:, None] * np.array([sign * amount, abs(amount) * 0.3, 0.0])
        return full

    return build


def _neck_tighten(body: Body, side: str) -> np.ndarray:
    """Platysma: bands along the side of the neck stand out, the corner of the mouth goes down and out a little."""
    full, points = np.zeros_like(body.points), body.skin.part.points
    sign = 1.0 if side == "L" else -1.0
    angle = np.arctan2(sign * points[:, 0], points[:, 2] + 0.085)
    neck = smoothstep(points[:, 1], -0.195, -0.160) * (1 - smoothstep(points[:, 1], -0.125, -0.100))
    bands = np.exp(-0.5 * ((angle - 0.55) / 0.11) ** 2) + 0.7 * np.exp(-0.5 * ((angle - 1.05) / 0.12) ** 2)
    out = np.stack([sign * np.sin(np.abs(angle)), np.zeros(len(points)), np.cos(angle)], 1)
    move = (neck * bands * 0.0052)[:, None] * out
    corner = points[body.skin.lips[0][0 if points[body.skin.lips[0][0], 0] * sign > 0 else -1]]
    pull = np.exp(-0.5 * (((points - corner - [sign * 0.004, -0.014, 0]) / [0.012, 0.014, 0.02]) ** 2).sum(1))
    pull *= smoothstep(body.skin.mouth_distance, 0.001, 0.010)
    full[body.pieces["skin"]] = move + pull[:, None] * np.array([sign * 0.0015, -0.0028, -0.0005])
    return full


BUILT = {
    "tongueOut": _tongue_out,
    "tongueUp": _tongue_up,
    "nostrilDilate": _nostril(0.0026),
    "nostrilCompress": _nostril(-0.0016),
    "neckTighten": _neck_tighten,
}
