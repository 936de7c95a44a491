"""Converts the user's own FLAME file to a head asset: FLAME's data, with mouth, eyelids and landmarks of the open
head."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emotag_hf import ParametricHead

from .asset_file import metadata, write_asset
from .flame_pickle import NUM_EXPRESSION, NUM_SHAPE, read_flame
from .rigged import RiggedHead, complete

LICENSE = "FLAME model licence (Max Planck, non-commercial research): your own copy, not to be passed on"
EXPRESSION_NAMES = tuple(f"flame_{i:03d}" for i in range(NUM_EXPRESSION))


def convert_flame(path: str | Path, output: str | Path, *, license: str = LICENSE) -> ParametricHead:
    """Writes a head asset with FLAME's own 300 identity and 100 expression directions.

    Its first 5,023 vertices and its first faces are FLAME's, in FLAME's order; joints are root, neck, jaw, left eye,
    right eye as in FLAME.

    Args:
        path: the pickle. output: the safetensors file to write. license: written into its header.

    Raises:
        FileNotFoundError, ConversionError: no such file, or not a FLAME model.
    """
    flame = read_flame(path)
    weights = flame["weights"]
    eye = weights[:, 3:].max(1) > 0.5
    rigged = RiggedHead(
        v_template=flame["v_template"],
        faces=flame["f"],
        skin_faces=~eye[flame["f"]].any(1),
        shape_basis=flame["shapedirs"][:, :, :NUM_SHAPE],
        expression_basis=flame["shapedirs"][:, :, NUM_SHAPE:],
        expression_names=EXPRESSION_NAMES,
        pose_basis=flame["posedirs"].reshape(-1, 36).T,
        pose_rows=np.arange(36),
        joint_regressor=flame["J_regressor"],
        lbs_weights=weights,
    )
    tensors, regions, laid = complete(rigged)
    header = metadata(
        license=license,
        provenance="FLAME's template, directions, correctives, joints and weights as in the user's file; teeth, gums, "
        f"tongue, lining of the mouth, lids, regions and landmarks from the open head, laid over it within "
        f"{laid.misfit * 1000:.2f} mm in the mean.",
        units="as FLAME: metres, y up, looking along +z, the person's left at +x",
        expression_names=EXPRESSION_NAMES,
        region_names=regions,
    )
    return write_asset(output, tensors, header)
