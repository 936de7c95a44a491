"""Driving clips: motion of a clip replaces generated motion, as in the paper (METHOD 6).

In: a tracked clip or a `FlameMotion`, and frame times. Out: `DrivingMotion`, which replaces parts of a generated
`UpperFace`: the pose (head, neck, position, gaze), the expression (eyelids, brows, the six action units that GRMN
reads), or both. Motion is taken relative to the clip's mean pose and usual expression, so that it fits another person.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..constants import ACTION_UNITS, EXPRESSION_NAMES, GRMN_ACTION_UNITS
from ..outputs import FlameMotion
from ..utils.rotations import rotation_matrix, rotation_to_axis_angle
from .motion_curves import ease
from .motion_generator import LID_BY_GAZE, UpperFace

PARTS = ("pose", "expression")
POSE_FIELDS = ("rotation", "neck_pose", "translation", "eyes_pose")
EXPRESSION_FIELDS = ("eyelids", "expression", "action_units")
# The directions of the upper face; the others follow the speech.
UPPER_FACE = tuple(
    i for i, name in enumerate(EXPRESSION_NAMES) if name.startswith(("brow", "eye", "cheekRaiser", "cheekSquint"))
)
_BLEND = 0.6  # seconds of the transition from one motion to another
# Action units of a motion without a clip's features: five times the mean of these directions.
_UNITS = {"AU01": "browInnerUp", "AU04": "browDown", "AU05": "eyeWide", "AU06": "cheekRaiser", "AU07": "eyeSquint"}


@dataclass
class DrivingMotion:
    """A clip's motion for T frames; shapes as in `UpperFace`.

    Args:
        values: the fields of the requested parts.
        weight: `[T]` in [0, 1], weight of the clip against the generated motion.
    """

    values: dict[str, torch.Tensor]
    weight: torch.Tensor

    def onto(self, upper: UpperFace) -> UpperFace:
        """Replaces generated motion by the clip's; where the clip gives gaze but not eyelids, the eyelids follow its
        gaze."""
        weight = self.weight[:, None]
        if len(upper.eyelids) != len(weight):
            raise ValueError(f"upper: expected {len(weight)} frames, as many as times, got {len(upper.eyelids)}.")
        mixed = {k: torch.lerp(getattr(upper, k), v, weight.to(v)) for k, v in self.values.items()}
        if "eyes_pose" in mixed and "eyelids" not in mixed:
            lower = mixed["eyes_pose"][:, [0, 3]] - upper.eyes_pose[:, [0, 3]]
            mixed["eyelids"] = (
                (upper.eyelids + LID_BY_GAZE * lower)
                .clamp(0, 1)
                .maximum(
                    upper.eyelids * (upper.eyelids > 0.5)  # a blink stays one
                )
            )
        return replace(upper, **mixed)


class DrivingClip:
    """A driving clip, prepared once; `at` is fast and does not depend on the chunks in which it is called.

    The clip is repeated if it is too short: its last frame is held while its beginning fades in within 0.6 s, so that
    nothing jumps. Values are interpolated linearly between frames.

    Args:
        source: a `ProcessedClip`, a `HeadTrack` or a `FlameMotion`, with at least one frame.
        parts: "pose" for `POSE_FIELDS`, "expression" for `EXPRESSION_FIELDS`, or both.
        start: seconds; when the clip begins; a start after 0 fades in over the generated motion within 0.6 s.
        name: name of `source` in error messages.

    Raises:
        ValueError: an unknown part; no frame with a face.
    """

    def __init__(self, source: Any, parts: str | Sequence[str] = PARTS, *, start: float = 0.0, name: str = "source"):
        self.parts = (parts,) if isinstance(parts, str) else tuple(parts)
        if not self.parts or set(self.parts) - set(PARTS):
            raise ValueError(f"parts: expected 'pose', 'expression' or both, got {parts!r}.")
        if not math.isfinite(start):
            raise ValueError(f"start: expected finite seconds, got {start}.")
        motion, valid, units = _read(source, name)
        self.start, self.fps = start, motion.fps
        self._rows = {}
        if "pose" in self.parts:
            self._rows |= _pose(motion, valid)
        if "expression" in self.parts:
            self._rows |= _expression(motion, valid, units)

    def at(self, times: np.ndarray) -> DrivingMotion:
        """The clip's motion at `times [T]`, finite seconds.

        Half of the person's usual expression is subtracted, as for action units, and the usual opening of the eyelids
        counts as open.
        """
        times = np.asarray(times, np.float64)
        if times.ndim != 1 or not np.isfinite(times).all():
            raise ValueError(f"times: expected finite seconds [T], got shape {times.shape}, or NaN or infinity in it.")
        begun = np.maximum(times - self.start, 0)
        values = {name: _looped(rows.float(), self.fps, begun) for name, rows in self._rows.items()}
        weight = ease((times - self.start) / _BLEND) if self.start > 0 else np.ones(len(times))
        return DrivingMotion(values, torch.from_numpy(weight).float())


def driving_motion(
    source: Any, times: np.ndarray, parts: str | Sequence[str] = PARTS, *, start: float = 0.0
) -> DrivingMotion:
    """A clip's motion at other times, relative to the rest pose: `DrivingClip` in one call."""
    return DrivingClip(source, parts, start=start).at(times)


