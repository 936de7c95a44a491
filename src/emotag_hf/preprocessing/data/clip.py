"""The processed clip: one folder with everything that training reads from a video (docs/processed_clip.md).

In: a folder that `data.prepare` wrote. Out: frames, mattes, sound, head track and the teachers' features (METHOD 3 to
5), each read on first use; frames in any order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ...audio.audio_io import AudioClip
from ...constants import ACTION_UNITS, EMOTIONS, MOTION_DIMS, MOTION_FPS
from ...rendering.cameras import Camera
from ...video.cropping import FrameCrop
from ..features.av_offset import AVOffset
from ..tracking.head_track import HeadTrack
from .frame_files import FrameReader
from .sound_file import read_flac

FORMAT = "emotag-clip"
FORMAT_VERSION = 1
CLIP_JSON = "clip.json"
VIDEO, MATTES, BACKGROUND = "video.mp4", "mattes.mkv", "background.png"
TRACK, FEATURES, AUDIO = "track.safetensors", "features.safetensors", "audio.flac"
DEPTH, NORMALS, VHAP = "depth.mkv", "normals.mkv", "vhap.safetensors"
REQUIRED_FILES = (VIDEO, MATTES, BACKGROUND, TRACK, FEATURES)
FILES = (*REQUIRED_FILES, AUDIO, DEPTH, NORMALS, VHAP)  # every file that a clip may have beside clip.json

# Features with one row a frame -> their width (None: a number), which `clip[i]` gives.
FRAME_FEATURES = {"action_units": len(ACTION_UNITS), "emotion": len(EMOTIONS), "emotion_score": None}
DEPTH_STEP = 1e-4  # metres of one step in depth.mkv
_GEOMETRY_SIDE = 256  # pixels of the longer side of depth and normals
_MAX_JSON = 16_000_000  # bytes; a clip.json has a few thousand


class ClipError(ValueError):
    """The folder is not a complete processed clip; the message says what is wrong and what to do."""


class ProcessedClip:
    """A prepared video: T frames at 25 fps, cropped to the face, with the results of tracking and teachers.

    Open one with [`ProcessedClip.open`], make one with `emotag_hf.prepare`. It can be pickled and used in `DataLoader`
    workers; files are opened on first use.

    Attributes:
        path: the folder.
        info: the content of clip.json (docs/processed_clip.md), as plain JSON values.
        num_frames: T.
        crop: the crop of the source video, for pasting frames back.
        camera: the camera of the track; its size is that of the frames.
    """

    def __init__(self, path: Path, info: dict[str, Any]):
        self.path, self.info = path, info
        self.num_frames: int = info["num_frames"]
        self.fps = float(MOTION_FPS)
        self.crop = FrameCrop(**info["crop"])
        camera = info["camera"]
        self.camera = Camera(self.crop.width, self.crop.height, camera["K"], camera["viewmat"])
        size = (self.num_frames, self.crop.width, self.crop.height)
        self._video = FrameReader(path / VIDEO, *size)
        self._mattes = FrameReader(path / MATTES, *size, "grey")
        small = (self.num_frames, *geometry_size(self.crop))
        self._depth = FrameReader(path / DEPTH, *small, "grey16") if DEPTH in info["files"] else None
        self._normals = FrameReader(path / NORMALS, *small, "exact colour") if NORMALS in info["files"] else None

    @classmethod
    def open(cls, path: str | os.PathLike) -> ProcessedClip:
        """Opens a folder and checks that it is complete: format, file sizes, lengths of the contents.

        It reads headers only. File names in clip.json are compared with those of the format and never opened.

        Raises:
            FileNotFoundError: there is no such folder.
            ClipError: it is not a processed clip, has a newer format, or files are missing, truncated or do not match.
        """
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"path: expected the folder of a processed clip, but there is no folder {path}.")
        info = read_clip_json(path)
        for name in REQUIRED_FILES:
            if name not in info["files"]:
                raise ClipError(f"path: {path} lists no {name}; prepare the video again.")
        for name, size in info["files"].items():
            if name not in FILES:
                raise ClipError(f"path: expected the files {', '.join(FILES)}, but {path} names {name!r}.")
            there = (path / name).stat().st_size if (path / name).is_file() else None
            if there != size:
                found = "it is missing" if there is None else f"it has {there}"
                raise ClipError(f"path: expected {size} bytes in {path / name}, but {found}; copy or prepare it again.")
        try:
            clip = cls(path, info)
            clip.audio_offset, info["warnings"], info["feature_sources"]  # are there
            if (info["audio"] is None) != (AUDIO not in info["files"]):
                raise ValueError(f"{AUDIO} and what is said of it do not agree")
        except (KeyError, TypeError, ValueError) as error:
            raise ClipError(f"path: {path / CLIP_JSON} is not whole ({error}); prepare the video again.") from error
        clip._check_lengths()
        return clip

    def _check_lengths(self) -> None:
        wanted = {TRACK: dict.fromkeys(MOTION_DIMS), FEATURES: FRAME_FEATURES}
        for file_name, names in wanted.items():
            shapes = _shapes(self.path / file_name)
            for name in names:
                if name not in shapes or shapes[name][:1] != [self.num_frames]:
                    raise ClipError(
                        f"path: expected {name} for {self.num_frames} frames in {self.path / file_name}, "
                        f"got {shapes.get(name, 'nothing')}; prepare the video again."
                    )

    def __getstate__(self) -> dict:
        return {"path": self.path, "info": self.info}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        size = f"{self.crop.width}x{self.crop.height}"
        return f"ProcessedClip({str(self.path)!r}, {self.num_frames} frames of {size} at {self.fps:g} fps)"

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One frame as tensors, ready for `torch.utils.data.default_collate`.

        Returns:
            `index` int64; `frame` `[H, W, 3]` uint8; `matte` `[H, W]` uint8; `valid` bool (False: do not train on it);
            the fields of `FlameMotion` (`MOTION_DIMS`); and the per-frame features `action_units` `[14]`, `emotion`
            `[7]`, `emotion_score`.
        """
        i = range(self.num_frames)[index]
        item = {"index": torch.tensor(i), "valid": self.valid[i]}
        item |= {"frame": torch.from_numpy(self.frame(i)), "matte": torch.from_numpy(self.matte(i))}
        item |= {name: getattr(self.track.motion, name)[i] for name in MOTION_DIMS}
        return item | {name: self.features[name][i] for name in FRAME_FEATURES}

    def frame(self, index: int) -> np.ndarray:
        """Frame `index`: `[H, W, 3]` uint8 RGB; bit-identical whatever was read before."""
        return self._video[index].copy()

    def frames(self, indices: slice | Iterable[int] = slice(None)) -> np.ndarray:  # noqa: B008 - a slice is a constant
        """Several frames: `[n, H, W, 3]` uint8 RGB, in the order of `indices`."""
        chosen = range(self.num_frames)[indices] if isinstance(indices, slice) else list(indices)
        out = np.empty((len(chosen), self.crop.height, self.crop.width, 3), np.uint8)
        for row, index in zip(out, chosen):
            row[:] = self._video[index]
        return out

    def matte(self, index: int) -> np.ndarray:
        """The matte of frame `index`: `[H, W]` uint8, 255 person, 0 background, soft edges."""
        return self._mattes[index].copy()

    @cached_property
    def track(self) -> HeadTrack:
        """The fitted head over all frames."""
        return HeadTrack.from_tensors(*load_tensors(self.path / TRACK))

    @cached_property
    def valid(self) -> torch.Tensor:
        """`[T]` bool: `track.valid`, without reading the rest of the track."""
        with safe_open(self.path / TRACK, framework="pt") as file:
            return file.get_tensor("valid")

    @cached_property
    def features(self) -> dict[str, torch.Tensor]:
        """Outputs of the teachers: at least `action_units` `[T, 14]` 0..5, `emotion` `[T, 7]` probabilities,
        `emotion_score` `[T]`, `identity` `[512]`, and with sound `input_features` `[Tf, C]`. See `feature_sources`."""
        return load_file(self.path / FEATURES)

    @property
    def feature_sources(self) -> dict[str, str]:
        """Which teacher made each feature."""
        return self.info["feature_sources"]

    def depth(self, index: int) -> np.ndarray | None:
        """Depth of frame `index` from a depth teacher: `[h, w]` float32 metres from the camera, 0 where unknown, of
        `geometry_size(crop)`. None without such a teacher: `features.geometry.head_geometry` has the fitted head's.
        """
        return None if self._depth is None else self._depth[index].astype(np.float32) * np.float32(DEPTH_STEP)

    def normals(self, index: int) -> np.ndarray | None:
        """The same for normals: `[h, w, 3]` float32 of unit length in camera axes, 0 where unknown."""
        if self._normals is None:
            return None
        normals = self._normals[index].astype(np.float32) - 128
        return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1)

    @cached_property
    def audio(self) -> AudioClip | None:
        """The source's own sound from the first frame to the last, or None. `audio_offset` is not applied to it."""
        about = self.info["audio"]
        return None if about is None else read_flac(self.path / AUDIO, about["gain"])

    @property
    def audio_offset(self) -> AVOffset | None:
        """The delay of the sound against the lips, with its confidence. Stored, not applied to `audio` or `features`.
        None without sound."""
        about = self.info["audio_offset"]
        return None if about is None else AVOffset(**about)

    @cached_property
    def background(self) -> tuple[np.ndarray, np.ndarray]:
        """The background without the person: `[H, W, 3]` uint8 RGB, and `[H, W]` bool, False where it is a guess."""
        with Image.open(self.path / BACKGROUND) as image:
            picture = np.asarray(image.convert("RGBA"))
        if picture.shape[:2] != (self.crop.height, self.crop.width):
            raise ClipError(f"path: expected {self.path / BACKGROUND} as large as the frames, got {picture.shape[:2]}.")
        return picture[..., :3].copy(), picture[..., 3] > 127

    @property
    def warnings(self) -> list[str]:
        """Problems of this clip, one sentence each."""
        return self.info["warnings"]

    def split(self, fraction: float = 0.8) -> tuple[range, range]:
        """Training and test frames; the test frames are all later (METHOD 7).

        Args:
            fraction: of the frames for training, above 0 and below 1.

        Raises:
            ValueError: one of the two would be empty.
        """
        cut = round(self.num_frames * fraction)
        if not 0 < cut < self.num_frames:
            raise ValueError(
                f"fraction: expected a number that leaves frames on both sides of {self.num_frames}, got {fraction}."
            )
        return range(cut), range(cut, self.num_frames)

    def close(self) -> None:
        """Closes the files and drops cached data; later access reads it again."""
        for reader in (self._video, self._mattes, self._depth, self._normals):
            if reader is not None:
                reader.close()
        for name in ("track", "valid", "features", "audio", "background"):
            self.__dict__.pop(name, None)


