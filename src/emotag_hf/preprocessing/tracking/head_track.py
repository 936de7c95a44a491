"""Results of tracking: landmarks in the picture, and the head that was fitted to them.

Data classes; `HeadTrack` converts to tensors for safetensors and back. T is the number of frames at 25 fps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...constants import MOTION_DIMS
from ...models.modeling_head import ParametricHead
from ...outputs import FlameMotion
from ...rendering.cameras import Camera

NUM_POINTS = 478  # MediaPipe's face mesh (468) and two irises (5 each)
# Indices of these points: outer and inner outline of the lips; corners and lids of both eyes.
MOUTH_POINTS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,
)  # fmt: skip
EYE_POINTS = (33, 133, 159, 145, 263, 362, 386, 374)


@dataclass
class FaceLandmarks:
    """MediaPipe's points of one face over T frames.

    Args:
        points: `[T, 478, 3]` float32: x and y in pixels of the picture (pixel centres at +0.5), z in the same scale,
            growing away from the camera; NaN where no face was found.
        found: `[T]` bool.
        num_faces: `[T]` int32, number of faces in the frame.
        width, height: size in pixels of the picture that the points refer to.
        fps: frames per second.
        blendshapes: `[T, 52]` float32 in [0, 1] in the order of `blendshape_names`, NaN where no face was found; None
            without MediaPipe's FaceLandmarker model.
    """

    points: np.ndarray
    found: np.ndarray
    num_faces: np.ndarray
    width: int
    height: int
    fps: float = 25.0
    blendshapes: np.ndarray | None = None
    blendshape_names: tuple[str, ...] = ()

    def __post_init__(self):
        num_frames = len(self.points)
        for name, shape in (("points", (num_frames, NUM_POINTS, 3)), ("found", (num_frames,))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: expected an array of shape {shape}, got {getattr(self, name).shape}.")

    def __len__(self) -> int:
        return len(self.points)


@dataclass
class HeadTrack:
    """A parametric head fitted to T frames of one camera.

    Args:
        motion: T frames of `FlameMotion` in the camera's world (metres, y up, the camera looks along -z).
        shape: `[S]` identity coefficients, constant over the clip.
        camera: constant over the clip; its size is the crop's.
        valid: `[T]` bool: False where there was no face or the fit failed; such frames copy the motion of the nearest
            valid frame and must not be used for training.
        confidence: `[T]` in [0, 1].
        error: `[T]` median residual of the fitted landmarks in pixels of a 512-wide picture; NaN without a face.
        held_out_error: `[T]` the same on landmarks that were not used in the fit.
        landmarks: `[T, 478, 3]` the landmarks in pixels of the crop, NaN without a face.
        head_sha256: hash of the head asset that was fitted.
    """

    motion: FlameMotion
    shape: torch.Tensor
    camera: Camera
    valid: torch.Tensor
    confidence: torch.Tensor
    error: torch.Tensor
    held_out_error: torch.Tensor
    landmarks: torch.Tensor
    head_sha256: str

    def __len__(self) -> int:
        return len(self.motion)

    def to_tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Tensors and metadata for safetensors; the inverse of `from_tensors`."""
        tensors = {name: getattr(self.motion, name).contiguous() for name in MOTION_DIMS}
        for name in ("shape", "valid", "confidence", "error", "held_out_error", "landmarks"):
            tensors[name] = getattr(self, name).contiguous()
        tensors |= {"K": self.camera.K, "viewmat": self.camera.viewmat}
        metadata = {
            "format": "emotag-track",
            "head_sha256": self.head_sha256,
            "width": str(self.camera.width),
            "height": str(self.camera.height),
            "fps": str(self.motion.fps),
            "units": "metres, radians (axis-angle), pixels of the crop (landmarks, K), 512-wide pixels (errors)",
        }
        return tensors, metadata

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> HeadTrack:
        """The track from what `to_tensors` returned. Raises ValueError if the format or tensors are missing."""
        needed = {*MOTION_DIMS, "shape", "valid", "confidence", "error", "held_out_error", "landmarks", "K", "viewmat"}
        if metadata.get("format") != "emotag-track" or needed - tensors.keys():
            raise ValueError(
                f"track: expected format 'emotag-track' with {sorted(needed)}, got {metadata.get('format')!r} "
                f"without {sorted(needed - tensors.keys())}."
            )
        motion = FlameMotion(**{name: tensors[name] for name in MOTION_DIMS}, fps=float(metadata["fps"]))
        camera = Camera(int(metadata["width"]), int(metadata["height"]), tensors["K"], tensors["viewmat"])
        rest = {name: tensors[name] for name in needed - {*MOTION_DIMS, "K", "viewmat"}}
        return cls(motion=motion, camera=camera, head_sha256=metadata["head_sha256"], **rest)


def camera_vertices(track: HeadTrack, indices: list[int] | np.ndarray, head: ParametricHead) -> np.ndarray:
    """The fitted head's vertices `[n, V, 3]` float32 of some frames, in camera space (OpenCV axes, metres)."""
    rows = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
    device, view = head.v_template.device, track.camera.viewmat
    inputs = {name: value[rows].to(device) for name, value in track.motion.head_inputs().items()}
    with torch.no_grad():
        vertices = head(shape=track.shape[None].to(device), **inputs).vertices.cpu()
    return (vertices @ view[:3, :3].T + view[:3, 3]).numpy()


__all__ = ["EYE_POINTS", "FaceLandmarks", "HeadTrack", "MOUTH_POINTS", "NUM_POINTS", "camera_vertices"]
