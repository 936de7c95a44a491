"""The parametric head: motion parameters in, posed vertices out (METHOD 2; FLAME, Li et al. 2017, equations 1 to 5).

v = LBS(template + shape_basis·beta + expression_basis·psi + eyelid_basis·e + pose_basis·(R(theta) - I)), with joints
regressed from the shaped template and the tree root -> neck -> {jaw, left eye, right eye}. The numbers come from a head
asset, one safetensors file; the embedded one is the project's own open head. Metres, radians, y up, looking along +z.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..constants import EXPRESSION_NAMES, JOINTS, OPEN_HEAD
from ..utils.asset_paths import ASSETS
from ..utils.precision import Float32Module
from ..utils.rotations import rotation_matrix
from ..utils.typing import PathLike

PARENTS = (-1, 0, 1, 1, 1)  # root, neck, jaw, left eye, right eye
POSE_FEATURES = 9 * (len(JOINTS) - 1)
NUM_LANDMARKS = 468
ASSET_PATH = ASSETS / OPEN_HEAD

_TENSORS = {
    "v_template": ("V", 3),
    "faces": ("F", 3),
    "uv": ("V", 2),
    "shape_basis": ("V", 3, "S"),
    "expression_basis": ("V", 3, "K"),
    "eyelid_basis": ("V", 3, 2),
    "lid_vertices": (2, "N"),
    "lid_rims": (2, 2, "L"),
    "lid_spread": (2, "N", "L"),
    "pose_basis": ("P", "V*3"),
    "pose_rows": ("P",),
    "joint_regressor": (len(JOINTS), "V"),
    "lbs_weights": ("V", len(JOINTS)),
    "landmark_faces": (NUM_LANDMARKS,),
    "landmark_bary": (NUM_LANDMARKS, 3),
    "region_masks": ("G", "V"),
}
_INTEGERS = ("faces", "landmark_faces", "pose_rows", "region_masks", "lid_vertices", "lid_rims")
_METADATA = ("format", "version", "license", "provenance", "units", "expression_names", "region_names")
FORMAT = "emotag-head"


class HeadOutput(NamedTuple):
    """Posed head: `vertices` [B,V,3] and `joints` [B,5,3], metres, world."""

    vertices: Tensor
    joints: Tensor


@dataclass(frozen=True)
class HeadAsset:
    """A head asset in memory: the tensors of `_TENSORS` (float32 or int64) and the file's metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str

    @property
    def region_names(self) -> tuple[str, ...]:
        return tuple(json.loads(self.metadata["region_names"]))

    @property
    def expression_names(self) -> tuple[str, ...]:
        return tuple(json.loads(self.metadata["expression_names"]))

    @classmethod
    def load(cls, path: str | Path | None = None) -> HeadAsset:
        """Reads and checks a head asset; `None` is the embedded open head.

        Raises:
            ValueError: `path` is not a safetensors file, or its keys, shapes, indices or metadata are not those of a
                head asset.
        """
        path = ASSET_PATH if path is None else Path(path)
        try:
            with safe_open(str(path), framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                metadata = file.metadata() or {}
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"path: expected a head asset in safetensors format, got {path} ({error})") from error
        _check_keys(path, tensors, metadata)
        _check_shapes(path, tensors, metadata)
        tensors = {k: v.to(torch.int64 if k in _INTEGERS else torch.float32) for k, v in tensors.items()}
        _check_values(path, tensors)
        return cls(tensors, metadata, sha256)


