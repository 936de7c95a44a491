"""Segmentation of the person: frames in, alpha mattes and a clean background plate out.

The matte is MediaPipe's selfie segmentation (the general model, 256x256, in the wheel), smoothed over time where the
picture does not change and refined to the frame's edges by a guided filter (He, Sun, Tang 2013) with the frame's
colours as guide. The plate shows the most frequent background colour of each pixel, and a smooth fill where the
person always covers the background.
"""

from __future__ import annotations

from types import TracebackType

import numpy as np
from PIL import Image

from ...rendering.numba_runtime import kernel
from .face_window import quiet
from .landmarks import load_mediapipe

GRID = 256  # pixels each way: the size of the segmentation model's input, whatever the frame's shape
_RADIUS = 7  # grid pixels, radius of the guided filter's window
_EPSILON = 2e-4  # the guided filter's regularisation: windows with less colour variance (of [0, 1]) count as flat
_STRETCH = (0.10, 0.90)  # filtered values that are mapped to 0 and 1, which the filter does not quite reach
_SMOOTHING = 0.7  # temporal smoothing: weight of the previous mask where the picture did not change
_CHANGE = 6.0  # grey levels (0..255) of local change at which that weight falls to 1/e

_MAX_BACKGROUND_ALPHA = 8  # of 255: alpha up to this counts as background
_MARGIN = 0.016  # fraction of the frame's longer side: pixels this near to the person are not used for the plate
_MATCH_TOLERANCE = 24  # grey levels (0..255): largest difference in a channel at which a pixel matches the plate
_MIN_VOTES = 3  # pixels with fewer votes are unknown, such as gaps between strands of hair
_MAX_VOTES = 50


class PersonMatte:
    """Alpha mattes of the person for a clip's frames, in order. A context manager: MediaPipe holds resources.

    ```python
    with PersonMatte() as person:
        mattes = [person.matte(frame) for frame in frames]
    ```

    Raises:
        ImportError: MediaPipe is not installed; the message says how to install it.
    """

    def __init__(self) -> None:
        mediapipe = load_mediapipe()
        with quiet():
            self._model = mediapipe.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
            self._model.process(np.zeros((GRID, GRID, 3), np.uint8))  # prints its warnings now
        self._filter = GuidedFilter()
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def __enter__(self) -> PersonMatte:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Frees the model."""
        if self._model is not None:
            self._model.close()
            self._model = None

    def matte(self, frame: np.ndarray) -> np.ndarray:
        """The matte of the next frame.

        Args:
            frame: `[H, W, 3]` uint8 RGB.

        Returns:
            `[H, W]` uint8: alpha: 255 is foreground (the person), 0 background.
        """
        frame = _checked(frame)
        guide = np.asarray(Image.fromarray(frame).resize((GRID, GRID), Image.Resampling.BOX))
        mask = np.array(self._model.process(guide).segmentation_mask, np.float32)
        guide = np.ascontiguousarray(guide.transpose(2, 0, 1), np.float32)
        if self._last is not None:
            mask = _steadied(guide, mask, *self._last)
        self._last = (guide, mask)
        return self._filter(frame, guide, mask)


def _steadied(guide: np.ndarray, mask: np.ndarray, last_guide: np.ndarray, last_mask: np.ndarray) -> np.ndarray:
    """Temporal smoothing: mean with the previous mask `[h, w]`, weighted by how little colours `[3, h, w]` changed."""
    change = box_mean(np.abs(guide - last_guide).mean(0, keepdims=True), 1)
    return mask + _SMOOTHING * np.exp(change[0] * (-1 / _CHANGE)) * (last_mask - mask)


class GuidedFilter:
    """Fast guided filter with colours: refines a coarse mask to a frame's edges.

    In each window of the low-resolution picture the mask is fitted by a linear function of the colours. These functions
    are applied to the full-resolution pixels. Buffers are reused: allocating them per frame would cost more time.
    """

    def __init__(self, size: tuple[int, int] = (GRID, GRID)) -> None:
        self._moments = np.empty((13, *size), np.float32)
        self._means = np.empty((13, *size), np.float32)

    def __call__(self, frame: np.ndarray, guide: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Refines one mask.

        Args:
            frame: `[H, W, 3]` uint8 RGB.
            guide: `[3, h, w]` float32, 0..255: the frame resized to the mask.
            mask: `[h, w]` float32 in [0, 1].

        Returns:
            `[H, W]` uint8.
        """
        moments, means = self._moments, self._means
        np.multiply(guide, 1 / 255, out=moments[:3])
        moments[3] = mask
        np.multiply(moments[:3], mask, out=moments[4:7])
        for i, (a, b) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)), start=7):
            np.multiply(moments[a], moments[b], out=moments[i])
        _box_mean(moments, _RADIUS, means)
        _linear_model(means, _EPSILON, moments[:4])
        _box_mean(moments[:4], _RADIUS, means[:4])
        out = np.empty(frame.shape[:2], np.uint8)
        _apply_model(frame, means[:4], _STRETCH[0], 1 / (_STRETCH[1] - _STRETCH[0]), out)
        return out