def _read(source: Any, name: str) -> tuple[FlameMotion, torch.Tensor, torch.Tensor | None]:
    """The motion, which of its frames are valid, and the six action units if the clip has them."""
    units = None
    track = getattr(source, "track", source)
    motion = getattr(track, "motion", track)
    if not isinstance(motion, FlameMotion):
        raise ValueError(
            f"{name}: expected a ProcessedClip, a HeadTrack or a FlameMotion, got {type(source).__name__}; "
            "`ProcessedClip.open` opens the folder of a clip."
        )
    if track is not source:
        columns = [ACTION_UNITS.index(name) for name in GRMN_ACTION_UNITS]
        units = source.features["action_units"][:, columns].float()
    motion = motion.to("cpu")
    valid = getattr(track, "valid", torch.ones(len(motion), dtype=torch.bool)).cpu()
    if not bool(valid.any()):
        raise ValueError(f"{name}: expected frames with a face, but there is none; take another clip.")
    return motion, valid, units


def _pose(motion: FlameMotion, valid: torch.Tensor) -> dict[str, torch.Tensor]:
    """The pose relative to its mean, the inverse of `EmoTaGModel.on_rest_pose`: a person driven by their own clip gets
    its pose again."""
    root, neck = (rotation_matrix(getattr(motion, name).double()) for name in ("rotation", "neck_pose"))
    rest_root, rest_neck = (
        rotation_matrix(getattr(motion, name)[valid].double().mean(0)) for name in ("rotation", "neck_pose")
    )
    moved = motion.translation.double()
    return {
        "rotation": rotation_to_axis_angle(rest_root.T @ root),
        "neck_pose": rotation_to_axis_angle(rest_neck.T @ neck),
        "translation": (moved - moved[valid].mean(0)) @ rest_root,
        "eyes_pose": _settled_gaze(motion, valid),
    }


def _settled_gaze(motion: FlameMotion, valid: torch.Tensor) -> torch.Tensor:
    """Gaze relative to its median, without the tracker's jumps while eyelids are down."""
    eyes = motion.eyes_pose.double().numpy()
    shut = motion.eyelids.amax(-1).numpy()
    closed = np.pad(shut > 0.3 + 0.7 * np.quantile(shut, 0.3), 2)
    good = valid.numpy() & (np.convolve(closed, np.ones(5), "valid") == 0)
    if good.sum() < 2:
        return torch.zeros_like(motion.eyes_pose)
    frames = np.arange(len(eyes))
    bridged = np.stack([np.interp(frames, frames[good], column[good]) for column in eyes.T], -1)
    padded = np.pad(bridged, ((1, 1), (0, 0)), "edge")
    steady = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), 0)  # removes tracker noise
    return torch.from_numpy(steady - np.median(steady[good], 0))


def _expression(motion: FlameMotion, valid: torch.Tensor, units: torch.Tensor | None) -> dict[str, torch.Tensor]:
    upper = list(UPPER_FACE)
    own = motion.expression[:, upper].float()
    expression = torch.zeros(len(motion), len(EXPRESSION_NAMES))
    expression[:, upper] = (own - 0.5 * own[valid].median(0).values).clamp(0, 1)
    usual = motion.eyelids[valid].float().quantile(0.3, dim=0).clamp(0, 0.8)
    lids = ((motion.eyelids.float() - usual) / (1 - usual)).clamp(0, 1)
    if units is None:
        columns = {"AU45": 5 * ((lids.mean(-1) - 0.15) / 0.75).clamp(0, 1)}
        for unit, name in _UNITS.items():
            both = [EXPRESSION_NAMES.index(f"{name}_{side}") for side in "LR"]
            columns[unit] = 5 * expression[:, both].mean(-1)
        units = torch.stack([columns[name] for name in GRMN_ACTION_UNITS], -1)
    return {"eyelids": lids, "expression": expression, "action_units": units}


def _looped(rows: torch.Tensor, fps: float, times: np.ndarray) -> torch.Tensor:
    """`rows [n, D]` at `fps`, repeated at `times [T]`, each round faded in from the last frame."""
    if len(rows) == 1:
        return rows.expand(len(times), -1).clone()
    length = (len(rows) - 1) / fps
    fade = min(_BLEND, length / 3)
    rounds = np.floor(np.round(times / length, 9))
    phase = np.maximum(times - rounds * length, 0)
    out = resample_frames(rows, fps, phase)
    fading = (rounds > 0) & (phase < fade)
    if fading.any():
        weight = torch.from_numpy(ease(phase[fading] / fade)).to(rows)[:, None]
        out[fading] = torch.lerp(rows[-1:].expand(len(weight), -1), out[fading], weight)
    return out


def resample_frames(values: torch.Tensor, source_fps: float, times: Sequence[float]) -> torch.Tensor:
    """Linear interpolation of `values [T, D]` at `source_fps` to frames at `times` seconds, held at the end."""
    position = torch.as_tensor(np.asarray(times), dtype=torch.float64) * source_fps
    position = position.mul(1e6).round().div(1e6).clamp(0, values.shape[0] - 1)  # 3 * 0.04 * 25 is frame 3
    low = position.floor().long()
    high = (low + 1).clamp(max=values.shape[0] - 1)
    weight = (position - low).to(values.dtype)[:, None]
    return torch.lerp(values[low], values[high], weight)


__all__ = [
    "DrivingClip", "DrivingMotion", "EXPRESSION_FIELDS", "PARTS", "POSE_FIELDS", "UPPER_FACE", "driving_motion",
    "resample_frames",
]  # fmt: skip
