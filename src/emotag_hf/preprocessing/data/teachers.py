"""Runs the paper's teachers (pretrained models whose outputs are training targets; METHOD 3, 4 and 5); each has an
offline default and can be replaced.

In: a track, the clip's frames and sound, `FeatureOptions`. Out: the tensors of features.safetensors, optionally
depth.mkv and normals.mkv, and the teacher of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...constants import MOTION_FPS
from ...models.modeling_head import ParametricHead
from ..tracking.head_track import HeadTrack
from ..tracking.setup import sha256
from .clip import DEPTH_STEP
from .frame_files import FrameReader, FrameWriter

SOURCE_MESH = "fitted head"  # of depth and normals that are rendered from the track when needed, not stored
_DEPTH_LIMIT = 65535  # steps; 6.5 m


@dataclass(frozen=True)
class FeatureOptions:
    """Selects the teacher of each feature. Every default works offline.

    Args:
        speech: None for log-mel with prosody; the Hub id or folder of a speech encoder (the paper's is
            "facebook/wav2vec2-base-960h").
        action_units: `"head"` for the fitted head alone; `"blendshapes"` to refine them by MediaPipe's (needs a face
            landmarker model); the path of a CSV by OpenFace.
        emotion: `"action_units"` for the rule over them; the Hub id or folder of an image classifier; the path of a CSV
            by DeepFace.
        identity: None for the descriptor of shape and colour; the path of an ONNX face embedder (AdaFace, ArcFace).
        depth, normals: None for those of the fitted head's mesh, which need not be stored; the Hub id or folder of a
            model (Depth Anything, Sapiens).
    """

    speech: str | None = None
    action_units: str = "head"
    emotion: str = "action_units"
    identity: str | None = None
    depth: str | None = None
    normals: str | None = None

    def __post_init__(self) -> None:
        units = self.action_units
        if units not in ("head", "blendshapes") and not str(units).lower().endswith(".csv"):
            raise ValueError(f"action_units: expected 'head', 'blendshapes' or OpenFace's CSV file, got {units!r}.")

    def request(self) -> dict[str, Any]:
        """JSON values that identify the options; files by their content.

        Raises:
            FileNotFoundError: a CSV or ONNX file does not exist.
        """
        return {name: _mark(name, value) for name, value in asdict(self).items()}


def _mark(name: str, value: str | None) -> str | None:
    if value is None or not str(value).lower().endswith((".csv", ".onnx")):
        return None if value is None else str(value)
    if not Path(value).is_file():
        raise FileNotFoundError(f"{name}: expected a teacher's file, but there is no file {value}.")
    return f"sha256 {sha256(Path(value))}"


def make_features(
    options: FeatureOptions,
    track: HeadTrack,
    head: ParametricHead,
    frames: FrameReader,
    samples: np.ndarray | None,
    blendshapes: np.ndarray | None = None,
    blendshape_names: tuple[str, ...] = (),
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Runs the teachers of speech, action units, emotion and identity.

    Args:
        options: which.
        track, head: the track of T frames, and the head that was fitted.
        frames: the clip's T frames, in the track's pixels.
        samples: `[n]` mono float at 16 kHz from the first frame on, or None without sound.
        blendshapes: `[T, 52]` in [0, 1] in the order of `blendshape_names`, or None.

    Returns:
        The tensors, and for each the name of its teacher: `action_units` `[T, 14]`, `emotion` `[T, 7]`,
        `emotion_score` `[T]`, `identity` `[512]`; with sound `input_features` `[Tf, C]`; with blendshapes those.

    Raises:
        ValueError: a teacher cannot be used on this clip; the message says which and why.
    """
    from ..features.emotion import emotion_score
    from ..features.identity import identity_embedding, load_onnx_embedder

    units, units_source = _action_units(options.action_units, track, head, blendshapes, blendshape_names)
    emotion, emotion_source = _emotion(options.emotion, units, track, frames)
    score = emotion_score(emotion)
    embedder = None if options.identity is None else load_onnx_embedder(options.identity)
    identity, identity_source = identity_embedding(track, frames, head, score, embedder)
    tensors = {"action_units": units, "emotion": emotion, "emotion_score": score, "identity": identity}
    sources = {"action_units": units_source, "emotion": emotion_source, "identity": identity_source}
    if blendshapes is not None:
        tensors["blendshapes"], sources["blendshapes"] = blendshapes, "MediaPipe FaceLandmarker"
    found = {name: torch.as_tensor(np.asarray(value, np.float32)).contiguous() for name, value in tensors.items()}
    if samples is not None:
        from ..features.speech import speech_features

        speech, sources["input_features"] = speech_features(samples, len(track), options.speech)
        found |= speech
    return found, sources


