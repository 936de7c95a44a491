"""Imports a VHAP export (the data format of GaussianAvatars) as a processed clip with this project's head.

In: VHAP's NeRF-style folder (transforms.json, or its train, val and test parts; images/, fg_masks/, flame_param/). Out:
a processed clip. Frames and masks are used as they are. FLAME's parameters need FLAME's data, so the head is fitted
again to the frames; the parameters are kept in vhap.safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors.torch import save_file

from ...audio.audio_io import AudioClip, load_audio
from ...constants import MOTION_FPS
from ...models.modeling_head import ParametricHead
from ...utils.array_files import read_npz
from ..tracking.setup import sha256
from .clip import VHAP, ClipError, ProcessedClip
from .sound_file import beginning
from .stages import PrepareOptions, check_max_seconds, make_clip
from .teachers import FeatureOptions
from .writer import ClipWriter, check_output

_PARTS = ("train", "val", "test")
_CANONICAL = "canonical_flame_param.npz"
_LAST_STEP = 10_000_000  # of `timestep_index`; larger values are not frame numbers
_LARGEST = 64 << 20  # bytes of one array in an npz; VHAP's have some thousand


def import_vhap(
    folder: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    camera: int | None = None,
    fps: float = 25.0,
    audio: str | os.PathLike | None = None,
    size: int = 512,
    crop: str = "face",
    max_seconds: float = 300.0,
    face_landmarker: str | os.PathLike | None = None,
    head: ParametricHead | str | os.PathLike | None = None,
    features: FeatureOptions | None = None,
    license: str | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> ProcessedClip:
    """Makes a processed clip of one camera of a VHAP export.

    Args:
        folder: the export.
        output: the clip's folder; by default next to the export, named as the export with `_clip`.
        camera: `camera_index` of the camera to take; None takes the lowest, with a warning if there are several.
        fps: frame rate of the tracked video, which the export does not contain; other rates than 25 are resampled.
        audio: its sound, from the first frame on, for instance the tracked video; the export has none.
        size, crop, max_seconds, face_landmarker, head, features, license, overwrite, progress: as in
            [`data.prepare.prepare`].

    Returns:
        The clip; `vhap_arrays(clip)` has the FLAME numbers.

    Raises:
        FileNotFoundError: no such folder, or a missing frame.
        ClipError: not a VHAP export, or one with paths outside its folder; and the errors of `prepare`.
    """
    options = PrepareOptions(
        size=size,
        crop=crop,
        face_landmarker=None if face_landmarker is None else os.fspath(face_landmarker),
        features=features or FeatureOptions(),
        license=license,
    )
    path = Path(folder)
    source = VhapSource(path, camera, fps, audio, max_seconds)
    output = path.absolute().with_name(f"{path.absolute().name}_clip") if output is None else output
    check_output(output, overwrite)
    if not isinstance(head, ParametricHead):
        head = ParametricHead.from_asset(head)
    return make_clip(source, options, output, head, overwrite=overwrite, progress=progress)


def is_vhap_export(folder: str | os.PathLike) -> bool:
    """Whether a folder looks like a VHAP export."""
    names = ("transforms.json", *(f"transforms_{part}.json" for part in _PARTS))
    return any((Path(folder) / name).is_file() for name in names)


def vhap_arrays(clip: ProcessedClip) -> dict[str, torch.Tensor] | None:
    """VHAP's values for the clip's T frames, or None: `flame.<name>` as it was exported, `[T, ...]`, or `[...]` where
    it is the same in all; `canonical.<name>`; `transform_matrix` `[T, 4, 4]` (OpenGL, camera to world), `K` `[T, 3, 3]`
    pixels of the exported pictures, `timestep_index` `[T]`."""
    from safetensors.torch import load_file

    return load_file(clip.path / VHAP) if VHAP in clip.info["files"] else None


class VhapSource:
    """One camera of an export as a [`Source`](stages.py)."""

    def __init__(
        self, folder: Path, camera: int | None, fps: float, audio: str | os.PathLike | None, max_seconds: float
    ):
        if not 1 <= fps <= 240:
            raise ValueError(f"fps: expected 1 to 240 frames per second, got {fps}.")
        check_max_seconds(max_seconds)
        if not folder.is_dir():
            raise FileNotFoundError(f"folder: expected a VHAP export, but there is no folder {folder}.")
        self.folder, self.name, self.warnings = folder, folder.name, []
        frames = _read_frames(folder)
        cameras = sorted({frame["camera_index"] for frame in frames.values()})
        if camera is None:
            camera = cameras[0]
            if len(cameras) > 1:
                self.warnings.append(f"camera {camera} of {len(cameras)} is used; choose another with camera=...")
        if camera not in cameras:
            raise ValueError(f"camera: expected one of {cameras}, got {camera}.")
        steps = np.array(sorted(step for step, index in frames if index == camera))
        count = max(1, round((steps[-1] - steps[0] + 1) / fps * MOTION_FPS))
        limit = round(max_seconds * MOTION_FPS)
        self.cut = count > limit
        wanted = steps[0] + np.arange(min(count, limit)) * fps / MOTION_FPS
        nearest = steps[np.searchsorted((steps[1:] + steps[:-1]) / 2, wanted)].tolist()
        if self.cut:
            self.warnings.append(f"only the first {max_seconds:g} s of {count / MOTION_FPS:.0f} s are used")
        if gaps := int(steps[-1] - steps[0]) + 1 - len(steps):
            self.warnings.append(f"{gaps} time steps are missing; the picture beside them stands in for each")
        self._frames = [frames[step, camera] for step in nearest]
        self.num_frames = len(self._frames)
        self.height, self.width = self._picture(self._frames[0]).shape[:2]
        self._span = [camera, fps, limit if self.cut else None]
        self._audio_path = None if audio is None else Path(audio)
        self._audio = None if audio is None else beginning(load_audio(audio), max_seconds + 1.0)

    def about(self) -> dict[str, Any]:
        digest = hashlib.sha256(json.dumps(self._frames, sort_keys=True).encode())
        for key in ("file_path", "fg_mask_path"):
            for name in dict.fromkeys(frame[key] for frame in self._frames if frame.get(key)):
                digest.update(sha256(_inside(self.folder, name)).encode())
        audio = self._audio_path
        return {
            "name": self.name,
            "kind": "VHAP export",
            "sha256": digest.hexdigest(),
            "camera_index": self._span[0],
            "fps": self._span[1],
            "span": self._span,
            "audio": None if audio is None else {"name": audio.name, "sha256": sha256(audio)},
        }

    def frames(self) -> Iterator[np.ndarray]:
        return (self._picture(frame) for frame in self._frames)

    def mattes(self) -> Iterator[np.ndarray] | None:
        if not all(frame.get("fg_mask_path") for frame in self._frames):
            return None
        return (_read_picture(self.folder, frame["fg_mask_path"], "L") for frame in self._frames)

    def sound(self) -> AudioClip | None:
        return self._audio

    def save_extra(self, writer: ClipWriter) -> None:
        arrays: dict[str, np.ndarray] = {
            "timestep_index": np.array([frame["timestep_index"] for frame in self._frames]),
            "transform_matrix": np.array([frame["transform_matrix"] for frame in self._frames], np.float32),
            "K": np.array([_intrinsics(frame) for frame in self._frames], np.float32),
        }
        names = [frame.get("flame_param_path") for frame in self._frames]
        if all(names):
            arrays |= {f"flame.{name}": array for name, array in _stack_flame(self.folder, names).items()}  # type: ignore[arg-type]
        if (self.folder / _CANONICAL).is_file():
            arrays |= {f"canonical.{n}": a for n, a in _read_npz(self.folder, _CANONICAL).items()}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        save_file(tensors, writer.path(VHAP), {"format": "VHAP", "units": "as VHAP exported them"})

    def _picture(self, frame: dict[str, Any]) -> np.ndarray:
        picture = _read_picture(self.folder, frame["file_path"], "RGB")
        expected = (int(frame.get("h", picture.shape[0])), int(frame.get("w", picture.shape[1])))  # type: ignore[arg-type]
        if picture.shape[:2] != expected:
            raise ClipError(
                f"folder: expected {frame['file_path']} of {expected[1]}x{expected[0]} pixels, got another."
            )
        return picture


def _read_frames(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """`(time step, camera)` -> its entry in transforms.json, or in the train, val and test files without one."""
    names = ["transforms.json"]
    if not (folder / names[0]).is_file():
        names = [name for part in _PARTS if (folder / (name := f"transforms_{part}.json")).is_file()]
    if not names:
        raise ClipError(f"folder: expected a VHAP export, but {folder} has no transforms.json.")
    found = {}
    for name in names:
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            shared = {key: value for key, value in content.items() if key != "frames"}  # intrinsics of one camera
            for entry in content["frames"]:
                frame = shared | entry
                frame |= {key: int(frame.get(key, 0)) for key in ("timestep_index", "camera_index")}
                if abs(frame["timestep_index"]) > _LAST_STEP:
                    raise ValueError(f"timestep_index is {frame['timestep_index']}")
                np.array(frame["transform_matrix"], np.float32).reshape(4, 4), str(frame["file_path"])
                found[frame["timestep_index"], frame["camera_index"]] = frame
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ClipError(
                f"folder: {folder / name} is not what VHAP exports ({type(error).__name__}: {error})."
            ) from error
    if not found:
        raise ClipError(f"folder: expected frames in {folder / names[0]}, got none.")
    return found


def _intrinsics(frame: dict[str, Any]) -> list[list[float]]:
    """`[3, 3]`; NaN where the export has no value."""
    fx, fy, cx, cy = (float(frame.get(key, "nan")) for key in ("fl_x", "fl_y", "cx", "cy"))
    return [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]


def _inside(folder: Path, name: str) -> Path:
    """A file that transforms.json names. Raises ClipError if it lies outside the export."""
    path = folder / str(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ClipError(f"folder: {name} lies outside {folder}, and files there are not read; export the clip again.")
    if not path.is_file():
        raise FileNotFoundError(f"folder: {folder} names {name}, but there is no such file.")
    return path


def _read_picture(folder: Path, name: str, mode: str) -> np.ndarray:
    path = _inside(folder, name)
    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ClipError(f"folder: {path} is not a whole picture ({error}).") from error


def _read_npz(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The number arrays of an npz. Pickled ones, which could run code, are refused."""
    path = _inside(folder, name)
    try:
        arrays = read_npz(path, _LARGEST)
    except ValueError as error:
        raise ClipError(f"folder: expected numbers in {path}, and it cannot be read ({error}).") from error
    return {key: array.astype(np.float32) for key, array in arrays.items() if array.dtype.kind in "fiu"}


def _stack_flame(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    """The FLAME numbers of all frames; those that never change (identity, offsets) are kept once."""
    rows: dict[str, list[np.ndarray]] = {}
    for position, name in enumerate(names):
        arrays = _read_npz(folder, name)
        if position and arrays.keys() != rows.keys():
            raise ClipError(f"folder: expected the arrays {sorted(rows)} in {name}, got {sorted(arrays)}.")
        for key, array in arrays.items():
            array = array[0] if array.ndim > 1 and len(array) == 1 else array
            held = rows.setdefault(key, [])
            # One copy is kept while the values are constant, and repeated at the first change.
            if not held or len(held) > 1 or not np.array_equal(held[0], array):
                held += [held[0]] * (position - 1) if len(held) == 1 else []
                held.append(array)
    return {key: held[0] if len(held) == 1 else np.stack(held) for key, held in rows.items()}


__all__ = ["import_vhap", "is_vhap_export", "vhap_arrays"]