def combine(matte: np.ndarray, head_mask: np.ndarray) -> np.ndarray:
    """Fills holes of a matte inside the fitted head; the matte's soft edge is not changed.

    Args:
        matte: `[H, W]` uint8.
        head_mask: `[H, W]` bool, the fitted head's silhouette.

    Returns:
        `[H, W]` uint8.
    """
    if matte.shape != head_mask.shape:
        raise ValueError(f"head_mask: expected shape {matte.shape} as the matte has, got {head_mask.shape}.")
    inside = ~near(~head_mask, round(_MARGIN * max(matte.shape)))
    return np.where(inside, np.uint8(255), matte)


class BackgroundPlate:
    """The background without the person, from the frames of one clip; memory does not depend on their number.

    Each pixel has a mean colour and a vote count. A matching background colour adds a vote, another one removes a vote
    and replaces the mean when none are left (Boyer-Moore majority vote). So what covers the background only for some
    frames, such as a passer-by or hair missed by the matte, does not appear in the plate.
    """

    def __init__(self) -> None:
        self._colour: np.ndarray | None = None
        self._votes: np.ndarray | None = None
        self._frames = 0

    def add(self, frame: np.ndarray, matte: np.ndarray) -> None:
        """Adds a frame `[H, W, 3]` uint8 RGB and its matte `[H, W]` uint8.

        Raises:
            ValueError: the size differs from that of earlier frames or of the matte.
        """
        frame = _checked(frame)
        if self._colour is None:
            self._colour, self._votes = np.zeros(frame.shape, np.float32), np.zeros(frame.shape[:2], np.uint8)
        if not frame.shape == self._colour.shape == (*matte.shape, 3):
            raise ValueError(
                f"frame: expected {self._colour.shape} as in the first frame and a matte of that size, "
                f"got {frame.shape} and {matte.shape}."
            )
        person = near(matte > _MAX_BACKGROUND_ALPHA, round(_MARGIN * max(matte.shape)))
        _vote(frame, person, self._colour, self._votes)
        self._frames += 1

    def picture(self) -> tuple[np.ndarray, np.ndarray]:
        """The plate `[H, W, 3]` uint8 RGB, and `[H, W]` bool: True where it was observed, False where it was filled.

        Raises:
            ValueError: no frame was added yet.
        """
        if self._colour is None:
            raise ValueError("frames: expected at least one, got none; call `add` first.")
        known = self._votes >= min(_MIN_VOTES, self._frames)
        return np.rint(fill_unknown(self._colour, known)).astype(np.uint8), known


