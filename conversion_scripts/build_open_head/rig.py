"""Joints, skinning weights and jaw correctives: in comes the source's opening jaw, out come FLAME's LBS numbers.

The source opens its jaw by a blend shape; a rigid hinge is fitted to its lower teeth, weights are the share of that
hinge motion each vertex takes, and the corrective is what linear blend skinning leaves over at the same angle.
"""

from __future__ import annotations

import numpy as np
from directions import Body
from mouth import tongue_reach
from parts import smoothstep
from scipy import sparse
from source import Source

NECK = np.array([0.0, -0.112, -0.083])
ROOT = np.array([0.0, -0.190, -0.092])
JAW_SIN_ROWS = (9 + 7, 9 + 5)  # entries (2,1) and (1,2) of the jaw's R - I, which are +sin and -sin of the angle


def joints(source: Source, body: Body) -> np.ndarray:
    """Places [5,3] of root, neck, jaw, left eye and right eye in the template."""
    _, hinge = source.jaw_hinge()
    return np.stack([ROOT, NECK, hinge, body.centre, body.centre * [-1, 1, 1]])


def weights(source: Source, body: Body) -> np.ndarray:
    """Skinning weights [n,5], rows summing to one."""
    points, pieces = body.points, body.pieces
    skin = pieces["skin"]
    q = points[:, 1] + 0.35 * (points[:, 2] + 0.075)
    head = smoothstep(q, -0.178, -0.098)
    head[np.concatenate([v for k, v in pieces.items() if k != "skin"])] = 1.0
    jaw = np.zeros(len(points))
    jaw[skin] = _jaw_share(source, body)
    jaw[pieces["teeth_lower"]] = jaw[pieces["gums_lower"]] = 1.0
    jaw[pieces["tongue"]] = 0.55 + 0.45 * smoothstep(tongue_reach(points[pieces["tongue"]]), 0.0, 0.6)
    out = np.zeros((len(points), 5))
    out[:, 2] = jaw * head
    out[:, 1] = head - out[:, 2]
    out[:, 0] = 1 - head
    for column, side in ((3, "left_eye"), (4, "right_eye")):
        out[pieces[side]] = np.eye(5)[column]
    return out


def _jaw_share(source: Source, body: Body) -> np.ndarray:
    """The share [n] of the hinge motion in the source's jawOpen, smoothed over the skin."""
    skin = body.skin
    angle, hinge = source.jaw_hinge()
    rigid = rotate_x(skin.part.points, angle, hinge) - skin.part.points
    move = skin.mix @ source.expression["jawOpen"]
    share = (move * rigid).sum(1) / ((rigid**2).sum(1) + 0.004**2)
    share = np.clip(share, 0, 1)
    share[skin.bust > 0] = 0.0
    # matched lip rows must not bleed into each other, so the smoothing runs along the mesh
    step = smoother(skin.part.faces, len(share))
    for _ in range(6):
        share = step @ share
    share[skin.sleeve] = 0.0
    return share * (skin.lid_distance > 0.004)


def smoother(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """One step of averaging [n,n]: half the vertex, half its neighbours."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    a = sparse.coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (count, count)).tocsr()
    a = ((a + a.T) > 0).astype(float)
    degree = np.maximum(np.asarray(a.sum(1)).ravel(), 1)
    return 0.5 * sparse.eye(count) + 0.5 * sparse.diags(1 / degree) @ a


def rotate_x(points: np.ndarray, angle: float, centre: np.ndarray) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return (points - centre) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T + centre


def jaw_correctives(source: Source, body: Body, skinning: np.ndarray) -> np.ndarray:
    """Pose basis rows [2, n*3]: at the source's angle the skin equals its jawOpen."""
    angle, hinge = source.jaw_hinge()
    skin, points = body.pieces["skin"], body.points
    blend = skinning[:, 2:3] * (rotate_x(points, angle, hinge) - points)
    left = np.zeros_like(points)
    wanted = body.skin.mix @ source.expression["jawOpen"]
    left[skin] = wanted - blend[skin]
    left[skin[body.skin.bust > 0]] = 0.0
    left[skin] *= smoothstep(body.skin.lid_distance, 0.004, 0.012)[:, None]
    # correctives act before skinning, so they are turned back by each vertex's own blend of rotations
    left = np.linalg.solve(blended_turn(angle, skinning), left[..., None])[..., 0]
    row = (left / (2 * np.sin(angle))).reshape(-1)
    return np.stack([row, -row])


def opened(source: Source, body: Body, skinning: np.ndarray, correctives: np.ndarray, angle: float) -> np.ndarray:
    """Displacement [n,3] of the head at a jaw angle, as the model poses it."""
    offset = 2 * np.sin(angle) * correctives[0].reshape(-1, 3)
    rigid = rotate_x(body.points, angle, source.jaw_hinge()[1]) - body.points
    return skinning[:, 2:3] * rigid + (blended_turn(angle, skinning) @ offset[..., None])[..., 0]


def blended_turn(angle: float, skinning: np.ndarray) -> np.ndarray:
    """What skinning does to a small offset of each vertex at a jaw angle: [n,3,3]."""
    turn = rotate_x(np.eye(3), angle, np.zeros(3)).T
    return np.eye(3) + skinning[:, 2, None, None] * (turn - np.eye(3))


def regressor(body: Body, places: np.ndarray) -> np.ndarray:
    """Joint regressor [5,n]: the smallest weights around each joint that sum to one and reproduce its place."""
    points, skin = body.points, body.skin
    reach = np.linalg.norm(points[body.pieces["skin"]] - [0, 0, 0], axis=1)
    own = skin.part.points
    level = own[:, 1] + 0.2 * (own[:, 2] + 0.08)
    near = {
        0: (np.abs(own[:, 1] - ROOT[1]) < 0.018) & (skin.bust == 0) & (reach > 0.1),
        1: (np.abs(level - NECK[1]) < 0.016) & (skin.bust == 0) & ~skin.bag & (own[:, 2] < 0.0),
        2: (np.hypot(own[:, 1] - places[2, 1], own[:, 2] - places[2, 2]) < 0.02) & (np.abs(own[:, 0]) > 0.05),
    }
    out = np.zeros((5, len(points)))
    for joint in range(5):
        index = body.pieces["skin"][near[joint]] if joint < 3 else body.pieces[("left_eye", "right_eye")[joint - 3]]
        a = np.c_[np.ones(len(index)), points[index]].T
        target = np.r_[1, places[joint]]
        out[joint, index] = a.T @ np.linalg.solve(a @ a.T + 1e-12 * np.eye(4), target)
    return out
