"""Teeth, gums, tongue and the mouth's lining of the open head for a head that has none.

In come the arrays of a head asset without them and the open head laid over it; out go longer ones. Existing vertices,
faces and directions keep their order and values. The rim of the lining follows the nearest lip; deeper vertices follow
the lips less, and stay between the lips for every identity.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .register import Registration

TEETH = ("teeth_upper", "teeth_lower", "gums", "tongue")
_SEAM = ("lip_seam_upper", "lip_seam_lower")
_FOLLOW = 0.006  # metres behind the lips over which the lining ceases to follow them


def add_mouth(
    arrays: dict[str, np.ndarray], regions: dict[str, np.ndarray], laid: Registration
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays and region masks with the open head's mouth appended."""
    head = laid.head
    masks = {name: head.region_masks[head.region_names.index(name)].numpy() for name in head.region_names}
    inside = masks["mouth_interior"] | np.any([masks[n] for n in TEETH], 0)
    lining = inside | np.any([masks[n] for n in _SEAM], 0)
    faces = head.faces.numpy()
    faces = faces[lining[faces].all(1) & inside[faces].any(1)]
    own = np.unique(faces)
    points, weights = laid.vertices[own], head.lbs_weights.numpy()[own]

    # what of the head that is there moves with the lips, and where
    lips = np.flatnonzero(regions["lips"])
    away, near = cKDTree(arrays["v_template"][lips]).query(points)
    near = lips[near]
    rigid = np.any([masks[n][own] for n in TEETH], 0)
    follow = np.where(rigid, 0.0, np.clip(1 - (away - 0.001) / _FOLLOW, 0, 1))[:, None, None]
    count, extra = len(arrays["v_template"]), len(own)

    shape = arrays["shape_basis"]
    between = shape[lips].mean(0)[None]
    out = dict(arrays)
    out["v_template"] = np.concatenate([arrays["v_template"], points])
    out["faces"] = np.concatenate([arrays["faces"], np.searchsorted(own, faces) + count])
    out["uv"] = np.concatenate([arrays["uv"], head.uv.numpy()[own]])
    out["shape_basis"] = np.concatenate([shape, follow * shape[near] + (1 - follow) * between])
    for name in ("expression_basis", "eyelid_basis"):
        out[name] = np.concatenate([arrays[name], follow * arrays[name][near]])
    pose = arrays["pose_basis"].reshape(len(arrays["pose_rows"]), count, 3)
    pose = np.concatenate([pose, follow[None, :, :, 0] * pose[:, near]], 1)
    out["pose_basis"] = pose.reshape(len(pose), -1)
    out["joint_regressor"] = np.concatenate([arrays["joint_regressor"], np.zeros((5, extra))], 1)
    rim = follow[:, 0]
    weights = rim * arrays["lbs_weights"][near] + (1 - rim) * weights
    out["lbs_weights"] = np.concatenate([arrays["lbs_weights"], weights])
    # The lips' own seam is the other head's; what was appended of it belongs to the lining.
    mine = {n: masks[n][own] if n in TEETH else np.zeros(extra, bool) for n in regions}
    mine["mouth_interior"] = ~rigid
    return out, {name: np.concatenate([mask, mine[name]]) for name, mask in regions.items()}