def _check_keys(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    missing, unexpected = sorted(_TENSORS.keys() - tensors.keys()), sorted(tensors.keys() - _TENSORS.keys())
    if missing or unexpected:
        raise ValueError(f"path: {path} is not a head asset: missing keys {missing}, unexpected keys {unexpected}")
    absent = [key for key in _METADATA if key not in metadata]
    if absent or metadata["format"] != FORMAT:
        raise ValueError(
            f"path: {path} is not a head asset: expected metadata format={FORMAT!r} with {list(_METADATA)}, "
            f"got format={metadata.get('format')!r} without {absent}"
        )
    names = json.loads(metadata["expression_names"])
    if not isinstance(names, list) or len(set(map(str, names))) != len(names):
        raise ValueError(f"path: {path}: expected expression_names as a list of different names, got others")
    if names != list(EXPRESSION_NAMES) and sorted(map(str, names)) == sorted(EXPRESSION_NAMES):
        raise ValueError(f"path: {path} has the expression directions of constants.EXPRESSION_NAMES in another order")


def _check_shapes(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    sizes = {"G": len(json.loads(metadata["region_names"])), "K": len(json.loads(metadata["expression_names"]))}
    for key, wanted in _TENSORS.items():
        shape = tuple(tensors[key].shape)
        expected = tuple(_size(w, sizes, n) for w, n in zip(wanted, shape, strict=False))
        if len(shape) != len(wanted) or shape != expected:
            raise ValueError(f"path: {path}: expected {key} of shape {list(wanted)} with {sizes}, got {list(shape)}")


def _size(wanted: int | str, sizes: dict[str, int], got: int) -> int:
    if wanted == "V*3":
        return sizes["V"] * 3
    return sizes.setdefault(wanted, got) if isinstance(wanted, str) else wanted


def _check_values(path: Path, tensors: dict[str, Tensor]) -> None:
    count = len(tensors["v_template"])
    limits = {"faces": count, "lid_vertices": count, "lid_rims": count}
    limits |= {"landmark_faces": len(tensors["faces"]), "pose_rows": POSE_FEATURES}
    for key, limit in limits.items():
        if tensors[key].numel() and not (0 <= int(tensors[key].min()) and int(tensors[key].max()) < limit):
            raise ValueError(f"path: {path}: expected {key} in 0..{limit - 1}, got indices outside")
    for key, value in tensors.items():
        if not bool(torch.isfinite(value.float()).all()):
            raise ValueError(f"path: {path}: expected finite numbers in {key}, got NaN or infinity")


class ParametricHead(Float32Module):
    """FLAME's formulation with the data of a head asset; batched and differentiable.

    All data are non-persistent buffers, because a head is never stored in a checkpoint. After building on the meta
    device (as `from_pretrained` does), `refill_()` fills them from the asset again.
    """

    v_template: Tensor  # [V,3] metres
    faces: Tensor  # [F,3] int64, counter-clockwise seen from outside
    uv: Tensor  # [V,2]
    shape_basis: Tensor  # [V,3,S] metres per standard deviation
    expression_basis: Tensor  # [V,3,K] metres at coefficient 1; K is 50, except in heads that were not retargeted
    eyelid_basis: Tensor  # [V,3,2] metres from open to closed, left and right
    lid_vertices: Tensor  # [2,N] int64, vertices of the left and right eyelids
    lid_rims: Tensor  # [2,2,L] int64, matched rows of the upper and lower rim of each side
    lid_spread: Tensor  # [2,N,L] how the eyelids compensate a change of the opening
    pose_basis: Tensor  # [36,V*3] metres per entry of R - I of neck, jaw and eyes
    joint_regressor: Tensor  # [5,V]
    lbs_weights: Tensor  # [V,5]
    landmark_faces: Tensor  # [468] int64
    landmark_bary: Tensor  # [468,3]
    region_masks: Tensor  # [G,V] bool

    def __init__(self, asset: HeadAsset | str | Path | None = None) -> None:
        super().__init__()
        self.load_asset_(asset)

    @classmethod
    def from_asset(cls, path: PathLike | None = None) -> ParametricHead:
        """Loads a head from a safetensors asset; `None` is the embedded open head. Raises ValueError as
        `HeadAsset.load`."""
        return cls(HeadAsset.load(path))  # type: ignore[arg-type]

    def load_asset_(self, asset: HeadAsset | str | Path | None = None) -> ParametricHead:
        """(Re)fills every buffer from an asset, a path or (None) the embedded open head; returns self."""
        self._asset = asset if isinstance(asset, HeadAsset) else HeadAsset.load(asset)
        return self.refill_()

    def refill_(self, device: torch.device | str | None = None) -> ParametricHead:
        """Fills every buffer again from the asset, on `device` or where the buffers are (CPU instead of meta)."""
        device = device or getattr(self, "v_template", torch.empty(0)).device
        device = torch.device("cpu") if torch.device(device).type == "meta" else device
        for name, value in _buffers(self._asset.tensors).items():
            self.register_buffer(name, value.to(device), persistent=False)
        return self

    @property
    def sha256(self) -> str:
        """SHA-256 of the asset file."""
        return self._asset.sha256

    @property
    def license(self) -> str:
        return self._asset.metadata["license"]

    @property
    def metadata(self) -> dict[str, str]:
        """Licence, provenance, version, units and names from the asset's header."""
        return dict(self._asset.metadata)

    @property
    def region_names(self) -> tuple[str, ...]:
        return self._asset.region_names

    @property
    def expression_names(self) -> tuple[str, ...]:
        """Names of its expression directions: `EXPRESSION_NAMES`, or others if the head was not retargeted (see
        `retarget`)."""
        return self._asset.expression_names

    @property
    def num_shape(self) -> int:
        return self.shape_basis.shape[-1]

    @property
    def num_expression(self) -> int:
        return self.expression_basis.shape[-1]

    def check_expression_names(self) -> ParametricHead:
        """Returns self. Raises ValueError unless its expression directions are `EXPRESSION_NAMES`, which tracking and
        the motion network use; other heads need `retarget` first."""
        if self.expression_names != EXPRESSION_NAMES:
            raise ValueError(
                f"head: expected the {len(EXPRESSION_NAMES)} expression directions of EXPRESSION_NAMES, got "
                f"{self.num_expression} others ({self.expression_names[0]}, ...); make a driven head of it with "
                "conversion_scripts/convert retarget."
            )
        return self

    def region(self, name: str) -> Tensor:
        """Vertex indices [n] of a named region. Raises ValueError for an unknown name."""
        return self.region_masks[self._region_index(name)].nonzero()[:, 0]

    def region_faces(self, name: str) -> Tensor:
        """Indices [n] of the faces whose three corners are in a named region. Raises ValueError as `region`."""
        return self.region_masks[self._region_index(name)][self.faces].all(1).nonzero()[:, 0]

    def face_mask(self, *names: str) -> Tensor:
        """`[F]` bool: faces whose three corners are in one of the named regions; names that this head lacks are
        ignored."""
        mask = torch.zeros(len(self.faces), dtype=torch.bool, device=self.faces.device)
        for name in names:
            if name in self.region_names:
                mask[self.region_faces(name)] = True
        return mask

    def _region_index(self, name: str) -> int:
        if name not in self.region_names:
            raise ValueError(f"name: expected one of {', '.join(self.region_names)}, got {name!r}")
        return self.region_names.index(name)

    def landmarks(self, vertices: Tensor) -> Tensor:
        """MediaPipe's 468 landmarks [B,468,3] on vertices [B,V,3] (connectivity of its canonical face)."""
        corners = vertices[:, self.faces[self.landmark_faces]]
        return (corners * self.landmark_bary[..., None]).sum(2)

    def forward(
        self,
        shape: Tensor | None = None,
        expression: Tensor | None = None,
        jaw_pose: Tensor | None = None,
        eyelids: Tensor | None = None,
        eyes_pose: Tensor | None = None,
        neck_pose: Tensor | None = None,
        rotation: Tensor | None = None,
        translation: Tensor | None = None,
        body_translation: Tensor | None = None,
    ) -> HeadOutput:
        """Poses the head (FLAME equations 2 to 5).

        Args, each None (zeros) or a batch of B or 1 rows:
            shape: [B,S] identity coefficients in standard deviations.
            expression: [B,K] coefficients of `expression_names`; constants.EXPRESSION_NAMES for the open head.
            jaw_pose, neck_pose, rotation: [B,3] axis-angle of the joint in radians; jaw +x opens, rotation is the root.
            eyelids: [B,2] closure of the left and right eyelids, 0 open to 1 closed.
            eyes_pose: [B,6] axis-angle of the left, then the right eye in radians.
            translation: [B,3] metres, added last.
            body_translation: [B,3] metres, added to vertices that move with the root joint, fading out over the neck.

        Returns:
            HeadOutput with vertices [B,V,3] and joints [B,5,3].

        Raises:
            ValueError: an argument has another last dimension or a batch size that does not fit the others.
        """
        given = {
            "shape": (shape, self.num_shape), "expression": (expression, self.num_expression),
            "jaw_pose": (jaw_pose, 3), "eyelids": (eyelids, 2), "eyes_pose": (eyes_pose, 6),
            "neck_pose": (neck_pose, 3), "rotation": (rotation, 3), "translation": (translation, 3),
            "body_translation": (body_translation, 3),
        }  # fmt: skip
        batch = _batch_size(given)
        dtype = next((t.dtype for t, _ in given.values() if t is not None), self.v_template.dtype)
        pose = [
            self.v_template.new_zeros(1, 3, dtype=dtype) if p is None else p
            for p in (rotation, neck_pose, jaw_pose, *(eyes_pose.split(3, 1) if eyes_pose is not None else (None,) * 2))
        ]
        rotations = rotation_matrix(torch.stack([p.expand(batch, 3) for p in pose], 1))  # [B,5,3,3]
        rest, joints = self._rest(shape, expression, dtype)
        planes = rest + self._offsets(expression, eyelids, rotations, dtype)
        if eyelids is not None:
            planes = self._shut(planes, eyelids.expand(batch, 2))
        transforms, posed_joints = _kinematics(rotations, joints.expand(batch, -1, -1))
        vertices = _skin(planes, transforms, self.lbs_weights.to(dtype)).transpose(1, 2).contiguous()
        if body_translation is not None:
            vertices = vertices + self.lbs_weights[:, :1].to(dtype) * body_translation[:, None]
        if translation is not None:
            vertices, posed_joints = vertices + translation[:, None], posed_joints + translation[:, None]
        return HeadOutput(vertices, posed_joints)

    def _rest(self, shape: Tensor | None, expression: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Template of the identity as planes [B or 1,3,V]; joints [B or 1,5,3] of identity and expression."""
        rest = self.v_template.to(dtype)[None]
        if shape is not None:
            rest = rest + (shape @ self.shape_basis.to(dtype).flatten(0, 1).T).unflatten(1, (-1, 3))
        joints = self.joint_regressor.to(dtype) @ rest
        if expression is not None:
            joints = joints + (expression @ self.joint_expression.to(dtype).flatten(0, 1).T).unflatten(1, (-1, 3))
        return rest.transpose(1, 2), joints

    def _offsets(
        self, expression: Tensor | None, eyelids: Tensor | None, rotations: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Pose, expression and eyelid blend shapes as planes [B,3,V], in one product."""
        eye = torch.eye(3, dtype=dtype, device=rotations.device)
        features = (rotations[:, 1:] - eye).flatten(1)[:, self.pose_rows]
        parts = [features]
        for coefficients, width in ((expression, self.num_expression), (eyelids, 2)):
            given = features.new_zeros(1, width) if coefficients is None else coefficients
            parts.append(given.expand(len(features), -1))
        return (torch.cat(parts, 1) @ self.blend_planes.to(dtype).flatten(1)).unflatten(1, (3, -1))

    def _shut(self, planes: Tensor, eyelids: Tensor) -> Tensor:
        """Corrects the eyelids [B,3,V] for changes of the opening by identity and expression, so that closure 1 is
        always closed.

        `eyelid_basis` closes the template's eyelids; this adds the change of the opening, spread over the eyelids.
        """
        template = self.lid_opening.to(planes.dtype)  # [2,2,3,L]: at closure 0, and what closure adds
        for side in range(2):
            upper, lower = self.lid_rims[side]
            closure = eyelids[:, side, None, None]
            change = planes[:, :, upper] - planes[:, :, lower] - (template[side, 0] + closure * template[side, 1])
            more = closure * (change @ self.lid_spread[side].to(planes.dtype).T)
            planes = planes.index_add(2, self.lid_vertices[side], more)
        return planes


def _buffers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    pose, rows = tensors["pose_basis"], tensors["pose_rows"]
    full = pose.new_zeros(POSE_FEATURES, pose.shape[1])  # follows `pose`, also under a meta device context
    full[rows] = pose
    joint_expression = torch.einsum("jv,vck->jck", tensors["joint_regressor"], tensors["expression_basis"])
    # coordinate planes [K,3,V] of every direction that moves with the frame: several times quicker than [V,3] rows
    planes = [pose.unflatten(1, (-1, 3)).transpose(1, 2)]
    planes += [tensors[name].permute(2, 1, 0) for name in ("expression_basis", "eyelid_basis")]
    return {
        **tensors,
        "pose_basis": full,
        "region_masks": tensors["region_masks"].bool(),
        "joint_expression": joint_expression,
        "lid_opening": _lid_opening(tensors),
        "blend_planes": torch.cat(planes).contiguous(),
    }


def _lid_opening(tensors: dict[str, Tensor]) -> Tensor:
    """Upper minus lower rim [2,2,3,L] of each side: in the template, and in that side's closing direction."""
    rims = tensors["lid_rims"]
    sides = []
    for side in range(2):
        upper, lower = rims[side]
        parts = (tensors["v_template"], tensors["eyelid_basis"][:, :, side])
        sides.append(torch.stack([(part[upper] - part[lower]).T for part in parts]))
    return torch.stack(sides)


def _batch_size(given: dict[str, tuple[Tensor | None, int]]) -> int:
    batch = 1
    for name, (value, width) in given.items():
        if value is None:
            continue
        if value.ndim != 2 or value.shape[1] != width:
            raise ValueError(f"{name}: expected a tensor of shape [B, {width}], got {list(value.shape)}")
        if value.shape[0] != 1 and batch not in (1, value.shape[0]):
            raise ValueError(f"{name}: expected a batch of 1 or {batch} like the others, got {value.shape[0]}")
        batch = max(batch, value.shape[0])
    return batch


def _kinematics(rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
    """World transforms relative to the rest pose [B,5,3,4] and posed joints [B,5,3]."""
    turn, place = [rotations[:, 0]], [joints[:, 0]]
    for joint in range(1, len(PARENTS)):
        parent = PARENTS[joint]
        turn.append(turn[parent] @ rotations[:, joint])
        place.append(place[parent] + (turn[parent] @ (joints[:, joint] - joints[:, parent])[..., None])[..., 0])
    turns, places = torch.stack(turn, 1), torch.stack(place, 1)
    shift = places - (turns @ joints[..., None])[..., 0]
    return torch.cat([turns, shift[..., None]], -1), places


def _skin(planes: Tensor, transforms: Tensor, weights: Tensor) -> Tensor:
    """Linear blend skinning of planes [B,3,V] by transforms [B,5,3,4]."""
    blended = (transforms.permute(0, 2, 3, 1).flatten(1, 2) @ weights.T).unflatten(1, (3, 4))  # [B,3,4,V]
    out = blended[:, :, 3]
    for axis in range(3):
        out = torch.addcmul(out, blended[:, :, axis], planes[:, None, axis])
    return out
