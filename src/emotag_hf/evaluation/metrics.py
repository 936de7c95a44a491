"""Metrics of METHOD 7: rendered and true frames in, one value per frame and metric out, with confidence intervals.

In: two videos, or two streams of RGB frames in step. Out: `Scores`: PSNR and SSIM of the frame and of its face box,
PSNR of mouth and eyes, flicker, mouth landmarks, lips over time and, where action units are given, their error.

LPIPS and SyncNet are left out: both need weights that are separate downloads.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..constants import ACTION_UNITS
from ..preprocessing.tracking.face_window import FaceFinder, FaceWindow
from ..preprocessing.tracking.head_track import EYE_POINTS, MOUTH_POINTS
from ..preprocessing.tracking.landmarks import load_mediapipe
from ..video.video_reader import read_video

logger = logging.getLogger(__name__)

_INNER_LIPS, _FACE_HEIGHT = (13, 14), (10, 152)  # MediaPipe's points
_MOUTH_MARGIN, _EYES_MARGIN = 0.2, 0.1  # of the box's size, added around it
_PIXELS = 512  # LMD is in pixels of a picture this high

UPPER_FACE = ("AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU45")  # the others are the lower face

_SMALLEST = 16  # pixels each way: else no SSIM window fits into the face box
_LEAST_MSE = 1e-9  # lower bound, so that equal images have 138 dB instead of infinity
_SSIM_EVERY = 3  # frames: SSIM is as slow as all other metrics together
_SSIM_WINDOW = 7
_MIN_FACES = 10  # frames with faces, for landmark metrics
_MAX_LAG = 8  # frames either way
_BLOCK = 15  # frames of a bootstrap block, because neighbours are correlated
_DRAWS = 2000
_LIPS = ("lip_opening", "lip_opening_truth")
_FROM_LANDMARKS = ("psnr_mouth", "psnr_eyes", "lmd_mouth")


@dataclass(frozen=True)
class Scores:
    """Metrics of T frames, kept frame by frame.

    Args:
        per_frame: name -> `[T]` float64, NaN where not measured:

            - `psnr`, `psnr_face_box`, `psnr_mouth`, `psnr_eyes`: dB. The face box is rows 25 % to 87.5 % and columns
              25 % to 75 %; mouth and eye boxes follow the truth's landmarks. Equal images have 138 dB.
            - `ssim`, `ssim_face_box`: -1 to 1, of every third frame.
            - `flicker`: mean absolute difference between the change since the previous frame in prediction and truth,
              0 to 510; not in frame 0.
            - `lmd_mouth`: mean distance of the mouth's landmarks after centring, pixels at an image height of 512.
            - `lip_opening`, `lip_opening_truth`: gap of the inner lips divided by the height of the face.
            - `aue_upper`, `aue_lower`: sum over action units of the squared error, intensities 0 to 5; see
              [`with_action_units`].
        resized: whether the prediction was resized to the truth's size.
    """

    per_frame: dict[str, np.ndarray]
    resized: bool = False

    def __len__(self) -> int:
        return len(self.per_frame["psnr"])

    def summary(self) -> dict[str, float]:
        """The mean of each metric over the frames that have it; for the lip openings their correlation.

        `lip_r` is Pearson's r of rendered and true opening, `lip_lag` the delay of the rendered lips in frames (-8 to
        8) at which r is largest, `lip_r_at_lag` that r. `frames_with_face` counts frames with a face in both; with
        fewer than ten, metrics that need landmarks are left out.
        """
        out: dict[str, float] = {"frames": len(self), "resized": self.resized}
        for name, values in self.per_frame.items():
            if name not in _LIPS and np.isfinite(values).any():
                out[name] = float(np.nanmean(values))
        if self.has_landmarks:
            pairs = self._lips()
            out["frames_with_face"] = len(pairs)
            if len(pairs) >= _MIN_FACES:
                lag = _best_lag(pairs)
                out |= {"lip_r": _pearson(pairs), "lip_lag": lag, "lip_r_at_lag": _pearson(_shifted(pairs, lag))}
            else:
                out = {name: value for name, value in out.items() if name not in _FROM_LANDMARKS}
        return out

    def interval(self, name: str) -> tuple[float, float]:
        """The 95 % confidence interval of one value of the summary, by a bootstrap over blocks of 15 frames: see
        [`block_interval`].

        It covers the variation over frames of this recording, not over people or trainings. `lip_r_at_lag` keeps its
        lag.

        Raises:
            ValueError: an unknown name or one without an interval; fewer than 30 frames.
        """
        samples = self._samples()
        if name not in samples:
            raise ValueError(f"name: expected one of {', '.join(samples)}, got {name!r}.")
        return block_interval(samples[name])

    def intervals(self) -> dict[str, tuple[float, float]]:
        """All intervals; values with fewer than 30 frames have none."""
        return {name: block_interval(v) for name, v in self._samples().items() if len(v) >= 2 * _BLOCK}

    @property
    def has_landmarks(self) -> bool:
        """Whether landmarks were measured."""
        return _LIPS[0] in self.per_frame

    def with_action_units(self, predicted: np.ndarray, truth: np.ndarray) -> Scores:
        """The same scores with `aue_upper` and `aue_lower` of action units `[T, 14]`, as in [`action_unit_errors`].

        Raises:
            ValueError: another number of frames.
        """
        upper, lower = action_unit_errors(predicted, truth)
        if len(upper) != len(self):
            raise ValueError(f"predicted: expected action units of {len(self)} frames, got {len(upper)}.")
        return replace(self, per_frame=self.per_frame | {"aue_upper": upper, "aue_lower": lower})

    def _samples(self) -> dict[str, np.ndarray]:
        """The per-frame values of each number of the summary, as `block_interval` takes them."""
        summary = self.summary()
        out = {name: values for name, values in self.per_frame.items() if name in summary}
        if "lip_r" in summary:
            pairs = self._lips()
            out |= {"lip_r": pairs, "lip_r_at_lag": _shifted(pairs, summary["lip_lag"])}
        return out

    def _lips(self) -> np.ndarray:
        """`[n, 2]` rendered and true opening, of the frames that have both."""
        pairs = np.stack([self.per_frame[name] for name in _LIPS], 1)
        return pairs[np.isfinite(pairs).all(1)]


def score_videos(
    predicted: str | os.PathLike,
    truth: str | os.PathLike,
    start: int = 0,
    stop: int | None = None,
    pred_start: int | None = None,
    *,
    landmarks: bool = True,
) -> Scores:
    """Scores a video against its truth, frame by frame.

    Args:
        predicted, truth: paths.
        start, stop: range of the truth's frames that are scored, `stop` excluded; None is the end.
        pred_start: the prediction's frame for `start`; None is the same number.
        landmarks: whether to detect faces; without, only PSNR, SSIM and flicker are measured.

    Returns:
        `Scores` of the frames that both have; a warning is logged where one ends first.

    Raises:
        ValueError: fewer than two frames in that range, negative frame numbers. VideoReadError, FileNotFoundError: not
            a video. ImportError: MediaPipe is not installed, but `landmarks` is True.
    """
    pred_start = start if pred_start is None else pred_start
    for name, value in (("start", start), ("pred_start", pred_start), ("stop", stop)):
        if value is not None and value < 0:
            raise ValueError(f"{name}: expected a frame number from 0 on, got {value}.")
    pred_stop = None if stop is None else pred_start + max(stop - start, 0)
    return score_frames(
        itertools.islice(read_video(predicted).frames(), pred_start, pred_stop),
        itertools.islice(read_video(truth).frames(), start, stop),
        landmarks=landmarks,
    )


def score_frames(predicted: Iterable[np.ndarray], truth: Iterable[np.ndarray], *, landmarks: bool = True) -> Scores:
    """Scores frames against their truth; both are read once, with at most two pairs in memory.

    Args:
        predicted, truth: RGB frames `[H, W, 3]` uint8 in sync. Predictions of another size are resized to the truth's,
            with antialiasing.
        landmarks: whether to detect faces (in each frame of both, with MediaPipe).

    Returns:
        `Scores` of the frames that both have; a warning is logged where one ends first.

    Raises:
        ValueError: frames of another kind, of changing size or under 16 pixels; fewer than two.
        ImportError: MediaPipe is not installed; the message says how to install it.
    """
    columns: dict[str, list[float]] = {}
    before, resized = None, False
    with ExitStack() as stack:
        faces = stack.enter_context(_FacePair()) if landmarks else None
        for index, (picture, true) in enumerate(_pairs(predicted, truth)):
            if picture.shape != true.shape:
                picture, resized = _resized(picture, true.shape[:2]), True
            difference = np.subtract(picture, true, dtype=np.int16)
            row = {"psnr": _psnr(difference), "psnr_face_box": _psnr(difference[_face_box(true.shape)])}
            row["ssim"], row["ssim_face_box"] = math.nan, math.nan
            if index % _SSIM_EVERY == 0:
                row["ssim"], row["ssim_face_box"] = _ssim(picture, true)
            # The difference of the changes is the change of the difference.
            row["flicker"] = math.nan if before is None else float(np.abs(difference - before).mean())
            before = difference
            if faces is not None:
                row |= _face_metrics(difference, *faces.look(picture, true))
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
    count = len(columns.get("psnr", ()))
    if count < 2:
        raise ValueError(f"predicted, truth: expected at least two frames of both in that range, got {count}.")
    return Scores({name: np.array(values) for name, values in columns.items()}, resized)


def action_unit_errors(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUE of METHOD 7, frame by frame: its mean over frames is the sum over action units of the mean squared error.

    Args:
        predicted, truth: `[T, 14]` intensities 0 to 5 in the order of `ACTION_UNITS`; NaN where there is no face.

    Returns:
        `[T]` of the upper face (AU01 02 04 05 06 07 45) and `[T]` of the lower (the others).
    """
    predicted, truth = (np.asarray(values, np.float64) for values in (predicted, truth))
    for name, values in (("predicted", predicted), ("truth", truth)):
        if values.ndim != 2 or values.shape[1] != len(ACTION_UNITS) or values.shape != predicted.shape:
            raise ValueError(
                f"{name}: expected action units of shape [{len(predicted)}, {len(ACTION_UNITS)}], got "
                f"{list(values.shape)}."
            )
    upper = np.array([name in UPPER_FACE for name in ACTION_UNITS])
    errors = (predicted - truth) ** 2
    return errors[:, upper].sum(1), errors[:, ~upper].sum(1)


