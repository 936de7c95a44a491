"""Action units of a clip, 0..5 as in OpenFace, calibrated to the person's neutral face (METHOD 3, Expr Net's input).

In: a fitted head (`HeadTrack`), MediaPipe's blendshapes, or OpenFace's CSV. Out: `[T, 14]` float32 in the order of
`constants.ACTION_UNITS`. The default needs only the fitted head: `face_measures` gives movements of the face
in millimetres, and `ACTION_UNIT_TABLE` maps them linearly to intensities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...constants import ACTION_UNITS, GRMN_ACTION_UNITS
from ...models.modeling_head import ParametricHead
from ..tracking.head_track import HeadTrack
from .face_measures import face_measures
from .tables import pick, read_columns, to_frames

SOURCE_HEAD = "fitted head"
SOURCE_BLENDSHAPES = "fitted head and MediaPipe blendshapes"
SOURCE_OPENFACE = "OpenFace CSV"
MAX_INTENSITY = 5.0


@dataclass(frozen=True)
class UnitRule:
    """How the intensity of one action unit is computed.

    Args:
        measure: its name in `face_measures`.
        zero, five: the measure at intensity 0 and 5, for a person whose neutral face is the head's. `zero` is above the
            neutral value where speech alone moves the face that far; `five` is about the maximum in talking faces.
        calibration: share of the person's neutral intensity that is subtracted, see `calibrate`.
        blendshapes: MediaPipe's blendshapes of the same movement (averaged); empty if MediaPipe's are always 0.
        blendshape_zero, blendshape_five: their values at intensity 0 and 5.
    """

    measure: str
    zero: float
    five: float
    calibration: float
    blendshapes: tuple[str, ...] = ()
    blendshape_zero: float = 0.0
    blendshape_five: float = 1.0


def _both(name: str) -> tuple[str, str]:
    return f"{name}Left", f"{name}Right"


ACTION_UNIT_TABLE: dict[str, UnitRule] = {
    "AU01": UnitRule("inner_brow", 0.4, 4.6, 0.75, ("browInnerUp",), 0.15, 1.0),
    "AU02": UnitRule("outer_brow", 0.5, 4.6, 0.75, _both("browOuterUp"), 0.1, 1.0),
    "AU04": UnitRule("brow_lower", 1.5, 5.1, 0.75, _both("browDown")),
    "AU05": UnitRule("opening", 8.3, 11.0, 0.5, _both("eyeWide"), 0.01, 0.1),
    "AU06": UnitRule("cheek", 0.2, 0.9, 0.5),
    "AU07": UnitRule("lower_lid", 0.75, 3.3, 0.5, _both("eyeSquint"), 0.3, 1.0),
    "AU09": UnitRule("nose", 0.9, 4.7, 0.5),
    "AU12": UnitRule("smile", 3.1, 8.8, 0.25, _both("mouthSmile"), 0.05, 1.0),
    "AU15": UnitRule("corner_drop", 0.5, 3.5, 0.5, _both("mouthFrown"), 0.0, 0.7),
    "AU17": UnitRule("lower_lip", 0.4, 3.5, 0.25, ("mouthShrugLower",), 0.0, 0.5),
    "AU20": UnitRule("stretch", 0.2, 3.5, 0.5, _both("mouthStretch"), 0.0, 0.6),
    "AU25": UnitRule("lips_apart", 1.0, 25.0, 0.0),
    "AU26": UnitRule("jaw_drop", 2.0, 26.0, 0.25, ("jawOpen",), 0.03, 0.8),
    "AU45": UnitRule("closure", 0.15, 0.9, 0.0, _both("eyeBlink"), 0.15, 0.75),
}


def action_units_from_track(track: HeadTrack, head: ParametricHead) -> np.ndarray:
    """Intensities from the fitted head only.

    Args:
        track: T frames.
        head: the head that was fitted.

    Returns:
        `[T, 14]` float32 in 0..5, the columns `ACTION_UNITS`. Frames that are not valid are computed like the others.

    Raises:
        ValueError: the track was fitted with another head.
    """
    if track.head_sha256 != head.sha256:
        raise ValueError("head: expected the head that the track was fitted with, got another; load that head asset.")
    measures = face_measures(track, head)
    valid = track.valid.cpu().numpy()
    columns = []
    for rule in (ACTION_UNIT_TABLE[unit] for unit in ACTION_UNITS):
        intensity = MAX_INTENSITY * (measures[rule.measure].cpu().numpy() - rule.zero) / (rule.five - rule.zero)
        columns.append(calibrate(intensity, valid, rule.calibration))
    return np.stack(columns, 1).astype(np.float32)


def calibrate(intensity: np.ndarray, valid: np.ndarray, share: float) -> np.ndarray:
    """Subtracts a share of the person's neutral intensity and clips to 0..5.

    The neutral face cannot be determined from a clip with certainty: brows that are raised throughout may be the
    person's neutral face or a lasting expression. So the neutral intensity is the 30 % quantile over valid frames,
    clipped to -1..1, and only `share` of it is subtracted. With a share of 0.75, as for brows, whose height differs a
    lot between people, an expression that lasts the whole clip loses at most 0.75.

    Args:
        intensity: `[T]`, not clipped.
        valid: `[T]` bool; without a valid frame nothing is subtracted.
        share: 0..1.
    """
    if valid.any() and share > 0:
        intensity = intensity - share * np.clip(np.quantile(intensity[valid], 0.3), -1.0, 1.0)
    return np.clip(intensity, 0.0, MAX_INTENSITY)


def refine_with_blendshapes(aus: np.ndarray, blendshapes: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Averages intensities with those from MediaPipe's blendshapes, for units that have blendshapes.

    Args:
        aus: `[T, 14]` of `action_units_from_track`.
        blendshapes: `[T, 52]` in [0, 1]; frames with NaN (no face) are not changed.
        names: of the columns of `blendshapes`.

    Returns:
        `[T, 14]` float32 in 0..5.

    Raises:
        ValueError: shapes do not match, or a blendshape of the table is missing.
    """
    aus, blendshapes, names = np.asarray(aus), np.asarray(blendshapes), [str(name) for name in names]
    if aus.shape != (len(aus), len(ACTION_UNITS)) or blendshapes.shape != (len(aus), len(names)):
        raise ValueError(
            f"blendshapes: expected [{len(aus)}, {len(names)}] beside action units [T, {len(ACTION_UNITS)}], "
            f"got {list(blendshapes.shape)} beside {list(aus.shape)}."
        )
    seen = np.isfinite(blendshapes).all(1)
    out = aus.astype(np.float32)
    for column, unit in enumerate(ACTION_UNITS):
        rule = ACTION_UNIT_TABLE[unit]
        missing = [name for name in rule.blendshapes if name not in names]
        if missing:
            raise ValueError(f"names: expected MediaPipe's blendshapes with {', '.join(missing)}, got {names}.")
        if rule.blendshapes:
            shapes = blendshapes[:, [names.index(name) for name in rule.blendshapes]].mean(1)
            intensity = MAX_INTENSITY * (shapes - rule.blendshape_zero) / (rule.blendshape_five - rule.blendshape_zero)
            other = calibrate(intensity, seen, rule.calibration)
            out[seen, column] = 0.5 * (out[seen, column] + other[seen])
    return out


