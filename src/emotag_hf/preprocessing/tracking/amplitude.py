"""How strongly a tracked head moves beside the landmarks it was fitted to; correlation hides a smile at two thirds.

In: a `HeadTrack` and its head. Out: for each distance of a face (mouth's width, brow over eye, ...) the slope of the
mesh's distance on the landmarks' one, in the picture. 1 is right; 0.6 says that the mesh shows 60 % of what the face
did.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...models.modeling_head import ParametricHead
from .head_track import HeadTrack
from .landmark_groups import EYE_CORNERS

# MediaPipe's points between which a distance is measured; it is divided by that of the outer eye corners.
AMPLITUDES = {
    "lip gap": ((13, 14),),
    "mouth width": ((61, 291),),
    "upper lip to nose": ((0, 2),),
    "mouth corner to eye": ((291, 263), (61, 33)),
    "chin": ((152, 168),),
    "lid": ((386, 374), (159, 145)),
    "brow middle": ((282, 386), (52, 159)),
    "brow inner": ((285, 362), (55, 133)),
    "brow outer": ((276, 263), (46, 33)),
    "between brows": ((55, 285),),
}
MOVES = 0.01  # standard deviation of a distance, in eye distances, from which its slope says something
_CHUNK = 256  # frames posed at once


@dataclass(frozen=True)
class Amplitude:
    """How one distance of the mesh follows the landmarks' one.

    Args:
        slope: of the mesh on the landmarks; noise in the landmarks lowers it where `correlation` is under 0.9.
        correlation: Pearson's r.
        ratio: standard deviation of the mesh's distance over that of the landmarks'.
        spread: standard deviation of the landmarks' distance, in distances between the outer eye corners.
    """

    slope: float
    correlation: float
    ratio: float
    spread: float

    @property
    def moves(self) -> bool:
        """Whether the face moves enough for the numbers to mean something."""
        return self.spread >= MOVES


def mesh_landmarks(track: HeadTrack, head: ParametricHead) -> np.ndarray:
    """The head's own 468 landmarks in the picture, `[T, 468, 2]` pixels."""
    found = []
    with torch.no_grad():
        for start in range(0, len(track), _CHUNK):
            motion = track.motion[start : start + _CHUNK]
            vertices = head(shape=track.shape[None], **motion.head_inputs()).vertices
            seen = head.landmarks(vertices) @ track.camera.viewmat[:3, :3].T + track.camera.viewmat[:3, 3]
            pixels = seen @ track.camera.K.T
            found.append((pixels[..., :2] / pixels[..., 2:]).numpy())
    return np.concatenate(found)


def amplitudes(track: HeadTrack, head: ParametricHead) -> dict[str, tuple[Amplitude, ...]]:
    """Name of `AMPLITUDES` -> one `Amplitude`, or two: of the person's left and right side. {} with too few frames."""
    mesh, true = mesh_landmarks(track, head), track.landmarks[:, :468, :2].numpy()
    seen = track.valid.numpy() & np.isfinite(true).all((1, 2))
    if seen.sum() < 3:
        return {}

    def measure(pair: tuple[int, int]) -> Amplitude:
        ours, theirs = (_distance(points[seen], pair) / _distance(points[seen], EYE_CORNERS) for points in (mesh, true))
        spread, own = float(theirs.std()), float(ours.std())
        if spread < 1e-9 or own < 1e-9:
            return Amplitude(0.0, 0.0, 0.0, spread)
        r = float(np.corrcoef(ours, theirs)[0, 1])
        return Amplitude(r * own / spread, r, own / spread, spread)

    return {name: tuple(measure(pair) for pair in pairs) for name, pairs in AMPLITUDES.items()}


def _distance(points: np.ndarray, pair: tuple[int, int]) -> np.ndarray:
    return np.linalg.norm(points[:, pair[0]] - points[:, pair[1]], axis=-1)


__all__ = ["AMPLITUDES", "MOVES", "Amplitude", "amplitudes", "mesh_landmarks"]
