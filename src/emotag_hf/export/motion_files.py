"""Motion for Blender and game engines: JSON, CSV or npz, with ARKit's 52 blendshape names.

In: `FlameMotion`. Out: a file; an npz also holds the package's own parameters and can be loaded again. Units and axes
are in docs/exporting.md. ARKit has fewer names than the head has directions: one name for two sides (browInnerUp and
cheekPuff) gets their mean; cheekRaiser, tongueUp, nostrils and neck are only in the npz.
"""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..constants import EXPRESSION_NAMES, MOTION_DIMS
from ..outputs import FlameMotion
from ..utils.rotations import quat_multiply, rotation_matrix, rotation_to_quat
from .files import check_target, pick_format, write_bytes

MOTION_FORMATS = ("json", "csv", "npz")
FORMAT, FORMAT_VERSION = "emotag-motion", 1
JAW_OPEN = 0.442  # rad of the jaw joint where jawOpen is 1: the open head's, which has it from ICT-FaceKit's shape
LOOK = float(np.radians(30))  # rad of gaze where an eyeLook shape is at 1, as ICT-FaceKit's are
_MAX_BYTES = 512_000_000  # of an unpacked npz
_OPTIONAL = ("mouth_code", "body_translation")
_AXES = "metres; y up, the head looks along +z, the person's left at +x"

# In Apple's order of `ARFaceAnchor.BlendShapeLocation`: eyes, jaw, mouth, brows, cheeks, nose, tongue.
ARKIT_NAMES = (
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft", "eyeSquintLeft",
    "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight", "eyeLookOutRight", "eyeLookUpRight",
    "eyeSquintRight", "eyeWideRight", "jawForward", "jawLeft", "jawRight", "jawOpen", "mouthClose", "mouthFunnel",
    "mouthPucker", "mouthLeft", "mouthRight", "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper",
    "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft",
    "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight", "browDownLeft", "browDownRight", "browInnerUp",
    "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft",
    "noseSneerRight", "tongueOut",
)  # fmt: skip
_POSES = ("head_rotation", "head_translation", "left_eye_rotation", "right_eye_rotation")


def arkit_blendshapes(motion: FlameMotion) -> np.ndarray:
    """`[T, 52]` float32 in [0, 1], columns as `ARKIT_NAMES`; values are clipped to [0, 1], as in ARKit."""
    own = dict(zip(EXPRESSION_NAMES, motion.expression.detach().cpu().double().numpy().T))
    eyes = motion.eyes_pose.detach().cpu().double().numpy() / LOOK  # [T, 6]: x is + down, y is + to the person's left
    computed = {
        "eyeBlinkLeft": motion.eyelids[:, 0].detach().cpu().double().numpy(),
        "eyeBlinkRight": motion.eyelids[:, 1].detach().cpu().double().numpy(),
        "jawOpen": motion.jaw_pose[:, 0].detach().cpu().double().numpy() / JAW_OPEN,
    }
    for side, first, outwards in (("Left", 0, 1), ("Right", 3, -1)):
        down, out = eyes[:, first], outwards * eyes[:, first + 1]
        computed |= {f"eyeLookDown{side}": down, f"eyeLookUp{side}": -down}
        computed |= {f"eyeLookOut{side}": out, f"eyeLookIn{side}": -out}
    columns = [computed[name] if name in computed else _expression(own, name) for name in ARKIT_NAMES]
    return np.stack(columns, 1).clip(0, 1).astype(np.float32)


def _expression(own: dict[str, np.ndarray], name: str) -> np.ndarray:
    """An ARKit curve from the head's expression: `mouthSmileLeft` is `mouthSmile_L`, `cheekPuff` the mean of both
    sides."""
    if name in own:
        return own[name]
    for side, ending in (("Left", "_L"), ("Right", "_R")):
        if name.endswith(side):
            return own[name.removesuffix(side) + ending]
    return (own[f"{name}_L"] + own[f"{name}_R"]) / 2


def pose_curves(motion: FlameMotion) -> dict[str, np.ndarray]:
    """Rotations as unit quaternions wxyz `[T, 4]`, the head's place `[T, 3]` in metres.

    `head_rotation` is root and neck together, in the world; eye rotations are relative to the head.
    """
    turn = rotation_matrix(motion.rotation.float().cpu())
    head = quat_multiply(rotation_to_quat(turn), rotation_to_quat(rotation_matrix(motion.neck_pose.float().cpu())))
    eyes = [rotation_to_quat(rotation_matrix(e.float().cpu())) for e in motion.eyes_pose.split(3, 1)]
    values = (_continuous(head), motion.translation, *map(_continuous, eyes))
    return {name: value.detach().cpu().float().numpy() for name, value in zip(_POSES, values)}


