"""Converts a GaussianAvatars result: point_cloud.ply, flame_param.npz and the user's FLAME as a head asset (`convert
flame`) in, a model folder and, next to it, the person's head out.

Both methods attach Gaussians to triangles by the same rule (METHOD 2), so the parameters are copied. The person's
identity and vertex offsets make the head; it is retargeted, so that the embedded motion network drives it. The folder
contains no data of FLAME; the head next to it is FLAME and must not be shared. These files have no consent, so the
result is a model folder, not an avatar folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emotag_hf import EmoTaGConfig, EmoTaGModel, EmoTaGPipeline, ParametricHead
from emotag_hf.constants import DEFAULT_MODEL
from emotag_hf.models.modeling_head import HeadAsset
from emotag_hf.models.retarget import driven_head, solve_retarget
from emotag_hf.utils.array_files import read_npz

from .asset_file import write_asset
from .errors import ConversionError, check_keys
from .flame import EXPRESSION_NAMES
from .flame_pickle import NUM_EXPRESSION, NUM_SHAPE, VERTICES
from .ply import read_splats

FACES = 9976  # of FLAME; VHAP's own teeth come after them
_VHAP_VERTICES = VERTICES + 120  # with VHAP's teeth
_MAX_DEGREE = 2
_FIXED = (
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
    "rot_0", "rot_1", "rot_2", "rot_3", "binding_0",
)  # fmt: skip
_REST = {0: 0, 9: 1, 24: 2, 45: 3}  # how many f_rest_* -> degree of the harmonics
_PARAMS = ("shape", "expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation", "static_offset")
_PARAMS_IGNORED = ("dynamic_offset",)
_LARGEST = 1 << 30  # bytes of one array


@dataclass
class Report:
    """What became of the Gaussians: `kept`; `dropped_teeth`, bound to VHAP's teeth, which FLAME has not; `degree` of
    the harmonics that were there (ours go to 2); `residual` of the retargeting."""

    kept: int
    dropped_teeth: int
    degree: int
    residual: float


def convert_gaussian_avatars(
    ply: str | Path, params: str | Path, flame: str | Path, output: str | Path, *, base_model: str = DEFAULT_MODEL
) -> Report:
    """Writes the model folder `output` and the head `OUTPUT_head.safetensors` beside it.

    Args:
        ply: point_cloud.ply. params: flame_param.npz. flame: head asset of `convert flame`, not retargeted.
        base_model: whose motion network the model gets.

    Raises:
        FileNotFoundError, ConversionError: a file does not exist or has another format.
    """
    output = Path(output)
    if output.exists():
        raise ConversionError(f"output: {output} is there already; name a folder that is not.")
    splats = read_splats(ply)
    rest = sorted((name for name in splats if name.startswith("f_rest_")), key=lambda name: int(name[7:]))
    check_keys(splats, (*_FIXED, *(f"f_rest_{i}" for i in range(len(rest)))), (), f"ply: {Path(ply).name}")
    if len(rest) not in _REST:
        raise ConversionError(f"ply: expected 0, 9, 24 or 45 f_rest_* in {Path(ply).name}, got {len(rest)}.")
    person = _read_params(Path(params))
    head = ParametricHead.from_asset(flame)
    if head.expression_names != EXPRESSION_NAMES or head.num_shape != NUM_SHAPE:
        raise ConversionError(f"flame: expected the head asset that `convert flame` made, got {flame}.")
    degree = _REST[len(rest)]
    keep = splats["binding_0"] < FACES
    if not keep.any():
        raise ConversionError(f"ply: expected Gaussians on FLAME's {FACES} faces in {Path(ply).name}, got none.")
    values = _values(splats, rest, keep, min(degree, _MAX_DEGREE))
    base = EmoTaGPipeline.from_pretrained(base_model)
    head_path, own, residual = _person_head(head, person["static_offset"], output)
    try:
        model = _model(values, min(degree, _MAX_DEGREE), person["shape"], own, head_path, base.model)
        EmoTaGPipeline(model=model, processor=base.processor).save_pretrained(output)
        EmoTaGModel.from_pretrained(output)
    except BaseException:
        head_path.unlink(missing_ok=True)
        raise
    return Report(int(keep.sum()), int((~keep).sum()), degree, residual)


def _read_params(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"params: expected a flame_param.npz, but there is no file {path}.")
    try:
        arrays = read_npz(path, _LARGEST)
    except ValueError as error:
        raise ConversionError(f"params: {path.name} cannot be read as an npz of arrays ({error}).") from error
    check_keys(arrays, _PARAMS, _PARAMS_IGNORED, f"params: {path.name}")
    shape, offset = arrays["shape"].reshape(-1), arrays["static_offset"].reshape(-1, 3)
    if shape.shape != (NUM_SHAPE,) or len(offset) not in (VERTICES, _VHAP_VERTICES):
        raise ConversionError(
            f"params: expected {NUM_SHAPE} numbers of shape and offsets of {VERTICES} or {_VHAP_VERTICES} vertices in "
            f"{path.name}, got {len(shape)} and {len(offset)}."
        )
    if arrays["expr"].shape[-1] != NUM_EXPRESSION or not (np.isfinite(shape).all() and np.isfinite(offset).all()):
        raise ConversionError(f"params: expected finite numbers and {NUM_EXPRESSION} expressions in {path.name}.")
    return {"shape": shape, "static_offset": offset[:VERTICES]}


def _person_head(head: ParametricHead, offset: np.ndarray, output: Path) -> tuple[Path, ParametricHead, float]:
    """FLAME with the person's offsets, answering to the open head's coefficients, written beside the folder."""
    tensors = dict(head._asset.tensors)
    moved = torch.from_numpy(offset.astype(np.float32))
    lips = head.region("lips")
    template = tensors["v_template"].clone()
    template[:VERTICES] += moved
    template[VERTICES:] += moved[lips[lips < VERTICES]].mean(0)  # the mouth that we added goes where the lips go
    own = ParametricHead(HeadAsset({**tensors, "v_template": template}, head.metadata, ""))
    retarget = solve_retarget(ParametricHead.from_asset(None), own)
    driven, names = driven_head(own, retarget)
    path = output.absolute().with_name(f"{output.name}_head.safetensors")
    header = own.metadata | {"expression_names": json.dumps(list(names))}
    stored = {k: v.byte() if k == "region_masks" else v for k, v in driven.items()}
    return path, write_asset(path, stored, header), retarget.residual


def _values(splats: dict[str, np.ndarray], rest: list[str], keep: np.ndarray, degree: int) -> dict[str, torch.Tensor]:
    """The parameters of `RiggedGaussians` for those of `keep`, with harmonics to `degree`."""
    binding = splats["binding_0"][keep]
    if (binding != binding.round()).any() or binding.min(initial=0) < 0:
        raise ConversionError("ply: expected whole numbers from 0 as binding_0, got others.")
    column = lambda *names: torch.from_numpy(np.stack([splats[n][keep] for n in names], -1))  # noqa: E731
    bands = (degree + 1) ** 2 - 1
    all_bands = len(rest) // 3
    colors = column("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if bands:  # stored channel by channel
        more = column(*rest).unflatten(1, (3, all_bands))[:, :, :bands].transpose(1, 2)
        colors = torch.cat([colors, more], 1)
    values = {
        "means": column("x", "y", "z"),
        "quats": column("rot_0", "rot_1", "rot_2", "rot_3"),
        "log_scales": column("scale_0", "scale_1", "scale_2"),
        "opacity_logits": column("opacity")[:, 0],
        "colors": colors,
        "binding": torch.from_numpy(binding.astype(np.int64)),
    }
    if not all(bool(torch.isfinite(v).all()) for v in values.values()):
        raise ConversionError("ply: expected finite numbers, got NaN or infinity.")
    return values


def _model(values, degree, shape, head, head_path, base_model) -> EmoTaGModel:
    eyes = (head.joint_regressor @ head.v_template)[3:].mean(0)
    config = EmoTaGConfig(
        head_config={"asset": str(head_path), "sha256": head.sha256, "num_shape": head.num_shape},
        motion_config=base_model.config.motion_config.to_dict(),
        gaussians_config={"num_gaussians": len(values["binding"]), "sh_degree": degree},
        camera={"target": (eyes + torch.tensor([0.0, -0.03, 0.0])).tolist(), "distance": 1.7, "focal": 4.0},
        weights_license=base_model.config.weights_license,
    )
    model = EmoTaGModel(config)
    model.motion.load_state_dict(base_model.motion.state_dict())
    # canonical places are read only of Gaussians inside the mouth, and none is counted as such
    model.gaussians.load_state_dict({**values, "canonical": torch.zeros_like(values["means"])})
    model.gaussians.check_binding(len(head.faces))
    model.shape.copy_(torch.from_numpy(shape.astype(np.float32)))
    return model.eval()