def block_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of a mean over frames, or of a correlation, by a moving-block bootstrap with a fixed
    seed.

    Blocks of 15 frames are drawn, because neighbouring frames are correlated and an interval from single frames would
    be much too narrow. Blocks wrap around at the end (Politis and Romano 1992), so that all frames have equal weight.
    With few blocks it is still too narrow: for simulated series with a correlation of 0.8 between neighbours, the
    coverage was 62 % at 39 frames, 81 % at 139, 86 % at 375 (with single frames 38 to 46 %). To compare two methods on
    the same frames, use the interval of `a.per_frame[name] - b.per_frame[name]`.

    Args:
        values: `[T]` for the mean, or `[T, 2]` for the Pearson correlation. A mean ignores NaN.

    Raises:
        ValueError: fewer than 30 frames.
    """
    values = np.asarray(values, np.float64)
    count = len(values)
    if count < 2 * _BLOCK:
        raise ValueError(f"values: expected at least {2 * _BLOCK} frames for an interval, got {count}.")
    random = np.random.default_rng(0)
    starts = random.integers(0, count, (_DRAWS, -(-count // _BLOCK)))
    drawn = (starts[..., None] + np.arange(_BLOCK)).reshape(_DRAWS, -1)[:, :count] % count
    if values.ndim == 2:
        numbers = np.array([_pearson(values[draw]) for draw in drawn])
    else:
        there = np.isfinite(values)
        weight = there[drawn].sum(1)
        numbers = np.where(there, values, 0)[drawn].sum(1)[weight > 0] / weight[weight > 0]
    low, high = np.percentile(numbers, (2.5, 97.5))
    return float(low), float(high)


class _FacePair:
    """Follows the face of the prediction and that of the truth. A context manager: MediaPipe holds resources.

    Tracks faces as `track_landmarks` does, but frame by frame, without the steps that need all frames (tracking
    backwards, choosing among several people).
    """

    def __enter__(self) -> _FacePair:
        mediapipe = load_mediapipe()
        with ExitStack() as stack:
            self._finder = stack.enter_context(closing(FaceFinder(mediapipe)))
            self._windows = [stack.enter_context(closing(FaceWindow(mediapipe))) for _ in range(2)]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def look(self, *frames: np.ndarray) -> list[np.ndarray | None]:
        """Points `[478, 2]` of the prediction's face and of the truth's, in pixels; None where there is none."""
        return [self._points(window, frame) for window, frame in zip(self._windows, frames)]

    def _points(self, window: FaceWindow, frame: np.ndarray) -> np.ndarray | None:
        points = None if window.box is None else window.follow(frame)
        if points is None:
            for box, _ in self._finder.find(frame) or self._finder.find_small(frame):
                if (points := window.begin(frame, box)) is not None:
                    break
        return None if points is None else points[:, :2].astype(np.float64)


def _face_metrics(difference: np.ndarray, points: np.ndarray | None, true: np.ndarray | None) -> dict[str, float]:
    """The metrics from a frame's landmarks; all NaN unless both faces were found."""
    if points is None or true is None:
        return dict.fromkeys((*_FROM_LANDMARKS, *_LIPS), math.nan)
    mouth, eyes, shape = list(MOUTH_POINTS), list(EYE_POINTS), difference.shape
    moved, still = points[mouth] - points[mouth].mean(0), true[mouth] - true[mouth].mean(0)
    return {
        "psnr_mouth": _psnr(difference[_box(true[mouth], _MOUTH_MARGIN, shape)]),
        "psnr_eyes": _psnr(difference[_box(true[eyes], _EYES_MARGIN, shape)]),
        "lmd_mouth": float(np.linalg.norm(moved - still, axis=1).mean() * _PIXELS / shape[0]),
        "lip_opening": _opening(points),
        "lip_opening_truth": _opening(true),
    }