def _action_units(
    choice: str, track: HeadTrack, head: ParametricHead, blendshapes: np.ndarray | None, names: tuple[str, ...]
) -> tuple[np.ndarray, str]:
    from ..features import action_units as teacher

    if choice.lower().endswith(".csv"):
        return teacher.read_openface_csv(choice, len(track), MOTION_FPS), teacher.SOURCE_OPENFACE
    units = teacher.action_units_from_track(track, head)
    if choice == "head":
        return units, teacher.SOURCE_HEAD
    if blendshapes is None:
        raise ValueError("action_units: expected landmarks with blendshapes for 'blendshapes', got none.")
    return teacher.refine_with_blendshapes(units, blendshapes, names), teacher.SOURCE_BLENDSHAPES


def _emotion(choice: str, units: np.ndarray, track: HeadTrack, frames: FrameReader) -> tuple[np.ndarray, str]:
    from ..features import emotion as teacher

    if choice == "action_units":
        return teacher.emotion_from_action_units(units, MOTION_FPS), teacher.SOURCE_RULE
    if choice.lower().endswith(".csv"):
        return teacher.read_deepface_csv(choice, len(track), MOTION_FPS), teacher.SOURCE_DEEPFACE
    from ..features.emotion_models import emotion_from_frames

    return emotion_from_frames(_in_order(frames), choice, track.landmarks.numpy())


def _in_order(frames: FrameReader) -> Iterator[np.ndarray]:
    return (frames[i] for i in range(len(frames)))


def write_depth(
    path: Path,
    model_id: str,
    track: HeadTrack,
    head: ParametricHead,
    frames: Iterable[np.ndarray],
    size: tuple[int, int],
) -> str:
    """Writes a depth teacher's maps at `size` (width, height), in metres by aligning each with the fitted head, and
    returns the teacher's name. Frames without a head, or that disagree with it, are 0: unknown."""
    from ..features.geometry import DepthTeacher, align_depth, head_geometry

    teacher = DepthTeacher(model_id)
    with FrameWriter(path, *size, "grey16") as writer:
        for index, depth in enumerate(teacher(frames)):
            small = _resized(depth[..., None], size)[..., 0]
            reference = head_geometry(track, [index], head, size)
            try:
                metres = align_depth(small, reference.depth[0], reference.mask[0])
            except ValueError:  # no head in this frame, or none that the model sees
                metres = np.zeros_like(small)
            steps = np.rint(metres / DEPTH_STEP)
            writer.write(np.where((steps > 0) & (steps < _DEPTH_LIMIT), steps, 0).astype(np.uint16))
    return teacher.source


def write_normals(
    path: Path,
    model_id: str,
    track: HeadTrack,
    head: ParametricHead,
    frames: Iterable[np.ndarray],
    size: tuple[int, int],
) -> str:
    """The same for a normal teacher; its axes are turned to the camera's by comparing with the fitted head."""
    from ..features.geometry import NormalTeacher, head_geometry, match_axes

    teacher = NormalTeacher(model_id)
    with FrameWriter(path, *size, "exact colour") as writer:
        for index, normals in enumerate(teacher(frames)):
            small = _resized(normals, size)[None]
            reference = head_geometry(track, [index], head, size)
            if reference.mask.any():
                small = match_axes(small, reference.normals, reference.mask)
            else:
                small = np.zeros_like(small)
            writer.write(np.clip(np.rint(small[0] * 127) + 128, 1, 255).astype(np.uint8))
    return teacher.source


def _resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`[H, W, C]` to `[height, width, C]`, by averaging where it shrinks."""
    planes = torch.from_numpy(np.ascontiguousarray(maps)).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(planes, size[::-1], mode="area")[0].permute(1, 2, 0).numpy()


__all__ = ["FeatureOptions", "make_features", "write_depth", "write_normals"]