def _continuous(quats: torch.Tensor) -> torch.Tensor:
    """Chooses q or -q, whichever is nearer to the previous frame, so that programs can interpolate."""
    flips = torch.where((quats[1:] * quats[:-1]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return torch.cat([quats[:1], quats[1:] * flips.cumprod(0)])


def save_motion(
    motion: FlameMotion, path: str | os.PathLike, *, format: str | None = None, metadata: dict[str, Any] | None = None
) -> str:
    """Writes a motion for other programs; returns the path.

    Args:
        motion: T frames, as `TalkingHeadOutput.motion` or `ProcessedClip.track.motion`.
        path: `.json`, `.csv` or `.npz`; an existing file is replaced only when the new one is complete.
        format: one of `MOTION_FORMATS`; None uses the suffix.
        metadata: JSON values kept in a JSON or npz file, such as `TalkingHeadOutput.metadata`.

    Raises:
        ValueError: no such format; numbers that are not finite.
        FileNotFoundError, PermissionError, OSError: it cannot be written; no partial file is left.
    """
    kind = pick_format(path, format, MOTION_FORMATS)
    check_target(path)
    fields = {name: value for name in (*MOTION_DIMS, *_OPTIONAL) if (value := getattr(motion, name)) is not None}
    for name, value in fields.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"motion: expected finite numbers in {name}, got NaN or infinity.")
    encode = {"json": _to_json, "csv": _to_csv, "npz": _to_npz}[kind]
    return os.fspath(write_bytes(path, [encode(motion, metadata or {})]))


def _to_json(motion: FlameMotion, metadata: dict[str, Any]) -> bytes:
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "metadata": metadata,
        "fps": motion.fps,
        "num_frames": len(motion),
        "units": {"blendshapes": "0 to 1", "rotation": "unit quaternion w, x, y, z", "translation": _AXES},
        "blendshape_names": ARKIT_NAMES,
        "blendshapes": _rounded(arkit_blendshapes(motion)),
        **{name: _rounded(value) for name, value in pose_curves(motion).items()},
    }
    return json.dumps(facts, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _to_csv(motion: FlameMotion, metadata: dict[str, Any]) -> bytes:
    poses = pose_curves(motion)
    axes = {4: "wxyz", 3: "xyz"}
    names = [f"{name}_{axis}" for name, value in poses.items() for axis in axes[value.shape[1]]]
    rows = _rounded(np.concatenate([arkit_blendshapes(motion), *poses.values()], 1))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["frame", "seconds", *ARKIT_NAMES, *names])
    writer.writerows([i, round(i / motion.fps, 5), *row] for i, row in enumerate(rows))
    return text.getvalue().encode("ascii")


def _to_npz(motion: FlameMotion, metadata: dict[str, Any]) -> bytes:
    arrays = {n: getattr(motion, n).detach().cpu().float().numpy() for n in MOTION_DIMS}
    arrays |= {n: v.detach().cpu().float().numpy() for n in _OPTIONAL if (v := getattr(motion, n)) is not None}
    arrays |= {"expression_names": np.array(EXPRESSION_NAMES), "fps": np.float64(motion.fps)}
    arrays |= {"arkit": arkit_blendshapes(motion), "arkit_names": np.array(ARKIT_NAMES), **pose_curves(motion)}
    arrays |= {"format_version": np.int64(FORMAT_VERSION), "metadata": np.array(json.dumps(metadata))}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _rounded(values: np.ndarray) -> list[list[float]]:
    return np.round(values.astype(np.float64), 5).tolist()


def load_motion(path: str | os.PathLike) -> FlameMotion:
    """Reads a motion that `save_motion` wrote as npz, without loss; `pose_from` and `expression_from` take it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such a file, other expression names than this package's, or too large when unpacked.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: expected a motion as .npz, but there is no file {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := sum(info.file_size for info in archive.infolist())) > _MAX_BYTES:
                raise ValueError(f"it unpacks to {size:,} bytes, more than {_MAX_BYTES:,}")
        with np.load(path, allow_pickle=False) as file:
            names = [n for n in ("expression_names", "fps", *MOTION_DIMS, *_OPTIONAL) if n in file.files]
            arrays = {name: file[name] for name in names}
        if missing := [name for name in ("expression_names", "fps", *MOTION_DIMS) if name not in arrays]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if tuple(arrays.pop("expression_names").tolist()) != EXPRESSION_NAMES:
            raise ValueError("its expression_names are other than this package's")
        fps = float(arrays.pop("fps"))
        if not 0 < fps <= 1000:
            raise ValueError(f"its fps is {fps}")
        if bad := [name for name, a in arrays.items() if a.dtype != np.float32 or not np.isfinite(a).all()]:
            raise ValueError(f"{', '.join(bad)} should be finite float32")
        return FlameMotion(**{name: torch.from_numpy(a) for name, a in arrays.items()}, fps=fps)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise ValueError(f"path: expected a motion that save_motion wrote as .npz, got {path}: {error}.") from error


__all__ = ["ARKIT_NAMES", "MOTION_FORMATS", "arkit_blendshapes", "load_motion", "pose_curves", "save_motion"]