def geometry_size(crop: FrameCrop) -> tuple[int, int]:
    """Width and height of a clip's depth and normals."""
    scale = min(1.0, _GEOMETRY_SIDE / max(crop.width, crop.height))
    return max(2, round(crop.width * scale)), max(2, round(crop.height * scale))


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no dict


def read_clip_json(path: Path) -> dict[str, Any]:
    """The content of a folder's clip.json; see [`parse_clip_json`]."""
    file = path / CLIP_JSON
    if not file.is_file():
        raise ClipError(f"path: expected a processed clip, but {path} has no {CLIP_JSON}; `emotag prepare` makes one.")
    if file.stat().st_size > _MAX_JSON:
        raise ClipError(f"path: expected a processed clip, but {file} has {file.stat().st_size} bytes.")
    return parse_clip_json(file.read_bytes(), str(file))


def parse_clip_json(text: str | bytes, what: str) -> dict[str, Any]:
    """Parses a clip.json. Raises ClipError unless it has a known format."""
    try:
        info = json.loads(text)
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise ValueError(f"no format {FORMAT!r}")
        version = int(info["format_version"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ClipError(f"path: expected a processed clip, but {what} is not one's ({error}).") from error
    if version > FORMAT_VERSION:
        raise ClipError(
            f"path: {what} has clip format {version}, this emotag_hf reads up to {FORMAT_VERSION}; "
            "update it: pip install -U emotag_hf"
        )
    num_frames, files = info.get("num_frames"), info.get("files")
    if not isinstance(num_frames, int) or num_frames < 1 or not isinstance(files, dict):
        raise ClipError(f"path: {what} has no count of frames or no list of files; prepare the video again.")
    return info


def _shapes(path: Path) -> dict[str, list[int]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ClipError(f"path: {path} is not a whole safetensors file ({error}); copy or prepare it again.") from error


__all__ = ["ClipError", "FORMAT_VERSION", "ProcessedClip"]