def read_openface_csv(path: str | Path, num_frames: int, fps: float = 25.0) -> np.ndarray:
    """Intensities from the CSV that OpenFace's FeatureExtraction wrote for the clip.

    Args:
        path: CSV with `timestamp`, `success` and `AU01_r` .. `AU45_r` (OpenFace puts a blank before each name).
        num_frames, fps: of the clip; rows are interpolated to its frames and across failed rows (success 0).

    Returns:
        `[num_frames, 14]` float32 in 0..5, the columns `ACTION_UNITS`.

    Raises:
        ValueError: columns are missing, no row has a face, or the table's duration differs from the clip's.
    """
    columns = read_columns(path)
    names = [f"{unit}_r" for unit in ACTION_UNITS]
    table = pick(columns, ["timestamp", "success", *names], path, "OpenFace's FeatureExtraction with action units")
    values = table[:, 2:]
    usable = (table[:, 1] > 0.5) & np.isfinite(values).all(1)
    if usable.any() and not (-0.01 <= values[usable].min() and values[usable].max() <= MAX_INTENSITY + 0.01):
        raise ValueError(
            f"path: expected intensities from 0 to 5 in the columns AU.._r of {path}, "
            f"got {values[usable].min():g} to {values[usable].max():g}."
        )
    return to_frames(values, table[:, 0], usable, num_frames, fps, path)


def grmn_action_units(aus: np.ndarray) -> np.ndarray:
    """`[..., 6]` of `[..., 14]`: the input units of GRMN (`constants.GRMN_ACTION_UNITS`), in its order."""
    return np.asarray(aus)[..., [ACTION_UNITS.index(unit) for unit in GRMN_ACTION_UNITS]]


__all__ = [
    "ACTION_UNIT_TABLE", "SOURCE_BLENDSHAPES", "SOURCE_HEAD", "SOURCE_OPENFACE", "UnitRule", "action_units_from_track",
    "calibrate", "grmn_action_units", "read_openface_csv", "refine_with_blendshapes",
]  # fmt: skip
