"""GNM Head (Google, Apache-2.0) -> a head asset. UNTESTED on the real file: written for the published names of
`gnm_head.npz`, version 3, and tested only on a file of that format made by a test.

GNM has joints neck, head, left eye and right eye, which become root, neck and the eyes. Its mouth opens by expressions
alone, so a jaw is added: joint and weights of the open head, looked up on GNM's skin, and its own lower teeth and
tongue whole. Its expressions stay, under GNM's names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emotag_hf import ParametricHead
from emotag_hf.utils.array_files import read_npz

from .asset_file import metadata, write_asset
from .errors import ConversionError, check_keys
from .register import Skin, register
from .rigged import RiggedHead, complete

REQUIRED = (
    "version", "variant", "template_vertex_positions", "template_joint_positions", "vertex_identity_basis",
    "joint_identity_basis", "expression_basis", "identity_names", "joint_names", "expression_names",
    "joint_parent_indices", "skinning_weights", "quads", "triangles", "quad_uvs", "triangle_uvs",
    "mesh_component_names", "mirror_indices", "joint_regressor", "pose_correctives_regressor",
    "bone_aligned_template_joint_orientations", "vertex_groups", "vertex_group_names",
)  # fmt: skip
_JOINTS = 4  # neck, head, left eye, right eye
_OURS = (0, 1, 3, 4)  # root, neck, left eye, right eye
_LOWER, _UPPER = ("lower_teeth", "lower_teeth_and_gums"), ("upper_teeth", "upper_teeth_and_gums")
_LARGEST = 1 << 30  # bytes of one array


def convert_gnm(path: str | Path, output: str | Path) -> ParametricHead:
    """Writes a head asset.

    Raises:
        FileNotFoundError, ConversionError: not there, or not a GNM Head.
    """
    rigged = rig_gnm(_read(Path(path)))
    tensors, regions, _ = complete(rigged)
    header = metadata(
        license="Apache-2.0",
        provenance="GNM Head, Copyright Google LLC (Apache-2.0): its mesh, identities, expressions, joints and "
        "weights; a jaw, lids, regions and landmarks from the open head laid over it. This conversion is untried on "
        "the real file.",
        units="as GNM: metres",
        expression_names=rigged.expression_names,
        region_names=regions,
    )
    return write_asset(output, tensors, header)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"gnm: expected gnm_head.npz, but there is no file {path}.")
    try:
        data = read_npz(path, _LARGEST)
    except ValueError as error:
        raise ConversionError(f"gnm: {path.name} cannot be read as an npz of arrays ({error}).") from error
    check_keys(data, REQUIRED, (), f"gnm: {path.name}")
    count, joints = len(data["template_vertex_positions"]), len(data["joint_names"])
    wanted = {
        "template_vertex_positions": (count, 3),
        "vertex_identity_basis": (len(data["identity_names"]), count, 3),
        "expression_basis": (len(data["expression_names"]), count, 3),
        "joint_regressor": (_JOINTS, count),
        "skinning_weights": (count, _JOINTS),
        "triangles": (len(data["triangles"]), 3),
        "vertex_groups": (len(data["vertex_group_names"]), count),
    }
    for name, shape in wanted.items():
        if data[name].shape != shape:
            raise ConversionError(f"gnm: expected {name} of shape {list(shape)}, got {list(data[name].shape)}.")
    if str(data["variant"]) != "head" or joints != _JOINTS or data["joint_parent_indices"][1:].tolist() != [0, 1, 1]:
        raise ConversionError(
            f"gnm: expected GNM's variant head with joints neck, head and two eyes in {path.name}, got "
            f"{data['variant']!s} with {[str(n) for n in data['joint_names']]}."
        )
    return data


def rig_gnm(data: dict[str, np.ndarray]) -> RiggedHead:
    """GNM's numbers with a jaw."""
    points, faces = data["template_vertex_positions"].astype(np.float64), data["triangles"].astype(np.int64)
    count = len(points)
    groups = {str(n): m > 0.5 for n, m in zip(data["vertex_group_names"], data["vertex_groups"], strict=True)}
    lower, upper = _group(groups, _LOWER), _group(groups, _UPPER)
    tongue = _group(groups, ("tongue",))
    theirs = data["skinning_weights"].astype(np.float64)
    skin = ~(lower | upper | tongue | (theirs[:, 2:].max(1) > 0.5))
    skin_faces = skin[faces].all(1)
    regressor = np.zeros((5, count))
    regressor[list(_OURS)] = data["joint_regressor"]

    laid = register(Skin(points, None, faces[skin_faces], regressor[3:] @ points, 0.0))
    open_weights = laid.head.lbs_weights.numpy().astype(np.float64)
    jaw = laid.smooth_lookup(points, open_weights[:, 2]) * skin
    jaw[lower | tongue] = 1.0
    weights = np.zeros((count, 5))
    weights[:, _OURS] = theirs
    weights[:, 2] = jaw * weights[:, 1]  # the jaw hangs on the head and takes its share from it
    weights[:, 1] -= weights[:, 2]
    place = laid.head.joint_regressor[2].numpy() @ laid.vertices
    near = np.flatnonzero(skin)
    near = near[np.argsort(np.linalg.norm((points[near] - place)[:, 1:], axis=1))[:150]]
    terms = np.c_[np.ones(len(near)), points[near]].T
    regressor[2, near] = terms.T @ np.linalg.solve(terms @ terms.T + 1e-12 * np.eye(4), np.r_[1, place])

    rows, poses = _correctives(data["pose_correctives_regressor"], count)
    return RiggedHead(
        v_template=points,
        faces=faces,
        skin_faces=skin_faces,
        shape_basis=data["vertex_identity_basis"].transpose(1, 2, 0),
        expression_basis=data["expression_basis"].transpose(1, 2, 0),
        expression_names=tuple(str(name) for name in data["expression_names"]),
        pose_basis=poses,
        pose_rows=rows,
        joint_regressor=regressor,
        lbs_weights=weights,
        regions={"teeth_upper": upper, "teeth_lower": lower, "tongue": tongue, "gums": np.zeros(count, bool)},
        has_mouth=True,
    )


def _group(groups: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    for name in names:
        if name in groups:
            return groups[name]
    raise ConversionError(f"gnm: expected a vertex group {' or '.join(names)}, got {', '.join(sorted(groups))}.")


def _correctives(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and values of our pose basis for GNM's, by the entries of R - I of its joints, with or without the root."""
    values = values.reshape(len(values), -1)
    if values.shape[1] != 3 * count or len(values) not in (9 * _JOINTS, 9 * (_JOINTS - 1)):
        raise ConversionError(
            f"gnm: expected pose_correctives_regressor of {9 * _JOINTS} or {9 * (_JOINTS - 1)} rows of {3 * count} "
            f"numbers, got {list(values.shape)}."
        )
    values = values[-9 * (_JOINTS - 1) :]
    rows = np.concatenate([9 * (joint - 1) + np.arange(9) for joint in _OURS[1:]])
    used = np.abs(values).max(1) > 0
    return rows[used], values[used]
