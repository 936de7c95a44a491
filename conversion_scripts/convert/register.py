"""Registers the open head to another head: that head's skin at rest and with an open jaw in, the open head in its shape
out, which gives landmarks, eyelids and regions.

Points are matched to the nearest point of the skin with a similar normal, with the jaw open and closed, because with
closed lips the nearest point of the upper lip may be on the lower one. First the open head's identity and a similarity
transform are fitted, then the residual moves the vertices, smoothed over the mesh (METHOD 2). Metres, y up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from emotag_hf import ParametricHead

_STEPS = 12  # of the fit by identity
_SMOOTH = (30, 20, 12, 8, 5)  # averaging steps of what is left, from coarse to fine
_PRIOR = 0.0015  # metres of misfit that one standard deviation of identity is worth
_FITTED = ("face", "lips", "nose", "lids", "brows", "ears")
_LEFT_OUT = ("mouth_interior", "inner_lids", "lashes", "left_eye", "right_eye")
_MOUTH = ("mouth_interior", "teeth_upper", "teeth_lower", "gums", "tongue")


@dataclass
class Skin:
    """The skin of the head to be matched: `rest`, `opened` `[V, 3]` metres (`opened` may be None), `faces [F, 3]` of
    the skin alone, `eyes [2, 3]` centres of the left and right eyeball, `jaw_angle` (rad) of `opened`."""

    rest: np.ndarray
    opened: np.ndarray | None
    faces: np.ndarray
    eyes: np.ndarray
    jaw_angle: float


@dataclass
class Registration:
    """The open head in the other head's place.

    Attributes:
        vertices: `[n, 3]` all its vertices, at rest.
        skin: `[m]` those that lie on the outer skin.
        turn: `[3, 3]` its rotation times scale: what an offset of the open head becomes there.
        landmark_faces, landmark_bary: `[468]`, `[468, 3]`: MediaPipe's points on the other head's `faces`.
        misfit: mean distance in metres of the fitted skin from the other one.
    """

    head: ParametricHead
    vertices: np.ndarray
    skin: np.ndarray
    turn: np.ndarray
    landmark_faces: np.ndarray
    landmark_bary: np.ndarray
    misfit: float

    def nearest(self, points: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        """The open head's vertex (of the skin, or of `among`) nearest to each of `points [k, 3]`."""
        among = self.skin if among is None else among
        return among[cKDTree(self.vertices[among]).query(points)[1]]

    def smooth_lookup(self, points: np.ndarray, values: np.ndarray) -> np.ndarray:
        """`values [n, ...]` of the open head's vertices at `points [k, 3]`: of the skin's four nearest, by distance."""
        away, near = cKDTree(self.vertices[self.skin]).query(points, k=4)
        weight = 1 / np.maximum(away, 1e-5)
        weight /= weight.sum(1, keepdims=True)
        return np.einsum("kn,kn...->k...", weight, values[self.skin[near]])


def register(target: Skin) -> Registration:
    """Fits the open head to `target`."""
    head = ParametricHead.from_asset(None)
    used = _used(head)
    poses = [(target.rest, 0.0)] + ([] if target.opened is None else [(target.opened, target.jaw_angle)])
    surfaces = [_Surface(vertices, target.faces) for vertices, _ in poses]
    scale, turn, shift = _by_eyes(head, target.eyes)
    shape = np.zeros(head.num_shape)
    basis = head.shape_basis.numpy().astype(np.float64)
    for step in range(_STEPS):
        # similarity: about the present place; identity: linear; points slide along the skin (point to plane)
        rows, misses = [], []
        for surface, (_, angle) in zip(surfaces, poses, strict=True):
            local = _posed(head, shape, angle)
            points = scale * local @ turn.T + shift
            found = surface.match(points[used], _normals(points, head.faces.numpy())[used], 0.03 if step < 4 else 0.012)
            place, normal, keep = found
            index = used[keep]
            arm = points[index] - shift
            jacobian = np.concatenate(
                [
                    np.cross(arm, normal[keep]),
                    normal[keep],
                    (arm * normal[keep]).sum(1, keepdims=True),
                    np.einsum("kcs,kc->ks", np.einsum("dc,kcs->kds", scale * turn, basis[index]), normal[keep]),
                ],
                1,
            )
            rows.append(jacobian)
            misses.append(((place[keep] - points[index]) * normal[keep]).sum(1))
        a, b = np.concatenate(rows), np.concatenate(misses)
        robust = 1 / np.maximum(1, np.abs(b) / (2 * np.median(np.abs(b)) + 1e-9))
        damping = np.zeros(a.shape[1])
        damping[7:] = len(b) / 1000 * _PRIOR**2 / (0.25 if step > 4 else 0.05)
        lhs = (a * robust[:, None]).T @ a + np.diag(damping + 1e-9)
        rhs = (a * robust[:, None]).T @ b
        rhs[7:] -= damping[7:] * shape
        delta = np.linalg.solve(lhs, rhs)
        turn = Rotation.from_rotvec(delta[:3]).as_matrix() @ turn
        shift, scale = shift + delta[3:6], scale * (1 + delta[6])
        shape = np.clip(shape + delta[7:], -3, 3)
    return _refine(head, target, surfaces, poses, used, (scale, turn, shift), shape)


