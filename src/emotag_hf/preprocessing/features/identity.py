"""The identity embedding that conditions GRMN on the person (METHOD 3, ID Net's input): `[512]`, unit length.

In: a fitted clip and its frames. Out: the embedding, the mean over the most neutral frames. The default needs no
weights: a fixed descriptor of the head's shape and of the face's colours. It is a **weak descriptor for conditioning
only**: it distinguishes the people of a training set, but it is not face recognition and must not be used as such. A
face-embedding network (the paper's is AdaFace) can be given as a callable, or as an ONNX file through
`load_onnx_embedder`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ...models.modeling_head import ParametricHead
from ...utils.import_utils import require_package
from ...utils.rotations import rotation_matrix
from ..tracking.head_track import HeadTrack
from .face_alignment import align_face
from .face_texture import FaceTexture, face_description

EMBEDDING_DIM = 512
SOURCE_DESCRIPTOR = "shape and colour descriptor"
MAX_FRAMES = 16
NUM_CANDIDATES = 3 * MAX_FRAMES
_SEED = 512  # of the fixed projection; embeddings depend on it, never change it

Embedder = Callable[[np.ndarray], np.ndarray]  # [n, 112, 112, 3] uint8 RGB, aligned, to [n, 512]


class Frames(Protocol):
    """Random access to a clip's pictures: `frames[k]` is `[H, W, 3]` uint8 RGB in the track's pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...


