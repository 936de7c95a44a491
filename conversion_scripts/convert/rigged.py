"""From a rigged mesh to a complete head asset: template, bases and joints of another model in, the tensors of a head
asset out; what the other model lacks is taken from the registered open head.

Added here: MediaPipe's landmarks, closing eyelids, regions, texture coordinates and, if there is none, a mouth
(`mouth_parts.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from emotag_hf import ParametricHead
from emotag_hf.models.modeling_head import NUM_LANDMARKS, HeadAsset

from . import mouth_parts
from .asset_file import as_tensors, metadata
from .errors import ConversionError
from .register import Registration, Skin, register

JAW_ANGLE = 0.3  # rad, opening of the jaw that separates the lips
_LIDS_REACH = 0.006  # metres from the open head's skin; beyond it nothing closes
_EYE_REGIONS = ("pupil", "iris", "sclera")
_WORST_MISFIT = 0.004  # metres in the mean; a head is laid on within a tenth of this


@dataclass
class RiggedHead:
    """A mesh that FLAME's formulation can pose, in metres, y up, looking along +z, the person's left at +x.

    Args:
        v_template: `[V, 3]`. faces: `[F, 3]`. skin_faces: `[F]` bool, which belong to the outer skin.
        shape_basis: `[V, 3, S]`. expression_basis: `[V, 3, K]`, with `expression_names`.
        pose_basis: `[P, V*3]` of the rows `pose_rows` of R - I. joint_regressor: `[5, V]`. lbs_weights: `[V, 5]`.
        eyelid_basis: `[V, 3, 2]`, or None to take the open head's.
        regions: masks `[V]` that the model itself knows; the others are looked up.
        has_mouth: whether teeth and mouth are there already.
    """

    v_template: np.ndarray
    faces: np.ndarray
    skin_faces: np.ndarray
    shape_basis: np.ndarray
    expression_basis: np.ndarray
    expression_names: tuple[str, ...]
    pose_basis: np.ndarray
    pose_rows: np.ndarray
    joint_regressor: np.ndarray
    lbs_weights: np.ndarray
    eyelid_basis: np.ndarray | None = None
    regions: dict[str, np.ndarray] = field(default_factory=dict)
    has_mouth: bool = False

    def opened(self, angle: float) -> np.ndarray:
        """`[V, 3]` with the jaw turned open."""
        header = metadata(license="", provenance="", units="", expression_names=self.expression_names, region_names=())
        with torch.no_grad():
            head = ParametricHead(HeadAsset(as_tensors(self._bare()), header, ""))
            return head(jaw_pose=torch.tensor([[angle, 0.0, 0.0]])).vertices[0].double().numpy()

    def _bare(self) -> dict[str, np.ndarray]:
        count = len(self.v_template)
        return {
            "v_template": self.v_template,
            "faces": self.faces,
            "uv": np.zeros((count, 2)),
            "shape_basis": self.shape_basis,
            "expression_basis": self.expression_basis,
            "eyelid_basis": np.zeros((count, 3, 2)) if self.eyelid_basis is None else self.eyelid_basis,
            # Eyelids of other models close by one offset, because they have no matched rims.
            "lid_vertices": np.zeros((2, 0), int),
            "lid_rims": np.zeros((2, 2, 0), int),
            "lid_spread": np.zeros((2, 0, 0)),
            "pose_basis": self.pose_basis,
            "pose_rows": self.pose_rows,
            "joint_regressor": self.joint_regressor,
            "lbs_weights": self.lbs_weights,
            "landmark_faces": np.zeros(NUM_LANDMARKS, int),
            "landmark_bary": np.full((NUM_LANDMARKS, 3), 1 / 3),
            "region_masks": np.zeros((0, count)),
        }


def complete(rigged: RiggedHead) -> tuple[dict[str, torch.Tensor], tuple[str, ...], Registration]:
    """Tensors of the head asset, names of its regions, and how the open head was laid over it.

    Raises:
        ConversionError: the open head does not fit: other units, axes or not a head.
    """
    joints = rigged.joint_regressor @ rigged.v_template
    skin = rigged.faces[rigged.skin_faces]
    target = Skin(rigged.v_template, rigged.opened(JAW_ANGLE), skin, joints[3:], JAW_ANGLE)
    if not 0.04 < np.linalg.norm(joints[3] - joints[4]) < 0.09 or joints[3, 0] < joints[4, 0]:
        raise ConversionError(
            f"head: expected metres, y up, the left eye at +x, got eyes at {joints[3].round(3)} and "
            f"{joints[4].round(3)}; nothing was written."
        )
    laid = register(target)
    if not laid.misfit < _WORST_MISFIT:
        raise ConversionError(
            f"head: the open head could not be laid over it ({laid.misfit * 1000:.1f} mm off in the mean), so its "
            "landmarks would be wrong; nothing was written."
        )
    arrays = rigged._bare()
    arrays["landmark_faces"] = np.flatnonzero(rigged.skin_faces)[laid.landmark_faces]
    arrays["landmark_bary"] = laid.landmark_bary
    near = laid.nearest(rigged.v_template, _outer(laid.head))
    arrays["uv"] = laid.head.uv.numpy()[near]
    eye = rigged.lbs_weights[:, 3:].max(1) > 0.5
    if rigged.eyelid_basis is None:
        arrays["eyelid_basis"] = _lids(rigged, laid, near, eye)
    regions = _regions(rigged, laid, near, eye, joints)
    if not rigged.has_mouth:
        arrays, regions = mouth_parts.add_mouth(arrays, regions, laid)
    arrays["region_masks"] = np.stack(list(regions.values()))
    return as_tensors(arrays), tuple(regions), laid


def _outer(head: ParametricHead) -> np.ndarray:
    """The open head's vertices of skin, as others have it."""
    inner = torch.zeros(len(head.v_template), dtype=torch.bool)
    for name in ("mouth_interior", "inner_lids", "lashes", "left_eye", "right_eye", *mouth_parts.TEETH):
        inner[head.region(name)] = True
    return (~inner).nonzero()[:, 0].numpy()