def _refine(head, target, surfaces, poses, used, similarity, shape) -> Registration:
    """Moves the vertices by what the fit left over, the less smoothly the closer they are."""
    scale, turn, shift = similarity
    faces = head.faces.numpy()
    average = _averager(faces, len(head.v_template))
    extra = np.zeros((len(head.v_template), 3))  # metres, in the other head's axes, before skinning
    weights = head.lbs_weights.numpy()
    for steps in _SMOOTH:
        moved, seen = np.zeros_like(extra), np.zeros(len(extra))
        for surface, (_, angle) in zip(surfaces, poses, strict=True):
            posed = scale * _posed(head, shape, angle) @ turn.T + shift
            blend = np.eye(3) + weights[:, 2, None, None] * (_turn_x(angle) - np.eye(3))
            blend = turn @ blend @ turn.T
            points = posed + np.einsum("nij,nj->ni", blend, extra)
            place, _, keep = surface.match(points[used], _normals(points, faces)[used], 0.008)
            index = used[keep]
            moved[index] += np.linalg.solve(blend[index], (place[keep] - points[index])[..., None])[..., 0]
            seen[index] += 1
        for _ in range(steps):
            moved, seen = average @ moved, average @ seen
        extra += moved / np.maximum(seen, 0.3)[:, None]
    rest = scale * _posed(head, shape, 0.0) @ turn.T + shift + extra
    poser = (lambda angle: rest) if len(poses) == 1 else _poser(head, shape, similarity, extra)
    faces_of, bary = _embed(head, surfaces[-1], poser(poses[-1][1]))
    misfit = np.abs(surfaces[0].match(rest[used], _normals(rest, faces)[used], 0.02)[0] - rest[used])
    return Registration(head, rest, used, scale * turn, faces_of, bary, float(np.linalg.norm(misfit, axis=1).mean()))


def _poser(head, shape, similarity, extra):
    scale, turn, shift = similarity
    weights = head.lbs_weights.numpy()

    def at(angle: float) -> np.ndarray:
        blend = turn @ (np.eye(3) + weights[:, 2, None, None] * (_turn_x(angle) - np.eye(3))) @ turn.T
        return scale * _posed(head, shape, angle) @ turn.T + shift + np.einsum("nij,nj->ni", blend, extra)

    return at