def fill_unknown(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fills unknown pixels smoothly from known ones (push-pull over an image pyramid).

    Args:
        picture: `[H, W, C]` float32.
        known: `[H, W]` bool. Where True, the picture is not changed.

    Returns:
        `[H, W, C]` float32; 128 everywhere if nothing is known.
    """
    return _push_pull(np.where(known[..., None], picture, 0.0).astype(np.float32), known.astype(np.float32))


def _push_pull(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`colour` is premultiplied with `weight` in [0, 1]."""
    height, width = weight.shape
    if weight.min() >= 1 or max(height, width) == 1:
        return np.where(weight[..., None] > 0, colour / np.maximum(weight, 1e-6)[..., None], 128.0).astype(np.float32)
    pad = ((0, height % 2), (0, width % 2))
    halves = [np.pad(x, pad + ((0, 0),) * (x.ndim - 2)) for x in (colour, weight)]
    small, share = (sum(x[i::2, j::2] for i in (0, 1) for j in (0, 1)) for x in halves)
    scale = 1 / np.maximum(share, 1.0)  # one known pixel of four gives full weight; less keeps its own
    coarse = _push_pull(small * scale[..., None], np.minimum(share, 1.0))
    return colour + (1 - weight)[..., None] * _upsampled(coarse, height, width)


def _upsampled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Upsampled by two, linear between pixel centres, then cropped to `height` x `width`."""
    for axis in (0, 1):
        before = np.concatenate([picture.take([0], axis), picture.take(range(picture.shape[axis] - 1), axis)], axis)
        after = np.concatenate([picture.take(range(1, picture.shape[axis]), axis), picture.take([-1], axis)], axis)
        pair = np.stack([0.75 * picture + 0.25 * before, 0.75 * picture + 0.25 * after], axis + 1)
        shape = list(picture.shape)
        shape[axis] *= 2
        picture = pair.reshape(shape)
    return picture[:height, :width]


def near(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilation, `[H, W]` bool: within `radius` pixels (a square) of a pixel of `mask`."""
    out = np.empty(mask.shape, np.bool_)
    _dilate(np.require(mask, requirements=["C", "W"]), radius, out)
    return out


def box_mean(planes: np.ndarray, radius: int) -> np.ndarray:
    """`[n, H, W]` float32, each pixel the mean over a square window, clipped at the borders."""
    out = np.empty_like(planes)
    _box_mean(planes, radius, out)
    return out


def _checked(frame: np.ndarray) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frame: expected a uint8 array of shape [H, W, 3], got {frame.dtype} {list(frame.shape)}.")
    return np.require(frame, requirements=["C", "W"])  # the kernels do not accept read-only arrays


@kernel("void(float32[:,:,::1], int64, float32[:,:,::1])")
def _box_mean(planes, radius, out):  # pragma: no cover - compiled
    """Mean over a square window, clipped at the borders. Running sums: the cost does not depend on the radius."""
    count, height, width = planes.shape
    column = np.empty(width, np.float64)
    for i in range(count):
        column[:] = 0.0
        rows = 0
        for y in range(-radius, height):
            if y + radius < height:
                for x in range(width):
                    column[x] += planes[i, y + radius, x]
                rows += 1
            if y - radius - 1 >= 0:
                for x in range(width):
                    column[x] -= planes[i, y - radius - 1, x]
                rows -= 1
            if y < 0:
                continue
            total, columns = 0.0, 0
            for x in range(min(radius, width)):
                total += column[x]
                columns += 1
            for x in range(width):
                if x + radius < width:
                    total += column[x + radius]
                    columns += 1
                if x - radius - 1 >= 0:
                    total -= column[x - radius - 1]
                    columns -= 1
                out[i, y, x] = total / (rows * columns)


@kernel("void(float32[:,:,::1], float64, float32[:,:,::1])")
def _linear_model(means, epsilon, out):  # pragma: no cover - compiled
    """The linear map from colour to mask in each window: (cov + epsilon)^-1 cov(colour, p) and the constant."""
    _, height, width = means.shape
    for y in range(height):
        for x in range(width):
            r, g, b, p = means[0, y, x], means[1, y, x], means[2, y, x], means[3, y, x]
            cr, cg, cb = means[4, y, x] - r * p, means[5, y, x] - g * p, means[6, y, x] - b * p
            rr = means[7, y, x] - r * r + epsilon
            rg = means[8, y, x] - r * g
            rb = means[9, y, x] - r * b
            gg = means[10, y, x] - g * g + epsilon
            gb = means[11, y, x] - g * b
            bb = means[12, y, x] - b * b + epsilon
            i00, i01, i02 = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
            i11, i12, i22 = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
            scale = 1.0 / (rr * i00 + rg * i01 + rb * i02)
            ar = (i00 * cr + i01 * cg + i02 * cb) * scale
            ag = (i01 * cr + i11 * cg + i12 * cb) * scale
            ab = (i02 * cr + i12 * cg + i22 * cb) * scale
            out[0, y, x], out[1, y, x], out[2, y, x] = ar, ag, ab
            out[3, y, x] = p - ar * r - ag * g - ab * b


@kernel("void(uint8[:,:,::1], float32[:,:,::1], float32, float32, uint8[:,::1])")
def _apply_model(frame, model, low, gain, out):  # pragma: no cover - compiled
    """Interpolates the linear functions from the grid and applies them to each full-resolution pixel's colour."""
    height, width = out.shape
    rows, columns = model.shape[1:]
    line = np.empty((columns + 1, 4), np.float32)
    left, share = np.empty(width, np.int32), np.empty(width, np.float32)
    for x in range(width):
        u = min(max((x + 0.5) * (columns / width) - 0.5, 0.0), columns - 1.0)
        left[x], share[x] = int(u), u - int(u)
    for y in range(height):
        v = min(max((y + 0.5) * (rows / height) - 0.5, 0.0), rows - 1.0)
        top = int(v)
        below, part = min(top + 1, rows - 1), np.float32(v - top)
        for i in range(4):
            scale = np.float32(1 / 255) if i < 3 else np.float32(1)
            for x in range(columns):
                line[x, i] = (model[i, top, x] + part * (model[i, below, x] - model[i, top, x])) * scale
            line[columns, i] = line[columns - 1, i]
        for x in range(width):
            a, b, t = line[left[x]], line[left[x] + 1], share[x]
            value = a[3] + t * (b[3] - a[3])
            for i in range(3):
                value += (a[i] + t * (b[i] - a[i])) * np.float32(frame[y, x, i])
            value = (value - low) * gain
            if value <= np.float32(0):
                out[y, x] = 0
            elif value >= np.float32(1):
                out[y, x] = 255
            else:
                out[y, x] = np.uint8(np.int32(value * np.float32(255) + np.float32(0.5)))


@kernel("void(boolean[:,::1], int64, boolean[:,::1])")
def _dilate(mask, radius, out):  # pragma: no cover - compiled
    height, width = mask.shape
    wide = np.zeros((height, width), np.bool_)
    for y in range(height):
        reach = -1  # last column covered by a mask pixel to the left
        for x in range(-radius, width):
            if x + radius < width and mask[y, x + radius]:
                reach = x + 2 * radius
            if x >= 0 and x <= reach:
                wide[y, x] = True
    count = np.zeros(width, np.int32)
    for y in range(-radius, height):
        if y + radius < height:
            for x in range(width):
                count[x] += wide[y + radius, x]
        if y - radius - 1 >= 0:
            for x in range(width):
                count[x] -= wide[y - radius - 1, x]
        if y >= 0:
            for x in range(width):
                out[y, x] = count[x] > 0


@kernel("void(uint8[:,:,::1], boolean[:,::1], float32[:,:,::1], uint8[:,::1])")
def _vote(frame, person, colour, votes):  # pragma: no cover - compiled
    height, width = person.shape
    for y in range(height):
        for x in range(width):
            if person[y, x]:
                continue
            r, g, b = np.float32(frame[y, x, 0]), np.float32(frame[y, x, 1]), np.float32(frame[y, x, 2])
            dr, dg, db = r - colour[y, x, 0], g - colour[y, x, 1], b - colour[y, x, 2]
            if votes[y, x] == 0:
                colour[y, x, 0], colour[y, x, 1], colour[y, x, 2] = r, g, b
                votes[y, x] = 1
            elif max(abs(dr), abs(dg), abs(db)) <= _MATCH_TOLERANCE:
                votes[y, x] = min(votes[y, x] + 1, _MAX_VOTES)
                share = np.float32(1.0) / votes[y, x]
                colour[y, x, 0] += dr * share
                colour[y, x, 1] += dg * share
                colour[y, x, 2] += db * share
            else:
                votes[y, x] -= 1


__all__ = ["BackgroundPlate", "GuidedFilter", "PersonMatte", "combine", "fill_unknown"]