def _lids(rigged: RiggedHead, laid: Registration, near: np.ndarray, eye: np.ndarray) -> np.ndarray:
    move = laid.smooth_lookup(rigged.v_template, laid.head.eyelid_basis.numpy().astype(np.float64))
    away = np.linalg.norm(laid.vertices[near] - rigged.v_template, axis=1)
    fade = np.clip(2 - away / _LIDS_REACH, 0, 1) * ~eye
    used = np.zeros(len(fade), bool)
    used[np.unique(rigged.faces[rigged.skin_faces])] = True
    return np.einsum("ij,vjs->vis", laid.turn, move) * (fade * used)[:, None, None]


def _regions(
    rigged: RiggedHead, laid: Registration, near: np.ndarray, eye: np.ndarray, joints: np.ndarray
) -> dict[str, np.ndarray]:
    head, count = laid.head, len(rigged.v_template)
    skin = np.zeros(count, bool)
    skin[np.unique(rigged.faces[rigged.skin_faces])] = True
    skin &= ~eye
    out = {}
    for name in head.region_names:
        mask = head.region_masks[head.region_names.index(name)].numpy()
        if name in rigged.regions:
            out[name] = rigged.regions[name]
        elif name in ("left_eye", "right_eye"):
            out[name] = rigged.lbs_weights[:, 3 if name == "left_eye" else 4] > 0.5
        elif name in _EYE_REGIONS:
            out[name] = _on_eyes(rigged, head, name, joints)
        elif name in mouth_parts.TEETH:
            out[name] = np.zeros(count, bool)
        else:
            out[name] = mask[near] & skin
    return out


def _on_eyes(rigged: RiggedHead, head: ParametricHead, name: str, joints: np.ndarray) -> np.ndarray:
    """Vertices of the eyeballs as far from the line of sight as the open head's region is."""
    own = (head.joint_regressor @ head.v_template).numpy()
    limits = []
    for other in (name, *_EYE_REGIONS):
        ray = head.v_template[head.region(other)].numpy()
        ray = ray - np.where(ray[:, :1] > 0, own[3], own[4])
        limits.append(np.degrees(np.arccos(np.clip(ray[:, 2] / np.linalg.norm(ray, axis=1), -1, 1))))
    low, high = limits[0].min(), limits[0].max()
    out = np.zeros(len(rigged.v_template), bool)
    for joint in (3, 4):
        index = np.flatnonzero(rigged.lbs_weights[:, joint] > 0.5)
        ray = rigged.v_template[index] - joints[joint]
        angle = np.degrees(np.arccos(np.clip(ray[:, 2] / np.maximum(np.linalg.norm(ray, axis=1), 1e-9), -1, 1)))
        out[index] = (angle >= low - 0.5) & (angle <= high + 0.5)
    return out
