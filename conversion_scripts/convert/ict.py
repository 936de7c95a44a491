"""ICT-FaceKit -> a head asset with joints: in come its neutral face and blend shapes, out go FLAME's LBS numbers.

ICT-FaceKit opens its jaw and closes its eyelids by blend shapes and cannot rotate its eyes. A rigid hinge is fitted to
its lower teeth; each vertex's skinning weight is its share of that motion, and a corrective is the remainder, so that
at the angle of `jawOpen` the shape is exactly ICT's. Blinks become the eyelid directions, eyeballs rotate about their
centre, and a neck joint is added. All other expressions stay, under ICT's names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import sparse

from emotag_hf import ParametricHead

from .asset_file import metadata, write_asset
from .ict_source import PARTS, IctSource, read_ict
from .rigged import RiggedHead, complete

ORIGIN = np.array([0.0, 0.036306, 0.082128])  # metres in ICT's neutral face: between the eyes, as the open head's
_OUTER = ("face", "head")
_JOINED = {"jawOpen", "eyeBlink_L", "eyeBlink_R"}  # become the jaw joint and the eyelids
_NECK = np.array([0.0, -0.112, -0.083])
_ROOT = np.array([0.0, -0.190, -0.092])
_MOVED = 0.0005  # metres: what jawOpen moves by less hangs on the skull
_SINES = (9 + 7, 9 + 5)  # +sin and -sin of a turn of the jaw about x in its R - I


def convert_ict(path: str | Path, output: str | Path) -> ParametricHead:
    """Writes a head asset with ICT's 100 identities and its expressions but `jawOpen` and the blinks.

    Raises:
        FileNotFoundError, ConversionError: not there, or not ICT-FaceKit light.
    """
    rigged = rig_ict(read_ict(path))
    tensors, regions, _ = complete(rigged)
    half = ("shape_basis", "expression_basis", "eyelid_basis", "pose_basis")
    tensors = {k: v.half() if k in half else v for k, v in tensors.items()}  # the npz has no more digits either
    header = metadata(
        license="MIT",
        provenance="ICT-FaceKit light, Copyright (c) 2020 USC Institute for Creative Technologies (MIT License): its "
        "mesh, identities and expressions; joints, weights and jaw correctives derived from its jawOpen, regions and "
        "landmarks from the open head.",
        units="metres, y up, looking along +z, the person's left at +x, origin between the eyeballs; identity in "
        "standard deviations, expressions in [0, 1]",
        expression_names=rigged.expression_names,
        region_names=regions,
    )
    return write_asset(output, tensors, header)


def rig_ict(ict: IctSource) -> RiggedHead:
    """Joints, weights and correctives for ICT's parts."""
    triangles, part, kept = drawn_parts(ict)
    local = np.full(len(ict.neutral), -1)
    local[kept] = np.arange(len(kept))
    faces = local[triangles]
    points = ict.neutral[kept] - ORIGIN
    name_of = np.select([(kept >= s) & (kept < e) for s, e in PARTS.values()], range(len(PARTS)))
    in_part = {name: name_of == i for i, name in enumerate(PARTS)}

    opening = ict.expression["jawOpen"][kept]
    angle, hinge = _hinge(points, opening, in_part["teeth"])
    weights = _weights(points, opening, faces, in_part, angle, hinge)
    joints = np.stack([_ROOT, _NECK, hinge, *(_sphere(points[in_part[f"{s}_eye"]]) for s in ("left", "right"))])
    names = tuple(name for name in ict.expression if name not in _JOINED)
    return RiggedHead(
        v_template=points,
        faces=faces,
        skin_faces=np.isin(part, [list(PARTS).index(n) for n in _OUTER]),
        shape_basis=ict.identity[:, kept].transpose(1, 2, 0),
        expression_basis=np.stack([ict.expression[name][kept] for name in names], -1),
        expression_names=names,
        pose_basis=_correctives(points, opening, weights, angle, hinge),
        pose_rows=np.array(_SINES),
        joint_regressor=_regressor(points, joints, in_part),
        lbs_weights=weights,
        eyelid_basis=np.stack([ict.expression[f"eyeBlink_{side}"][kept] for side in "LR"], -1),
        regions=_regions(points, opening, in_part),
        has_mouth=True,
    )