def _embed(head: ParametricHead, surface: _Surface, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the open head's landmarks on the other skin: faces `[468]` and weights `[468, 3]`."""
    corners = head.faces[head.landmark_faces].numpy()
    bary = head.landmark_bary.numpy().astype(np.float64)
    points = (vertices[corners] * bary[..., None]).sum(1)
    normals = (_normals(vertices, head.faces.numpy())[corners] * bary[..., None]).sum(1)
    return surface.nearest_face(points, normals)


def _used(head: ParametricHead) -> np.ndarray:
    chosen = torch.zeros(len(head.v_template), dtype=torch.bool)
    for name in _FITTED:
        chosen[head.region(name)] = True
    for name in _LEFT_OUT:
        chosen[head.region(name)] = False
    return chosen.nonzero()[:, 0].numpy()


def _by_eyes(head: ParametricHead, eyes: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    own = (head.joint_regressor @ head.v_template)[3:].numpy().astype(np.float64)
    scale = np.linalg.norm(eyes[0] - eyes[1]) / np.linalg.norm(own[0] - own[1])
    return float(scale), np.eye(3), eyes.mean(0) - scale * own.mean(0)


def _posed(head: ParametricHead, shape: np.ndarray, angle: float) -> np.ndarray:
    jaw = torch.tensor([[angle, 0.0, 0.0]])
    with torch.no_grad():
        out = head(shape=torch.from_numpy(shape[None]).float(), jaw_pose=jaw).vertices[0]
    return out.numpy().astype(np.float64)


def _turn_x(angle: float) -> np.ndarray:
    return Rotation.from_rotvec([angle, 0, 0]).as_matrix()


def _normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = points[faces[:, 0]], points[faces[:, 1]], points[faces[:, 2]]
    own = np.cross(b - a, c - a)
    out = np.zeros_like(points)
    for corner in range(3):
        np.add.at(out, faces[:, corner], own)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-20)


def _averager(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """Half the vertex, half its neighbours `[n, n]`."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    a = sparse.coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (count, count)).tocsr()
    a = ((a + a.T) > 0).astype(float)
    degree = np.maximum(np.asarray(a.sum(1)).ravel(), 1)
    return 0.5 * sparse.eye(count).tocsr() + 0.5 * sparse.diags(1 / degree) @ a


class _Surface:
    """Nearest places on a mesh whose normal agrees."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        self.vertices, self.faces = np.asarray(vertices, np.float64), faces
        corners = self.vertices[faces]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self.normals = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-20)
        self.tree = cKDTree(corners.mean(1))

    def match(self, points: np.ndarray, normals: np.ndarray, reach: float) -> tuple[np.ndarray, ...]:
        """Places `[k, 3]`, their normals `[k, 3]`, and which are within `reach` metres and look the same way."""
        face, bary = self.nearest_face(points, normals)
        place = (self.vertices[self.faces[face]] * bary[..., None]).sum(1)
        agree = (self.normals[face] * normals).sum(1) > 0.5
        return place, self.normals[face], agree & (np.linalg.norm(place - points, axis=1) < reach)

    def nearest_face(self, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Face `[k]` and weights `[k, 3]`; a face that looks away counts as a centimetre farther."""
        near = self.tree.query(points, k=min(16, len(self.faces)))[1]
        bary = closest_bary(self.vertices[self.faces[near]], points[:, None])
        place = (self.vertices[self.faces[near]] * bary[..., None]).sum(2)
        away = np.linalg.norm(place - points[:, None], axis=2)
        away += 0.01 * ((self.normals[near] * normals[:, None]).sum(2) < 0.3)
        best = away.argmin(1)
        rows = np.arange(len(points))
        return near[rows, best], bary[rows, best]


def closest_bary(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Weights `[..., 3]` of the place of triangles `[..., 3, 3]` that is nearest to `points [..., 3]`."""
    a = corners[..., 0, :]
    ab, ac, ap = corners[..., 1, :] - a, corners[..., 2, :] - a, points - a
    aa, bb, cc = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d, e = (ab * ap).sum(-1), (ac * ap).sum(-1)
    det = np.maximum(aa * cc - bb * bb, 1e-24)
    v, w = (cc * d - bb * e) / det, (aa * e - bb * d) / det
    inside = (v >= 0) & (w >= 0) & (v + w <= 1)
    best = np.stack([1 - v - w, v, w], -1)
    least = np.where(inside, -1.0, np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        edge = corners[..., j, :] - corners[..., i, :]
        from_i = points - corners[..., i, :]
        t = np.clip((from_i * edge).sum(-1) / np.maximum((edge * edge).sum(-1), 1e-24), 0, 1)
        far = ((from_i - t[..., None] * edge) ** 2).sum(-1)
        better = far < least
        least = np.where(better, far, least)
        option = np.zeros_like(best)
        option[..., i], option[..., j] = 1 - t, t
        best = np.where(better[..., None], option, best)
    return best
