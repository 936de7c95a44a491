"""Amplitude of the tracked head's expressions relative to the landmarks; correlation does not show a weak expression.

In: a `HeadTrack` and its head. Out: for each distance of a face (mouth's width, brow over eye, ...) the slope of a
linear regression of the mesh's distance on the landmarks' distance, in the picture. 1 is correct; at 0.6 the mesh
shows 60 % of the movement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...models.modeling_head import ParametricHead
from .head_track import HeadTrack, camera_vertices
from .landmark_groups import EYE_CORNERS

# Pairs of MediaPipe landmarks whose distance is measured, divided by the distance of the outer eye corners.
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
MOVES = 0.01  # eye distances: smallest standard deviation for which a slope is reported
_BATCH_SIZE = 256  # frames per batch


@dataclass(frozen=True)
class Amplitude:
    """How one distance on the mesh follows the same distance between landmarks.

    Args:
        slope: of the regression of mesh on landmarks; landmark noise lowers it where `correlation` is under 0.9.
        correlation: Pearson's r.
        ratio: standard deviation of the mesh's distance divided by that of the landmarks' distance.
        spread: standard deviation of the landmarks' distance, in distances between the outer eye corners.
    """

    slope: float
    correlation: float
    ratio: float
    spread: float

    @property
    def moves(self) -> bool:
        """Whether this distance changes enough for the numbers to be reliable."""
        return self.spread >= MOVES


def mesh_landmarks(track: HeadTrack, head: ParametricHead) -> np.ndarray:
    """The fitted head's 468 landmarks projected into the picture, `[T, 468, 2]` pixels."""
    found = []
    for frames in np.array_split(np.arange(len(track)), -(-len(track) // _BATCH_SIZE)):
        vertices = torch.from_numpy(camera_vertices(track, frames, head)).to(head.v_template)
        pixels = head.landmarks(vertices).cpu() @ track.camera.K.T
        found.append((pixels[..., :2] / pixels[..., 2:]).numpy())
    return np.concatenate(found)


def amplitudes(track: HeadTrack, head: ParametricHead) -> dict[str, tuple[Amplitude, ...]]:
    """Name of `AMPLITUDES` -> one `Amplitude`, or two (the person's left, right). Empty with fewer than 3 frames."""
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