def drawn_parts(ict: IctSource) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangles `[F, 3]` of `PARTS`, which part each is of, `[F]`, and the vertices `[n]` that they use."""
    inside = np.zeros(len(ict.neutral), bool)
    triangles, part = [], []
    for index, (start, end) in enumerate(PARTS.values()):
        inside[start:end] = True
        # a part's last ring is shared: a triangle belongs to the part of its highest vertex
        own = ict.triangles[(ict.triangles.max(1) >= start) & (ict.triangles.max(1) < end)]
        triangles.append(own)
        part.append(np.full(len(own), index))
    triangles, part = np.concatenate(triangles), np.concatenate(part)
    whole = inside[triangles].all(1)
    triangles, part = triangles[whole], part[whole]
    return triangles, part, np.unique(triangles)


def _hinge(points: np.ndarray, opening: np.ndarray, teeth: np.ndarray) -> tuple[float, np.ndarray]:
    """Angle in radians and hinge `[3]` of the rigid motion of the lower teeth."""
    rows = np.flatnonzero(teeth & (np.linalg.norm(opening, axis=1) > 10 * _MOVED))
    start, end = points[rows], points[rows] + opening[rows]
    u, _, vt = np.linalg.svd((start - start.mean(0)).T @ (end - end.mean(0)))
    turn = (u @ vt).T
    shift = end.mean(0) - turn @ start.mean(0)
    return float(np.arctan2(turn[2, 1], turn[1, 1])), np.r_[0.0, np.linalg.solve((np.eye(3) - turn)[1:, 1:], shift[1:])]


def _turn(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _weights(points, opening, faces, in_part, angle, hinge) -> np.ndarray:
    """Skinning weights `[n, 5]`."""
    rigid = (points - hinge) @ _turn(angle).T + hinge - points
    share = np.clip((opening * rigid).sum(1) / ((rigid**2).sum(1) + 0.004**2), 0, 1)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    links = sparse.coo_matrix((np.ones(len(edges)), edges.T), (len(points),) * 2).tocsr()
    links = ((links + links.T) > 0).astype(float)
    degree = np.maximum(np.asarray(links.sum(1)).ravel(), 1)
    for _ in range(4):  # blend shapes are not smooth in their share of a turn; seams of the mesh stay apart
        share = 0.5 * share + 0.5 * (links @ share) / degree
    hard = in_part["teeth"] | in_part["gums"]
    share[hard] = np.linalg.norm(opening[hard], axis=1) > _MOVED
    level = np.clip((points[:, 1] + 0.35 * (points[:, 2] + 0.075) + 0.178) / 0.08, 0, 1)
    head = np.where(hard, 1.0, level**2 * (3 - 2 * level))
    out = np.zeros((len(points), 5))
    out[:, 2] = share * head
    out[:, 1] = head - out[:, 2]
    out[:, 0] = 1 - head
    for joint, name in ((3, "left_eye"), (4, "right_eye")):
        out[in_part[name]] = np.eye(5)[joint]
    return out


def _correctives(points, opening, weights, angle, hinge) -> np.ndarray:
    """Pose basis `[2, n*3]`: at the angle of jawOpen the head is ICT's."""
    turn = _turn(angle)
    blend = np.eye(3) + weights[:, 2, None, None] * (turn - np.eye(3))
    left = opening - weights[:, 2:3] * ((points - hinge) @ (turn - np.eye(3)).T)
    left[weights[:, 3:].max(1) > 0.5] = 0.0
    # correctives act before skinning, so they are turned back
    row = np.linalg.solve(blend, left[..., None])[..., 0].reshape(-1) / (2 * np.sin(angle))
    return np.stack([row, -row])


def _sphere(points: np.ndarray) -> np.ndarray:
    """Centre `[3]` of the sphere through points, least squares."""
    terms = np.c_[2 * points, np.ones(len(points))]
    return np.linalg.lstsq(terms, (points**2).sum(1), rcond=None)[0][:3]


def _regressor(points: np.ndarray, joints: np.ndarray, in_part: dict[str, np.ndarray]) -> np.ndarray:
    """`[5, n]`: the smallest weights near each joint that sum to one and reproduce its place."""
    skin = np.flatnonzero(in_part["face"] | in_part["head"])
    out = np.zeros((5, len(points)))
    for joint, goal in enumerate(joints):
        if joint < 3:
            flat = goal * [0, 1, 1] if joint == 2 else goal  # the jaw's hinge runs through the head
            axes = [1, 2] if joint == 2 else [1]
            near = skin[np.argsort(np.linalg.norm((points[skin] - flat)[:, axes], axis=1))[:150]]
        else:
            near = np.flatnonzero(in_part[("left_eye", "right_eye")[joint - 3]])
        a = np.c_[np.ones(len(near)), points[near]].T
        out[joint, near] = a.T @ np.linalg.solve(a @ a.T + 1e-12 * np.eye(4), np.r_[1, goal])
    return out


def _regions(points: np.ndarray, opening: np.ndarray, in_part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    lower = np.linalg.norm(opening, axis=1) > _MOVED
    return {
        "teeth_upper": in_part["teeth"] & ~lower,
        "teeth_lower": in_part["teeth"] & lower,
        "gums": in_part["gums"],
        "mouth_interior": in_part["mouth"],
    }