def _box(points: np.ndarray, margin: float, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the bounding box of the points with a margin."""
    low, high = points.min(0), points.max(0)
    half = (high - low) / 2 * (1 + margin)
    x0, y0 = np.floor(np.maximum((low + high) / 2 - half, 0)).astype(int)
    x1, y1 = np.floor(np.maximum((low + high) / 2 + half, -1)).astype(int) + 1
    return slice(y0, min(y1, shape[0])), slice(x0, min(x1, shape[1]))


def _opening(points: np.ndarray) -> float:
    """Gap of the inner lips divided by the face's height, invariant to scale and rotation in the image."""
    gap, height = (np.linalg.norm(points[a] - points[b]) for a, b in (_INNER_LIPS, _FACE_HEIGHT))
    return float(gap / max(height, 1e-6))


def _pearson(pairs: np.ndarray) -> float:
    """Pearson's r of `[n, 2]`; 0 if one of the two is constant."""
    a, b = (pairs - pairs.mean(0)).T
    return float((a * b).sum() / max(math.sqrt((a * a).sum() * (b * b).sum()), 1e-12))


def _shifted(pairs: np.ndarray, lag: int) -> np.ndarray:
    """Pairs of rendered and true values with the rendered ones `lag` frames later; `[n - |lag|, 2]`."""
    count = len(pairs) - abs(lag)
    return np.stack([pairs[max(lag, 0) :][:count, 0], pairs[max(-lag, 0) :][:count, 1]], 1)


def _best_lag(pairs: np.ndarray) -> int:
    lags = [lag for lag in range(-_MAX_LAG, _MAX_LAG + 1) if len(pairs) - abs(lag) >= _MIN_FACES]
    return max(lags, key=lambda lag: _pearson(_shifted(pairs, lag)))


def _pairs(predicted: Iterable[np.ndarray], truth: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of checked frames, until one of the two ends."""
    streams, first = {"predicted": iter(predicted), "truth": iter(truth)}, {}
    for index in itertools.count():
        frames = {name: next(stream, None) for name, stream in streams.items()}
        if missing := [name for name, frame in frames.items() if frame is None]:
            if len(missing) == 1:
                logger.warning("%s ends after %d frames, the other goes on; these are scored.", missing[0], index)
            return
        for name, frame in frames.items():
            shape = first.setdefault(name, frame.shape)
            good = frame.ndim == 3 and frame.shape[2] == 3 and min(frame.shape[:2]) >= _SMALLEST
            if frame.dtype != np.uint8 or not good or frame.shape != shape:
                raise ValueError(
                    f"{name}: expected uint8 frames [H, W, 3] of one size, at least {_SMALLEST} pixels each way, got "
                    f"{frame.dtype} {list(frame.shape)} at frame {index}."
                )
        yield frames["predicted"], frames["truth"]


def _face_box(shape: tuple[int, ...]) -> tuple[slice, slice]:
    height, width = shape[:2]
    return slice(height // 4, height * 7 // 8), slice(width // 4, width * 3 // 4)


def _psnr(difference: np.ndarray) -> float:
    """dB of a part of a difference, int16; NaN if it is empty."""
    if difference.size == 0:
        return math.nan
    flat = difference.astype(np.int32).ravel()
    return 10 * math.log10(255.0**2 / max(float(np.square(flat).sum(dtype=np.int64)) / flat.size, _LEAST_MSE))


def _ssim(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """SSIM (Wang et al. 2004) of the frame and of its face box: mean over colours and over every 7x7 window that lies
    wholly inside, all its pixels alike, covariances unbiased, K 0.01 and 0.03."""
    pixels, (rows, columns) = _SSIM_WINDOW**2, _face_box(a.shape)
    inside = tuple(slice(part.start, part.stop - _SSIM_WINDOW + 1) for part in (rows, columns))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    whole = face = 0.0
    for channel in range(3):
        x, y = (np.ascontiguousarray(image[..., channel], np.int32) for image in (a, b))
        mx, my = (_window_sums(image) / pixels for image in (x, y))
        xx, yy, xy = (_window_sums(product) / pixels for product in (x * x, y * y, x * y))
        unbiased = pixels / (pixels - 1)
        spread, covariance = unbiased * (xx - mx * mx + yy - my * my), unbiased * (xy - mx * my)
        values = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (spread + c2))
        whole, face = whole + values.mean() / 3, face + values[inside].mean() / 3
    return float(whole), float(face)


def _window_sums(image: np.ndarray) -> np.ndarray:
    """Sums over every 7x7 window: `[H, W]` int32 -> `[H - 6, W - 6]`, exact; 7 = 4 + 2 + 1 along each axis."""
    for _ in range(2):
        two = image[:-1] + image[1:]
        image = (two[:-5] + two[2:-3] + two[4:-1] + image[6:]).T
    return image


@lru_cache(maxsize=4)
def _resize_matrix(source: int, target: int) -> np.ndarray:
    """`[target, source]`: a Gaussian of half the shrinkage where it shrinks, then linear interpolation."""
    mirrored = lambda index: np.abs((index + source - 1) % (2 * (source - 1)) - (source - 1))  # noqa: E731
    sigma = max(0.0, (source / target - 1) / 2)
    offsets = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    smooth = np.zeros((source, source))
    for offset, weight in zip(offsets, weights / weights.sum()):
        np.add.at(smooth, (np.arange(source), mirrored(np.arange(source) + offset)), weight)
    place = mirrored((np.arange(target) + 0.5) * source / target - 0.5)
    below = np.minimum(place.astype(int), source - 2)
    out = np.zeros((target, source))
    out[np.arange(target), below], out[np.arange(target), below + 1] = 1 - (place - below), place - below
    return out @ smooth


def _resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The frame `[H, W, 3]` at another (height, width)."""
    rows, columns = (_resize_matrix(old, new) for old, new in zip(frame.shape, size))
    out = np.tensordot(np.tensordot(rows, frame.astype(np.float64), 1), columns, (1, 1))
    return np.round(out).astype(np.uint8).swapaxes(1, 2)


__all__ = [
    "UPPER_FACE",
    "Scores",
    "action_unit_errors",
    "block_interval",
    "score_frames",
    "score_videos",
]
