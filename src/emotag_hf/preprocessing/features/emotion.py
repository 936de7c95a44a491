"""Emotion and its strength from action units by a fixed rule: METHOD 4's teacher.

In: action units `[T, 14]`. Out: probabilities `[T, 7]` in the order of `constants.EMOTIONS`, and the emotion score
e = 1 - p(neutral). A classifier of the Hub (`emotion_models`) or DeepFace's numbers as CSV can stand in for the rule.

The rule: units are smoothed over time, so that blinks and syllables do not count; each emotion's logit sums the units
of its EMFACS combination (as in `emotion_prototypes`) and subtracts those that contradict it; neutral is a constant;
the probabilities are the softmax. It is not trained and a weak teacher: anger, fear and sadness hardly show in
landmarks. Prefer a classifier.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...constants import ACTION_UNITS, EMOTIONS
from .tables import pick, read_columns, to_frames

SOURCE_RULE = "action units by rule"
SOURCE_DEEPFACE = "DeepFace CSV"

# Logits per intensity (0..5) of the smoothed units. Positive: the unit is part of the emotion's combination; negative:
# it belongs to the opposite face. Units that speech moves as well (15 to 26) have smaller weights.
EMOTION_WEIGHTS: dict[str, dict[str, float]] = {
    "angry": {"AU04": 2.0, "AU07": 2.0, "AU05": 0.8, "AU09": 1.0, "AU01": -2.0, "AU02": -1.5, "AU12": -1.0},
    "disgust": {"AU09": 4.0, "AU04": 1.5, "AU07": 1.0, "AU15": 0.8, "AU01": -2.0, "AU05": -1.5, "AU12": -0.8},
    "fear": {"AU01": 2.0, "AU04": 1.2, "AU05": 1.8, "AU20": 2.0, "AU12": -2.0, "AU09": -1.0},
    "happy": {"AU12": 4.0, "AU06": 1.5, "AU04": -0.8, "AU09": -0.8, "AU15": -1.5},
    "sad": {"AU15": 3.0, "AU01": 1.8, "AU04": 1.2, "AU17": 1.2, "AU12": -2.0, "AU05": -1.5, "AU02": -1.0},
    "surprise": {"AU05": 2.2, "AU02": 1.8, "AU01": 1.2, "AU26": 0.5, "AU04": -2.0, "AU12": -0.8},
    "neutral": {},
}
NEUTRAL_LOGIT = 4.8  # a face at rest has e = 0.05; 4.0 gave calm talking a higher mean e
TRACE = 0.3  # intensities up to this value occur in any neutral face

_BLINK = 1.5  # AU45 from which brows and eyelids of a frame are ignored
_BLINK_MARGIN = 0.12  # s before and after a blink that are ignored as well
_SECONDS = {"upper": 0.6, "mouth": 1.2}  # length of the running median; a syllable takes about 0.2 s
_UPPER = ("AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU09")


def emotion_from_action_units(aus: np.ndarray, fps: float = 25.0) -> np.ndarray:
    """Probabilities of the seven emotions by the rule above.

    Args:
        aus: `[T, 14]` intensities 0..5, the columns `ACTION_UNITS`.
        fps: frames per second, for the smoothing.

    Returns:
        `[T, 7]` float32, rows of sum 1, the columns `EMOTIONS`.

    Raises:
        ValueError: another number of columns, no frames, or values that are not finite.
    """
    aus = np.asarray(aus, dtype=np.float64)
    if aus.ndim != 2 or aus.shape[1] != len(ACTION_UNITS) or len(aus) == 0 or not np.isfinite(aus).all():
        raise ValueError(
            f"aus: expected finite intensities [T, {len(ACTION_UNITS)}] of {', '.join(ACTION_UNITS)}, "
            f"got shape {list(aus.shape)}."
        )
    logits = np.maximum(smooth_action_units(aus, fps) - TRACE, 0) @ _weights().T
    logits[:, EMOTIONS.index("neutral")] = NEUTRAL_LOGIT
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def emotion_score(probabilities: np.ndarray) -> np.ndarray:
    """`[T]` float32, e = 1 - p(neutral) of probabilities `[T, 7]` (METHOD 4)."""
    return (1.0 - np.asarray(probabilities)[:, EMOTIONS.index("neutral")]).astype(np.float32)


def smooth_action_units(aus: np.ndarray, fps: float) -> np.ndarray:
    """`[T, 14]` to the same: brows and eyelids are interpolated over blinks, then running medians, shorter in the upper
    face than at the mouth."""
    out = np.array(aus, dtype=np.float64)
    blink = out[:, ACTION_UNITS.index("AU45")] > _BLINK
    margin = round(_BLINK_MARGIN * fps)
    near = np.convolve(blink, np.ones(2 * margin + 1), "full")[margin : margin + len(out)] > 0
    frames = np.arange(len(out))
    for column, unit in enumerate(ACTION_UNITS):
        if unit == "AU45":
            continue
        upper = unit in _UPPER
        if upper and not near.all():  # eyes that are always closed cannot be interpolated
            out[:, column] = np.interp(frames, frames[~near], out[~near, column])
        out[:, column] = _running_median(out[:, column], round(_SECONDS["upper" if upper else "mouth"] * fps))
    return out


def read_deepface_csv(path: str | Path, num_frames: int, fps: float = 25.0) -> np.ndarray:
    """DeepFace's emotion numbers for a clip.

    Args:
        path: CSV with the columns of `EMOTIONS` (also as `emotion.angry`, as pandas flattens DeepFace's answer), in
            percent or as probabilities, one row a frame, and one of `timestamp` (seconds), `frame` (counted from 0) or
            neither: then the rows are the clip's frames. Empty rows (no face) are interpolated.
        num_frames, fps: of the clip.

    Returns:
        `[num_frames, 7]` float32, rows of sum 1, the columns `EMOTIONS`.

    Raises:
        ValueError: columns are missing, values are not probabilities, or the table belongs to another clip.
    """
    columns = {name.removeprefix("emotion.").lower(): values for name, values in read_columns(path).items()}
    values = pick(columns, EMOTIONS, path, "DeepFace's emotions")
    if "timestamp" in columns:
        times = columns["timestamp"]
    else:
        times = columns.get("frame", np.arange(len(values))) / fps
    sums = values.sum(1)
    usable = np.isfinite(sums) & (sums > 0)
    whole = 100.0 if usable.any() and np.median(sums[usable]) > 2 else 1.0
    if (values[usable] < 0).any() or (np.abs(sums[usable] / whole - 1) > 0.05).any():
        raise ValueError(
            f"path: expected emotions that sum to 1 or to 100 in every row of {path}, "
            f"got sums from {sums[usable].min():g} to {sums[usable].max():g}."
        )
    values[usable] /= sums[usable, None]
    probabilities = to_frames(values, times, usable, num_frames, fps, path)
    return probabilities / probabilities.sum(1, keepdims=True)


def _weights() -> np.ndarray:
    """`[7, 14]` of `EMOTION_WEIGHTS`."""
    return np.array([[EMOTION_WEIGHTS[e].get(unit, 0.0) for unit in ACTION_UNITS] for e in EMOTIONS])


def _running_median(values: np.ndarray, width: int) -> np.ndarray:
    """Over windows inside the clip: the first and last frames take the value of the first and last window."""
    width = min(max(width, 1) | 1, (len(values) - 1) | 1)
    inner = np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
    before = width // 2
    return np.pad(inner, (before, len(values) - len(inner) - before), mode="edge")


__all__ = [
    "EMOTION_WEIGHTS", "SOURCE_DEEPFACE", "SOURCE_RULE", "emotion_from_action_units", "emotion_score",
    "read_deepface_csv", "smooth_action_units",
]  # fmt: skip