def identity_embedding(
    track: HeadTrack,
    frames: Frames,
    head: ParametricHead,
    emotion_score: np.ndarray | None = None,
    embedder: Embedder | None = None,
    source: str | None = None,
) -> tuple[np.ndarray, str]:
    """The embedding of the person in a clip.

    Args:
        track: T frames.
        frames: their pictures, read one at a time: at most 48 of them.
        head: the head that was fitted.
        emotion_score: `[T]` e = 1 - p(neutral), if known; helps to find neutral frames.
        embedder: `[n, 112, 112, 3]` uint8 RGB faces in ArcFace's position to `[n, 512]`; None for the descriptor.
        source: the embedder's name, for the record.

    Returns:
        `[512]` float32 of length 1, and the source to record.

    Raises:
        ValueError: no valid frame, another head or number of frames, or an embedder that gives something else.
    """
    if track.head_sha256 != head.sha256:
        raise ValueError("head: expected the head that the track was fitted with, got another; load that head asset.")
    if len(frames) != len(track):
        raise ValueError(f"frames: expected {len(track)} as in the track, got {len(frames)}.")
    indices = neutral_frames(track, emotion_score, NUM_CANDIDATES)
    pictures = {int(k): np.asarray(frames[int(k)]) for k in indices}
    faces = {k: align_face(picture, track.landmarks[k].numpy()) for k, picture in pictures.items()}
    # The sharpest third of the most neutral frames, because blur changes embeddings.
    kept = sorted(sorted(pictures, key=lambda k: -sharpness(faces[k]))[: max(1, len(pictures) // 3)])
    if embedder is None:
        vectors = _describe(track, [pictures[k] for k in kept], kept, head)
    else:
        vectors = np.asarray(embedder(np.stack([faces[k] for k in kept])))
    if vectors.shape != (len(kept), EMBEDDING_DIM) or not np.isfinite(vectors).all():
        raise ValueError(
            f"embedder: expected finite numbers [{len(kept)}, {EMBEDDING_DIM}], got shape {list(vectors.shape)}."
        )
    name = SOURCE_DESCRIPTOR if embedder is None else source or getattr(embedder, "source", "user's face embedder")
    return _unit(_unit(vectors.astype(np.float64)).mean(0)).astype(np.float32), name


def neutral_frames(track: HeadTrack, emotion_score: np.ndarray | None = None, count: int = MAX_FRAMES) -> np.ndarray:
    """Indices of the most neutral valid frames, most neutral first; at least 1, at most `count`.

    Each frame has a cost: its emotion score (0..1), the size of its expression (the norm of expression, eyelids and
    jaw; 1
    for the clip's 90 % quantile), its turn away from the camera (1 for 30 degrees) and 1 - confidence.

    Raises:
        ValueError: no frame is valid, or the score has another length.
    """
    valid = track.valid.cpu().numpy()
    if not valid.any():
        raise ValueError("track: expected a valid frame, got none; the clip shows no face that could be fitted.")
    if emotion_score is not None and np.shape(emotion_score) != (len(track),):
        raise ValueError(f"emotion_score: expected [{len(track)}], got {list(np.shape(emotion_score))}.")
    motion = track.motion
    moved = torch.cat([motion.expression, motion.eyelids, 3 * motion.jaw_pose], 1).norm(dim=1).cpu().numpy()
    cost = moved / max(float(np.quantile(moved[valid], 0.9)), 1e-6)
    cost = cost + _turn(track) / np.deg2rad(30.0) + 1.0 - track.confidence.cpu().numpy()
    if emotion_score is not None:
        cost = cost + np.asarray(emotion_score)
    order = np.argsort(np.where(valid, cost, np.inf), kind="stable")
    return order[: min(count, int(valid.sum()))]


def sharpness(face: np.ndarray) -> float:
    """Sharpness of an image: the mean size of its Laplacian in grey levels, relative to its contrast."""
    grey = face.astype(np.float64).mean(2)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(np.abs(laplacian).mean() / (grey.std() + 1.0))


def load_onnx_embedder(path: str | Path) -> Embedder:
    """A face-embedding network in an ONNX file as an embedder.

    The convention of ArcFace's and AdaFace's exports: one input `[n, 3, 112, 112]` with values (x - 127.5) / 127.5,
    one output `[n, 512]`. AdaFace wants BGR instead of RGB: give it a callable of your own that turns the channels.

    Raises:
        ImportError: onnxruntime is not installed (the message has the command that installs it).
        ValueError: not an ONNX file. Pickled weights (.pt, .pth, .ckpt) and TorchScript can run code and are refused.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx" or not path.is_file():
        raise ValueError(
            f"path: expected an existing ONNX file, got {path}; pickled weights and TorchScript can run code and are "
            "not read: export them to ONNX, or give a callable."
        )
    return _OnnxEmbedder(path)


class _OnnxEmbedder:
    def __init__(self, path: Path):
        runtime = require_package("onnxruntime")
        try:
            self.session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ValueError(f"path: expected an ONNX file, but onnxruntime cannot read {path} ({error}).") from error
        self.input_name = self.session.get_inputs()[0].name
        self.source = path.name

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        values = (faces.astype(np.float32).transpose(0, 3, 1, 2) - 127.5) / 127.5
        # One by one: many exports have a fixed batch of one.
        return np.concatenate([self.session.run(None, {self.input_name: value[None]})[0] for value in values])


def _describe(track: HeadTrack, pictures: list[np.ndarray], indices: list[int], head: ParametricHead) -> np.ndarray:
    """The default embedder: `[n, 512]` from colours and shape, see `face_description`."""
    texture = FaceTexture(head)
    with torch.no_grad():
        motion = {name: value[indices] for name, value in track.motion.head_inputs().items()}
        vertices = head(shape=track.shape[None].to(head.v_template), **motion).vertices
    rows = []
    for picture, posed in zip(pictures, vertices, strict=True):
        rows.append(face_description(texture(picture, posed, track.camera), track.shape.cpu().numpy()))
    rows = np.stack(rows)
    # A fixed orthonormal map: keeps lengths and angles, and gives all components similar magnitude.
    basis = np.linalg.qr(np.random.default_rng(_SEED).standard_normal((EMBEDDING_DIM, rows.shape[1])))[0]
    return rows @ basis.T


def _turn(track: HeadTrack) -> np.ndarray:
    """Radians `[T]` between where the face looks and where the camera is."""
    motion = track.motion
    face = (rotation_matrix(motion.rotation) @ rotation_matrix(motion.neck_pose))[:, :, 2]
    towards = torch.nn.functional.normalize(track.camera.position - motion.translation, dim=1)
    return (face * towards).sum(1).clamp(-1, 1).arccos().cpu().numpy()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


__all__ = [
    "EMBEDDING_DIM", "SOURCE_DESCRIPTOR", "Embedder", "identity_embedding", "load_onnx_embedder", "neutral_frames",
    "sharpness",
]  # fmt: skip
